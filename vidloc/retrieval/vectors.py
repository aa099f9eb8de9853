"""The vectors of a stream, normalised and numbered: what is indexed, and what is compared with a query.

Similarity is the cosine: every vector is divided by its Euclidean length and compared by inner product. A row of
zeros has no direction; it stays zero and scores 0 against everything. What counts as a vector follows from the
shape of the stream's `features`:

    (D,)             one vector per row
    (H, W, D)        one vector per row, the mean over the map
    ("regions", D)   one vector per region, all standing for the row they belong to

Rows are numbered through the whole stream: items in byte order of their ids, each item's rows in order. Vectors are
read in blocks of bounded size, so a stream larger than memory can be searched or indexed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import StreamNotFoundError, did_you_mean
from vidloc.stores.base import FeatureStore, StreamSpec

FIELD = "features"
BLOCK_BYTES = 16 * 2**20
_ENTRIES_GUESS = 32  # regions per row, for choosing how many rows of a ragged stream are read at once

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class RowTable:
    """Items of a stream with their rows numbered one after another.

    Attributes:
        items: ids in byte order.
        bounds: `(items + 1,)` number of each item's first row; the last one is the number of rows.
        digest: sha256 over ids and row digests: it changes when any row, time or item of the stream does.
    """

    items: list[str]
    bounds: NDArray[np.int64]
    digest: str

    @property
    def num_rows(self) -> int:
        """Rows of all items."""
        return int(self.bounds[-1])

    def locate(self, row: int) -> tuple[str, int]:
        """Item and row within the item of a numbered row."""
        at = int(np.searchsorted(self.bounds, row, side="right")) - 1
        return self.items[at], row - int(self.bounds[at])


def searchable_spec(store: FeatureStore, stream: str) -> StreamSpec:
    """The spec of a stream that has vectors.

    Raises:
        StreamNotFoundError: no such stream, or it has no field `features`; the searchable ones are listed.
    """
    specs = store.streams()
    usable = [name for name, spec in specs.items() if FIELD in spec.fields and spec.fields[FIELD].entry_shape]
    if stream not in usable:
        why = "has no vectors to search" if stream in specs else "is not in this store"
        raise StreamNotFoundError(f"stream {stream!r} of {store.path} {why}. {did_you_mean(stream, usable)}")
    return specs[stream]


def vector_dim(spec: StreamSpec) -> int:
    """Length of the stream's vectors."""
    return spec.fields[FIELD].entry_shape[-1]


def vector_rule(spec: StreamSpec) -> str:
    """What one vector stands for, in words."""
    field = spec.fields[FIELD]
    if field.axis is not None:
        return f"one vector per entry of axis {field.axis!r}"
    return "one vector per row" if len(field.entry_shape) == 1 else "one vector per row, the mean over its map"


def row_table(store: FeatureStore, stream: str) -> RowTable:
    """Number the rows of a stream."""
    entries = store.entries(stream)
    items = store.items(stream)
    hasher = hashlib.sha256()
    for item in items:
        hasher.update(f"{item}\0{entries[item].digest}\n".encode())
    counts = [entries[item].num_rows for item in items]
    return RowTable(items, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), hasher.hexdigest())


def normalised(vectors: NDArray[Any]) -> Vectors:
    """Vectors of length 1, float32; rows of zeros stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)).astype(np.float32)
    return np.asarray(vectors / np.where(length > 0, length, np.float32(1))[:, None], dtype=np.float32)


def read_vectors(
    store: FeatureStore, spec: StreamSpec, item: str, rows: slice | None = None
) -> tuple[Vectors, NDArray[np.int64]]:
    """Normalised vectors of a range of an item's rows, and how many each row has."""
    field = spec.fields[FIELD]
    if field.axis is None:
        values = store.read_field(spec.name, item, FIELD, rows)
        return normalised(_one_vector_each(values, field)), np.ones(len(values), dtype=np.int64)
    found = store.read(spec.name, item, rows)
    return vectors_of(found, spec), found.counts[field.axis]


def vectors_of(rows: Rows, spec: StreamSpec) -> Vectors:
    """Normalised vectors of rows in memory."""
    return normalised(_one_vector_each(rows.fields[FIELD], spec.fields[FIELD]))


def pooled(vectors: Vectors) -> Vectors:
    """One query from several vectors: the direction of their mean, `(D,)`."""
    return np.asarray(normalised(vectors.mean(axis=0, keepdims=True))[0])


def vector_blocks(
    store: FeatureStore, spec: StreamSpec, table: RowTable, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[Vectors, NDArray[np.int64]]]:
    """All vectors of a stream in blocks, each with the number of the row it belongs to.

    Small items share a block and long ones are cut, so that memory stays near `block_bytes` whatever the stream.
    """
    field = spec.fields[FIELD]
    row_bytes = 4 * int(np.prod(field.entry_shape)) * (_ENTRIES_GUESS if field.axis else 1)
    step = max(block_bytes // row_bytes, 1)
    vectors: list[Vectors] = []
    numbers: list[NDArray[np.int64]] = []
    waiting = 0
    for at, item in enumerate(table.items):
        first, stop = int(table.bounds[at]), int(table.bounds[at + 1])
        for start in range(0, stop - first, step):
            end = min(start + step, stop - first)
            piece, counts = read_vectors(store, spec, item, slice(start, end))
            vectors.append(piece)
            numbers.append(np.repeat(np.arange(first + start, first + end), counts))
            waiting += end - start
            if waiting >= step:
                yield np.concatenate(vectors), np.concatenate(numbers)
                vectors, numbers, waiting = [], [], 0
    if vectors:
        yield np.concatenate(vectors), np.concatenate(numbers)


def _one_vector_each(values: NDArray[Any], field: FieldSpec) -> NDArray[Any]:
    if len(field.entry_shape) == 1:
        return values
    pooled = values.reshape(len(values), -1, field.entry_shape[-1]).mean(axis=1, dtype=np.float32)
    return np.asarray(pooled)
