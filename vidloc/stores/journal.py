"""The journal: one line of JSON per commit, with its own checksum; a line that is durable is the commit.

    {"sha256":"<64 hex digits>","commit":{...}}

The checksum is that of the bytes of the inner object as they stand in the line. A last line without newline or with
a wrong checksum was being written when the process or the machine stopped, and does not count. Anywhere else it is
damage.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vidloc.errors import StoreError
from vidloc.stores.confined import read_inside
from vidloc.stores.durable import pwrite_all, sync_folder
from vidloc.stores.format import dump_json, parse_json, validated
from vidloc.stores.tables import Commit

_START = b'{"sha256":"'
_MIDDLE = b'","commit":'
_BODY = len(_START) + 64 + len(_MIDDLE)
# Folds come every 1,000 commits, each of some hundred bytes per stream.
_MAX_BYTES = 256 * 1024**2


class Journal:
    """A new, empty journal open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        self._length = 0
        self._broken = False
        self.num_commits = 0
        os.fsync(self._handle)
        sync_folder(path.parent)

    def append(self, commit: Commit) -> None:
        """Add a commit and make it durable; after an error it does not exist.

        Raises:
            OSError: the disk is full or fails.
            StoreError: an earlier failure could not be undone.
        """
        if self._broken:
            raise StoreError(f"journal {self.path} failed before; close the store and open it again.")
        body = dump_json(commit.model_dump(mode="json", exclude_defaults=True))
        line = _START + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + b"}\n"
        try:
            pwrite_all(self._handle, memoryview(line), self._length)
            os.fdatasync(self._handle)
        except OSError:
            self._broken = True
            os.ftruncate(self._handle, self._length)
            os.fsync(self._handle)
            self._broken = False
            raise
        self._length += len(line)
        self.num_commits += 1

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def journal_name(number: int) -> str:
    """File name of a store's `number`-th journal."""
    return f"journal-{number:06d}.jsonl"


def journal_number(name: str) -> int:
    """Inverse of `journal_name`."""
    return int(name.removeprefix("journal-").removesuffix(".jsonl"))


def read_journal(path: Path) -> list[Commit]:
    """All commits of a journal.

    Raises:
        FileNotFoundError: it was folded meanwhile.
        StoreError: a line other than the last is damaged, or the file is none or far too long.
    """
    return parse_journal(read_inside(path, path.parent, limit=_MAX_BYTES), where=f"journal {path}")


def parse_journal(data: bytes, *, where: str) -> list[Commit]:
    """All commits in the bytes of a journal.

    Raises:
        StoreError: a line other than the last is damaged.
    """
    lines = data.split(b"\n")
    lines.pop()  # what follows the last newline: nothing, or a line that was being written
    commits = []
    for number, line in enumerate(lines, start=1):
        body = line[_BODY:-1]
        if line != _START + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + b"}":
            if number == len(lines):
                break
            raise StoreError(f"{where} is damaged in line {number} of {len(lines)}: its checksum does not fit.")
        line_where = f"{where}, line {number}"
        commits.append(validated(Commit, parse_json(body, where=line_where), where=line_where))
    return commits
