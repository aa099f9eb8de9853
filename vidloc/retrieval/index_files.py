"""A FAISS index over one stream, as it lies beside its store: saved whole, checked, opened, refused when stale.

FAISS does not guard its reader against crafted files, and a hash kept beside a file only finds damage: rebuild an index
rather than open a stranger's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vidloc import __version__
from vidloc.errors import StoreError
from vidloc.retrieval.exact import Ranked
from vidloc.retrieval.index_meta import (
    META_NAME,
    IndexMeta,
    IndexOptions,
    IndexType,
    index_folder,
    read_meta,
    rebuild_command,
)
from vidloc.retrieval.vectors import FIELD, RowTable, Vectors, row_table, searchable_spec, vector_dim, vector_rule
from vidloc.stores.base import FeatureStore, StreamSpec

_FAISS, _MEAN, _ROWS = "vectors.faiss", "mean.npy", "row_of_vector.npy"


class FaissIndex:
    """An index opened for searching; made by `open_index`."""

    def __init__(
        self, index: Any, meta: IndexMeta, table: RowTable, mean: Vectors, rows: NDArray[np.int64] | None
    ) -> None:
        self._index, self._mean, self._rows = index, mean, rows
        self.meta = meta
        self.table = table

    @property
    def method(self) -> str:
        """The index in words."""
        return f"{self.meta.type} index of {self.meta.num_vectors:,} vectors"

    def search(self, query: Vectors, k: int) -> Ranked:
        """The `k` nearest vectors; fewer where there are fewer or the lists visited hold fewer."""
        scores, found = self._index.search(query[None].astype(np.float32), min(k, self.meta.num_vectors))
        scores, found = scores[0][found[0] >= 0], found[0][found[0] >= 0]
        rows = (found if self._rows is None else self._rows[found]).astype(np.int64)
        order = np.lexsort((rows, -scores))
        return Ranked(scores[order], rows[order], float(self._mean @ query))


def open_index(store: FeatureStore, stream: str, type_: IndexType) -> FaissIndex:
    """Open an index after checking that it is whole and belongs to the stream as it is now.

    Raises:
        StoreError: missing, damaged, or stale; the message holds the command that rebuilds it.
    """
    spec = searchable_spec(store, stream)
    meta = read_meta(store.path, stream, type_)
    command = rebuild_command(store.path, stream, type_)
    table = row_table(store, stream)
    if meta.stream_digest != table.digest:
        raise StoreError(
            f"the {type_} index of stream {stream!r} is stale: {store.path} has changed since it was built "
            f"({meta.num_rows:,} rows then, {table.num_rows:,} now). Rebuild it: {command}"
        )
    folder = index_folder(store.path, stream, type_)
    ragged = spec.fields[FIELD].axis is not None
    for name in (_FAISS, _MEAN, _ROWS) if ragged else (_FAISS, _MEAN):
        _check_file(folder / name, meta, command)
    # Mapped: pages are read as searches need them, and shared between processes.
    index = faiss.read_index(str(folder / _FAISS), faiss.IO_FLAG_MMAP_IFC)
    found = (index.ntotal, index.d, index.metric_type)
    expected = (meta.num_vectors, vector_dim(spec), faiss.METRIC_INNER_PRODUCT)
    if found != expected or (meta.num_rows, meta.dim) != (table.num_rows, vector_dim(spec)):
        raise StoreError(
            f"{folder / _FAISS} holds (vectors, length, metric) {found}, expected {expected}. Rebuild it: {command}"
        )
    mean = _read_array(folder / _MEAN, np.float32, (meta.dim,), command)
    if not ragged:
        return FaissIndex(index, meta, table, mean, None)
    rows = _read_array(folder / _ROWS, np.int64, (meta.num_vectors,), command)
    if int(rows.min()) < 0 or int(rows.max()) >= table.num_rows:
        raise StoreError(f"{folder / _ROWS} names rows outside the stream's {table.num_rows}. Rebuild it: {command}")
    return FaissIndex(index, meta, table, mean, rows)


def save_index(
    store_path: str,
    spec: StreamSpec,
    table: RowTable,
    options: IndexOptions,
    index: Any,
    mean: Vectors,
    row_of_vector: NDArray[np.int64] | None,
) -> IndexMeta:
    """Write a built index beside its store and put it in place whole; one of the same type is replaced."""
    folder = index_folder(store_path, spec.name, options.type)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        faiss.write_index(index, str(work / _FAISS))
        np.save(work / _MEAN, mean, allow_pickle=False)
        if row_of_vector is not None:
            np.save(work / _ROWS, row_of_vector, allow_pickle=False)
        files = sorted(work.iterdir())
        meta = IndexMeta(
            stream=spec.name,
            type=options.type,
            vectors=vector_rule(spec),
            num_vectors=index.ntotal,
            num_rows=table.num_rows,
            dim=index.d,
            stream_digest=table.digest,
            options=options,
            sha256={f.name: _sha256(f) for f in files},
            num_bytes={f.name: f.stat().st_size for f in files},
            vidloc_version=__version__,
            faiss_version=faiss.__version__,
        )
        (work / META_NAME).write_text(meta.model_dump_json(indent=2) + "\n", encoding="utf-8")
        work.chmod(0o777 & ~_umask())  # mkdtemp closes it to others; the store beside it is not closed
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return meta


def _check_file(path: Path, meta: IndexMeta, command: str) -> None:
    if not path.is_file():
        raise StoreError(f"{path} is missing from its index. Rebuild it: {command}")
    size, expected = path.stat().st_size, meta.num_bytes.get(path.name)
    if size != expected:
        raise StoreError(f"{path} has {size} bytes, its description says {expected}. Rebuild it: {command}")
    if _sha256(path) != meta.sha256.get(path.name):
        raise StoreError(f"{path} is damaged: its sha256 is not the one in {META_NAME}. Rebuild it: {command}")


def _read_array(path: Path, dtype: type[np.generic], shape: tuple[int, ...], command: str) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise StoreError(f"{path} is no array file: {error}. Rebuild it: {command}") from error
    if array.shape != shape or array.dtype != dtype:
        raise StoreError(
            f"{path} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}. Rebuild it: {command}"
        )
    return np.asarray(array)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
