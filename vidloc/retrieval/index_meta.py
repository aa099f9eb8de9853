"""What describes an index: its options, its `meta.json`, and where indexes lie. Needs no FAISS.

    feats.zarr.index/slowfast_r50.sq16/meta.json          what was indexed and how; sha256 of the other files
                                       vectors.faiss      the index, as `faiss.write_index` makes it
                                       mean.npy           mean of the vectors, `(D,)` float32
                                       row_of_vector.npy  only for streams with several vectors per row

Items, rows and times are not repeated in the index. They are the store's, and the index holds the digest of the
stream it was made from: any change of the stream makes it stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from vidloc.core.options import Options
from vidloc.core.records import Record
from vidloc.errors import StoreError

IndexType = Literal["flat", "sq16", "hnsw", "ivfpq"]
INDEX_TYPES: tuple[IndexType, ...] = get_args(IndexType)  # most exact first: the order in which search picks one

META_NAME = "meta.json"
_META_LIMIT = 2**20


class IndexOptions(Options):
    """How an index is built and searched."""

    type: IndexType = Field("sq16", description="flat and sq16 are exact-enough; hnsw and ivfpq are approximate.")
    nlist: int | None = Field(
        None, ge=1, description="ivfpq: inverted lists; none: 4 times the root of the vectors, 39 vectors in each."
    )
    m: int | None = Field(
        None,
        ge=1,
        description="ivfpq: bytes per vector, a divisor of its length; none: the largest up to 64, 4 numbers each.",
    )
    nprobe: int = Field(16, ge=1, description="ivfpq: lists visited per query.")
    seed: int = Field(0, ge=0, lt=2**31, description="ivfpq: seed of the training sample and of k-means.")
    links: int = Field(32, ge=2, le=512, description="hnsw: links per vector.")
    ef_construction: int = Field(80, ge=1, description="hnsw: candidates kept while building.")
    ef_search: int = Field(128, ge=1, description="hnsw: candidates kept while searching.")


class IndexMeta(Record):
    """What `meta.json` holds.

    Attributes:
        vectors: what one vector stands for.
        num_vectors, num_rows, dim: sizes; more vectors than rows where a row has several.
        stream_digest: digest of the stream that was indexed (`RowTable.digest`).
        options: options after defaults, with `nlist` and `m` as they were chosen.
        sha256, num_bytes: of the other files, by name.
    """

    format: Literal[1] = 1
    stream: str
    type: IndexType
    metric: Literal["cosine"] = "cosine"
    vectors: str
    num_vectors: int = Field(ge=1)
    num_rows: int = Field(ge=1)
    dim: int = Field(ge=1)
    stream_digest: str
    options: IndexOptions
    sha256: dict[str, str]
    num_bytes: dict[str, int]
    vidloc_version: str
    faiss_version: str


def index_root(store_path: str) -> Path:
    """The folder of a store's indexes, beside it."""
    return Path(store_path.rstrip("/") + ".index")


def index_folder(store_path: str, stream: str, type_: str) -> Path:
    """The folder of one index."""
    return index_root(store_path) / f"{stream}.{type_}"


def rebuild_command(store_path: str, stream: str, type_: str) -> str:
    """What to type to (re)build an index."""
    return f"vidloc index build {store_path} --stream {stream} --type {type_}"


def built_types(store_path: str, stream: str) -> list[IndexType]:
    """Types of the indexes that exist for a stream, most exact first."""
    return [t for t in INDEX_TYPES if (index_folder(store_path, stream, t) / META_NAME).is_file()]


def read_meta(store_path: str, stream: str, type_: str) -> IndexMeta:
    """The description of an index, validated.

    Raises:
        StoreError: there is none, or it cannot be trusted.
    """
    path = index_folder(store_path, stream, type_) / META_NAME
    command = rebuild_command(store_path, stream, type_)
    if not path.is_file():
        raise StoreError(f"there is no {type_} index of stream {stream!r} beside {store_path}. Build it: {command}")
    if path.stat().st_size > _META_LIMIT:
        raise StoreError(f"{path} is larger than any index description ({_META_LIMIT} bytes). Rebuild: {command}")
    try:
        meta = IndexMeta.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise StoreError(f"{path} does not describe an index: {where}: {problem['msg']}. Rebuild: {command}") from None
    if (meta.stream, meta.type) != (stream, type_):
        raise StoreError(f"{path} describes {meta.stream}.{meta.type}, not {stream}.{type_}. Rebuild: {command}")
    return meta
