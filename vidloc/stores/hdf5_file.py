"""One finished HDF5 file: the same arrays as in the Zarr backend, as plain datasets.

Datasets are uncompressed, in chunks of about 1 MiB of rows. They are made with their final size and space set aside
at once, so that HDF5 lays their chunks side by side, and a view over the bytes of the file reads them as fast as
`np.memmap`; where another program laid them out otherwise, each run of adjacent chunks is read by itself. The root's
attribute `vidloc` and the attribute `vidloc_stream` of each stream's group hold the same JSON as the Zarr backend's.

libhdf5 writes files here, and reads none: where arrays lie is said by the index at the end of a file (`hdf5_index`),
or by another process (`hdf5_apart`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    chunk_rows,
    dump_json,
    stream_arrays,
)
from vidloc.stores.hdf5_apart import layout_apart
from vidloc.stores.hdf5_index import Read, append_index, dump_layout, find_index, parse_layout
from vidloc.stores.hdf5_tree import FileLayout, runs_of
from vidloc.stores.journal import journal_name
from vidloc.stores.mapped import MappedFile
from vidloc.stores.packed import RunArray
from vidloc.stores.reading import Contents, Part, StreamState
from vidloc.stores.tables import WITH_ROWS, Entry, ItemTable, StreamTable

_CHUNK_BYTES = 1024**2
_LIBRARY = ("v110", "v110")  # attributes beyond 64 KiB (vocabularies) need 1.8 or later; 1.10 is read everywhere

_Sources = dict[str, tuple[ArrayLayout, Iterable[NDArray[Any]]]]


def load_file(path: Path) -> Contents:
    """Tables and arrays of a finished file; its bytes stay readable when the file is replaced by a newer one.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """
    mapped = _mapped(path)
    layout = layout_of(mapped.read, mapped.size, where=f"store {path}")

    def make_array(name: str, array: ArrayLayout, where: str) -> RunArray:
        return RunArray(mapped, array, layout.runs[name], where=where)

    return load_contents(layout.catalog, [], make_array, store=str(path))


def layout_of(read: Read, size: int, *, where: str) -> FileLayout:
    """What a file says of itself by its index, or what libhdf5 says of it in another process.

    Raises:
        StoreError: it is no store of vidloc's, or damaged.
        FormatVersionError: it is that of a newer version.
    """
    index = find_index(read, size, where=where)
    return layout_apart(read, size, where=where) if index is None else parse_layout(index, size=size, where=where)


def tree_problem(path: Path) -> str:
    """What is wrong with a file as HDF5 programs see it, empty where they find what its index says.

    Raises:
        StoreError: it cannot be opened.
    """
    mapped, where = _mapped(path), f"store {path}"
    index = find_index(mapped.read, mapped.size, where=where)
    if index is None:  # it is read as HDF5 programs do
        return ""
    try:
        tree = layout_apart(mapped.read, mapped.size, where=where)
    except StoreError as error:
        return str(error)
    if dump_layout(parse_layout(index, size=mapped.size, where=where)) == dump_layout(tree):
        return ""
    return "the index at the end of the file says otherwise than its datasets do: one of both was changed"


def write_file(path: Path, contents: Contents) -> None:
    """Write a whole store into a new file, durably: live rows of all items, in order of arrival.

    HDF5 lays the file out, then the bytes of the arrays are written to their places: a full disk is an ordinary error
    this way, and large fields are copied at the speed of the disk.

    Args:
        path: nothing may be there yet.

    Raises:
        OSError: the disk is full or fails; the file is of no use then.
        StoreError: rows that the tables speak of are not there.
    """
    items = _joined_items(contents)
    selections = {name: _Selection(state) for name, state in sorted(contents.streams.items())}
    counts = {name: len(rows.table) for name, rows in selections.items()}
    root = Root(journal=journal_name(0), items=len(items), streams=counts)
    sources: _Sources = dict(_column_sources("items", items.columns(0), arrays_of_items()))
    for rows in selections.values():
        sources |= rows.sources(items.position)
    specs = {name: rows.spec for name, rows in selections.items()}
    catalog = Catalog(root, specs, {name: array for name, (array, _) in sources.items()})
    with h5py.File(path, "x", libver=_LIBRARY, locking="best-effort") as file:
        file.attrs[STORE_ATTRIBUTE] = dump_json(root.model_dump(mode="json")).decode()
        for name, spec in specs.items():
            group = file.require_group(f"streams/{name}")
            group.attrs[SPEC_ATTRIBUTE] = dump_json(spec.model_dump(mode="json")).decode()
        for name, array in catalog.layouts.items():
            _make_dataset(file, name, array)
        runs = {name: runs_of(file, name, array, str(path)) for name, array in catalog.layouts.items()}
    with path.open("r+b") as written:
        for name, (array, blocks) in sources.items():
            _write_runs(written.fileno(), array, runs[name], blocks)
        append_index(written.fileno(), FileLayout(catalog, runs))
        os.fsync(written.fileno())


class _Selection:
    """Live rows of a stream, laid one after another, with the table that describes them so."""

    def __init__(self, state: StreamState) -> None:
        self.spec = state.spec
        self.table = StreamTable()
        self._sources: list[tuple[Part, int, int]] = []
        for part, item, entry in _live(state):
            if entry.num_rows and entry.status not in WITH_ROWS:
                raise StoreError(
                    f"stream {self.spec.name!r}, item {item!r}: its table states {entry.num_rows} rows although it is "
                    f"{entry.status}; see `vidloc store verify`."
                )
            first = self.table.num_rows if entry.status in WITH_ROWS else 0
            self.table.add(item, entry.model_copy(update={"first_row": first}))
            self._add_source(part, entry.first_row, entry.first_row + entry.num_rows)

    def sources(self, items: Mapping[str, int]) -> _Sources:
        """Table columns and arrays of the stream, by their path."""
        prefix, layouts = f"streams/{self.spec.name}", arrays_of_stream(self.spec)
        columns = self.table.columns(0, items, grid=self.spec.timeline == "grid")
        sources: _Sources = dict(_column_sources(f"{prefix}/table", columns, layouts))
        for name, layout in stream_arrays(self.spec).items():
            ranges = self._ranges(name)
            for part, start, stop in ranges:
                part.arrays[name].check(start, stop)
            length = sum(stop - start for _, start, stop in ranges)
            sources[f"{prefix}/{name}"] = layout.resized(length), self.blocks(name)
        return sources

    def blocks(self, array: str) -> Iterator[NDArray[Any]]:
        """Entries of one array, block by block."""
        if array not in self.spec.fields and array != "spans":
            yield from self._ends(array)
            return
        for part, start, stop in self._ranges(array):
            yield from part.arrays[array].pieces(start, stop)

    def _add_source(self, part: Part, start: int, stop: int) -> None:
        if self._sources and self._sources[-1][0] is part and self._sources[-1][2] == start:
            start = self._sources.pop()[1]
        if stop > start:
            self._sources.append((part, start, stop))

    def _ranges(self, array: str) -> list[tuple[Part, int, int]]:
        field = self.spec.fields.get(array)
        if field is None or field.axis is None:
            return self._sources
        return [(part, *self._range(part, field.axis, start, stop)) for part, start, stop in self._sources]

    def _range(self, part: Part, axis: str, start: int, stop: int) -> tuple[int, int]:
        # All of them, not only where ranges meet: a file whose ends lead nowhere is not replaced by a shorter one.
        array = part.arrays[f"{axis}_end"]
        first, ends = int(array.view(start - 1, start)[0]) if start else 0, array.view(start, stop)
        if not 0 <= first <= int(ends[0]) or (np.diff(ends) < 0).any():
            raise StoreError(f"{array.where}: row ends are not ascending; see `vidloc store verify`.")
        return first, int(ends[-1])

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


def _mapped(path: Path) -> MappedFile:
    try:
        return MappedFile(path)
    except OSError as error:
        raise StoreError(f"store {path} cannot be read: {error}.") from error
