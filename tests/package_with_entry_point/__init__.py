"""A third party's package, installed as far as `importlib.metadata` can tell: see the dist-info folder beside it."""
