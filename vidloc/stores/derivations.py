"""What a stream can be made of others by: mean over positions, pooling over time, concatenation, normalisation.

Each sees one item at a time, as rows with their times (`vidloc.stores.row_operations`).

    mean(S)                           maps `(..., D)` and regions `(n, D)` to one vector `(D,)` per row; a row without
                                      regions is zeros
    pool(S,stride=1[,window=1])       row k covers `[k * stride, k * stride + stride)`, or a window of another length
                                      about the same centre, and is the mean of the rows whose centres lie in it; the
                                      row whose centre is nearest, where none does
    concat(A,B,...[,within=SECONDS])  each row of A beside the row of B whose centre is nearest; they belong together
                                      where the centre of one lies in the window of the other, or within SECONDS
    normalise(S[,how=l2|standard])    vectors of length 1 (zeros stay), or each channel of mean 0 and deviation 1 over
                                      all rows of the stream
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from hashlib import sha256
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.timeline import Spans, TimeGrid, Timeline, center_grid, num_center_rows
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import Extent, FeatureStore, StreamSpec, TimelineKind
from vidloc.stores.digest import little_endian
from vidloc.stores.row_operations import (
    BLOCK_VALUES,
    FIELD,
    Derived,
    ItemFailureError,
    Operation,
    Parent,
    RowByRow,
    Values,
    dense_field,
    float_field,
    vector_blocks,
)

# Centres are exact fractions as float64; what is nearer than this is at the same distance.
_EQUAL_S = 1e-9


class Mean(RowByRow):
    """Mean over the positions of a map or the regions of a row."""

    def __init__(self, options: Any, parents: Sequence[StreamSpec]) -> None:
        super().__init__(options, parents)
        field = float_field(parents[0])
        if len(field.row_shape) < 2:
            raise OptionError(f"mean({parents[0].name}): its rows are {field}, without positions to take a mean over.")

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `Operation`."""
        return self.parents[0].fields[FIELD].entry_shape[-1:]

    @property
    def rule(self) -> str:
        """See `Operation`."""
        return "mean over all positions of a row; zeros for a row without any"

    def block(self, parent: Parent, rows: slice) -> Values:
        """See `RowByRow`."""
        field = parent.spec.fields[FIELD]
        if field.axis is None:
            found = parent.features(rows)
            flat = found.reshape(len(found), -1, found.shape[-1])
            return np.asarray(flat.mean(axis=1, dtype=np.float64))
        read = parent.read(rows)
        counts = read.counts[field.axis]
        out = np.zeros((len(read), *self.row_shape))
        some = counts > 0
        if some.any():
            # Rows without entries own no place, so that sums run from one row with entries to the next.
            starts = (np.cumsum(counts) - counts)[some]
            entries = (
                read.fields[FIELD].reshape(-1, prod(field.entry_shape[:-1]), self.row_shape[0]).mean(1, np.float64)
            )
            out[some] = np.add.reduceat(entries, starts, axis=0) / counts[some, None]
        return out


class PoolOptions(Options):
    """How rows are pooled over time; seconds as 0.5, 1/2 or 1001/30000."""

    stride: str = Field("", description="Seconds between the centres of neighbouring rows.")
    window: str = Field("", description="Seconds that a row covers; the stride if left out.")


