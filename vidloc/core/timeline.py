"""Which seconds a feature row covers, exactly.

A `TimeGrid` is regular: row k covers `[start + k * stride, start + k * stride + window)`. `Spans` lists the
span of each row, for streams without a rule (detector key frames, spoken words, sentences). Both answer the same
questions, so that no head, dataset or metric ever asks for a frame rate or a stride in frames.

All times are seconds from the presentation time of the first video frame; spans are half-open. Grids hold fractions,
because a stride of 4 frames at 30000/1001 frames per second must come back exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidloc.errors import OptionError

Seconds = float | Fraction


class Span(NamedTuple):
    """A half-open stretch of time `[start_s, end_s)`, in seconds from the first video frame."""

    start_s: float
    end_s: float

    @property
    def center_s(self) -> float:
        """The time halfway between both ends."""
        return 0.5 * (self.start_s + self.end_s)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class TimeGrid:
    """A regular timeline: equal windows, equally far apart.

    Args:
        window_s: length of one row's window; more than zero.
        stride_s: distance between the starts of neighbouring rows; more than zero.
        start_s: start of row 0's window; may be negative (a window centred near the first frame).

    Raises:
        OptionError: `window_s` or `stride_s` is not positive.
    """

    window_s: Fraction
    stride_s: Fraction
    start_s: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        for name in ("window_s", "stride_s", "start_s"):
            object.__setattr__(self, name, Fraction(getattr(self, name)))
        if self.window_s <= 0 or self.stride_s <= 0:
            raise OptionError(
                f"a time grid needs a window and a stride above 0 s, got window {self.window_s} s and "
                f"stride {self.stride_s} s."
            )

    @property
    def first_center_s(self) -> Fraction:
        """Centre of row 0."""
        return self.start_s + self.window_s / 2

    def span(self, row: int) -> tuple[Fraction, Fraction]:
        """Exact start and end of one row's window."""
        start = self.start_s + row * self.stride_s
        return start, start + self.window_s

    def center(self, row: int) -> Fraction:
        """Exact centre of one row's window."""
        return self.first_center_s + row * self.stride_s

    def spans(self, num_rows: int) -> NDArray[np.float64]:
        """Windows of the first `num_rows` rows, `(num_rows, 2)` seconds."""
        starts = _evenly(self.start_s, self.stride_s, num_rows)
        return np.stack([starts, _evenly(self.start_s + self.window_s, self.stride_s, num_rows)], axis=1)

    def centers(self, num_rows: int) -> NDArray[np.float64]:
        """Centres of the first `num_rows` rows, `(num_rows,)` seconds."""
        return _evenly(self.first_center_s, self.stride_s, num_rows)

    def row_at(self, seconds: Seconds) -> float:
        """Position of a time on the row axis: 0.0 is the centre of row 0, 1.0 that of row 1.

        Equals `(seconds * fps - window_frames / 2) / stride_frames` for a grid counted in frames.
        """
        return float((Fraction(seconds) - self.first_center_s) / self.stride_s)

    def nearest_row(self, seconds: Seconds, num_rows: int) -> int:
        """The row whose centre is nearest to a time (the earlier of two at equal distance).

        Raises:
            ValueError: there are no rows.
        """
        if num_rows < 1:
            raise ValueError("a timeline without rows has no nearest row")
        position = (Fraction(seconds) - self.first_center_s) / self.stride_s
        return min(max(math.ceil(position - Fraction(1, 2)), 0), num_rows - 1)

    def rows_in(self, span: tuple[Seconds, Seconds], num_rows: int) -> slice:
        """Rows whose windows overlap `span`, clipped to the stream.

        A window touching the span's end only at a point does not count (spans are half-open).
        """
        start, end = Fraction(span[0]), Fraction(span[1])
        first = math.floor((start - self.start_s - self.window_s) / self.stride_s) + 1
        stop = math.ceil((end - self.start_s) / self.stride_s)
        return _clipped(first, stop, num_rows)

    def rows_centered_in(self, span: tuple[Seconds, Seconds], num_rows: int) -> slice:
        """Rows whose centres lie in `span`, clipped to the stream."""
        start, end = Fraction(span[0]), Fraction(span[1])
        first = math.ceil((start - self.first_center_s) / self.stride_s)
        stop = math.ceil((end - self.first_center_s) / self.stride_s)
        return _clipped(first, stop, num_rows)

    def as_integers(self) -> tuple[int, int, int, int, int, int]:
        """Window, stride and start as numerator and denominator in lowest terms."""
        return (
            *self.window_s.as_integer_ratio(),
            *self.stride_s.as_integer_ratio(),
            *self.start_s.as_integer_ratio(),
        )

    @classmethod
    def from_integers(cls, values: Sequence[int]) -> TimeGrid:
        """Inverse of `as_integers`.

        Raises:
            OptionError: not six integers, or one of the denominators is not positive.
        """
        numbers = [int(v) for v in values]
        if len(numbers) != 6 or min(numbers[1::2]) <= 0:
            raise OptionError(f"a time grid is three fractions with positive denominators, got {numbers}.")
        w, wd, s, sd, a, ad = numbers
        return cls(Fraction(w, wd), Fraction(s, sd), Fraction(a, ad))


