"""Files read by position or through a memory mapping, a bounded number of them open at a time.

Two ways to the same bytes, chosen by the caller's `out`: without it a read is a read-only view of the mapping, which
costs nothing when the pages are in memory; with it the exact range is read by `preadv` straight into `out`, which is
2-10 times faster than page faults when they are not, and one copy when they are.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.errors import StoreError
from vidloc.stores.confined import open_inside, open_regular

# Each file takes up to two descriptors (its own and that of Python's mapping); the usual limit is 1024.
_MAX_OPEN = 256


class MappedFile:
    """A file open for reading; it is closed when the last view of it is gone.

    Args:
        root: the folder of the store that it belongs to and must lie in; without one the user named the file.

    Raises:
        OSError: it cannot be opened.
        StoreError: it is no regular file, or a link out of the store.
    """

    def __init__(self, path: Path, *, root: Path | None = None) -> None:
        self.path = path
        self.handle = open_regular(path) if root is None else open_inside(path, root)
        weakref.finalize(self, os.close, self.handle)
        self._map: mmap.mmap | None = None
        self.size = os.fstat(self.handle).st_size

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A read-only view of an array in the file, which must be long enough.

        Raises:
            StoreError: the file cannot be mapped, such as a hole of terabytes under a limit of address space.
        """
        if self._map is None:
            try:
                self._map = mmap.mmap(self.handle, self.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise StoreError(f"{self.path} ({self.size} bytes) cannot be mapped into memory: {error}.") from error
        return np.ndarray(shape, dtype, buffer=self._map, offset=offset)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of the file, without a mapping.

        Raises:
            StoreError: it ends before.
        """
        out = np.empty(stop - start, np.uint8)
        self.read_into(out, start)
        return out.tobytes()

    def prefetch(self, offset: int, length: int) -> None:
        """Ask for a range of the mapping to be read ahead, all at once instead of page by page."""
        if self._map is not None and length:
            start = offset - offset % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, length + offset - start)

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill a contiguous array with the bytes at `offset`.

        Raises:
            StoreError: the file ends before.
        """
        done = os.preadv(self.handle, [out.data], offset)
        if done < out.nbytes:
            rest = out.reshape(-1).view(np.uint8).data
            while done < out.nbytes:
                count = os.preadv(self.handle, [rest[done:]], offset + done)
                if count == 0:
                    raise StoreError(f"{self.path} was cut short while it was read.")
                done += count


class FilePool:
    """The files of one store that are open, by path.

    Args:
        on_full: called when too many are open, to let go of views that keep them so.
    """

    def __init__(self, *, on_full: Callable[[], None]) -> None:
        self._on_full = on_full
        self._files: dict[Path, MappedFile] = {}

    def get(self, path: Path, min_size: int, *, root: Path) -> MappedFile:
        """A file of the store in `root`, opened if need be; opened again if it has grown to `min_size` since.

        Raises:
            OSError: it cannot be opened.
            StoreError: it is no regular file, or a link out of the store.
        """
        file = self._files.get(path)
        if file is None or file.size < min_size:
            if len(self._files) >= _MAX_OPEN:
                self.clear()
                self._on_full()
            file = self._files[path] = MappedFile(path, root=root)
        return file

    def clear(self) -> None:
        """Close all files that no view needs."""
        self._files.clear()


class HeldFolder:
    """A folder kept open, so that another one of the same name can be told from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)

    def is_there(self) -> bool:
        """Whether the folder still lies where it was opened."""
        try:
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        except FileNotFoundError:
            return False
