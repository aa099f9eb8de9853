"""One finished HDF5 file: the same arrays as in the Zarr backend, as plain datasets.

Datasets are uncompressed, in chunks of about 1 MiB of rows. They are made with their final size and space set aside
at once, so that HDF5 lays their chunks side by side, and a view over the bytes of the file reads them as fast as
`np.memmap`; where another program laid them out otherwise, each run of adjacent chunks is read by itself. The root's
attribute `vidloc` and the attribute `vidloc_stream` of each stream's group hold the same JSON as the Zarr backend's.

A file from elsewhere is not trusted: links to other files, virtual and external datasets are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vidloc.errors import StoreError
from vidloc.stores.catalog import Catalog, arrays_of_items, arrays_of_stream, load_contents
from vidloc.stores.digest import little_endian
from vidloc.stores.durable import pwrite_all
from vidloc.stores.format import (
    SPEC_ATTRIBUTE,
    STORE_ATTRIBUTE,
    ArrayLayout,
    Root,
    check_name,
    chunk_rows,
    dump_json,
    parse_json,
    parse_root,
    parse_spec,
    stream_arrays,
)
from vidloc.stores.journal import journal_name
from vidloc.stores.mapped import MappedFile
from vidloc.stores.packed import RunArray
from vidloc.stores.reading import Contents, Part, StreamState
from vidloc.stores.tables import WITH_ROWS, Entry, ItemTable, StreamTable

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_BYTES = 1024**2
_LIBRARY = ("v110", "v110")  # attributes beyond 64 KiB (vocabularies) need 1.8 or later; 1.10 is read everywhere

Runs = list[tuple[int, int]]
"""First entry and offset in the file of each run of entries that follow each other without a gap."""

_Sources = dict[str, tuple[ArrayLayout, Iterable[NDArray[Any]]]]


def load_file(path: Path) -> Contents:
    """Tables and arrays of a finished file; its bytes stay readable when the file is replaced by a newer one.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """
    store = str(path)
    try:
        mapped = MappedFile(path)
    except OSError as error:
        raise StoreError(f"store {store} cannot be read: {error}.") from error
    with hdf5_errors(store), h5py.File(path, "r", locking="best-effort") as file:
        if not os.path.sameopenfile(file.id.get_vfd_handle(), mapped.handle):
            raise FileNotFoundError(f"{store} was replaced while it was opened")
        catalog, runs = read_layout(file, store)

    def make_array(name: str, layout: ArrayLayout, where: str) -> RunArray:
        return RunArray(mapped, layout, runs[name], where=where)

    return load_contents(catalog, [], make_array, store=store)


def read_layout(file: h5py.File, store: str) -> tuple[Catalog, dict[str, Runs]]:
    """What an open file says of its store, and where the entries of each array lie.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """
    catalog = _read_catalog(file, f"store {store}")
    return catalog, {name: _runs(file, name, layout, store) for name, layout in catalog.layouts.items()}


def write_file(path: Path, contents: Contents) -> None:
    """Write a whole store into a new file, durably: live rows of all items, in order of arrival.

    HDF5 lays the file out, then the bytes of the arrays are written to their places: a full disk is an ordinary error
    this way, and large fields are copied at the speed of the disk.

    Raises:
        OSError: the disk is full or fails; the file is of no use then.
    """
    items = _joined_items(contents)
    selections = {name: _Selection(state) for name, state in sorted(contents.streams.items())}
    counts = {name: len(rows.table) for name, rows in selections.items()}
    root = Root(journal=journal_name(0), items=len(items), streams=counts)
    sources: _Sources = dict(_column_sources("items", items.columns(0), arrays_of_items()))
    for rows in selections.values():
        sources |= rows.sources(items.position)
    with h5py.File(path, "w", libver=_LIBRARY, locking="best-effort") as file:
        file.attrs[STORE_ATTRIBUTE] = dump_json(root.model_dump(mode="json")).decode()
        for name, rows in selections.items():
            group = file.require_group(f"streams/{name}")
            group.attrs[SPEC_ATTRIBUTE] = dump_json(rows.spec.model_dump(mode="json")).decode()
        for name, (layout, _) in sources.items():
            _make_dataset(file, name, layout)
        runs = {name: _runs(file, name, layout, str(path)) for name, (layout, _) in sources.items()}
    with path.open("r+b") as written:
        for name, (layout, blocks) in sources.items():
            _write_runs(written.fileno(), layout, runs[name], blocks)
        os.fsync(written.fileno())


class _Selection:
    """Live rows of a stream, laid one after another, with the table that describes them so."""

    def __init__(self, state: StreamState) -> None:
        self.spec = state.spec
        self.table = StreamTable()
        self._sources: list[tuple[Part, int, int]] = []
        for part, item, entry in _live(state):
            first = self.table.num_rows if entry.status in WITH_ROWS else 0
            self.table.add(item, entry.model_copy(update={"first_row": first}))
            self._add_source(part, entry.first_row, entry.first_row + entry.num_rows)

    def sources(self, items: Mapping[str, int]) -> _Sources:
        """Table columns and arrays of the stream, by their path."""
        prefix, layouts = f"streams/{self.spec.name}", arrays_of_stream(self.spec)
        columns = self.table.columns(0, items, grid=self.spec.timeline == "grid")
        sources: _Sources = dict(_column_sources(f"{prefix}/table", columns, layouts))
        for name, layout in stream_arrays(self.spec).items():
            field = self.spec.fields.get(name)
            length = self.table.num_rows
            if field is not None and field.axis is not None:
                length = sum(stop - start for _, start, stop in self._entries(field.axis))
            sources[f"{prefix}/{name}"] = layout.resized(length), self.blocks(name)
        return sources

    def blocks(self, array: str) -> Iterator[NDArray[Any]]:
        """Entries of one array, block by block."""
        field = self.spec.fields.get(array)
        if array not in self.spec.fields and array != "spans":
            yield from self._ends(array)
            return
        sources = self._sources if field is None or field.axis is None else self._entries(field.axis)
        for part, start, stop in sources:
            yield from part.arrays[array].pieces(start, stop)

    def _add_source(self, part: Part, start: int, stop: int) -> None:
        if self._sources and self._sources[-1][0] is part and self._sources[-1][2] == start:
            start = self._sources.pop()[1]
        if stop > start:
            self._sources.append((part, start, stop))

    def _entries(self, axis: str) -> list[tuple[Part, int, int]]:
        return [(part, *self._range(part, axis, start, stop)) for part, start, stop in self._sources]

    def _range(self, part: Part, axis: str, start: int, stop: int) -> tuple[int, int]:
        ends = part.arrays[f"{axis}_end"]
        first, last = int(ends.view(start - 1, start)[0]) if start else 0, int(ends.view(stop - 1, stop)[0])
        if not 0 <= first <= last:
            raise StoreError(f"{ends.where}: row ends are not ascending; see `vidloc store verify`.")
        return first, last

    def _ends(self, array: str) -> Iterator[NDArray[Any]]:
        total = 0
        for part, start, stop in self._sources:
            first, last = self._range(part, array.removesuffix("_end"), start, stop)
            yield part.arrays[array].view(start, stop) - first + total
            total += last - first


def _live(state: StreamState) -> list[tuple[Part, str, Entry]]:
    live = []
    for part in state.parts:
        found = ((item, state.find(item)) for item in part.table)
        mine = [(part, item, place[1]) for item, place in found if place is not None and place[0] is part]
        live += sorted(mine, key=lambda source: source[2].first_row)
    return live


def _joined_items(contents: Contents) -> ItemTable:
    joined = ItemTable()
    for table in contents.items:
        for item in table.position:
            joined.add_line(item, table.line(item))
    return joined


def _column_sources(
    group: str, columns: Mapping[str, NDArray[Any]], layouts: Mapping[str, ArrayLayout]
) -> Iterator[tuple[str, tuple[ArrayLayout, list[NDArray[Any]]]]]:
    for name, column in columns.items():
        layout = layouts[f"{group}/{name}"]
        yield f"{group}/{name}", (layout.resized(column.nbytes // layout.entry_bytes), [column])


def _make_dataset(file: h5py.File, name: str, layout: ArrayLayout) -> None:
    """Make one dataset; its space is set aside at once, so that its chunks lie side by side."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if layout.length:
        rows = min(layout.length, chunk_rows(layout.entry_bytes, target=_CHUNK_BYTES))
        properties.set_chunk((rows, *layout.entry_shape))
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    file.require_group(name.rpartition("/")[0])
    kind = h5py.h5t.py_create(np.dtype(layout.dtype).newbyteorder("<"))
    h5py.h5d.create(
        file.id, name.encode(), kind, h5py.h5s.create_simple((layout.length, *layout.entry_shape)), properties
    )


