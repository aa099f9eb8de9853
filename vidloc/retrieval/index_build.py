"""Building a FAISS index by streaming a store, and measuring what an approximate one misses.

    flat    float32, exact: the oracle
    sq16    float16, exact but for rounding, half the memory and time: the default
    hnsw    a graph over float16 vectors: fast for single queries, approximate, slow to build
    ivfpq   product-quantised inverted lists: `m` bytes per vector, approximate; wants many vectors

How much the approximate two miss depends on the rows, so `measured_recall` compares them with exact search on the
store's own rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vidloc.errors import OptionError, StoreError
from vidloc.retrieval.exact import ExactSearch
from vidloc.retrieval.index_files import FaissIndex, save_index
from vidloc.retrieval.index_meta import IndexMeta, IndexOptions, IndexType
from vidloc.retrieval.vectors import (
    BLOCK_BYTES,
    FIELD,
    RowTable,
    Vectors,
    read_vectors,
    row_table,
    searchable_spec,
    vector_blocks,
    vector_dim,
)
from vidloc.stores.base import FeatureStore, StreamSpec
from vidloc.stores.remote_files import is_remote

_CODEBOOK = 256  # entries per sub-quantiser, 8 bits
_POINTS_PER_CENTROID = 39  # below this FAISS's k-means warns that centroids are poorly placed
_TRAINING_PER_CENTROID = 256  # above this FAISS's k-means drops the surplus itself
_NUMBERS_PER_PART = 4
_OPTIONS_OF: dict[str, IndexType] = {
    "nlist": "ivfpq",
    "m": "ivfpq",
    "nprobe": "ivfpq",
    "seed": "ivfpq",
    "links": "hnsw",
    "ef_construction": "hnsw",
    "ef_search": "hnsw",
}
_ROUNDING = 1e-3  # of a cosine of float16 vectors; rows nearer to each other than this are alike to any index
Progress = Callable[[int, int], None]


def build_index(
    store: FeatureStore,
    stream: str,
    options: IndexOptions,
    *,
    block_bytes: int = BLOCK_BYTES,
    progress: Progress = lambda _done, _total: None,
) -> IndexMeta:
    """Index a stream and save the index beside the store; an older one of this type is replaced.

    Memory: the index itself (flat 4, sq16 2, hnsw 2 bytes per number, ivfpq `m` bytes per vector) and one block.

    Raises:
        OptionError: an option of another type was given, or there are too few rows for the type.
        StoreError: the stream has no rows.
    """
    if is_remote(store.path):
        raise StoreError(
            f"an index lies beside its store, and {store.path} is elsewhere. Take the store here first: "
            f"vidloc store pull {store.path} OUT"
        )
    spec = searchable_spec(store, stream)
    table = row_table(store, stream)
    if table.num_rows == 0:
        raise StoreError(f"stream {stream!r} of {store.path} has no rows to index; extract some items first.")
    _check_options(options)
    index, options = _new_index(store, spec, table, options, block_bytes)
    ragged = spec.fields[FIELD].axis is not None
    numbers: list[NDArray[np.int64]] = []
    total = np.zeros(vector_dim(spec))
    for vectors, rows in vector_blocks(store, spec, table, block_bytes=block_bytes):
        index.add(vectors)
        total += vectors.sum(axis=0, dtype=np.float64)
        if ragged:  # else vector n is row n
            numbers.append(rows)
        if len(rows):
            progress(int(rows[-1]) + 1, table.num_rows)
    row_of_vector = np.concatenate(numbers) if ragged else None
    if index.ntotal == 0:
        raise StoreError(f"stream {stream!r} of {store.path} has rows, but none of them holds a vector.")
    mean = (total / index.ntotal).astype(np.float32)
    return save_index(store.path, spec, table, options, index, mean, row_of_vector)


def measured_recall(
    store: FeatureStore, stream: str, index: FaissIndex, *, k: int = 10, num_queries: int = 32, seed: int = 0
) -> float:
    """Share of the `k` nearest vectors that an index finds, over rows of the stream taken as queries.

    Costs one pass over the stream. Rows as near as the k-th nearest count as found: either answer is right.
    """
    spec = searchable_spec(store, stream)
    queries = _some_vectors(store, spec, index.table, num_queries, seed)
    exact = ExactSearch(store, stream, index.table).search_many(queries, k)
    shares = []
    for query, (scores, _, _) in zip(queries, exact, strict=True):
        rows = index.search(query, k).rows
        # Compressed vectors give other scores, so those of the rows found are taken from the store.
        again = np.array([_best_score(store, spec, index.table, int(row), query) for row in rows])
        shares.append((again >= scores[-1] - _ROUNDING).sum() / len(scores))
    return float(np.mean(shares))


def _best_score(store: FeatureStore, spec: StreamSpec, table: RowTable, number: int, query: Vectors) -> float:
    item, row = table.locate(number)
    vectors, _ = read_vectors(store, spec, item, slice(row, row + 1))
    return float((vectors @ query).max())


def _some_vectors(store: FeatureStore, spec: StreamSpec, table: RowTable, count: int, seed: int) -> Vectors:
    """One vector each of rows drawn at random; rows that hold none are passed over."""
    drawn = np.random.default_rng(seed).permutation(table.num_rows)
    found: list[Vectors] = []
    for number in drawn.tolist():
        item, row = table.locate(number)
        vectors, _ = read_vectors(store, spec, item, slice(row, row + 1))
        if len(vectors):
            found.append(vectors[0])
        if len(found) == count:
            break
    return np.stack(found)


def _check_options(options: IndexOptions) -> None:
    for name in sorted(options.model_fields_set & _OPTIONS_OF.keys()):
        if options.type != _OPTIONS_OF[name]:
            raise OptionError(f"index type {options.type} has no option {name!r}; it belongs to {_OPTIONS_OF[name]}.")


def _new_index(
    store: FeatureStore, spec: StreamSpec, table: RowTable, options: IndexOptions, block_bytes: int
) -> tuple[Any, IndexOptions]:
    """An empty index, trained where its type needs that, and the options as they were settled."""
    dim = vector_dim(spec)
    if options.type == "ivfpq":
        options = _settled(options, table, dim)
        index = _empty(dim, f"IVF{options.nlist},PQ{options.m}x8")
        index.nprobe = options.nprobe
        index.do_polysemous_training = False  # reorders codes for Hamming filters that are not used: minutes, no gain
        index.cp.seed = index.pq.cp.seed = options.seed
        index.train(_sample(store, spec, table, options, block_bytes))
        return index, options
    factory = {"flat": "Flat", "sq16": "SQfp16", "hnsw": f"HNSW{options.links},SQfp16"}
    index = _empty(dim, factory[options.type])
    if options.type == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = options.ef_construction, options.ef_search
    # Nothing is learned from these: float16 has no ranges. FAISS only wants the call.
    index.train(np.zeros((1, dim), np.float32))
    return index, options


def _empty(dim: int, factory: str) -> Any:
    return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)


def _settled(options: IndexOptions, table: RowTable, dim: int) -> IndexOptions:
    """IVF-PQ's `nlist` and `m` chosen, or checked.

    Raises:
        OptionError: they do not fit the stream; the message says which type to use instead.
    """
    least = _POINTS_PER_CENTROID * max(_CODEBOOK, options.nlist or 1)
    if table.num_rows < least:
        raise OptionError(
            f"ivfpq needs at least {least:,} rows to place its centroids, this stream has {table.num_rows:,}. "
            "Use --type sq16, which is exact and small at this size."
        )
    nlist = options.nlist or min(int(4 * table.num_rows**0.5), table.num_rows // _POINTS_PER_CENTROID)
    m = options.m or max((n for n in range(1, 65) if dim % n == 0 and dim // n >= _NUMBERS_PER_PART), default=1)
    if dim % m:
        raise OptionError(f"ivfpq option 'm' must divide the length of the vectors, {dim}; {m} does not.")
    return options.model_copy(update={"nlist": nlist, "m": m})


def _sample(store: FeatureStore, spec: StreamSpec, table: RowTable, options: IndexOptions, block_bytes: int) -> Vectors:
    """Vectors of a seeded sample of rows, enough for the coarse and the product quantiser."""
    wanted = min(table.num_rows, _TRAINING_PER_CENTROID * max(_CODEBOOK, int(options.nlist or 1)))
    generator = np.random.default_rng(options.seed)
    chosen = np.zeros(table.num_rows, dtype=bool)
    chosen[generator.choice(table.num_rows, wanted, replace=False)] = True
    blocks = vector_blocks(store, spec, table, block_bytes=block_bytes)
    return np.concatenate([vectors[chosen[rows]] for vectors, rows in blocks])
