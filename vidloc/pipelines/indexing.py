"""Building FAISS indexes over the streams of a store, and saying which there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidloc.errors import StoreError
from vidloc.retrieval.index_meta import INDEX_TYPES, IndexMeta, IndexOptions, index_folder, index_root, read_meta
from vidloc.retrieval.vectors import row_table
from vidloc.stores.base import FeatureStore, open_store

_RECALL_AT = 10


@dataclass(frozen=True)
class IndexReport:
    """An index that was built.

    Attributes:
        recall: share of the ten nearest vectors that it finds, on rows of the stream; `None` where not measured.
    """

    path: str
    meta: IndexMeta
    num_bytes: int
    seconds: float
    recall: float | None

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "path": self.path,
            "bytes": self.num_bytes,
            "seconds": self.seconds,
            f"recall_at_{_RECALL_AT}": self.recall,
            **self.meta.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class IndexState:
    """An index that lies beside a store.

    Attributes:
        state: `fresh`; `stale` (the stream has changed since); `unusable` (`problem` says why).
    """

    path: str
    stream: str
    type: str
    state: Literal["fresh", "stale", "unusable"]
    num_bytes: int
    meta: IndexMeta | None = None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "path": self.path,
            "stream": self.stream,
            "type": self.type,
            "state": self.state,
            "problem": self.problem,
            "bytes": self.num_bytes,
            "meta": None if self.meta is None else self.meta.model_dump(mode="json"),
        }


def build(
    store_path: str | Path,
    stream: str,
    options: IndexOptions,
    *,
    recall: bool | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> IndexReport:
    """Index a stream of a store, and measure what the index misses.

    Args:
        recall: whether to measure recall, which reads the stream once more; `None` does so for approximate types.
        progress: told how many rows of how many are indexed.

    Raises:
        StreamNotFoundError: no such stream, or one without vectors.
        OptionError: an option of another type, or too few rows for the type.
    """
    from vidloc.retrieval.index_build import build_index, measured_recall
    from vidloc.retrieval.index_files import open_index

    begun = time.perf_counter()
    with open_store(store_path) as store:
        meta = build_index(store, stream, options, progress=progress)
        seconds = time.perf_counter() - begun
        found = None
        if recall or (recall is None and options.type in ("hnsw", "ivfpq")):
            found = measured_recall(store, stream, open_index(store, stream, options.type), k=_RECALL_AT)
        folder = index_folder(store.path, stream, options.type)
        return IndexReport(str(folder), meta, _size(folder), seconds, found)


def indexes(store_path: str | Path) -> list[IndexState]:
    """All indexes beside a store, and whether each still fits it."""
    with open_store(store_path) as store:
        root = index_root(store.path)
        folders = sorted(root.iterdir()) if root.is_dir() else []
        return [_state(store, folder) for folder in folders if folder.name.rpartition(".")[2] in INDEX_TYPES]


def _state(store: FeatureStore, folder: Path) -> IndexState:
    stream, _, type_ = folder.name.rpartition(".")
    size = _size(folder)
    try:
        meta = read_meta(store.path, stream, type_)
        fresh = meta.stream_digest == row_table(store, stream).digest
    except StoreError as error:
        return IndexState(str(folder), stream, type_, "unusable", size, problem=str(error))
    return IndexState(str(folder), stream, type_, "fresh" if fresh else "stale", size, meta)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
