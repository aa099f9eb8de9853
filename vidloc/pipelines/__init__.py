"""Short functions that connect stores, encoders, heads and metrics; the CLI calls one of them."""