def _write_runs(
    handle: int, layout: ArrayLayout, runs: Sequence[tuple[int, int]], blocks: Iterable[NDArray[Any]]
) -> None:
    """Write an array's bytes, block by block, to where its runs of chunks lie."""
    stops = [first for first, _ in runs[1:]] + [layout.length]
    run, entry = 0, 0
    for block in blocks:
        data = little_endian(block).data
        while data:
            first, offset = runs[run]
            part = data[: (stops[run] - entry) * layout.entry_bytes]
            pwrite_all(handle, part, offset + (entry - first) * layout.entry_bytes)
            data = data[len(part) :]
            entry += len(part) // layout.entry_bytes
            run += entry == stops[run]


def _read_catalog(file: h5py.File, where: str) -> Catalog:
    root = parse_root(_attribute(file, STORE_ATTRIBUTE, where), where=where)
    catalog = Catalog(root)
    expected = arrays_of_items()
    for name in root.streams:
        check_name(name, where=where)
        document = _attribute(_member(file, f"streams/{name}", h5py.Group, where), SPEC_ATTRIBUTE, where)
        catalog.specs[name] = parse_spec(document, name=name, where=where)
        expected |= arrays_of_stream(catalog.specs[name])
    for name, layout in expected.items():
        dataset = _member(file, name, h5py.Dataset, where)
        is_rows = dataset.ndim == 1 + len(layout.entry_shape) and dataset.shape[1:] == layout.entry_shape
        if dataset.dtype != np.dtype(layout.dtype).newbyteorder("<") or not is_rows:
            raise StoreError(
                f"{where}: dataset {name} holds {dataset.dtype} {dataset.shape}, expected {layout.dtype} rows of "
                f"{layout.entry_shape}."
            )
        catalog.layouts[name] = layout.resized(int(dataset.shape[0]))
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


def _runs(file: h5py.File, name: str, layout: ArrayLayout, where: str) -> Runs:
    """First entry and offset of each run of chunks that lie side by side."""
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
    if dataset.chunks[1:] != layout.entry_shape or not np.array_equal(table[:, 0], np.arange(0, layout.length, rows)):
        raise StoreError(f"{where}: dataset {name} lacks chunks, or has chunks that split rows.")
    begins = np.concatenate([[True], np.diff(table[:, 1]) != rows * layout.entry_bytes])
    return [(int(first), int(offset)) for first, offset in table[begins]]


@contextmanager
def hdf5_errors(store: str) -> Iterator[None]:
    """h5py raises errors of many kinds for a damaged file; all of them are a `StoreError` here."""
    try:
        yield
    except (StoreError, FileNotFoundError):
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise StoreError(f"store {store} is damaged or no HDF5 file: {error}.") from error
