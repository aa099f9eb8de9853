"""Time, records, options and the registry: NumPy and pydantic only, imported by everything."""
