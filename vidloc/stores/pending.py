"""What was said of items that are not committed yet: rows wait in memory, above 64 MiB in unnamed files in the store.

So workers may send videos in any order and a video of ten hours costs no memory; a failed item leaves no hole, for
nothing is written to the arrays before its commit. The files have no name (`O_TMPFILE`): a kill leaves none behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo, Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans, TimeGrid, Timeline
from vidloc.errors import StoreError
from vidloc.stores.base import Extent, StreamSpec
from vidloc.stores.digest import RowDigest, little_endian
from vidloc.stores.durable import pwrite_all
from vidloc.stores.format import axes

MEMORY_BYTES = 64 * 1024**2
_BLOCK_BYTES = 8 * 1024**2


class _Buffer:
    """Bytes of one field, first in memory, then in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pieces: list[NDArray[np.uint8]] = []
        self._file: IO[bytes] | None = None
        self.size = 0

    @property
    def in_memory(self) -> bool:
        return self._file is None

    def append(self, array: NDArray[Any]) -> None:
        data = little_endian(array)
        if self._file is None:
            self._pieces.append(data)
        else:
            pwrite_all(self._file.fileno(), data.data, self.size)
        self.size += data.nbytes

    def spill(self) -> None:
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 (closed with the item)
        offset = 0
        try:
            for piece in self._pieces:
                pwrite_all(file.fileno(), piece.data, offset)
                offset += piece.nbytes
        except OSError:  # the copy in memory is still whole
            file.close()
            raise
        self._file = file
        self._pieces.clear()

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """All bytes in order; may be called from several threads at once."""
        if self._file is None:
            yield from self._pieces
            return
        for offset in range(0, self.size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, self.size - offset)
            data = os.pread(self._file.fileno(), length, offset)
            if len(data) < length:
                raise OSError(f"rows that waited in {self._folder} can no longer be read")
            yield np.frombuffer(data, np.uint8)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class PendingRows:
    """Rows of one (stream, item), and what was said of them."""

    def __init__(self, spec: StreamSpec, folder: Path) -> None:
        self.spec = spec
        self.num_rows = 0
        self.extent: Extent | None = None
        self.marked: tuple[Status, str] | None = None
        self.has_rows = False
        self._grid: TimeGrid | None = None
        self._spans: list[NDArray[np.float64]] = []
        self._counts: dict[str, list[NDArray[np.int64]]] = {axis: [] for axis in axes(spec)}
        self.buffers = {name: _Buffer(folder) for name in spec.fields}

    def append(self, rows: Rows, timeline: Timeline | None, extent: Extent | None, *, where: str) -> None:
        """Add rows that fit the stream.

        Raises:
            StoreError: the grid differs from that of earlier rows.
        """
        if isinstance(timeline, TimeGrid):
            if self._grid not in (None, timeline):
                raise StoreError(f"{where}: rows on {timeline} follow rows on {self._grid}; an item has one grid.")
            self._grid = timeline
        elif isinstance(timeline, Spans):
            self._spans.append(timeline.array)
        for name, buffer in self.buffers.items():
            buffer.append(rows.fields[name])
        for axis, counts in self._counts.items():
            counts.append(rows.counts[axis])
        self.num_rows += rows.num_rows
        self.extent = self.extent if extent is None else extent
        self.has_rows = True

    @property
    def timeline(self) -> Timeline | None:
        """Times of all rows so far."""
        if self.spec.timeline == "spans":
            return Spans(np.concatenate(self._spans) if self._spans else np.empty((0, 2)))
        return self._grid

    @property
    def counts(self) -> dict[str, NDArray[np.int64]]:
        """Entries per row of each ragged axis."""
        return {axis: np.concatenate([np.empty(0, np.int64), *parts]) for axis, parts in self._counts.items()}

    def digest(self) -> str:
        """Digest of all rows so far."""
        counts = self.counts
        digest = RowDigest(counts)
        for name, spec in sorted(self.spec.fields.items()):
            digest.begin_field(name, spec, self.num_rows if spec.axis is None else int(counts[spec.axis].sum()))
            for block in self.buffers[name].blocks():
                digest.update(block)
        return digest.finish(self.timeline, self.extent)

    def close(self) -> None:
        """Drop the rows."""
        for buffer in self.buffers.values():
            buffer.close()


@dataclass
class PendingItem:
    """Everything said of one item since its last commit."""

    info: ItemInfo | None = None
    streams: dict[str, PendingRows] = field(default_factory=dict)

    def close(self) -> None:
        """Drop all rows."""
        for rows in self.streams.values():
            rows.close()


class PendingItems:
    """All items that are not committed, sharing one allowance of memory.

    Args:
        folder: where files are made for what exceeds it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._items: dict[str, PendingItem] = {}

    def get(self, item_id: str) -> PendingItem | None:
        """An item of which something was said."""
        return self._items.get(item_id)

    def item(self, item_id: str) -> PendingItem:
        """An item, begun if need be."""
        return self._items.setdefault(item_id, PendingItem())

    def rows(self, item_id: str, spec: StreamSpec) -> PendingRows:
        """Rows of an item in one stream, begun if need be."""
        streams = self.item(item_id).streams
        if spec.name not in streams:
            streams[spec.name] = PendingRows(spec, self._folder)
        return streams[spec.name]

    def restart(self, item_id: str, spec: StreamSpec) -> PendingRows:
        """Rows of an item in one stream, empty."""
        old = self.item(item_id).streams.pop(spec.name, None)
        if old is not None:
            old.close()
        return self.rows(item_id, spec)

    def drop(self, item_id: str) -> None:
        """Forget an item."""
        item = self._items.pop(item_id, None)
        if item is not None:
            item.close()

    def drop_all(self) -> list[str]:
        """Forget all items and say which there were."""
        items = list(self._items)
        for item in items:
            self.drop(item)
        return items

    def limit_memory(self) -> None:
        """Move the largest buffers to disk until the rest fits the allowance.

        Raises:
            OSError: the disk is full.
        """
        buffers = [
            buffer
            for item in self._items.values()
            for rows in item.streams.values()
            for buffer in rows.buffers.values()
            if buffer.in_memory
        ]
        total = sum(buffer.size for buffer in buffers)
        for buffer in sorted(buffers, key=lambda b: b.size, reverse=True):
            if total <= MEMORY_BYTES:
                return
            buffer.spill()
            total -= buffer.size
