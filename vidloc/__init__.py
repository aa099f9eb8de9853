"""vidloc: extract video features once, keep them in a store, train heads and search on the rows."""

from __future__ import annotations

from vidloc.stores.base import FeatureStore, FeatureWriter, append_to_store, create_store, open_store

__version__ = "0.1.0"
__all__ = ["FeatureStore", "FeatureWriter", "__version__", "append_to_store", "create_store", "open_store"]
