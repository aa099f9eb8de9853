"""What libhdf5 says of a file: the description of its store, and where the entries of each array lie.

A file from elsewhere is not trusted: links to other files, virtual and external datasets are refused, and a dataset may
not claim more entries than the file has bytes for. Of libhdf5 itself that cannot be said, so files that are read are
looked at by `hdf5_apart`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from vidloc.errors import StoreError
from vidloc.stores.catalog import Catalog, arrays_of_items, arrays_of_stream
from vidloc.stores.format import (
    SPEC_ATTRIBUTE,
    STORE_ATTRIBUTE,
    ArrayLayout,
    check_name,
    one_line,
    parse_json,
    parse_root,
    parse_spec,
)

Runs = list[tuple[int, int]]
"""First entry and offset in the file of each run of entries that follow each other without a gap."""


@dataclass(frozen=True)
class FileLayout:
    """An HDF5 store without its rows.

    Attributes:
        catalog: the validated description.
        runs: where the entries of each array lie, by its path in the store.
    """

    catalog: Catalog
    runs: dict[str, Runs]


def read_tree(file: h5py.File, *, where: str) -> FileLayout:
    """What an open file holds.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """
    catalog = _read_catalog(file, where)
    return FileLayout(catalog, {name: runs_of(file, name, layout, where) for name, layout in catalog.layouts.items()})


def runs_of(file: h5py.File, name: str, layout: ArrayLayout, where: str) -> Runs:
    """Where the entries of a dataset lie: the runs of its chunks that are side by side.

    Raises:
        StoreError: it is compressed, virtual or in another file, or chunks are missing.
    """
    dataset = file[name]
    if not layout.length:
        return [(0, 0)]
    if dataset.is_virtual or dataset.external or dataset.compression or dataset.id.get_create_plist().get_nfilters():
        raise StoreError(f"{where}: dataset {name} is compressed, virtual or in another file; vidloc reads plain ones.")
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        if offset is None:
            raise StoreError(f"{where}: dataset {name} is not laid out in chunks or in one piece.")
        return [(0, int(offset))]
    rows = dataset.chunks[0]
    chunks: list[tuple[int, int]] = []
    dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.chunk_offset[0], chunk.byte_offset)))
    table = np.array(sorted(chunks), np.int64).reshape(-1, 2)
    is_whole = len(table) == -(-layout.length // rows) and bool((table[:, 0] == rows * np.arange(len(table))).all())
    if dataset.chunks[1:] != layout.entry_shape or not is_whole:
        raise StoreError(f"{where}: dataset {name} lacks chunks, or has chunks that split rows.")
    begins = np.concatenate([[True], np.diff(table[:, 1]) != rows * layout.entry_bytes])
    return [(int(first), int(offset)) for first, offset in table[begins]]


@contextmanager
def hdf5_errors(where: str) -> Iterator[None]:
    """h5py raises errors of many kinds for a damaged file; all of them are a `StoreError` here."""
    try:
        yield
    except StoreError:
        raise
    except MemoryError:
        raise StoreError(f"{where} is damaged: libhdf5 asks for more memory than its metadata may take.") from None
    except (OSError, LookupError, ArithmeticError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(f"{where} is damaged or no HDF5 file: {one_line(str(error))}.") from error


def _read_catalog(file: h5py.File, where: str) -> Catalog:
    root = parse_root(_attribute(file, STORE_ATTRIBUTE, where), where=where)
    catalog = Catalog(root)
    expected = arrays_of_items()
    for name in root.streams:
        check_name(name, where=where)
        document = _attribute(_member(file, f"streams/{name}", h5py.Group, where), SPEC_ATTRIBUTE, where)
        catalog.specs[name] = parse_spec(document, name=name, where=where)
        expected |= arrays_of_stream(catalog.specs[name])
    size = file.id.get_filesize()
    for name, layout in expected.items():
        dataset = _member(file, name, h5py.Dataset, where)
        is_rows = dataset.ndim == 1 + len(layout.entry_shape) and dataset.shape[1:] == layout.entry_shape
        if dataset.dtype != np.dtype(layout.dtype).newbyteorder("<") or not is_rows:
            raise StoreError(
                f"{where}: dataset {name} holds {dataset.dtype} {dataset.shape}, expected {layout.dtype} rows of "
                f"{layout.entry_shape}."
            )
        catalog.layouts[name] = layout.resized(int(dataset.shape[0]))
        if catalog.layouts[name].num_bytes > size:
            raise StoreError(f"{where} has {size} bytes, dataset {name} claims {catalog.layouts[name].num_bytes}.")
    return catalog


def _attribute(place: Any, name: str, where: str) -> Any:
    text = place.attrs.get(name)
    return parse_json(text.encode(), where=f"{where}, attribute {name}") if isinstance(text, str) else None


def _member(file: h5py.File, name: str, kind: type, where: str) -> Any:
    """A group or dataset of the file itself: links that lead elsewhere are not followed."""
    place = file
    for part in name.split("/"):
        if not isinstance(place, h5py.Group) or not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise StoreError(f"{where} is damaged: {name} is missing, or a link.")
        place = place[part]
    if not isinstance(place, kind):
        raise StoreError(f"{where} is damaged: {name} is not a {kind.__name__.lower()}.")
    return place
