"""Reading a store, the same for every backend: tables say where an item's rows lie, packed arrays hold them.

A reader sees the store as it was when it was opened. Reads of whole ranges are views where the rows lie together; how
an item's rows were found is remembered, so that a repeated read costs a look-up and a slice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans, Timeline
from vidloc.errors import OptionError, StoreError, StreamNotFoundError, did_you_mean
from vidloc.stores.base import ItemEntry, StreamSpec
from vidloc.stores.digest import digest_of_rows, digest_of_store
from vidloc.stores.format import entry_bytes
from vidloc.stores.mapped import FilePool, MappedFile
from vidloc.stores.packed import MappedArray, PackedArray
from vidloc.stores.tables import WITH_ROWS, Entry, ItemTable, StreamTable

_MAX_REMEMBERED = 100_000
_MAX_SUGGESTED = 2000


@dataclass
class Part:
    """Rows of one stream in one place: a table and the arrays it refers to."""

    table: StreamTable
    arrays: Mapping[str, PackedArray]


@dataclass
class StreamState:
    """A stream: where its rows lie, later parts superseding earlier ones item by item."""

    spec: StreamSpec
    parts: list[Part]

    def find(self, item_id: str) -> tuple[Part, Entry] | None:
        """The latest entry of an item."""
        for part in reversed(self.parts):
            entry = part.table.get(item_id)
            if entry is not None:
                return part, entry
        return None

    def items(self) -> list[str]:
        """All items with an entry, sorted."""
        return sorted(set().union(*(part.table for part in self.parts)))


@dataclass
class Contents:
    """What a store holds, as of one moment; item tables later in the list supersede earlier ones."""

    items: list[ItemTable] = field(default_factory=list)
    streams: dict[str, StreamState] = field(default_factory=dict)


@dataclass(slots=True)
class _Place:
    """Where an item's rows of a dense field lie; `file`, `offset` and `view` only where they lie together."""

    array: PackedArray
    start: int
    stop: int
    file: MappedFile | None = None
    offset: int = 0
    view: NDArray[Any] | None = None
    is_fresh: bool = True


