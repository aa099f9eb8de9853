"""The steps of an extraction: items, encoders, what is left to do, decoding, batching, committing, reporting."""
