"""The first rows of an item as people read them: times, first numbers, boxes, names of classes, texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo, Status
from vidloc.core.rows import Rows
from vidloc.errors import StreamNotFoundError, did_you_mean
from vidloc.stores.base import FeatureStore, StreamSpec, open_store
from vidloc.stores.format import one_line
from vidloc.stores.tables import WITH_ROWS

# The field whose numbers are those of classes in the stream's vocabulary.
_LABELS = "labels"
# Numbers shown of one row or entry, and entries (regions, tokens) shown of one row.
_NUMBERS = 6
_ENTRIES = 5
# Most ids that a misspelt one is compared with.
_MOST_COMPARED = 10_000


@dataclass(frozen=True)
class FieldPreview:
    """One field of one row.

    Attributes:
        shape: of this row; for a ragged field the number of its entries comes first.
        values: the first numbers of a dense row; the first numbers of each of the first entries of a ragged one.
        names: class of each of these entries, for `labels`; "?" for a number beyond the stream's vocabulary.
        text: a text in UTF-8, control characters taken out; `None` for other fields.
    """

    shape: tuple[int, ...]
    values: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    text: str | None = None


@dataclass(frozen=True)
class RowPreview:
    """One row: its span in seconds (`None` in streams without times) and its fields."""

    row: int
    span_s: tuple[float, float] | None
    fields: dict[str, FieldPreview]


@dataclass(frozen=True)
class StreamPreview:
    """The first rows of an item in one stream, `num_rows` being how many it has."""

    status: Status
    reason: str
    num_rows: int
    rows: tuple[RowPreview, ...]


@dataclass(frozen=True)
class ItemPreview:
    """The first rows of an item, by stream; streams in which the item was never tried are left out."""

    item_id: str
    info: ItemInfo
    streams: dict[str, StreamPreview]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        streams = {name: asdict(stream) for name, stream in self.streams.items()}
        return {"item_id": self.item_id, "info": self.info.model_dump(exclude_none=True), "streams": streams}


def head_of(path: str | Path, item: str, streams: Sequence[str] = (), num_rows: int = 3) -> ItemPreview:
    """Read the first rows of an item.

    Args:
        streams: only these; all where empty.

    Raises:
        StreamNotFoundError: the store, or a stream asked for, lacks the item; the nearest id is named.
    """
    with open_store(path) as store:
        known = store.items()
        if item not in set(known):
            near = did_you_mean(item, known[:_MOST_COMPARED]) if len(known) <= _MOST_COMPARED else ""
            shown = near if len(near) <= 1000 else near.partition("Known:")[0]
            raise StreamNotFoundError(
                f"store {path} has no item {item!r}. {shown}".rstrip() + f" List them by: vidloc store ls {path}"
            )
        specs = store.streams()
        found = {name: _stream_head(store, name, item, num_rows) for name in streams or specs}
        lacking = [name for name in streams if found[name] is None]
        if lacking:
            raise StreamNotFoundError(f"stream {lacking[0]!r} of {path} has no item {item!r}; it was never tried.")
        return ItemPreview(item, store.info(item), {n: head for n, head in found.items() if head is not None})


def _stream_head(store: FeatureStore, stream: str, item: str, num_rows: int) -> StreamPreview | None:
    entry = store.entry(stream, item)
    if entry is None:
        return None
    if entry.status not in WITH_ROWS:
        return StreamPreview(entry.status, entry.reason, 0, ())
    rows = store.read(stream, item, slice(0, num_rows))
    timeline = store.timeline(stream, item)
    spans = None if timeline is None else timeline.spans(rows.num_rows)
    spec = store.streams()[stream]
    shown = tuple(
        RowPreview(k, None if spans is None else (float(spans[k, 0]), float(spans[k, 1])), fields)
        for k, fields in enumerate(_fields(spec, rows))
    )
    return StreamPreview(entry.status, entry.reason, entry.num_rows, shown)


def _fields(spec: StreamSpec, rows: Rows) -> Iterator[dict[str, FieldPreview]]:
    entries = {name: rows.entries(name) for name in spec.fields}
    for k in range(rows.num_rows):
        yield {name: _field(spec, name, entries[name][k]) for name in spec.fields}


def _field(spec: StreamSpec, name: str, entry: NDArray[Any]) -> FieldPreview:
    field = spec.fields[name]
    shape = tuple(np.shape(entry))
    if field.is_text:
        return FieldPreview(shape, text=one_line(entry.tobytes().decode("utf-8", "replace")))
    if field.axis is None:
        return FieldPreview(shape, values=_numbers(entry))
    first = entry[:_ENTRIES]
    values = tuple(_numbers(values) if field.entry_shape else values.item() for values in first)
    return FieldPreview(shape, values=values, names=_class_names(spec, first) if name == _LABELS else ())


def _numbers(values: NDArray[Any]) -> tuple[Any, ...]:
    return tuple(np.asarray(values).reshape(-1)[:_NUMBERS].tolist())


def _class_names(spec: StreamSpec, labels: NDArray[Any]) -> tuple[str, ...]:
    known = range(len(spec.vocabulary))
    return tuple(one_line(spec.vocabulary[k]) if k in known else "?" for k in map(int, labels))
