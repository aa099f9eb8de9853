"""Opening files of a store that may come from anybody: regular files inside its folder, and nothing else.

A link would let a store show, or have us overwrite, files that are none of its business; a pipe would keep us waiting
for ever; a device never ends.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from vidloc.errors import StoreError


def check_inside(path: Path, root: Path) -> None:
    """Make sure that no folder on the way from `root` to `path` is a link that leads out of `root`.

    Raises:
        StoreError: one is.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise _leads_out(path, root)


def open_inside(path: Path, root: Path, flags: int = os.O_RDONLY) -> int:
    """Descriptor of a regular file below the folder `root`; the file itself may not be a link at all.

    Raises:
        OSError: it cannot be opened.
        StoreError: it is a link, lies outside of `root`, or is no regular file.
    """
    check_inside(path.parent, root)
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _leads_out(path, root) from None
        raise
    return _checked(handle, path)


def open_regular(path: Path) -> int:
    """Descriptor, for reading, of a file that the user named; links are followed.

    Raises:
        OSError: it cannot be opened.
        StoreError: it is no regular file.
    """
    return _checked(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path)


def read_inside(path: Path, root: Path, *, limit: int) -> bytes:
    """All bytes of a regular file below the folder `root`.

    Raises:
        OSError: it cannot be read.
        StoreError: as `open_inside`, or it has more than `limit` bytes.
    """
    with os.fdopen(open_inside(path, root), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise StoreError(f"{path} has more than {limit} bytes, the most that such a file may have.")
    return data


def _checked(handle: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise StoreError(f"{path} cannot be read: it is no regular file.")


def _leads_out(path: Path, root: Path) -> StoreError:
    return StoreError(
        f"{path} is a link, or lies behind one that leads out of {root}; links are not followed, since a store from "
        "elsewhere could name any file. Where the links are your own, copy the store with: cp -rL"
    )
