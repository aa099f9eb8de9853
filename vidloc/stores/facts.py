"""What a store holds, in numbers: the facts behind `vidloc store info`."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidloc.core.records import Status
from vidloc.core.timeline import TimeGrid
from vidloc.errors import StoreError
from vidloc.stores.base import FeatureStore, StreamSpec, open_store
from vidloc.stores.hdf5_store import staging_of
from vidloc.stores.operations import writer_of
from vidloc.stores.remote_files import local_path
from vidloc.stores.remote_store import RemoteStore
from vidloc.stores.tables import STATUSES, WITH_ROWS

_RANDOM = "random:"


@dataclass(frozen=True)
class StreamFacts:
    """One stream in numbers.

    Attributes:
        statuses: how many items have each status.
        num_rows, num_bytes: live rows of all items, all fields together.
        window_s, stride_s: of the grid, where all items share one; else `None`.
    """

    spec: StreamSpec
    statuses: Mapping[Status, int]
    num_rows: int
    num_bytes: int
    window_s: Fraction | None
    stride_s: Fraction | None

    @property
    def num_items(self) -> int:
        """Items with rows."""
        return sum(self.statuses[status] for status in WITH_ROWS)

    @property
    def random_weights(self) -> bool:
        """Whether the network that made the rows was never trained."""
        return self.spec.weights_sha256.startswith(_RANDOM)

    @property
    def times(self) -> str:
        """How rows lie in time, in words."""
        if self.window_s is not None and self.stride_s is not None:
            return f"{_seconds(self.window_s)} every {_seconds(self.stride_s)}"
        return {"grid": "a grid per item", "spans": "a span per row", "none": "no times"}[self.spec.timeline]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "kind": self.spec.kind,
            "items": self.num_items,
            "rows": self.num_rows,
            "bytes": self.num_bytes,
            "statuses": {status: self.statuses[status] for status in STATUSES},
            "window_s": None if self.window_s is None else float(self.window_s),
            "stride_s": None if self.stride_s is None else float(self.stride_s),
            "random_weights": self.random_weights,
            "spec": self.spec.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class StoreFacts:
    """One store in numbers.

    Attributes:
        digest: content id; equal for equal rows in any backend.
        num_items: items known, with rows or not.
        disk_bytes: space taken on the disk; of a store elsewhere, the bytes of its arrays.
        writer: who is writing it, empty where nobody is.
    """

    path: str
    backend: str
    digest: str
    num_items: int
    disk_bytes: int
    streams: tuple[StreamFacts, ...]
    writer: str

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "path": self.path,
            "backend": self.backend,
            "digest": self.digest,
            "items": self.num_items,
            "disk_bytes": self.disk_bytes,
            "writer": self.writer or None,
            "streams": {facts.spec.name: facts.as_json() for facts in self.streams},
        }


def facts_of(path: str | Path) -> StoreFacts:
    """Look through the tables of a store; rows are not read.

    Raises:
        StoreError: no store there, or a damaged one.
    """
    with open_store(path) as store:
        return StoreFacts(
            path=str(path),
            backend=store.backend,
            digest=store.digest(),
            num_items=len(store.items()),
            disk_bytes=store.num_array_bytes if isinstance(store, RemoteStore) else disk_bytes(local_path(path)),
            streams=tuple(_stream_facts(store, spec) for spec in store.streams().values()),
            writer=store.writer if isinstance(store, RemoteStore) else writer_of(local_path(path)),
        )


def _stream_facts(store: FeatureStore, spec: StreamSpec) -> StreamFacts:
    entries = store.entries(spec.name)
    counts = Counter(entry.status for entry in entries.values())
    with_rows = [item for item, entry in entries.items() if entry.status in WITH_ROWS]
    num_rows = sum(entry.num_rows for entry in entries.values())
    window_s, stride_s = _grid(store, spec, with_rows)
    return StreamFacts(
        spec=spec,
        statuses={status: counts[status] for status in STATUSES},
        num_rows=num_rows,
        num_bytes=sum(store.num_bytes(spec.name, item) for item in with_rows),
        window_s=window_s,
        stride_s=stride_s,
    )


def _grid(store: FeatureStore, spec: StreamSpec, items: list[str]) -> tuple[Fraction | None, Fraction | None]:
    """Window and stride that all items share."""
    if spec.timeline != "grid":
        return None, None
    shared: TimeGrid | None = None
    for item in items:
        grid = store.timeline(spec.name, item)
        if not isinstance(grid, TimeGrid):
            raise StoreError(f"stream {spec.name!r}, item {item!r} in {store.path} has no time grid.")
        if shared is not None and (grid.window_s, grid.stride_s) != (shared.window_s, shared.stride_s):
            return None, None
        shared = grid
    return (None, None) if shared is None else (shared.window_s, shared.stride_s)


def disk_bytes(path: Path) -> int:
    """Space taken by a store's files, and of the rows that wait beside an HDF5 file."""
    return sum(map(_blocks_bytes, [path, *path.rglob("*"), *staging_of(path).rglob("*")]))


def _blocks_bytes(path: Path) -> int:
    try:
        found = path.lstat()
    except FileNotFoundError:  # a writer folded it away meanwhile
        return 0
    return found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0


def _seconds(time: Fraction) -> str:
    return f"{float(time):.4g} s"
