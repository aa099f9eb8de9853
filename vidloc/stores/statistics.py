"""Statistics of a store's rows, out of core: the numbers behind `vidloc store stats`.

Live rows of many items are gathered into blocks of about a million values, and long items are cut. dask reads and
reduces the blocks on threads, a bounded number of them at a time, so that neither rows nor task graphs grow with the
store. A block is reduced to counts and moments in float64; those of two blocks are joined by their means and sums of
squared deviations (Chan, Golub and LeVeque, 1979), which keeps its digits where the mean is large beside the spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, islice
from math import prod, sqrt
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidloc.core.rows import FieldSpec
from vidloc.errors import OptionError
from vidloc.stores.base import FeatureStore, ItemEntry, StreamSpec, open_store
from vidloc.stores.operations import Progress
from vidloc.stores.tables import WITH_ROWS

# What a thread holds is some 10 times this in float64 and copies; what is planned ahead is a wave of blocks.
_BLOCK_VALUES = 2**20
_BLOCK_PIECES = 1024
_WAVE_BLOCKS = 64
# Rows of a ragged field whose entries are counted at once, before it is known how many there are.
_RAGGED_ROWS = 64

_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Distribution of `count` numbers, `std` being that of the population; all `None` where there are none."""

    count: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class FieldStatistics:
    """One field in numbers. A vector is a row of a dense field, or one entry of a row (a region) of a ragged one.

    Attributes:
        num_vectors: rows, or entries of all rows.
        num_nonfinite: values that are NaN or infinite; writers refuse them, so there should be none.
        num_zero: vectors whose values are all zero.
        values: all finite values.
        norms: L2 norms of the vectors without a value that is not finite.
    """

    is_ragged: bool
    num_vectors: int
    num_nonfinite: int
    num_zero: int
    values: Moments
    norms: Moments


@dataclass(frozen=True)
class StreamStatistics:
    """One stream in numbers.

    Attributes:
        num_items: items with rows, be they none.
        fields: all but texts.
        duplicates: groups of items with equal digests: the same rows, at the same times. Items of no rows are in none.
    """

    num_items: int
    num_rows: int
    fields: Mapping[str, FieldStatistics]
    duplicates: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class StoreStatistics:
    """One store in numbers; `digest` is the content id of what was looked at."""

    path: str
    digest: str
    streams: Mapping[str, StreamStatistics]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return asdict(self)


class _Piece(NamedTuple):
    """A range of an item's rows, and how many vectors it holds."""

    item: str
    rows: slice
    num_vectors: int


def statistics_of(
    path: str | Path, streams: Sequence[str] | None = None, progress: Progress | None = None
) -> StoreStatistics:
    """Read the numeric fields of a store's live rows once and sum them up.

    Args:
        streams: only these; all where `None`.
        progress: called with how many rows are through, and how many there are, each counted once per field.

    Raises:
        OptionError: dask is not installed.
        StreamNotFoundError: the store has no such stream; it says which it has.
        StoreError: no store there, or one whose rows cannot be read.
    """
    da = _dask_array()
    with open_store(path) as store:
        specs = store.streams()
        wanted = {name: _with_rows(store, name) for name in (specs if streams is None else streams)}
        total = sum(_num_rows(entries) * len(_numeric(specs[name])) for name, entries in wanted.items())
        found: dict[str, StreamStatistics] = {}
        done = 0
        for name, entries in wanted.items():
            fields: dict[str, FieldStatistics] = {}
            for field in _numeric(specs[name]):
                told = partial(_tell, progress, done, total)
                fields[field] = _field_statistics(da, _Column(store, specs[name], field), entries, told)
                done += _num_rows(entries)
            found[name] = StreamStatistics(len(entries), _num_rows(entries), fields, _duplicates(entries))
        return StoreStatistics(str(path), store.digest(), found)


