"""Metrics as pure functions over arrays and records; no torch."""
