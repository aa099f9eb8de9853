"""The light stage: heads trained on rows in memory; one file per head."""
