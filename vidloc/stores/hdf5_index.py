"""The index of an HDF5 store, behind the HDF5 file proper: what the store is and where its arrays lie, in JSON.

    HDF5 | JSON | its length: 8 bytes, little-endian | its sha256: 32 bytes | "vidloc index 1\\r\\n"

With it a store is opened without libhdf5, which is C and can be made to crash or to run for ever by a few changed
bytes, and with one small read from a server. HDF5 programs do not see it: what lies behind the end that HDF5 states is
nothing to them, and a program that changes the file cuts it off or moves that end, so that an index that is out of
date is told. An index is data from elsewhere like all the rest, and validated when it is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from vidloc.errors import StoreError
from vidloc.stores.catalog import Catalog, arrays_of_items, arrays_of_stream
from vidloc.stores.durable import pwrite_all
from vidloc.stores.format import MAX_DOCUMENT_BYTES, check_name, dump_json, inside, parse_json, parse_root, parse_spec
from vidloc.stores.hdf5_tree import FileLayout, Runs

Read = Callable[[int, int], bytes]
"""Bytes `start:stop` of a file."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAGIC = b"vidloc index 1\r\n"
_FOOTER_BYTES = 8 + 32 + len(_MAGIC)
_TAIL_BYTES = 64 * 1024  # read at once: footer and, mostly, all of the index
# Of a superblock (versions 2 and 3, addresses of eight bytes): version, size of addresses, end of the HDF5 file.
_SUPERBLOCK_BYTES = 36
_ADDRESS_BYTES = 8


def dump_layout(layout: FileLayout) -> bytes:
    """An index as it is put on disk."""
    arrays = {
        name: {"length": array.length, "runs": layout.runs[name]}
        for name, array in sorted(layout.catalog.layouts.items())
    }
    streams = {name: spec.model_dump(mode="json") for name, spec in sorted(layout.catalog.specs.items())}
    return dump_json({"root": layout.catalog.root.model_dump(mode="json"), "streams": streams, "arrays": arrays})


def parse_layout(document: Any, *, size: int, where: str) -> FileLayout:
    """Inverse of `dump_layout` and `parse_json`.

    Args:
        size: bytes of the file, which all arrays together may not exceed.

    Raises:
        StoreError: the document is damaged, or describes what cannot be.
        FormatVersionError: it is that of a newer version.
    """
    if not isinstance(document, dict):
        raise StoreError(f"{where} is damaged: its index is no JSON object.")
    catalog = Catalog(parse_root(document.get("root"), where=where))
    expected = arrays_of_items()
    for name in catalog.root.streams:
        check_name(name, where=where)
        catalog.specs[name] = parse_spec(inside(document, "streams", name), name=name, where=where)
        expected |= arrays_of_stream(catalog.specs[name])
    runs: dict[str, Runs] = {}
    for name, layout in expected.items():
        length = inside(document, "arrays", name, "length")
        if not _is_count(length):
            raise StoreError(f"{where} is damaged: its index gives array {name} the length {str(length)[:40]!r}.")
        catalog.layouts[name] = layout.resized(length)
        runs[name] = _parse_runs(inside(document, "arrays", name, "runs"), length, where=f"{where}, array {name}")
    claimed = sum(layout.num_bytes for layout in catalog.layouts.values())
    if claimed > size:
        raise StoreError(f"{where} has {size} bytes, its arrays claim {claimed}.")
    return FileLayout(catalog, runs)


def append_index(handle: int, layout: FileLayout) -> None:
    """Put an index at the end of a file; none where it would be too long for a reader.

    Raises:
        OSError: the disk is full or fails.
    """
    data = dump_layout(layout)
    if len(data) <= MAX_DOCUMENT_BYTES:
        footer = len(data).to_bytes(8, "little") + hashlib.sha256(data).digest() + _MAGIC
        pwrite_all(handle, memoryview(data + footer), os.fstat(handle).st_size)


def find_index(read: Read, size: int, *, where: str) -> Any:
    """The document at the end of a file; `None` where there is none, or one that no longer belongs to the file.

    Raises:
        StoreError: it is no JSON.
    """
    if size < _SUPERBLOCK_BYTES + _FOOTER_BYTES:
        return None
    tail = read(max(size - _TAIL_BYTES, 0), size)
    footer = tail[-_FOOTER_BYTES:]
    length = int.from_bytes(footer[:8], "little")
    start = size - _FOOTER_BYTES - length
    if footer[40:] != _MAGIC or length > MAX_DOCUMENT_BYTES or start != _end_of_hdf5(read):
        return None
    known = size - len(tail)
    data = tail[start - known : -_FOOTER_BYTES] if start >= known else read(start, known) + tail[:-_FOOTER_BYTES]
    if hashlib.sha256(data).digest() != footer[8:40]:
        return None
    return parse_json(data, where=f"{where}, its index")


def _end_of_hdf5(read: Read) -> int:
    """Where HDF5 says that the file ends; -1 for a file that no writer of vidloc's began."""
    start = read(0, _SUPERBLOCK_BYTES)
    if start[:8] != SIGNATURE or start[8] not in (2, 3) or start[9] != _ADDRESS_BYTES:
        return -1
    return int.from_bytes(start[28:36], "little")


def _parse_runs(document: Any, length: int, *, where: str) -> Runs:
    runs = document if isinstance(document, list) else []
    if not all(isinstance(run, list) and len(run) == 2 and all(map(_is_count, run)) for run in runs):
        runs = []
    firsts = [first for first, _ in runs]
    if firsts[:1] != [0] or any(b <= a for a, b in pairwise(firsts)) or firsts[-1] > length:
        raise StoreError(f"{where}: its index does not say where the entries lie.")
    return [(first, offset) for first, offset in runs]


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63
