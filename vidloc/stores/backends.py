"""Which backend a path is: told by content for stores that exist, by suffix for new ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from vidloc.errors import StoreError
from vidloc.stores.base import FeatureStore, FeatureWriter
from vidloc.stores.format import METADATA_NAME
from vidloc.stores.hdf5_index import SIGNATURE
from vidloc.stores.hdf5_store import Hdf5Store, Hdf5Writer, staging_of
from vidloc.stores.lock import LOCK_NAME
from vidloc.stores.reading import StoreReader
from vidloc.stores.remote_files import current_options, is_remote, local_path
from vidloc.stores.zarr_store import ZarrStore
from vidloc.stores.zarr_writer import ZarrWriter

Backend = Literal["zarr", "hdf5"]

_ADDRESS = re.compile(r"[a-z][a-z0-9+]+:/")  # what is left of an address that was taken for a path
_SUFFIXES: dict[str, Backend] = {".zarr": "zarr", ".h5": "hdf5", ".hdf5": "hdf5"}


def open_store(path: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> FeatureStore:
    """See `vidloc.stores.base.open_store`."""
    store: StoreReader
    if is_remote(path):
        from vidloc.stores.remote_store import RemoteStore

        store = RemoteStore(str(path), current_options(storage_options))
        _ = store.contents
        return store
    path = local_path(path)
    with _questions(Path(path)):
        store = ZarrStore(path) if _existing(Path(path)) == "zarr" else Hdf5Store(path)
    _ = store.contents  # damage is found here rather than at the first read
    return store


def create_store(path: str | Path, *, backend: Backend | None = None) -> FeatureWriter:
    """See `vidloc.stores.base.create_store`."""
    path = _writable(path)
    with _questions(path):
        taken = next((place for place in (path, staging_of(path)) if place.exists()), None)
    if taken is not None:
        raise StoreError(f"cannot create store {path}: {taken} exists. Choose another path, or append to the store.")
    return _writer(path, backend or _by_suffix(path))


def append_to_store(path: str | Path) -> FeatureWriter:
    """See `vidloc.stores.base.append_to_store`."""
    path = _writable(path)
    with _questions(path):
        there = path.exists() or staging_of(path).exists()
        backend = _existing(path) if there else _by_suffix(path)
    return _writer(path, backend)


def store_exists(path: str | Path) -> bool:
    """Whether something lies at a path that `open_store` is to read; not so a store stopped while it was begun.

    Raises:
        StoreError: this user may not look.
    """
    path = Path(path)
    with _questions(path):
        begun = path.is_dir() and not (path / METADATA_NAME).exists() and _is_begun(path)
        return not begun and (path.exists() or staging_of(path).is_dir())


def lock_folder(path: str | Path) -> Path:
    """Where a store's lock lies: in its folder, or in the staging folder beside an HDF5 file."""
    path = Path(path)
    return path if path.is_dir() else staging_of(path)


@contextmanager
def _questions(path: Path) -> Iterator[None]:
    """What the file system says of a path that may not be looked at (or is too long) is a `StoreError`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"store {path} cannot be read: {error}.") from error


def _writable(path: str | Path) -> Path:
    if is_remote(path):
        raise StoreError(
            f"store {path} is elsewhere, and stores are written on a disk of this machine only: one writer appends in "
            "place and syncs. Write it here, then: vidloc store push STORE ADDRESS"
        )
    return local_path(path)


def _writer(path: Path, backend: Backend) -> FeatureWriter:
    return ZarrWriter(path) if backend == "zarr" else Hdf5Writer(path)


def _existing(path: Path) -> Backend:
    if path.is_dir():
        if (path / METADATA_NAME).exists() or _is_begun(path):
            return "zarr"
        raise StoreError(f"{path} is a folder but no store: it has no {METADATA_NAME}.")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return "hdf5"
        raise StoreError(f"{path} is no store: neither a Zarr folder nor an HDF5 file.")
    if staging_of(path).is_dir():
        return "hdf5"
    if _ADDRESS.match(str(path)):
        raise StoreError(f"{path} names a store elsewhere, where this takes stores of this machine: vidloc store pull.")
    raise StoreError(f"store {path} is not there. `vidloc extract` makes one.")


def _is_begun(path: Path) -> bool:
    """Whether a folder holds only what a writer makes before the root; it was stopped there."""
    names = {entry.name for entry in path.iterdir()}
    return LOCK_NAME in names and all(
        n == LOCK_NAME or n.startswith(("journal-", ".", "items", "streams")) for n in names
    )


def _by_suffix(path: Path) -> Backend:
    backend = _SUFFIXES.get(path.suffix.lower())
    if backend is None:
        raise StoreError(f"{path}: the name of a new store ends in {', '.join(_SUFFIXES)}, which tells its backend.")
    return backend
