"""Features that labs have in files of their own, read into stores: one file per layout, found by its name."""