@dataclass(frozen=True, eq=False)
class Spans:
    """An explicit timeline: one span per row, in any order, possibly overlapping.

    Args:
        array: `(num_rows, 2)` float64 seconds, each end at or after its start.

    Raises:
        OptionError: another shape, a value that is not finite, or an end before its start.
    """

    array: NDArray[np.float64]

    def __post_init__(self) -> None:
        array = np.array(self.array, dtype=np.float64)
        if array.size == 0:
            array = array.reshape(0, 2)
        if array.ndim != 2 or array.shape[1] != 2:
            raise OptionError(f"spans are (rows, 2) seconds, got an array of shape {array.shape}.")
        if not np.isfinite(array).all() or (array[:, 1] < array[:, 0]).any():
            raise OptionError("spans must be finite and may not end before they start.")
        array.flags.writeable = False
        object.__setattr__(self, "array", array)

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and np.array_equal(self.array, other.array)

    __hash__ = None  # type: ignore[assignment]  # holds an array

    def span(self, row: int) -> tuple[Fraction, Fraction]:
        """Start and end of one row, exactly as stored."""
        start, end = self.array[row]
        return Fraction(float(start)), Fraction(float(end))

    def center(self, row: int) -> Fraction:
        """Centre of one row."""
        start, end = self.span(row)
        return (start + end) / 2

    def spans(self, num_rows: int) -> NDArray[np.float64]:
        """Spans of the first `num_rows` rows, `(num_rows, 2)` seconds."""
        return self.array[:num_rows]

    def centers(self, num_rows: int) -> NDArray[np.float64]:
        """Centres of the first `num_rows` rows, `(num_rows,)` seconds."""
        return np.asarray(self.array[:num_rows].mean(axis=1), dtype=np.float64)

    def nearest_row(self, seconds: Seconds, num_rows: int) -> int:
        """The row whose centre is nearest to a time (the first of several).

        Raises:
            ValueError: there are no rows.
        """
        if num_rows < 1:
            raise ValueError("a timeline without rows has no nearest row")
        return int(np.abs(self.centers(num_rows) - float(seconds)).argmin())

    def rows_in(self, span: tuple[Seconds, Seconds], num_rows: int) -> NDArray[np.int64]:
        """Indices of rows that overlap `span`; a row touching it only at a point does not count."""
        start, end = float(span[0]), float(span[1])
        array = self.spans(num_rows)
        return np.flatnonzero((array[:, 0] < end) & (array[:, 1] > start)).astype(np.int64)

    def rows_centered_in(self, span: tuple[Seconds, Seconds], num_rows: int) -> NDArray[np.int64]:
        """Indices of rows whose centres lie in `span`."""
        centers = self.centers(num_rows)
        return np.flatnonzero((centers >= float(span[0])) & (centers < float(span[1]))).astype(np.int64)


Timeline = TimeGrid | Spans


def valid_share(timeline: Timeline, num_rows: int, extent: tuple[Seconds, Seconds]) -> NDArray[np.float64]:
    """Share of each row's window that lies inside the track's `extent`, `(num_rows,)` in [0, 1].

    A row of zero length counts as inside (1) or outside (0) by its time.
    """
    spans = timeline.spans(num_rows)
    start, end = float(extent[0]), float(extent[1])
    length = spans[:, 1] - spans[:, 0]
    inside = np.clip(np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start), 0.0, None)
    instant = ((spans[:, 0] >= start) & (spans[:, 0] <= end)).astype(np.float64)
    return np.where(length > 0, inside / np.where(length > 0, length, 1.0), instant)


def center_grid(window_s: Seconds, stride_s: Seconds) -> TimeGrid:
    """The shared grid of one run: centres at `stride / 2 + k * stride`, whatever the window."""
    window, stride = Fraction(window_s), Fraction(stride_s)
    return TimeGrid(window, stride, stride / 2 - window / 2)


def num_center_rows(stride_s: Seconds, duration_s: Seconds) -> int:
    """Rows of a centre grid on a video of `duration_s`: all centres before its end, at least one."""
    stride = Fraction(stride_s)
    return max(math.ceil((Fraction(duration_s) - stride / 2) / stride), 1)


def frames_at_cells(
    span: tuple[Fraction, Fraction], num_frames: int, presentation_s: Sequence[Fraction]
) -> NDArray[np.int64]:
    """Frames that a window shows: for each of `num_frames` equal cells, the frame on screen at its midpoint.

    Cell j of the window `[a, b)` takes the frame with the largest presentation time strictly before
    `a + (j + 0.5) * (b - a) / num_frames`, or the first frame if there is none. This is what ffmpeg's `fps` filter
    does with default rounding; frames asked for outside the video repeat the first or last one.

    Args:
        presentation_s: presentation times in ascending order, at least one.

    Returns:
        `(num_frames,)` indices into `presentation_s`.
    """
    midpoints = cell_midpoints(span, num_frames)
    return np.array([_last_before(presentation_s, m) for m in midpoints], dtype=np.int64)


def cell_midpoints(span: tuple[Fraction, Fraction], num_cells: int) -> list[Fraction]:
    """Midpoints of the `num_cells` equal cells of a window, exactly."""
    start, end = span
    width = (end - start) / num_cells
    return [start + (j + Fraction(1, 2)) * width for j in range(num_cells)]


def _last_before(times: Sequence[Fraction], moment: Fraction) -> int:
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        if times[middle] < moment:
            low = middle + 1
        else:
            high = middle
    return max(low - 1, 0)


def _evenly(first: Fraction, step: Fraction, count: int) -> NDArray[np.float64]:
    """`first + k * step` for k below `count`, each the float64 nearest to the exact value."""
    unit = math.lcm(first.denominator, step.denominator)
    start, stride = int(first * unit), int(step * unit)
    if max(abs(start), abs(start + stride * count), unit) < 2**53:
        # Both sides of the division are exact in float64, so it rounds once, as float(Fraction) does.
        return np.asarray((start + stride * np.arange(count, dtype=np.int64)) / unit, dtype=np.float64)
    return np.array([float(first + k * step) for k in range(count)], dtype=np.float64)


def _clipped(first: int, stop: int, num_rows: int) -> slice:
    first = min(max(first, 0), num_rows)
    return slice(first, min(max(stop, first), num_rows))
