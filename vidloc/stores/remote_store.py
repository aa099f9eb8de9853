"""A store opened where it lies, over anything fsspec speaks: tables are read once, rows when they are wanted.

The root brings all metadata in one request, the tables come together in a second round. Rows of an item, or of all
items that `expect` announced as far as they fit in a block, are brought in parallel ranges; rows of a whole item are
compared with their digest before anyone sees them, so that nothing that went wrong on the way is taken for features.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from vidloc.core.rows import Rows
from vidloc.errors import StoreError
from vidloc.stores.catalog import Catalog, load_contents
from vidloc.stores.digest import digest_of_rows
from vidloc.stores.format import METADATA_NAME, ArrayLayout, entry_bytes
from vidloc.stores.hdf5_file import layout_of
from vidloc.stores.hdf5_index import SIGNATURE
from vidloc.stores.journal import parse_journal
from vidloc.stores.lock import LOCK_NAME
from vidloc.stores.reading import Contents, Part, StoreReader, StreamState
from vidloc.stores.remote_arrays import RemoteArray, Wanted, bring
from vidloc.stores.remote_files import ByteRange, RemoteFiles
from vidloc.stores.tables import WITH_ROWS, Commit, Entry
from vidloc.stores.zarr_store import parse_catalog

_AHEAD_BYTES = 64 * 1024**2
_MAX_AHEAD_ITEMS = 4096
_ATTEMPTS = 5
_HDF5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class _Ahead:
    """Items of a stream that will be read, in this order, and which fields of them."""

    items: Sequence[str]
    position: Mapping[str, int]
    fields: frozenset[str]


class RemoteStore(StoreReader):
    """A store elsewhere, open for reading; the backend is told by content.

    Args:
        url: its address.
        options: of its file system, as fsspec names them; they travel with copies of the reader.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(url)
        self._options = dict(options or {})
        self._opened: RemoteFiles | None = None
        self._arrays: dict[str, RemoteArray] = {}
        self._ahead: dict[str, _Ahead] = {}
        self._held: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._lock = threading.RLock()
        self.backend = ""

    def __reduce__(self) -> tuple[Callable[..., StoreReader], tuple[str, dict[str, Any]]]:
        return type(self), (self._name, self._options)

    @property
    def files(self) -> RemoteFiles:
        """The store's files."""
        if self._opened is None:
            self._opened = RemoteFiles(self._name, self._options)
        return self._opened

    @property
    def num_array_bytes(self) -> int:
        """Bytes of all arrays, dead rows included."""
        _ = self.contents
        return sum(array.layout.num_bytes for array in self._arrays.values())

    @property
    def writer(self) -> str:
        """Who is writing it, empty where nobody is; a store on a server is mostly finished."""
        if self.backend != "zarr":
            return ""
        try:
            self.files.read(LOCK_NAME)
        except FileNotFoundError:
            return ""
        return "a writer whose lock lies in the store"

    def load(self) -> Contents:
        """Tables as of the last fold, and the journal that the root names; or those of an HDF5 file."""
        # The name decides only what is looked for first: servers may refuse, and not miss, what lies below a file.
        if self._name.endswith(_HDF5_SUFFIXES):
            return self._load_hdf5()
        try:
            root = self.files.read(METADATA_NAME)
        except FileNotFoundError:
            return self._load_hdf5()
        self.backend = "zarr"
        self.files.probe(METADATA_NAME)
        for _ in range(_ATTEMPTS):
            catalog = parse_catalog(root, where=f"store {self._name}")
            try:
                journal = self.files.read(catalog.root.journal)
            except FileNotFoundError:
                before, root = root, self.files.read(METADATA_NAME)
                if root != before:  # folded meanwhile: the new root names another journal
                    continue
                break
            commits = parse_journal(journal, where=f"journal {catalog.root.journal} of {self._name}")
            return self._contents_of(catalog, commits, self._chunked)
        raise StoreError(f"store {self._name} is damaged: its journal {catalog.root.journal} is missing.")

    def expect(self, stream: str, items: Sequence[str], fields: Sequence[str] | None = None) -> None:
        """Say which items will be read next, in this order: they are brought many at a time.

        Args:
            fields: only these; all where `None`.
        """
        spec = self._state(stream).spec
        chosen = frozenset(spec.fields if fields is None else fields)
        with self._lock:
            self._ahead[stream] = _Ahead(items, {item: k for k, item in enumerate(items)}, chosen)
            self._held.pop(stream, None)

    def read(self, stream: str, item_id: str, rows: slice | None = None) -> Rows:
        """See `FeatureStore`; rows of a whole item are proven by their digest."""
        if rows is not None:
            return super().read(stream, item_id, rows)
        with self._lock:
            self._bring(stream, item_id)
            found = super().read(stream, item_id)
            if not self._is_proven(stream, item_id, found):
                self._bring_now(stream, [item_id], frozenset(found.fields))
                found = super().read(stream, item_id)
                if not self._is_proven(stream, item_id, found):
                    raise StoreError(
                        f"{self._where(stream, item_id)}: its rows came twice and do not have the digest that was "
                        "committed: the store is damaged, or was replaced since it was opened."
                    )
            return found

    def read_field(
        self,
        stream: str,
        item_id: str,
        field: str = "features",
        rows: slice | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """See `FeatureStore`."""
        with self._lock:
            ahead = self._ahead.get(stream)
            if ahead is not None and field in ahead.fields and item_id in ahead.position:
                self._bring(stream, item_id)
            return super().read_field(stream, item_id, field, rows, out)

    def wanted(self, stream: str, items: Sequence[str], fields: frozenset[str]) -> list[ByteRange]:
        """Where the bytes of some items' rows lie: all that a reader of them asks for, after the tables."""
        state = self._state(stream)
        with self._lock:
            bring(self._ends(state, items, fields))
            first = self._dense(state, items, fields)
            return [one for part in (*first, *self._ragged(state, items, fields)) for one in _ranges(part)]

    def close(self) -> None:
        """See `FeatureStore`."""
        super().close()
        self._arrays.clear()
        self._held.clear()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _bring(self, stream: str, item_id: str) -> None:
        ahead = self._ahead.get(stream)
        every = frozenset(self._state(stream).spec.fields)
        held, fields = self._held.get(stream, (frozenset(), frozenset()))
        wanted = every if ahead is None or item_id not in ahead.position else ahead.fields
        if item_id in held and wanted <= fields:
            return
        items = [item_id] if ahead is None else self._block(stream, ahead, item_id)
        self._bring_now(stream, items, wanted)

    def _bring_now(self, stream: str, items: Sequence[str], fields: frozenset[str]) -> None:
        state = self._state(stream)
        bring(self._dense(state, items, fields))
        bring(self._ragged(state, items, fields))
        self._held[stream] = (frozenset(items), fields)

    def _block(self, stream: str, ahead: _Ahead, item_id: str) -> list[str]:
        """The item and those after it, as many as fit in a block."""
        state = self._state(stream)
        start = ahead.position.get(item_id)
        if start is None:
            return [item_id]
        row_bytes = self._row_bytes(state, ahead.fields)
        block: list[str] = []
        size = 0.0
        for item in ahead.items[start : start + _MAX_AHEAD_ITEMS]:
            found = state.find(item)
            if found is None or found[1].status not in WITH_ROWS:
                continue
            size += found[1].num_rows * row_bytes
            if block and size > _AHEAD_BYTES:
                break
            block.append(item)
        return block or [item_id]

    def _row_bytes(self, state: StreamState, fields: frozenset[str]) -> float:
        """Bytes of a row; of ragged fields on average."""
        part = state.parts[-1]
        total = 0.0
        for name in fields:
            spec = state.spec.fields[name]
            share = 1.0
            if spec.axis is not None:
                share = part.arrays[name].layout.length / max(part.arrays[f"{spec.axis}_end"].layout.length, 1)
            total += share * entry_bytes(spec.entry_shape, spec.dtype)
        return total

    def _dense(self, state: StreamState, items: Sequence[str], fields: frozenset[str]) -> list[Wanted]:
        """Fields with one entry per row, spans, and the ends of ragged axes."""
        names = [name for name in fields if state.spec.fields[name].axis is None]
        if state.spec.timeline == "spans":
            names.append("spans")
        wanted = self._ends(state, items, fields)
        for part, entry in self._entries(state, items):
            first, stop = entry.first_row, entry.first_row + entry.num_rows
            wanted += [Wanted(_remote(part, name), first, stop) for name in names]
        return wanted

    def _ends(self, state: StreamState, items: Sequence[str], fields: frozenset[str]) -> list[Wanted]:
        """Ends of ragged axes, with the one before the first row."""
        ends = sorted({str(axis) for name in fields if (axis := state.spec.fields[name].axis) is not None})
        return [
            Wanted(_remote(part, f"{axis}_end"), max(entry.first_row - 1, 0), entry.first_row + entry.num_rows)
            for part, entry in self._entries(state, items)
            for axis in ends
        ]

    def _ragged(self, state: StreamState, items: Sequence[str], fields: frozenset[str]) -> list[Wanted]:
        """Fields with any number of entries per row; their ends are asked for."""
        wanted = []
        for part, entry in self._entries(state, items):
            for name in fields:
                if (axis := state.spec.fields[name].axis) is not None:
                    first, stop = entry.first_row, entry.first_row + entry.num_rows
                    ends = part.arrays[f"{axis}_end"].view(max(first - 1, 0), stop)
                    wanted.append(Wanted(_remote(part, name), int(ends[0]) if first else 0, int(ends[-1])))
        return [part for part in wanted if 0 <= part.start < part.stop]

    def _entries(self, state: StreamState, items: Sequence[str]) -> list[tuple[Part, Entry]]:
        found = [self._find(state, item) for item in items]
        return [(part, entry) for part, entry in found if entry.num_rows]

    def _is_proven(self, stream: str, item_id: str, rows: Rows) -> bool:
        state = self._state(stream)
        _, entry = self._find(state, item_id)
        if not entry.digest:  # damage of the table, which `verify` reports
            return True
        return digest_of_rows(state.spec, rows, self.timeline(stream, item_id), entry.extent) == entry.digest

    def _contents_of(
        self, catalog: Catalog, commits: Sequence[Commit], make_array: Callable[[str, ArrayLayout, str], RemoteArray]
    ) -> Contents:
        self._arrays = {}

        def made(name: str, layout: ArrayLayout, where: str) -> RemoteArray:
            array = self._arrays[name] = make_array(name, layout, where)
            if len(self._arrays) == len(catalog.layouts):  # all columns in one round, before the first is looked at
                bring([Wanted(column, 0, column.layout.length) for column in self._columns()])
            return array

        contents = load_contents(catalog, commits, made, store=self._name)
        for column in self._columns():
            column.hold([])
        return contents

    def _columns(self) -> list[RemoteArray]:
        found = (array for name, array in self._arrays.items() if name.startswith("items/") or "/table/" in name)
        return [array for array in found if array.layout.length]

    def _chunked(self, name: str, layout: ArrayLayout, where: str) -> RemoteArray:
        return RemoteArray(name, layout, self.files, where=where, in_blocks=_is_beside(name))

    def _load_hdf5(self) -> Contents:
        try:
            signature = self._start_of_file()
        except FileNotFoundError:
            raise StoreError(
                f"store {self._name} is not there: neither {METADATA_NAME} below it nor a file of that name."
            ) from None
        if signature != SIGNATURE:
            raise StoreError(f"{self._name} is no store: neither a Zarr folder nor an HDF5 file.")
        self.backend = "hdf5"
        layout = layout_of(self._range_of_file, self.files.size(""), where=f"store {self._name}")

        def make_array(name: str, array: ArrayLayout, where: str) -> RemoteArray:
            runs = layout.runs[name]
            return RemoteArray(name, array, self.files, where=where, in_blocks=_is_beside(name), runs=runs)

        return self._contents_of(layout.catalog, [], make_array)

    def _start_of_file(self) -> bytes:
        if not self.files.probe(""):
            raise StoreError(
                f"{self._name}: an HDF5 file cannot be read in place from a server without ranges. Fetch the file with "
                "any client, and open it here."
            )
        if self.files.size("") < len(SIGNATURE):
            return b""
        return self._range_of_file(0, len(SIGNATURE))

    def _range_of_file(self, start: int, stop: int) -> bytes:
        return bytes(self.files.fetch([ByteRange("", start, stop)])[0])


def _ranges(part: Wanted) -> list[ByteRange]:
    return list(part.array.ranges(part.start, part.stop))


def _remote(part: Part, name: str) -> RemoteArray:
    array = part.arrays[name]
    if not isinstance(array, RemoteArray):
        raise TypeError(f"{array.where} is not remote")
    return array


def _is_beside(name: str) -> bool:
    """Whether an array is a small one beside the rows: spans, or ends of a ragged axis."""
    return name.endswith(("/spans", "_end"))
