"""Putting a finished store elsewhere, file by file: the root goes last, so that nobody ever sees half a store.

A push that was stopped is repeated: files whose size and checksum the server confirms are not sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidloc.errors import StoreError
from vidloc.stores.base import open_store
from vidloc.stores.format import METADATA_NAME
from vidloc.stores.hdf5_store import staging_of
from vidloc.stores.lock import LOCK_NAME
from vidloc.stores.operations import Progress, writer_of
from vidloc.stores.remote_files import RemoteFiles, current_options, is_remote, local_path

_THREADS = 8
_MD5 = re.compile(r"[0-9a-f]{32}")  # an S3 object sent in one piece; other marks say nothing of the bytes


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        digest: content id, as read back from the address.
        num_files: files of the store, of which `num_sent` with `num_bytes` were sent now.
        is_checked: whether the server confirmed a checksum of every file, not only its size.
    """

    digest: str
    num_files: int
    num_sent: int
    num_bytes: int
    is_checked: bool


def push(
    path: str | Path, address: str, options: Mapping[str, Any] | None = None, *, progress: Progress | None = None
) -> PushReport:
    """Send the files of a store that nobody writes to, and open it there.

    Args:
        address: where the store is to lie, such as `s3://bucket/feats.zarr`.
        options: of its file system, as fsspec names them.
        progress: told how many files of how many are there.

    Raises:
        StoreError: the store is not finished, something else lies at the address, or a file did not arrive whole.
    """
    source = local_path(path)
    if not is_remote(address):
        raise StoreError(f"{address} is a place on this machine; an address has a protocol, such as s3://bucket/name.")
    with open_store(source) as store:
        digest, is_folder = store.digest(), store.backend == "zarr"
    _require_finished(source)
    names = _names(source) if is_folder else [""]
    files = RemoteFiles(address, current_options(options))
    if files.etag(names[-1]) is not None:
        _require_same(address, digest, options)
    done = sent = num_bytes = 0
    is_checked = True
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="vidloc-push") as threads:
        for part in (names[:-1], names[-1:]):
            for size, confirmed in threads.map(lambda name: _send(files, source, name), part):
                done, sent, num_bytes = done + 1, sent + (size is not None), num_bytes + (size or 0)
                is_checked &= confirmed
                if progress is not None:
                    progress(done, len(names))
    _require_same(address, digest, options)
    return PushReport(digest, len(names), sent, num_bytes, is_checked)


def _send(files: RemoteFiles, source: Path, name: str) -> tuple[int | None, bool]:
    """Bytes sent, `None` where the file was there; and whether a checksum confirms it."""
    path = source / name if name else source
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    size = path.stat().st_size
    if files.etag(name) == (size, md5):
        return None, True
    files.put(path, name)
    found = files.etag(name)
    if found is None or found[0] != size or (_MD5.fullmatch(found[1]) and found[1] != md5):
        raise StoreError(f"{files.at(name)} did not arrive whole. Run the same again; what is there is not sent twice.")
    return size, found[1] == md5


def _names(folder: Path) -> list[str]:
    """Files of a store's folder as paths below it, the root's metadata last."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise StoreError(f"{path} is a link; only the files of a store itself are sent.")
        if path.is_file() and name not in (LOCK_NAME, METADATA_NAME) and not path.name.startswith("."):
            found.append(name)
    return [*found, METADATA_NAME]


def _require_finished(path: Path) -> None:
    if writer := writer_of(path):
        raise StoreError(f"{path} is being written by {writer}; wait until that is done.")
    journals = path.glob("journal-*.jsonl") if path.is_dir() else ()
    if staging_of(path).exists() or any(journal.stat().st_size for journal in journals):
        raise StoreError(f"{path} was left by a writer that stopped. First: vidloc store finish {path}")


def _require_same(address: str, digest: str, options: Mapping[str, Any] | None) -> None:
    with open_store(address, storage_options=options) as there:
        found = there.digest()
    if found != digest:
        raise StoreError(
            f"{address} holds another store (content id {found[:12]}..., this one has {digest[:12]}...). A content id "
            "goes on naming what was published under it: choose another address."
        )