class StoreReader(ABC):
    """Base of the stores of all backends; see `FeatureStore` for what the methods promise.

    Args:
        name: path or address, as the user gave it; the store is opened on first use.
    """

    backend: str

    def __init__(self, name: str) -> None:
        self._name = name
        self._contents: Contents | None = None
        self._places: dict[tuple[str, str, str], _Place] = {}

    @abstractmethod
    def load(self) -> Contents:
        """Read the tables."""

    @property
    def path(self) -> str:
        """See `FeatureStore`."""
        return self._name

    @property
    def contents(self) -> Contents:
        """Tables and arrays, loaded on first use."""
        if self._contents is None:
            try:
                self._contents = self.load()
            except StoreError:
                raise
            except OSError as error:
                raise StoreError(f"store {self._name} cannot be read: {error}.") from error
        return self._contents

    def streams(self) -> dict[str, StreamSpec]:
        """See `FeatureStore`."""
        return {name: state.spec for name, state in sorted(self.contents.streams.items())}

    def items(self, stream: str | None = None) -> list[str]:
        """See `FeatureStore`."""
        if stream is None:
            return sorted(set().union(*(table.position for table in self.contents.items)))
        return [item for item, entry in self.entries(stream).items() if entry.status in WITH_ROWS]

    def info(self, item_id: str) -> ItemInfo:
        """See `FeatureStore`."""
        for table in reversed(self.contents.items):
            info = table.info(item_id, where=f"store {self._name}")
            if info is not None:
                return info
        raise self._no_item(item_id, self.items(), "")

    def entry(self, stream: str, item_id: str) -> ItemEntry | None:
        """See `FeatureStore`."""
        found = self._state(stream).find(item_id)
        return None if found is None else found[1].public()

    def entries(self, stream: str) -> dict[str, ItemEntry]:
        """See `FeatureStore`."""
        state = self._state(stream)
        found = ((item, state.find(item)) for item in state.items())
        return {item: place[1].public() for item, place in found if place is not None}

    def timeline(self, stream: str, item_id: str) -> Timeline | None:
        """See `FeatureStore`."""
        state = self._state(stream)
        part, entry = self._find(state, item_id)
        where = self._where(stream, item_id)
        if state.spec.timeline == "grid":
            return entry.time_grid(where=where)
        if state.spec.timeline == "none":
            return None
        try:
            return Spans(part.arrays["spans"].view(entry.first_row, entry.first_row + entry.num_rows))
        except OptionError as error:
            raise StoreError(f"{where}: {error}") from error

    def read(self, stream: str, item_id: str, rows: slice | None = None) -> Rows:
        """See `FeatureStore`."""
        state = self._state(stream)
        part, entry = self._find(state, item_id)
        start, stop = _bounds(rows, entry.num_rows)
        counts: dict[str, NDArray[np.int64]] = {}
        fields: dict[str, NDArray[Any]] = {}
        axes: dict[str, str] = {}
        for name, spec in state.spec.fields.items():
            if spec.axis is None:
                fields[name] = self.read_field(stream, item_id, name, rows)
                continue
            ends = _ends(part, spec.axis, entry, start, stop, where=self._where(stream, item_id))
            axes[name] = spec.axis
            counts[spec.axis] = np.diff(ends)
            fields[name] = part.arrays[name].view(int(ends[0]), int(ends[-1]))
        return Rows(stop - start, fields, counts, axes)

    def read_field(
        self,
        stream: str,
        item_id: str,
        field: str = "features",
        rows: slice | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """See `FeatureStore`; a view without `out`, an exact read of the file into `out` with it."""
        place = self._places.get((stream, item_id, field))
        if place is None:
            place = self._place(stream, item_id, field)
        if place is None:
            return self._read_ragged(stream, item_id, field, rows, out)
        if rows is None:
            first, last = 0, place.stop - place.start
        elif rows.step in (None, 1):
            if out is None and place.view is not None:
                return place.view[rows]
            first, last = _bounds(rows, place.stop - place.start)
        else:
            raise StoreError(f"rows are read in contiguous ranges, got a step of {rows.step}.")
        if out is None:
            return (
                self._whole_view(place) if rows is None else place.array.view(place.start + first, place.start + last)
            )
        _check_out(out, last - first, place.array)
        if place.file is None:
            place.array.read_into(place.start + first, place.start + last, out)
        else:
            place.file.read_into(out, place.offset + first * place.array.entry_bytes)
        return out

    def num_bytes(self, stream: str, item_id: str) -> int:
        """See `FeatureStore`."""
        state = self._state(stream)
        part, entry = self._find(state, item_id)
        total = 0
        for spec in state.spec.fields.values():
            count = entry.num_rows
            if spec.axis is not None:
                ends = _ends(part, spec.axis, entry, 0, entry.num_rows, where=self._where(stream, item_id))
                count = int(ends[-1] - ends[0])
            total += count * entry_bytes(spec.entry_shape, spec.dtype)
        return total

    def digest(self) -> str:
        """See `FeatureStore`."""
        return digest_of_store(
            (stream, item, entry.digest)
            for stream in self.contents.streams
            for item, entry in self.entries(stream).items()
            if entry.status in WITH_ROWS
        )

    def recomputed_digest(self, stream: str, item_id: str) -> str:
        """See `FeatureStore`."""
        rows = self.read(stream, item_id)
        _, entry = self._find(self._state(stream), item_id)
        return digest_of_rows(self._state(stream).spec, rows, self.timeline(stream, item_id), entry.extent)

    def close(self) -> None:
        """See `FeatureStore`."""
        self._contents = None
        self._places.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def forget(self, item_id: str) -> None:
        """Look for an item's rows anew, after a commit put them elsewhere."""
        for state in self.contents.streams.values():
            for name in state.spec.fields:
                self._places.pop((state.spec.name, item_id, name), None)

    def _place(self, stream: str, item_id: str, field: str) -> _Place | None:
        """Where an item's rows of a dense field lie; `None` for a ragged field."""
        state = self._state(stream)
        self._check_field(state.spec, field)
        if state.spec.fields[field].axis is not None:
            return None
        part, entry = self._find(state, item_id)
        place = _Place(part.arrays[field], entry.first_row, entry.first_row + entry.num_rows)
        if entry.num_rows and isinstance(place.array, MappedArray):
            file, offset, end = place.array.locate(place.start, place.stop)
            if end == place.stop:
                place.file, place.offset, place.view = file, offset, place.array.view(place.start, place.stop)
        if len(self._places) >= _MAX_REMEMBERED:
            self._places.clear()
        self._places[stream, item_id, field] = place
        return place

    def _whole_view(self, place: _Place) -> NDArray[Any]:
        if place.view is None or place.file is None:
            return place.array.view(place.start, place.stop)
        if place.is_fresh:
            place.file.prefetch(place.offset, place.view.nbytes)
            place.is_fresh = False
        return place.view

    def _read_ragged(
        self, stream: str, item_id: str, field: str, rows: slice | None, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        state = self._state(stream)
        part, entry = self._find(state, item_id)
        start, stop = _bounds(rows, entry.num_rows)
        ends = _ends(part, str(state.spec.fields[field].axis), entry, start, stop, where=self._where(stream, item_id))
        array, first, last = part.arrays[field], int(ends[0]), int(ends[-1])
        if out is None:
            return array.view(first, last)
        _check_out(out, last - first, array)
        array.read_into(first, last, out)
        return out

    def _state(self, stream: str) -> StreamState:
        state = self.contents.streams.get(stream)
        if state is None:
            known = did_you_mean(stream, self.contents.streams)
            raise StreamNotFoundError(f"store {self._name} has no stream {stream!r}. {known}")
        return state

    def _find(self, state: StreamState, item_id: str) -> tuple[Part, Entry]:
        found = state.find(item_id)
        if found is None:
            raise self._no_item(item_id, state.items(), f" in stream {state.spec.name!r}")
        if found[1].status not in WITH_ROWS:
            raise StreamNotFoundError(
                f"{self._where(state.spec.name, item_id)} has no rows: {found[1].status} "
                f"({found[1].reason or 'no reason kept'})."
            )
        return found

    def _check_field(self, spec: StreamSpec, field: str) -> None:
        if field not in spec.fields:
            raise StreamNotFoundError(
                f"stream {spec.name!r} in {self._name} has no field {field!r}. {did_you_mean(field, spec.fields)}"
            )

    def _no_item(self, item_id: str, known: Sequence[str], where: str) -> StreamNotFoundError:
        hint = did_you_mean(item_id, known) if len(known) <= _MAX_SUGGESTED else f"It has {len(known)} items."
        return StreamNotFoundError(f"store {self._name} has no item {item_id!r}{where}. {hint[:1000]}")

    def _where(self, stream: str, item_id: str) -> str:
        return f"stream {stream!r}, item {item_id!r} in {self._name}"


class LocalReader(StoreReader):
    """Base of the stores on disks of this machine, whose rows are views of mapped files.

    Args:
        path: the store; it is opened on first use.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))
        self._path = Path(path)
        self._pool = FilePool(on_full=self._places.clear)

    def __reduce__(self) -> tuple[Callable[[str], StoreReader], tuple[str]]:
        return self.reader_class(), (str(self._path),)

    @classmethod
    def reader_class(cls) -> Callable[[str], StoreReader]:
        """What a copy of this store in another process is opened with."""
        return cls

    def close(self) -> None:
        """See `FeatureStore`."""
        super().close()
        self._pool.clear()


def _bounds(rows: slice | None, num_rows: int) -> tuple[int, int]:
    if rows is None:
        return 0, num_rows
    start, stop, step = rows.indices(num_rows)
    if step != 1:
        raise StoreError(f"rows are read in contiguous ranges, got a step of {step}.")
    return start, max(start, stop)


def _check_out(out: NDArray[Any], count: int, array: PackedArray) -> None:
    expected = (count, *array.entry_shape)
    if out.dtype != array.dtype or out.shape != expected or not out.flags.c_contiguous or not out.flags.writeable:
        raise StoreError(
            f"{array.where}: out is {out.dtype} {out.shape}, expected a contiguous writeable array of {array.dtype} "
            f"{expected}."
        )


def _ends(part: Part, axis: str, entry: Entry, start: int, stop: int, *, where: str) -> NDArray[np.int64]:
    """Ends of rows `start - 1 .. stop - 1` of an item along a ragged axis: `stop - start + 1` ascending positions."""
    array = part.arrays[f"{axis}_end"]
    first, last = entry.first_row + start, entry.first_row + stop
    ends = array.view(first - 1, last) if first > 0 else np.concatenate([[0], array.view(first, last)])
    if int(ends[0]) < 0 or (np.diff(ends) < 0).any():
        raise StoreError(f"{where}: row ends along {axis!r} are not ascending; the store is damaged.")
    return ends.astype(np.int64, copy=False)
