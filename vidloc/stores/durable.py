"""Writing so that a crash or a full disk loses nothing: atomic replacement, synced folders, errors in plain words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidloc.errors import StoreError
from vidloc.stores.confined import check_inside

_FULL = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file may not grow"}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` raised inside into a `StoreError` about the store at `path`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        full = _FULL.get(error.errno or 0)
        if full is None:
            raise StoreError(f"store {path}: {error}. What was committed is safe.") from error
        raise StoreError(
            f"store {path}: {full} on its disk ({error.strerror}). What was committed is safe; free some space and run "
            "again."
        ) from error


def replace_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Put `data` at `path` in one step: another process sees the old content or the new, never a part.

    Args:
        sync: survive a power failure too; without it a crash of the machine may leave an empty file.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # exclusively: never through a link that a store came with
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path, *, root: Path) -> None:
    """Make a folder and its parents below `root`, all durable.

    Raises:
        OSError: it cannot be made.
        StoreError: it lies behind a link that leads out of `root`.
    """
    check_inside(path, root)
    if path.is_dir():
        return
    if path != root:
        make_folder(path.parent, root=root)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def pwrite_all(handle: int, data: memoryview, offset: int) -> None:
    """Write all bytes at a position; unlike through a mapping, a full disk is an error and not a signal."""
    while data:
        written = os.pwrite(handle, data, offset)
        data = data[written:]
        offset += written
