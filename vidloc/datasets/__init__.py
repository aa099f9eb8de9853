"""Readers of corpora: annotations, media folders and the streams that a benchmark expects; one file per corpus."""