@dataclass(frozen=True)
class _Column:
    """One field of one stream of an open store."""

    store: FeatureStore
    stream: StreamSpec
    name: str

    @property
    def field(self) -> FieldSpec:
        return self.stream.fields[self.name]

    @property
    def num_values(self) -> int:
        """Of one vector."""
        return prod(self.field.entry_shape)

    @property
    def limit(self) -> int:
        """Vectors of a block; at least one, whatever its size."""
        return max(1, _BLOCK_VALUES // self.num_values)

    def pieces(self, entries: Mapping[str, ItemEntry]) -> Iterator[_Piece]:
        """All rows in ranges that fit a block, in order of items."""
        is_dense = self.field.axis is None
        step = self.limit if is_dense else _RAGGED_ROWS
        for item, entry in entries.items():
            for start in range(0, entry.num_rows, step):
                stop = min(start + step, entry.num_rows)
                if is_dense:
                    yield _Piece(item, slice(start, stop), stop - start)
                else:
                    yield from self._counted(item, start, stop)

    def _counted(self, item: str, start: int, stop: int) -> Iterator[_Piece]:
        """Rows of a ragged field, halved until their entries fit a block."""
        count = len(self.store.read_field(self.stream.name, item, self.name, slice(start, stop)))
        if count > self.limit and stop - start > 1:
            middle = (start + stop) // 2
            yield from self._counted(item, start, middle)
            yield from self._counted(item, middle, stop)
        elif count:
            yield _Piece(item, slice(start, stop), count)

    def blocks(self, pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
        """Pieces that are read together."""
        block: list[_Piece] = []
        count = 0
        for piece in pieces:
            if block and (count + piece.num_vectors > self.limit or len(block) == _BLOCK_PIECES):
                yield block
                block, count = [], 0
            block.append(piece)
            count += piece.num_vectors
        if block:
            yield block

    def read(self, block: Sequence[_Piece]) -> NDArray[Any]:
        """Vectors of a block, `(num_vectors, num_values)`."""
        shape = (sum(piece.num_vectors for piece in block), *self.field.entry_shape)
        out = np.empty(shape, self.field.dtype)
        start = 0
        for item, rows, count in block:
            self.store.read_field(self.stream.name, item, self.name, rows, out=out[start : start + count])
            start += count
        return out.reshape(len(out), self.num_values)

    def lazy(self, da: ModuleType, blocks: Sequence[Sequence[_Piece]]) -> Any:
        """A dask array of the blocks, one chunk each."""
        from dask.delayed import delayed

        arrays = []
        for block in blocks:
            # A partial function, and not arguments, since dask would walk through all pieces of a block.
            rows = delayed(partial(self.read, block), pure=False, traverse=False)()
            shape = (sum(piece.num_vectors for piece in block), self.num_values)
            arrays.append(da.from_delayed(rows, shape, dtype=self.field.dtype))
        return da.concatenate(arrays)


def _field_statistics(
    da: ModuleType, column: _Column, entries: Mapping[str, ItemEntry], told: Callable[[int], None]
) -> FieldStatistics:
    blocks = column.blocks(column.pieces(entries))
    joined = np.zeros((0, _WIDTH))
    num_rows = 0
    while wave := list(islice(blocks, _WAVE_BLOCKS)):
        rows = column.lazy(da, wave)
        chunks = ((1,) * len(wave), (_WIDTH,))
        reduced = rows.map_blocks(_reduced, dtype=np.float64, chunks=chunks, meta=joined[:0])
        joined = _joined(np.concatenate([joined, reduced.compute(scheduler="threads")]))
        num_rows += sum(piece.rows.stop - piece.rows.start for block in wave for piece in block)
        told(num_rows)
    told(_num_rows(entries))  # ragged rows without entries were in no piece
    numbers = joined[0] if len(joined) else np.zeros(_WIDTH)
    num_vectors, num_nonfinite, num_zero = map(int, numbers[_COUNTS])
    values, norms = _moments(numbers[_VALUES]), _moments(numbers[_NORMS])
    return FieldStatistics(column.field.axis is not None, num_vectors, num_nonfinite, num_zero, values, norms)


# A block in 13 numbers: three counts, and for values and norms each count, mean, squared deviations, lowest, highest.
_COUNTS, _VALUES, _NORMS, _WIDTH = slice(0, 3), slice(3, 8), slice(8, 13), 13


def _reduced(block: NDArray[Any]) -> _Numbers:
    vectors = block.astype(np.float64)
    finite = np.isfinite(vectors)
    whole = finite.all(axis=1)
    counts = (len(vectors), finite.size - np.count_nonzero(finite), np.count_nonzero(~vectors.any(axis=1)))
    values = vectors.reshape(-1) if whole.all() else vectors[finite]
    norms = np.linalg.norm(vectors[whole], axis=1)
    return np.array([[*counts, *_deviations(values), *_deviations(norms)]], dtype=np.float64)


def _deviations(numbers: _Numbers) -> tuple[float, ...]:
    if not numbers.size:
        return 0, 0, 0, np.inf, -np.inf
    return numbers.size, numbers.mean(), numbers.var() * numbers.size, numbers.min(), numbers.max()


def _joined(blocks: _Numbers) -> _Numbers:
    """Several blocks as if they were one, `(1, 13)`."""
    out = np.zeros((1, _WIDTH))
    out[0, _COUNTS] = blocks[:, _COUNTS].sum(axis=0)
    for part in (_VALUES, _NORMS):
        count, mean, squares, low, high = blocks[:, part].T
        total = count.sum()
        centre = (count * mean).sum() / max(total, 1)
        spread = (squares + count * (mean - centre) ** 2).sum()
        out[0, part] = total, centre, spread, low.min(), high.max()
    return out


def _moments(numbers: _Numbers) -> Moments:
    count, mean, squares, low, high = numbers.tolist()
    return Moments(int(count), mean, sqrt(squares / count), low, high) if count else Moments(0, None, None, None, None)


def _tell(progress: Progress | None, before: int, total: int, num_rows: int) -> None:
    if progress is not None:
        progress(before + num_rows, total)


def _duplicates(entries: Mapping[str, ItemEntry]) -> tuple[tuple[str, ...], ...]:
    pairs = sorted((entry.digest, item) for item, entry in entries.items() if entry.num_rows)
    groups = (tuple(item for _, item in group) for _, group in groupby(pairs, key=lambda pair: pair[0]))
    return tuple(sorted(group for group in groups if len(group) > 1))


def _with_rows(store: FeatureStore, stream: str) -> dict[str, ItemEntry]:
    return {item: entry for item, entry in store.entries(stream).items() if entry.status in WITH_ROWS}


def _num_rows(entries: Mapping[str, ItemEntry]) -> int:
    return sum(entry.num_rows for entry in entries.values())


def _numeric(spec: StreamSpec) -> list[str]:
    return [name for name, field in spec.fields.items() if not field.is_text]


def _dask_array() -> ModuleType:
    try:
        import dask.array
    except ModuleNotFoundError as error:
        raise OptionError(
            "statistics of a store need the package 'dask', which is not installed. pip install 'vidloc[dask]'"
        ) from error
    return dask.array
