"""Checks that every store, encoder and head passes, and made-up data to run them on; shipped for third parties."""
