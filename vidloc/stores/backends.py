"""Which backend a path is: by content for stores that exist, by suffix for new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vidloc.errors import StoreError
from vidloc.stores.base import FeatureStore, FeatureWriter
from vidloc.stores.format import METADATA_NAME
from vidloc.stores.lock import LOCK_NAME
from vidloc.stores.zarr_store import ZarrStore
from vidloc.stores.zarr_writer import ZarrWriter

Backend = Literal["zarr", "hdf5"]


def open_store(path: str | Path) -> FeatureStore:
    """See `vidloc.stores.base.open_store`."""
    store = ZarrStore(path)
    store.contents  # noqa: B018
    return store


def create_store(path: str | Path, *, backend: Backend | None = None) -> FeatureWriter:
    """See `vidloc.stores.base.create_store`."""
    if Path(path).exists():
        raise StoreError(f"{path} exists")
    return ZarrWriter(path)


def append_to_store(path: str | Path) -> FeatureWriter:
    """See `vidloc.stores.base.append_to_store`."""
    return ZarrWriter(path)
