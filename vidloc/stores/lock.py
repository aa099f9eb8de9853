"""The one writer of a store: a lock file made exclusively, naming host, boot, process and time.

`flock` is not to be relied on over NFS and Lustre; a file made with `O_EXCL` is. Whether its maker still lives can
be told only on the same host: there a dead process is taken over with a notice. Another host's lock is left alone,
and the error says how to remove it by hand.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from vidloc.core.records import Record
from vidloc.errors import StoreError
from vidloc.stores.confined import read_inside
from vidloc.stores.format import one_line

LOCK_NAME = "lock"
_MAX_BYTES = 65_536

logger = logging.getLogger("vidloc")


class Holder(Record):
    """Who made a lock.

    Attributes:
        boot: identity of the host's boot; a process of an earlier boot is dead.
        namespace: process-number namespace (containers of one host number their processes apart).
        process: process number.
        started: start time of the process in clock ticks, since numbers are used again.
        since: UTC time at which the lock was made.
        token: random, tells two locks of one process apart.
    """

    host: str
    boot: str
    namespace: str
    process: int
    started: str
    since: str
    token: str

    @classmethod
    def here(cls) -> Self:
        """This process, now."""
        return cls(
            host=socket.gethostname(),
            boot=_boot(),
            namespace=_namespace(),
            process=os.getpid(),
            started=_started(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
        )

    def surely_dead(self) -> bool:
        """Whether this process can tell that the holder no longer runs."""
        if self.host != socket.gethostname() or not self.boot:
            return False
        if self.boot != _boot():
            return True
        if self.namespace != _namespace():
            return False
        return _started(self.process) != self.started

    def __str__(self) -> str:
        return one_line(f"process {self.process} on {self.host} since {self.since}")


class Lock:
    """A lock held by this process.

    Args:
        folder: folder of the store, where the lock file lies.
        store: what the user calls the store, for messages.

    Raises:
        StoreError: another writer holds the store, or may hold it.
    """

    def __init__(self, folder: Path, *, store: Path) -> None:
        self._path = folder / LOCK_NAME
        self._store = store
        self._holder = Holder.here()
        if not self._make():
            self._take_over()

    def check(self) -> None:
        """Make sure that nobody removed the lock while it was held.

        Raises:
            StoreError: the lock is gone or another writer's.
        """
        if self._untouched():
            return
        holder = _read(self._path)
        if holder is None or holder.token != self._holder.token:
            now = f"is now held by {holder}" if holder else "was removed"
            raise StoreError(
                f"the lock of store {self._store} {now} while this process was writing; nothing more is written. "
                "What was committed before is safe."
            )

    def release(self) -> None:
        """Let the next writer in; a lock that is no longer ours is left alone."""
        holder = _read(self._path)
        if holder is not None and holder.token == self._holder.token:
            self._path.unlink(missing_ok=True)

    def _untouched(self) -> bool:
        """Whether the file that this lock made lies there as it was, at a tenth of the cost of reading it."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)  # NFS looks anew only when a file is opened
        except OSError:
            return False
        try:
            return _identity(os.fstat(handle)) == self._identity
        finally:
            os.close(handle)

    def _make(self) -> bool:
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, self._holder.model_dump_json().encode())
            os.fsync(handle)
            self._identity = _identity(os.fstat(handle))
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return True

    def _take_over(self) -> None:
        found = _read(self._path)
        if found is None or not found.surely_dead():
            raise self._held(found)
        # Two processes may find the same dead holder. Whoever moves the file away looks at what it moved: should it
        # be the lock of the other, who was faster, it is put back.
        aside = self._path.with_name(f"{LOCK_NAME}.{self._holder.token}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            raise self._held(None) from None
        moved = _read(aside)
        if moved is None or moved.token != found.token:
            aside.rename(self._path)
            raise self._held(moved)
        aside.unlink()
        if not self._make():
            raise self._held(_read(self._path))
        logger.warning("store %s: took over the lock of %s, which no longer runs.", self._store, found)

    def _held(self, holder: Holder | None) -> StoreError:
        who = str(holder) if holder else "another writer (its lock file is not readable)"
        return StoreError(
            f"store {self._store} is being written by {who}; a store has one writer at a time. Wait for it, or, if "
            f"that process is gone for sure, run: vidloc store unlock {self._store}"
        )


def holder_of(folder: Path) -> Holder | None:
    """Who holds the store in `folder`; `None` where nobody does or the file is not readable."""
    return _read(folder / LOCK_NAME)


def remove_lock(folder: Path) -> bool:
    """Remove a lock by hand, whoever made it; `False` where there was none."""
    try:
        (folder / LOCK_NAME).unlink()
    except FileNotFoundError:
        return False
    return True


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    """Which file it is, and its last change: an inode's number is used again."""
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _read(path: Path) -> Holder | None:
    try:
        return Holder.model_validate(json.loads(read_inside(path, path.parent, limit=_MAX_BYTES)))
    except (OSError, ValueError, RecursionError):
        return None


def _boot() -> str:
    return _text_of(Path("/proc/sys/kernel/random/boot_id"))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(process: int) -> str:
    """Start time of a process in clock ticks since boot; empty for one that does not run."""
    # The second field, the command in brackets, may hold blanks and brackets itself.
    fields = _text_of(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
