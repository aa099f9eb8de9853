"""The parts of a run's report: which samples it shows, what is drawn, and the page that holds it all."""
