"""The steps of a preview: which rows are shown, what they look like, and the sheet that they stand on."""