class Pool(Operation):
    """Mean over time, on a grid of another stride."""

    Options = PoolOptions

    def __init__(self, options: Any, parents: Sequence[StreamSpec]) -> None:
        super().__init__(options, parents)
        dense_field(parents[0], "pool")
        _timed(parents[0], "pool")
        if not options.stride:
            raise OptionError(f"pool({parents[0].name}) needs a stride: pool({parents[0].name},stride=SECONDS).")
        self._stride = _seconds(options.stride, "stride")
        self._window = _seconds(options.window, "window") if options.window else self._stride

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `Operation`."""
        return self.parents[0].fields[FIELD].entry_shape

    @property
    def timeline(self) -> TimelineKind:
        """See `Operation`."""
        return "grid"

    @property
    def sampling(self) -> Mapping[str, Any]:
        """See `Operation`."""
        return {"align": "center", "stride_s": str(self._stride), "window_s": str(self._window)}

    @property
    def rule(self) -> str:
        """See `Operation`."""
        return "mean of the rows whose centres lie in the window; the row whose centre is nearest, where none does"

    def derive(self, parents: Sequence[Parent]) -> Derived:
        """See `Operation`."""
        (parent,) = parents
        timeline, num_rows = _times(parent), parent.entry.num_rows
        grid = center_grid(self._window, self._stride)
        count = num_center_rows(self._stride, _end(parent, timeline)) if num_rows else 0
        return Derived(grid, self._blocks(parent, timeline, grid, count), parent.entry.extent)

    def _blocks(self, parent: Parent, timeline: Timeline, grid: TimeGrid, count: int) -> Iterator[Values]:
        features, num_rows = parent.features(), parent.entry.num_rows
        step = max(1, BLOCK_VALUES // prod(self.row_shape))
        for start in range(0, count, step):
            out = np.empty((min(step, count - start), *self.row_shape))
            for k in range(len(out)):
                rows = features[timeline.rows_centered_in(grid.span(start + k), num_rows)]
                if not len(rows):
                    rows = features[[timeline.nearest_row(grid.center(start + k), num_rows)]]
                out[k] = rows.mean(axis=0, dtype=np.float64)
            yield out


class ConcatOptions(Options):
    """Which rows belong together."""

    within: float | None = Field(None, ge=0, description="Seconds that centres of rows joined may be apart at most.")


class Concat(Operation):
    """Vectors of several streams side by side, joined by time."""

    Options = ConcatOptions
    several = True

    def __init__(self, options: Any, parents: Sequence[StreamSpec]) -> None:
        super().__init__(options, parents)
        for spec in parents:
            field = dense_field(spec, "concat")
            _timed(spec, "concat")
            if len(field.row_shape) != 1:
                raise OptionError(
                    f"concat: rows of {spec.name!r} are {field}, no vectors. Make some: v=mean({spec.name})."
                )

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `Operation`."""
        return (sum(spec.fields[FIELD].entry_shape[0] for spec in self.parents),)

    @property
    def rule(self) -> str:
        """See `Operation`."""
        limit = "with one's centre in the other's window"
        if self.options.within is not None:
            limit = f"within {self.options.within} s"
        return f"each row of {self.parents[0].name} beside the rows whose centres are nearest, {limit}"

    def derive(self, parents: Sequence[Parent]) -> Derived:
        """See `Operation`."""
        first, *others = parents
        timeline = _times(first)
        spans = timeline.spans(first.entry.num_rows)
        joined, fits = [], np.ones(len(spans), bool)
        for other in others:
            rows, near = self._partners(spans, other)
            joined.append(rows)
            fits &= near
        kept = self._kept(parents, timeline, fits)
        features = [parent.features() for parent in parents]
        rows_of = [np.arange(len(spans)), *joined]

        def blocks() -> Iterator[Values]:
            step = max(1, BLOCK_VALUES // self.row_shape[0])
            for start in range(kept.start, kept.stop, step):
                piece = slice(start, min(start + step, kept.stop))
                yield np.concatenate(
                    [f[rows[piece]].astype(self.dtype) for f, rows in zip(features, rows_of, strict=True)], axis=1
                )

        lost = len(spans) - (kept.stop - kept.start)
        lacking = f"{lost} of {len(spans)} rows of {first.spec.name!r} at its ends have no partner" if lost else ""
        return Derived(_cut(timeline, kept), blocks(), _shared([parent.entry.extent for parent in parents]), lacking)

    def _partners(self, spans: Values, other: Parent) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The row of `other` nearest to each span, and whether it is near enough."""
        theirs = _times(other).spans(other.entry.num_rows)
        if not len(theirs):
            return np.zeros(len(spans), np.int64), np.zeros(len(spans), bool)
        ours_at, theirs_at = spans.mean(axis=1), theirs.mean(axis=1)
        order = np.argsort(theirs_at, kind="stable")
        right = np.searchsorted(theirs_at[order], ours_at).clip(0, len(order) - 1)
        left = (right - 1).clip(0)
        away = [np.abs(theirs_at[order][side] - ours_at) for side in (left, right)]
        nearest = order[np.where(away[0] <= away[1] + _EQUAL_S, left, right)]
        limit: Any = self.options.within
        if limit is None:
            limit = np.maximum(spans[:, 1] - spans[:, 0], (theirs[:, 1] - theirs[:, 0])[nearest]) / 2
        return nearest, np.abs(theirs_at[nearest] - ours_at) <= limit + _EQUAL_S

    def _kept(self, parents: Sequence[Parent], timeline: Timeline, fits: NDArray[np.bool_]) -> slice:
        """The rows from the first to the last that have partners; those between have to have some as well."""
        places = np.flatnonzero(fits)
        if not len(places):
            if not len(fits):
                return slice(0, 0)
            raise ItemFailureError("no row has a partner in time")
        kept = slice(int(places[0]), int(places[-1]) + 1)
        if not fits[kept].all():
            row = kept.start + int(np.flatnonzero(~fits[kept])[0])
            at = float(timeline.center(row))
            raise ItemFailureError(f"row {row} of {parents[0].spec.name!r}, at {at:.3f} s, has no partner in time")
        return kept


class NormaliseOptions(Options):
    """What rows are divided by."""

    how: Literal["l2", "standard"] = Field("l2", description="Each vector's length, or each channel's deviation.")


class Normalise(RowByRow):
    """Vectors of length 1, or channels of mean 0 and deviation 1."""

    Options = NormaliseOptions

    def __init__(self, options: Any, parents: Sequence[StreamSpec]) -> None:
        super().__init__(options, parents)
        if not dense_field(parents[0], "normalise").row_shape:
            raise OptionError(f"normalise({parents[0].name}): its rows are single numbers.")
        self._mean: Values = np.zeros(self.row_shape[-1])
        self._scale: Values = np.ones(self.row_shape[-1])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """See `Operation`."""
        return self.parents[0].fields[FIELD].entry_shape

    @property
    def rule(self) -> str:
        """See `Operation`."""
        if self.options.how == "l2":
            return "each vector divided by its Euclidean length; zeros stay"
        return "each channel less its mean over all rows, divided by its standard deviation where that is not 0"

    @property
    def recorded(self) -> dict[str, Any]:
        """See `Operation`."""
        if self.options.how == "l2":
            return super().recorded
        numbers = little_endian(np.stack([self._mean, self._scale]))
        return {**super().recorded, "mean_and_deviation_sha256": sha256(numbers.tobytes()).hexdigest()}

    def fit(self, store: FeatureStore) -> None:
        """Find the mean and deviation of each channel over all rows of the stream (Chan, Golub and LeVeque, 1979)."""
        if self.options.how == "l2":
            return
        count, mean, squares = 0, self._mean, np.zeros_like(self._mean)
        for block in vector_blocks(store, self.parents[0], None):
            total = count + len(block)
            apart = block.mean(axis=0) - mean
            mean = mean + apart * len(block) / total
            squares = squares + ((block - block.mean(axis=0)) ** 2).sum(axis=0) + apart**2 * count * len(block) / total
            count = total
        if not count:
            raise StoreError(f"stream {self.parents[0].name!r} of {store.path} has no rows to normalise.")
        deviation = np.sqrt(squares / count)
        self._mean, self._scale = mean, np.where(deviation > 0, deviation, 1.0)

    def block(self, parent: Parent, rows: slice) -> Values:
        """See `RowByRow`."""
        values = parent.features(rows).astype(np.float64)
        if self.options.how == "standard":
            return np.asarray((values - self._mean) / self._scale)
        norms = np.linalg.norm(values, axis=-1, keepdims=True)
        return np.asarray(values / np.where(norms > 0, norms, 1.0))


OPERATIONS: Mapping[str, type[Operation]] = {
    "mean": Mean,
    "pool": Pool,
    "concat": Concat,
    "normalise": Normalise,
}


def _timed(spec: StreamSpec, operation: str) -> None:
    if spec.timeline == "none":
        raise OptionError(f"{operation}: rows of {spec.name!r} have no times.")


def _times(parent: Parent) -> Timeline:
    timeline = parent.timeline
    if timeline is None:
        raise StoreError(f"stream {parent.spec.name!r} of {parent.store.path} has rows without times.")
    return timeline


def _seconds(text: str, name: str) -> Fraction:
    try:
        seconds = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise OptionError(f"pool: {name} {text!r} is no number of seconds such as 0.5 or 1/2.") from None
    if seconds <= 0:
        raise OptionError(f"pool: {name} must be more than 0 s, got {text}.")
    return seconds


def _end(parent: Parent, timeline: Timeline) -> Fraction:
    """Where an item ends: by its track, its duration, or its last row."""
    if parent.entry.extent is not None:
        return Fraction(parent.entry.extent[1])
    if parent.info.duration_s is not None:
        return Fraction(parent.info.duration_s)
    return Fraction(float(timeline.spans(parent.entry.num_rows)[:, 1].max()))


def _cut(timeline: Timeline, rows: slice) -> Timeline:
    if isinstance(timeline, Spans):
        return Spans(timeline.array[rows])
    return TimeGrid(timeline.window_s, timeline.stride_s, timeline.start_s + rows.start * timeline.stride_s)


def _shared(extents: Sequence[Extent | None]) -> Extent | None:
    known = [extent for extent in extents if extent is not None]
    if not known:
        return None
    start, end = max(extent[0] for extent in known), min(extent[1] for extent in known)
    return (start, max(start, end))
