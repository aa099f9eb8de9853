"""Packed arrays: entries of one field of all items, one after another, in chunk files or in runs of one file.

Zarr chunks split the first axis only and are uncompressed, so that a range of entries inside one chunk is a range of
bytes in one file. Chunk files have their full length while a writer is open, as plain Zarr clients want (the tail is
a hole). Committed bytes are never rewritten; what lies beyond them does not exist for a reader.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.errors import StoreError
from vidloc.stores.confined import open_inside
from vidloc.stores.durable import make_folder, pwrite_all, sync_folder
from vidloc.stores.format import ArrayLayout
from vidloc.stores.mapped import FilePool, MappedFile


class PackedArray(ABC):
    """An array on disk, read by ranges of entries.

    Args:
        layout: shape and type of its entries.
        where: what it is, for messages (`stream 'i3d', field 'features' in feats.zarr`).
    """

    def __init__(self, layout: ArrayLayout, *, where: str) -> None:
        self.layout = layout
        self.where = where
        self.dtype = np.dtype(layout.dtype).newbyteorder("<")
        self.entry_shape = layout.entry_shape
        self.entry_bytes = layout.entry_bytes

    @abstractmethod
    def view(self, start: int, stop: int) -> NDArray[Any]:
        """Entries as a read-only array, a view of what is mapped or in memory wherever they lie together.

        Raises:
            StoreError: bytes are missing.
        """

    def pieces(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Entries as views of what lies together, one after another."""
        if start < stop:
            yield self.view(start, stop)

    @abstractmethod
    def read_into(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Fill a C-contiguous array of this dtype with a range of entries."""

    @abstractmethod
    def check(self, start: int, stop: int) -> None:
        """Make sure that entries are there, before memory or disk is taken for what a file may only claim to hold.

        Raises:
            StoreError: a file is missing or too short.
        """


class MappedArray(PackedArray):
    """An array in files of this machine, which are mapped into memory."""

    @abstractmethod
    def locate(self, entry: int, stop: int) -> tuple[MappedFile, int, int]:
        """File and offset of an entry, and where the range `entry:stop` leaves the bytes that follow there.

        The file has been seen to be long enough.

        Raises:
            StoreError: it is missing or too short.
        """

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """See `PackedArray.view`; entries that do not lie together are copied."""
        if stop <= start:
            return np.empty((0, *self.entry_shape), self.dtype)
        file, offset, end = self.locate(start, stop)
        if end == stop:
            return file.view(offset, self.dtype, (stop - start, *self.entry_shape))
        self.check(end, stop)
        out = np.empty((stop - start, *self.entry_shape), self.dtype)
        self.read_into(start, stop, out)
        out.flags.writeable = False
        return out

    def pieces(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """See `PackedArray.pieces`."""
        while start < stop:
            file, offset, end = self.locate(start, stop)
            yield file.view(offset, self.dtype, (end - start, *self.entry_shape))
            start = end

    def read_into(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """See `PackedArray.read_into`."""
        done = start
        while done < stop:
            file, offset, end = self.locate(done, stop)
            file.read_into(out[done - start : end - start], offset)
            done = end

    def check(self, start: int, stop: int) -> None:
        """See `PackedArray.check`."""
        while start < stop:
            start = self.locate(start, stop)[2]


class ChunkedArray(MappedArray):
    """A Zarr array: one file per chunk.

    Args:
        folder: the array's folder.
        pool: open files of the store.
        root: the store's folder, which nothing is read or written outside of.
    """

    def __init__(self, folder: Path, layout: ArrayLayout, pool: FilePool, *, where: str, root: Path) -> None:
        super().__init__(layout, where=where)
        self.folder = folder
        self._pool = pool
        self._root = root

    def chunk_path(self, chunk: int) -> Path:
        """File of a chunk."""
        return self.folder.joinpath("c", str(chunk), *("0" * len(self.entry_shape)))

    def locate(self, entry: int, stop: int) -> tuple[MappedFile, int, int]:
        """See `MappedArray.locate`."""
        chunk, inside = divmod(entry, self.layout.chunk_rows)
        end = min(stop, entry - inside + self.layout.chunk_rows)
        needed = (inside + end - entry) * self.entry_bytes
        path = self.chunk_path(chunk)
        try:
            file = self._pool.get(path, needed, root=self._root)
        except StoreError as error:
            raise StoreError(f"{self.where}: {error}") from None
        except OSError as error:
            raise StoreError(f"{self.where}: chunk file {path} cannot be read ({error.strerror}).") from error
        if file.size < needed:
            raise StoreError(f"{self.where}: chunk file {path} has {file.size} bytes, its rows need {needed}.")
        return file, inside * self.entry_bytes, end


class GrowingArray(ChunkedArray):
    """A Zarr array that its store's one writer appends to.

    `write` puts bytes beyond the committed length, `sync` makes them durable; both are without effect for readers
    until the length is raised by a commit.
    """

    def __init__(self, folder: Path, layout: ArrayLayout, pool: FilePool, *, where: str, root: Path) -> None:
        super().__init__(folder, layout.untrimmed(), pool, where=where, root=root)
        self._chunk_bytes = self.layout.chunk_rows * self.entry_bytes
        self._handles: dict[int, int] = {}
        self._written: set[int] = set()
        self._made: set[Path] = set()

    @property
    def length(self) -> int:
        """Committed entries."""
        return self.layout.length

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        """Put bytes at a byte offset of the packed array, across chunks where they do not fit one.

        Raises:
            OSError: the disk is full or fails.
        """
        rest = data.data
        while rest:
            chunk, inside = divmod(offset, self._chunk_bytes)
            part = rest[: self._chunk_bytes - inside]
            pwrite_all(self._handle(chunk), part, inside)
            self._written.add(chunk)
            offset += len(part)
            rest = rest[len(part) :]

    def sync(self) -> None:
        """Make written bytes durable; chunks before the last written one are closed."""
        for chunk in sorted(self._written):
            os.fdatasync(self._handles[chunk])
        for folder in self._made:
            sync_folder(folder)
        self._made.clear()
        for chunk in sorted(self._handles)[:-1]:
            os.close(self._handles.pop(chunk))
        self._written.clear()

    def commit(self, length: int) -> None:
        """Let readers of this process see entries up to `length`."""
        self.layout = self.layout.resized(length)

    def restore_chunk_length(self) -> None:
        """Give the last chunk file its full length, which a clean close may have trimmed."""
        if self.length:
            self._handle((self.length - 1) // self.layout.chunk_rows)

    def trim(self) -> None:
        """Cut an array of one chunk to its smallest length, for small stores to be small when copied."""
        self.close()
        self.layout = self.layout.trimmed()
        path = self.chunk_path(0)
        size = self.layout.chunk_rows * self.entry_bytes
        if self.length <= self.layout.chunk_rows and path.exists() and path.stat().st_size > size:
            os.truncate(path, size)

    def close(self) -> None:
        """Close the files open for writing."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self._written.clear()

    def _handle(self, chunk: int) -> int:
        if chunk not in self._handles:
            path = self.chunk_path(chunk)
            if not path.exists():
                make_folder(path.parent, root=self._root)
                self._made.add(path.parent)
            handle = self._handles[chunk] = open_inside(path, self._root, os.O_RDWR | os.O_CREAT)
            if os.fstat(handle).st_size != self._chunk_bytes:
                os.ftruncate(handle, self._chunk_bytes)
                self._written.add(chunk)
        return self._handles[chunk]


class RunArray(MappedArray):
    """An array in one file, in runs of entries that follow each other without a gap (HDF5 chunks side by side).

    Args:
        file: the file.
        runs: `(first entry, offset in the file)` of each run, ascending and beginning with entry 0.
    """

    def __init__(self, file: MappedFile, layout: ArrayLayout, runs: Sequence[tuple[int, int]], *, where: str) -> None:
        super().__init__(layout, where=where)
        self._file = file
        self._firsts = [first for first, _ in runs]
        self._offsets = [offset for _, offset in runs]

    def locate(self, entry: int, stop: int) -> tuple[MappedFile, int, int]:
        """See `MappedArray.locate`."""
        if stop > self.layout.length:
            raise StoreError(f"{self.where} holds {self.layout.length} entries, its table refers to {stop}.")
        run = bisect_right(self._firsts, entry) - 1
        end = min(stop, self._firsts[run + 1]) if run + 1 < len(self._firsts) else stop
        offset = self._offsets[run] + (entry - self._firsts[run]) * self.entry_bytes
        needed = offset + (end - entry) * self.entry_bytes
        if self._file.size < needed:
            raise StoreError(f"{self.where}: file {self._file.path} has {self._file.size} bytes, {needed} are needed.")
        return self._file, offset, end
