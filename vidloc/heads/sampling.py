"""Which rows of a stream belong to a sample, and how far those rows look beyond it.

A segment of 1.9 s and windows of 2 s at every 0.5 s do not match: this file holds the rules, their defaults, and the
measure of what they let in from outside the segment (`leak`). NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidloc.core.timeline import Span, TimeGrid, Timeline

_EDGE_S = 0.1  # windows may be rounded to frames of a clock (30 per second), so that rows a little farther count

RowRule = Literal["center", "overlap", "nearest"]
Pool = Literal["mean", "max", "center"]


@dataclass(frozen=True)
class SegmentRows:
    """The rows of a segment.

    Attributes:
        rule: `center` takes rows whose centres lie in the segment, `overlap` rows whose windows overlap it, both at
            least the row nearest to its middle; `nearest` takes that row alone.
        pool: how the rows are joined into one vector while they are read; `None` keeps them apart.
    """

    rule: RowRule = "center"
    pool: Pool | None = None

    def index(self, timeline: Timeline, num_rows: int, span: Span) -> NDArray[np.int64]:
        """Rows of `span`, ascending; empty where the segment lies wholly before or after all rows."""
        if num_rows == 0 or not reaches(timeline, num_rows, span):
            return np.empty(0, dtype=np.int64)
        nearest = np.array([timeline.nearest_row(span.center_s, num_rows)], dtype=np.int64)
        if self.rule == "nearest" or self.pool == "center":
            return nearest
        find = timeline.rows_centered_in if self.rule == "center" else timeline.rows_in
        found = find(span, num_rows)
        rows = np.arange(found.start, found.stop, dtype=np.int64) if isinstance(found, slice) else found
        return rows if len(rows) else nearest


@dataclass(frozen=True)
class AllRows:
    """All rows of the item."""

    def index(self, timeline: Timeline, num_rows: int, span: Span) -> NDArray[np.int64]:
        """Every row, whatever the span."""
        del timeline, span
        return np.arange(num_rows, dtype=np.int64)


@dataclass(frozen=True)
class FramesAround:
    """Regions of frames in a window around a segment's centre, the `top` most confident of each frame.

    The window is cut into cells of `1 / rate_hz` seconds; each takes the row centred in it that is nearest to its
    middle. A cell without a row (outside the video, or a sparser stream) has no regions.
    """

    window_s: float
    rate_hz: float
    top: int

    @property
    def num_frames(self) -> int:
        """Cells of the window."""
        return max(round(self.window_s * self.rate_hz), 1)

    @property
    def num_slots(self) -> int:
        """Places for regions: cells times regions of each."""
        return self.num_frames * self.top

    def index(self, timeline: Timeline, num_rows: int, span: Span) -> NDArray[np.int64]:
        """`(num_frames,)` row of each cell, -1 where it has none."""
        cells = np.full(self.num_frames, -1, dtype=np.int64)
        start = span.center_s - self.num_frames / self.rate_hz / 2
        end = start + self.num_frames / self.rate_hz
        found = timeline.rows_centered_in((start, end), num_rows)
        rows = np.arange(found.start, found.stop, dtype=np.int64) if isinstance(found, slice) else found
        if not len(rows):
            return cells
        position = (np.array([float(timeline.center(int(row))) for row in rows]) - start) * self.rate_hz
        cell = np.clip(np.floor(position).astype(np.int64), 0, self.num_frames - 1)
        # Farthest first: the nearest row of each cell is the last to be written, the earlier one of two equal ones.
        order = np.lexsort((-rows, -np.abs(position - cell - 0.5)))
        cells[cell[order]] = rows[order]
        return cells


@dataclass(frozen=True)
class RowsAround:
    """Rows before, in and after a segment, in order of time: all that a window around any moment of it can need.

    A denser stream is thinned first: of ticks `1 / rate_hz` seconds apart, from the item's first row on, each takes the
    row nearest to it, so that all segments of an item see the same rows. A sparser stream keeps its rows. Of a row of
    regions the `top` most confident ones are taken (in the stored order where the stream has no scores), each as a row
    of its own.

    Attributes:
        before_s, after_s: seconds before the segment's start and after its end.
        rate_hz: rows per second at most.
        top: regions of a row at most, where the stream has regions.
    """

    before_s: float
    after_s: float
    rate_hz: float
    top: int = 1

    def index(self, timeline: Timeline, num_rows: int, span: Span) -> NDArray[np.int64]:
        """Rows of the stretch by their centres; empty where there are none."""
        if num_rows == 0:
            return np.empty(0, dtype=np.int64)
        centers = timeline.centers(num_rows)
        rows = thinned(centers, self.rate_hz)
        first, stop = span.start_s - self.before_s - _EDGE_S, span.end_s + self.after_s + _EDGE_S
        return rows[(centers[rows] >= first) & (centers[rows] <= stop)]


Sampling = SegmentRows | AllRows | FramesAround | RowsAround


def thinned(centers: NDArray[np.float64], rate_hz: float) -> NDArray[np.int64]:
    """Rows by rising time, the nearest one to each tick `1 / rate_hz` apart from the first row on.

    Args:
        centers: `(rows,)` seconds, in any order, at least one.
    """
    order = np.argsort(centers, kind="stable")
    times = centers[order]
    ticks = times[0] + np.arange(int((times[-1] - times[0]) * rate_hz + 0.5) + 1) / rate_hz
    after = np.searchsorted(times, ticks).clip(1, max(len(times) - 1, 1))
    before = after - 1
    # Of two rows as near the earlier one; a difference within rounding is none.
    nearer = times[after.clip(max=len(times) - 1)] - ticks < ticks - times[before] - 1e-9
    rows: NDArray[np.int64] = order[np.unique(np.where(nearer, after, before))].astype(np.int64)
    return rows


def rows_of(
    rule: Sampling, timeline: Timeline, num_rows: int, keys: Mapping[str, int] | None, *, annotation_id: str, span: Span
) -> NDArray[np.int64]:
    """Rows of a sample: by the rule, or, where rows answer annotations, the one that answers it; empty if none does.

    Args:
        keys: row by the annotation it answers, `None` where rows are windows.
        annotation_id: the annotation that the sample is.
    """
    if keys is None:
        return rule.index(timeline, num_rows, span)
    return np.array([keys[annotation_id]] if annotation_id in keys else [], dtype=np.int64)


@dataclass(frozen=True)
class Leak:
    """How far the windows of the rows used reach beyond their segments' ends.

    Attributes:
        mean_s, max_s: the farther of both ends, in seconds, over the segments; 0 where windows stay inside.
        num_segments: segments measured.
    """

    mean_s: float
    max_s: float
    num_segments: int


def reaches(timeline: Timeline, num_rows: int, span: Span) -> bool:
    """Whether a span touches the stretch of time that the rows cover at all."""
    if num_rows == 0:
        return False
    if isinstance(rows := timeline.rows_in(span, num_rows), slice) and rows.stop > rows.start:
        return True
    spans = timeline.spans(num_rows)
    return bool(span.start_s < spans[:, 1].max() and span.end_s > spans[:, 0].min())


def reach_beyond(timeline: Timeline, rows: NDArray[np.int64], span: Span) -> float:
    """Seconds by which the windows of `rows` reach beyond the farther end of `span`."""
    if not len(rows):
        return 0.0
    ends = rows[[0, -1]] if isinstance(timeline, TimeGrid) else rows
    windows = np.array([[float(t) for t in timeline.span(int(row))] for row in ends])
    return max(span.start_s - float(windows[:, 0].min()), float(windows[:, 1].max()) - span.end_s, 0.0)


def leak(reaches_s: list[float]) -> Leak:
    """Mean and longest reach beyond the segments' ends."""
    values = np.asarray(reaches_s, dtype=np.float64)
    return Leak(float(values.mean()), float(values.max()), len(values)) if len(values) else Leak(0.0, 0.0, 0)
