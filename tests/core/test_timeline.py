"""Rows and seconds: exact round trips, range queries against naive loops, frame choice against ffmpeg's own filter."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from ffmpeg_fps import through_ffmpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidloc.core.timeline import (
    Span,
    Spans,
    TimeGrid,
    cell_midpoints,
    center_grid,
    frames_at_cells,
    num_center_rows,
    valid_share,
)
from vidloc.errors import OptionError

# A busy machine must not fail a property for being slow.
quickly = settings(deadline=None, max_examples=50)

positive = st.fractions(Fraction(1, 1000), 100, max_denominator=30030)
lengths = st.fractions(Fraction(1, 5), 10, max_denominator=1001)
moments = st.fractions(-100, 1000, max_denominator=30030)
grids = st.builds(TimeGrid, positive, positive, st.fractions(-10, 10, max_denominator=1001))
rates = st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(981, 50), Fraction(60), Fraction(179, 6)])
spans = st.tuples(moments, st.fractions(0, 50, max_denominator=1001)).map(lambda p: (p[0], p[0] + p[1]))
span_lists = st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 30)), max_size=12).map(
    lambda pairs: Spans(np.array([(start, start + length) for start, length in pairs]).reshape(-1, 2))
)


# Grids: row -> seconds -> row


@quickly
@given(grids, st.integers(0, 10**6))
def test_row_to_center_and_back_is_the_identity(grid: TimeGrid, row: int) -> None:
    assert grid.row_at(grid.center(row)) == row
    assert grid.nearest_row(grid.center(row), row + 1) == row
    assert sum(grid.span(row)) / 2 == grid.center(row)
    centers = grid.rows_centered_in((grid.center(row), grid.center(row + 1)), row + 10)
    assert centers == slice(row, row + 1)


@quickly
@given(rates, st.integers(1, 128), st.integers(1, 64), moments)
def test_row_at_equals_the_published_formula(fps: Fraction, window: int, stride: int, seconds: Fraction) -> None:
    grid = TimeGrid(window / fps, stride / fps)
    assert grid.row_at(seconds) == float((seconds * fps - Fraction(window, 2)) / stride)


@quickly
@given(grids)
def test_integers_bring_a_grid_back(grid: TimeGrid) -> None:
    assert TimeGrid.from_integers(grid.as_integers()) == grid
    assert TimeGrid.from_integers(np.array(grid.as_integers(), dtype=np.int64)) == grid
    assert pickle.loads(pickle.dumps(grid)) == grid


@quickly
@given(grids, moments, st.integers(1, 30))
def test_nearest_row_is_the_nearest(grid: TimeGrid, seconds: Fraction, num_rows: int) -> None:
    distances = [abs(grid.center(k) - seconds) for k in range(num_rows)]
    assert grid.nearest_row(seconds, num_rows) == distances.index(min(distances))


@quickly
@given(grids, spans, st.integers(0, 30))
def test_ranges_of_a_grid_equal_a_naive_loop(grid: TimeGrid, span: tuple[Fraction, Fraction], num_rows: int) -> None:
    start, end = span
    overlap = [k for k in range(num_rows) if grid.span(k)[0] < end and grid.span(k)[1] > start]
    assert list(range(num_rows))[grid.rows_in(span, num_rows)] == overlap
    centered = [k for k in range(num_rows) if start <= grid.center(k) < end]
    assert list(range(num_rows))[grid.rows_centered_in(span, num_rows)] == centered


def test_windows_that_only_touch_a_span_do_not_count() -> None:
    grid = TimeGrid(Fraction(1), Fraction(1))
    assert grid.rows_in((1, 2), 5) == slice(1, 2)
    assert grid.rows_in((Fraction(1, 2), 2), 5) == slice(0, 2)
    assert grid.rows_in((-3, 0), 5) == slice(0, 0)
    assert grid.rows_in((7, 9), 5) == slice(5, 5)


@quickly
@given(grids, st.integers(0, 20))
@example(TimeGrid(Fraction(1, 2**60 + 1), Fraction(1, 3), Fraction(-1, 7)), 5)
@example(TimeGrid(Fraction(1, 3), Fraction(2**60, 7)), 5)
def test_arrays_of_spans_and_centers(grid: TimeGrid, num_rows: int) -> None:
    assert grid.spans(num_rows).shape == (num_rows, 2)
    assert grid.spans(num_rows).tolist() == [[float(x) for x in grid.span(k)] for k in range(num_rows)]
    assert grid.centers(num_rows).tolist() == [float(grid.center(k)) for k in range(num_rows)]


def test_a_grid_needs_a_window_and_a_stride() -> None:
    with pytest.raises(OptionError, match="a window and a stride above 0 s, got window 0 s"):
        TimeGrid(Fraction(0), Fraction(1))
    with pytest.raises(OptionError, match="stride -1 s"):
        TimeGrid(Fraction(1), Fraction(-1))
    with pytest.raises(OptionError, match="three fractions with positive denominators"):
        TimeGrid.from_integers([1, 1, 1, 0, 0, 1])
    with pytest.raises(OptionError, match="three fractions with positive denominators"):
        TimeGrid.from_integers([1, 1, 1])
    with pytest.raises(ValueError, match="no nearest row"):
        TimeGrid(Fraction(1), Fraction(1)).nearest_row(0, 0)


# Explicit spans answer the same questions


@quickly
@given(span_lists, st.floats(-60, 60), st.floats(0, 40))
def test_ranges_of_spans_equal_a_naive_loop(timeline: Spans, start: float, length: float) -> None:
    end, rows = start + length, range(len(timeline))
    overlap = [k for k in rows if timeline.array[k, 0] < end and timeline.array[k, 1] > start]
    assert timeline.rows_in((start, end), len(timeline)).tolist() == overlap
    middles = timeline.array.mean(axis=1)
    assert timeline.rows_centered_in((start, end), len(timeline)).tolist() == [
        k for k in rows if start <= middles[k] < end
    ]


@quickly
@given(grids, spans, st.integers(1, 20))
def test_spans_of_a_grid_agree_with_the_grid(grid: TimeGrid, span: tuple[Fraction, Fraction], num_rows: int) -> None:
    whole = TimeGrid(
        Fraction(round(grid.window_s) + 1), Fraction(round(grid.stride_s) + 1), Fraction(round(grid.start_s))
    )
    listed = Spans(whole.spans(num_rows))
    rounded = (Fraction(round(span[0])), Fraction(round(span[1])))
    assert listed.rows_in(rounded, num_rows).tolist() == list(range(num_rows))[whole.rows_in(rounded, num_rows)]
    centered = list(range(num_rows))[whole.rows_centered_in(rounded, num_rows)]
    assert listed.rows_centered_in(rounded, num_rows).tolist() == centered
    assert listed.nearest_row(rounded[0], num_rows) == whole.nearest_row(rounded[0], num_rows)
    assert [listed.span(k) for k in range(num_rows)] == [whole.span(k) for k in range(num_rows)]
    assert listed.center(0) == whole.center(0)


def test_spans_are_checked_and_frozen() -> None:
    assert len(Spans(np.empty(0))) == 0
    with pytest.raises(OptionError, match=r"array of shape \(3,\)"):
        Spans(np.zeros(3))
    with pytest.raises(OptionError, match="may not end before they start"):
        Spans(np.array([[2.0, 1.0]]))
    with pytest.raises(OptionError, match="must be finite"):
        Spans(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="read-only"):
        Spans(np.zeros((1, 2))).array[0, 0] = 1
    with pytest.raises(ValueError, match="no nearest row"):
        Spans(np.empty((0, 2))).nearest_row(0, 0)
    assert Spans(np.zeros((1, 2))) == Spans(np.zeros((1, 2))) != Spans(np.ones((1, 2)))
    assert (Span(1.0, 4.0).center_s, Span(1.0, 4.0).duration_s) == (2.5, 3.0)


@quickly
@given(grids, st.integers(0, 20), st.floats(-5, 5), st.floats(0, 60))
def test_valid_share_is_the_part_of_the_window_inside(
    grid: TimeGrid, num_rows: int, start: float, length: float
) -> None:
    share = valid_share(grid, num_rows, (start, start + length))
    for k, (a, b) in enumerate(grid.spans(num_rows)):
        assert share[k] == pytest.approx(max(min(b, start + length) - max(a, start), 0) / (b - a))


def test_an_instant_is_inside_or_outside() -> None:
    instants = Spans(np.array([[1.0, 1.0], [5.0, 5.0]]))
    assert valid_share(instants, 2, (0, 2)).tolist() == [1.0, 0.0]


# Layouts of rows over a video


@pytest.mark.parametrize("duration", [Fraction(1, 100), Fraction(1, 2), Fraction(64, 30), Fraction(103, 10)])
def test_centre_grids_of_equal_stride_agree(duration: Fraction) -> None:
    """Acceptance check 17."""
    stride = Fraction(1, 2)
    ours, theirs = center_grid(Fraction(64, 30), stride), center_grid(Fraction(39, 40), stride)
    rows = num_center_rows(stride, duration)
    assert rows == {Fraction(1, 100): 1, Fraction(1, 2): 1, Fraction(64, 30): 4, Fraction(103, 10): 21}[duration]
    np.testing.assert_array_equal(ours.centers(rows), theirs.centers(rows))
    np.testing.assert_array_equal(ours.centers(rows), [0.25 + 0.5 * k for k in range(rows)])


@quickly
@given(positive, positive, st.fractions(0, 100, max_denominator=1001))
def test_a_centre_grid_has_all_centres_before_the_end(window: Fraction, stride: Fraction, duration: Fraction) -> None:
    grid, rows = center_grid(window, stride), num_center_rows(stride, duration)
    assert rows == 1 or grid.center(rows - 1) < duration
    assert grid.center(rows) >= duration
    assert grid.center(0) == stride / 2


# Which frame a cell shows


def shown_naively(midpoints: list[Fraction], times: list[Fraction]) -> list[int]:
    return [max((i for i, t in enumerate(times) if t < m), default=0) for m in midpoints]


@quickly
@given(
    st.lists(st.fractions(0, 1, max_denominator=100), min_size=1, max_size=20),
    st.fractions(-2, 20, max_denominator=100),
    positive,
    st.integers(1, 20),
)
def test_a_cell_shows_the_last_frame_before_its_middle(
    gaps: list[Fraction], start: Fraction, window: Fraction, num_frames: int
) -> None:
    times = [sum(gaps[:k], Fraction(0)) for k in range(len(gaps))]
    midpoints = cell_midpoints((start, start + window), num_frames)
    assert midpoints[0] - start == start + window - midpoints[-1] == window / num_frames / 2
    chosen = frames_at_cells((start, start + window), num_frames, times)
    assert chosen.tolist() == shown_naively(midpoints, times)
    assert chosen.dtype == np.int64


def test_30_to_25_fps_ties_at_every_fifth_output() -> None:
    """Acceptance check 15."""
    times = [Fraction(k, 30) for k in range(420)]
    chosen = frames_at_cells((Fraction(0), Fraction(14)), 350, times)
    assert chosen.tolist() == [math.ceil((k + Fraction(1, 2)) * Fraction(6, 5)) - 1 for k in range(350)]
    assert chosen[:10].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]


@pytest.mark.parametrize(
    ("fps", "num_frames", "out_fps", "expected"),
    [
        (Fraction(30), 420, 25, 350),
        (Fraction(981, 50), 355, 25, 452),
        (Fraction(981, 50), 355, 10, 181),
        (Fraction(30000, 1001), 287, 16, None),
        (Fraction(24), 100, 60, 250),
    ],
)
def test_cells_of_a_frame_rate_are_what_ffmpeg_puts_out(
    fps: Fraction, num_frames: int, out_fps: int, expected: int | None
) -> None:
    """Acceptance checks 15 and 16: frame for frame, and round(D * fps) of them."""
    times = [k / fps for k in range(num_frames)]
    duration = num_frames / fps
    count = round(duration * out_fps)
    assert expected is None or count == expected
    chosen = frames_at_cells((Fraction(0), Fraction(count, out_fps)), count, times).tolist()
    assert chosen == through_ffmpeg(times, duration, out_fps)


def test_uneven_gaps_follow_presentation_times() -> None:
    """Acceptance check 19: gaps of 20, 60, 20, 60 ms."""
    times = [Fraction(ms, 1000) for pair in range(10) for ms in (80 * pair, 80 * pair + 20)]
    duration = Fraction(800, 1000)
    chosen = frames_at_cells((Fraction(0), duration), 20, times)
    assert chosen.tolist() == shown_naively(cell_midpoints((Fraction(0), duration), 20), times)
    # Midpoints at 20, 60, 100, 140 ms: the frame that appears exactly at one is not yet on screen.
    assert chosen[:8].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert frames_at_cells((Fraction(0), duration), 10, times).tolist() == list(range(1, 20, 2))
    assert chosen.tolist() == through_ffmpeg(times, duration, 25)
