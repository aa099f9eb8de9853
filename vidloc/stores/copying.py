"""Copying one (stream, item) from a store to another, block by block and proven by its digest.

An item that is damaged is not copied. What merging, subsets and conversions have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vidloc.core.timeline import Spans, Timeline
from vidloc.errors import StoreError, StreamNotFoundError
from vidloc.stores.backends import lock_folder
from vidloc.stores.base import FeatureStore, FeatureWriter, StreamSpec
from vidloc.stores.digest import digest_of_rows
from vidloc.stores.lock import holder_of
from vidloc.stores.tables import WITH_ROWS

# Rows copied at a time, so that an item of any length needs little memory.
_BLOCK_BYTES = 32 * 1024**2


def copy_entry(writer: FeatureWriter, store: FeatureStore, spec: StreamSpec, item: str) -> None:
    """Offer an item's rows, times and status in stream `spec.name` to a writer; its commit is left to the caller.

    Args:
        spec: of the stream as the writer holds it; rows are cast to its dtypes.

    Raises:
        StoreError: the rows are not those that were committed, or do not fit the dtypes.
    """
    entry = store.entry(spec.name, item)
    if entry is None:
        raise StreamNotFoundError(f"stream {spec.name!r} of {store.path} has no item {item!r}.")
    if entry.status in WITH_ROWS:
        timeline = store.timeline(spec.name, item)
        rows = store.read(spec.name, item)
        if digest_of_rows(store.streams()[spec.name], rows, timeline, entry.extent) != entry.digest:
            raise StoreError(
                f"stream {spec.name!r}, item {item!r} of {store.path} is damaged: its rows do not have the "
                f"digest that was committed. Nothing of this item was copied. Run: vidloc store verify {store.path}"
            )
        for piece in _blocks(rows.num_rows, sum(array.nbytes for array in rows.fields.values())):
            writer.write(spec.name, item, rows[piece], _piece(timeline, piece), extent=entry.extent)
    if entry.status != "done":
        writer.mark(spec.name, item, entry.status, entry.reason)


def being_written(path: Path) -> str:
    """A note for the user where another process writes the store that is read, else empty."""
    holder = holder_of(lock_folder(path))
    if holder is None or holder.surely_dead():
        return ""
    return f"{path} is being written by {holder}: only what it had committed when it was opened is taken."


def _blocks(num_rows: int, num_bytes: int) -> Iterator[slice]:
    step = max(1, num_rows * _BLOCK_BYTES // max(num_bytes, 1))
    for start in range(0, max(num_rows, 1), step):
        yield slice(start, min(start + step, num_rows))


def _piece(timeline: Timeline | None, rows: slice) -> Timeline | None:
    return Spans(timeline.array[rows]) if isinstance(timeline, Spans) else timeline
