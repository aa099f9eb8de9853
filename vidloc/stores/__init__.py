"""Feature stores: one contract, two backends; reading needs no torch."""
