"""Exact search: every vector of the stream is compared with the query, straight from the store.

Needs no index and no FAISS. It reads the whole stream for each query, which is what `vidloc index build` saves.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vidloc.retrieval.vectors import RowTable, Vectors, searchable_spec, vector_blocks
from vidloc.stores.base import FeatureStore


class Ranked(NamedTuple):
    """The nearest vectors, best first; of equal scores the earlier row.

    Attributes:
        scores: cosines, as exact as the method.
        rows: number of the row each belongs to; a row that owns several vectors may come several times.
        mean_score: mean cosine of all vectors of the stream with the query: what no similarity looks like here.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    mean_score: float


class Searcher(Protocol):
    """Anything that finds the rows nearest to a vector."""

    @property
    def table(self) -> RowTable:
        """The rows it searches."""

    @property
    def method(self) -> str:
        """How it searches, in words."""

    def search(self, query: Vectors, k: int) -> Ranked:
        """The `k` nearest vectors; fewer where there are fewer."""


class ExactSearch:
    """Brute force over the store; the oracle that indexes are measured against.

    Args:
        table: rows of the stream, from `row_table`.
    """

    method = "exact, all rows read from the store"

    def __init__(self, store: FeatureStore, stream: str, table: RowTable) -> None:
        self._store = store
        self._spec = searchable_spec(store, stream)
        self.table = table

    def search(self, query: Vectors, k: int) -> Ranked:
        """The `k` nearest vectors; fewer where there are fewer."""
        return self.search_many(query[None], k)[0]

    def search_many(self, queries: Vectors, k: int) -> list[Ranked]:
        """The same for `(queries, D)` in one pass over the stream."""
        scores = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        total, count = np.zeros(len(queries)), 0
        for vectors, numbers in vector_blocks(self._store, self._spec, self.table):
            similarity = queries @ vectors.T
            total += similarity.sum(axis=1, dtype=np.float64)
            count += len(vectors)
            scores = np.concatenate([scores, similarity], axis=1)
            rows = np.concatenate([rows, np.broadcast_to(numbers, similarity.shape)], axis=1)
            best = np.lexsort((rows, -scores), axis=1)[:, :k]
            scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        return [Ranked(s, r, float(t / max(count, 1))) for s, r, t in zip(scores, rows, total, strict=True)]
