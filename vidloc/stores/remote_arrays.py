"""Packed arrays whose bytes lie elsewhere: ranges of entries become ranges of bytes, many of them brought at once."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.stores.format import ArrayLayout
from vidloc.stores.hdf5_tree import Runs
from vidloc.stores.packed import PackedArray
from vidloc.stores.remote_files import ByteRange, RemoteFiles

_BLOCK_BYTES = 256 * 1024
_MAX_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """Entries `start:stop` of an array."""

    array: RemoteArray
    start: int
    stop: int


class RemoteArray(PackedArray):
    """An array elsewhere, laid out in chunk files or in runs of one file.

    What was brought by `bring` is served from memory until the next time. Small arrays beside the rows (spans, ends of
    ragged axes) are read in blocks, since neighbouring items are mostly asked for one after another.

    Args:
        name: path of the array below the store, or empty where `runs` say where its entries lie in the store's file.
        in_blocks: whether more may be read than was asked for.
        runs: of an HDF5 file.
    """

    def __init__(
        self,
        name: str,
        layout: ArrayLayout,
        files: RemoteFiles,
        *,
        where: str,
        in_blocks: bool = False,
        runs: Runs | None = None,
    ) -> None:
        super().__init__(layout, where=where)
        self._name = name
        self._files = files
        self._runs = runs
        self._block = max(1, _BLOCK_BYTES // max(self.entry_bytes, 1)) if in_blocks else 0
        self._held: list[tuple[int, int, NDArray[Any]]] = []
        self._blocks: OrderedDict[int, tuple[int, NDArray[Any]]] = OrderedDict()

    def ranges(self, start: int, stop: int) -> Iterator[ByteRange]:
        """Where the bytes of some entries lie, in order."""
        while start < stop:
            name, offset, end = self._locate(start, stop)
            yield ByteRange(name, offset, offset + (end - start) * self.entry_bytes)
            start = end

    def check(self, start: int, stop: int) -> None:
        """Nothing: bytes from elsewhere are checked as they arrive."""

    def hold(self, found: Sequence[tuple[int, int, NDArray[Any]]]) -> None:
        """Serve these entries from memory, and no longer those before."""
        self._held = sorted(found, key=lambda run: run[:2])

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """See `PackedArray.view`."""
        if stop <= start:
            return np.empty((0, *self.entry_shape), self.dtype)
        place = bisect_right(self._held, start, key=lambda run: run[0]) - 1
        if place >= 0 and self._held[place][1] >= stop:
            first, _, entries = self._held[place]
            return entries[start - first : stop - first]
        if self._block and stop - start < self._block:
            return self._from_block(start, stop)
        return fetch([Wanted(self, start, stop)])[0]

    def read_into(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """See `PackedArray.read_into`."""
        out[...] = self.view(start, stop)

    def _from_block(self, start: int, stop: int) -> NDArray[Any]:
        first = start - start % self._block
        known = self._blocks.get(first)
        if known is None or known[0] < stop:
            # Entries beyond the committed ones need not be there, unless the journal speaks of them.
            end = max(stop, min(first + 2 * self._block, self.layout.length))
            known = self._blocks[first] = (end, fetch([Wanted(self, first, end)])[0])
            if len(self._blocks) > _MAX_BLOCKS:
                self._blocks.popitem(last=False)
        return known[1][start - first : stop - first]

    def _locate(self, entry: int, stop: int) -> tuple[str, int, int]:
        """File and offset of an entry, and where the range `entry:stop` leaves the bytes that follow there."""
        if self._runs is None:
            chunk, inside = divmod(entry, self.layout.chunk_rows)
            name = "/".join((self._name, "c", str(chunk), *("0" * len(self.entry_shape))))
            return name, inside * self.entry_bytes, min(stop, entry - inside + self.layout.chunk_rows)
        run = bisect_right(self._runs, entry, key=lambda run: run[0]) - 1
        first, offset = self._runs[run]
        end = min(stop, self._runs[run + 1][0]) if run + 1 < len(self._runs) else stop
        return "", offset + (entry - first) * self.entry_bytes, end

    @property
    def files(self) -> RemoteFiles:
        """Where its bytes come from."""
        return self._files


def fetch(wanted: Sequence[Wanted]) -> list[NDArray[Any]]:
    """Entries of several arrays of one store, all in as few requests as they need.

    Raises:
        StoreError: a file is missing, or bytes did not come.
    """
    ranges = [list(part.array.ranges(part.start, part.stop)) for part in wanted]
    bodies = iter(wanted[0].array.files.fetch([one for parts in ranges for one in parts]) if wanted else ())
    found = []
    for part, parts in zip(wanted, ranges, strict=True):
        pieces = [next(bodies) for _ in parts]
        data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        entries = np.frombuffer(data, part.array.dtype).reshape(part.stop - part.start, *part.array.entry_shape)
        entries.flags.writeable = False
        found.append(entries)
    return found


def bring(wanted: Sequence[Wanted]) -> None:
    """Fetch entries of several arrays, and let the arrays serve them from memory."""
    by_array: dict[int, tuple[RemoteArray, list[tuple[int, int, NDArray[Any]]]]] = {}
    for part, entries in zip(wanted, fetch(wanted), strict=True):
        by_array.setdefault(id(part.array), (part.array, []))[1].append((part.start, part.stop, entries))
    for array, found in by_array.values():
        array.hold(found)
