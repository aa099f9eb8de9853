"""Which rows belong to a segment, and how far they look outside it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidloc.core.timeline import Span, Spans, TimeGrid, center_grid
from vidloc.heads.sampling import AllRows, FramesAround, SegmentRows, leak, reach_beyond, reaches

GRID = center_grid(2, Fraction(1, 2))  # centres 0.25, 0.75, ...; windows of 2 s


@pytest.mark.parametrize("timeline", [GRID, Spans(GRID.spans(20))])
@pytest.mark.parametrize(
    ("rule", "span", "rows"),
    [
        ("center", Span(1.0, 2.5), [2, 3, 4]),
        ("center", Span(1.0, 1.1), [2]),  # holds no centre; 1.25 is nearest
        ("center", Span(0.75, 1.25), [1]),  # half-open: the centre at 1.25 is out
        ("overlap", Span(4.0, 4.5), [6, 7, 8, 9, 10]),
        ("nearest", Span(1.0, 2.4), [3]),
    ],
)
def test_rows_of_a_segment(timeline, rule, span, rows):
    assert SegmentRows(rule).index(timeline, 20, span).tolist() == rows


def test_a_segment_beyond_all_rows_has_none():
    rule = SegmentRows("center")
    assert rule.index(GRID, 4, Span(30, 31)).tolist() == []
    assert rule.index(GRID, 0, Span(0, 1)).tolist() == []
    assert not reaches(GRID, 4, Span(2.75, 3.0))  # the last window ends at 2.75
    assert reaches(GRID, 4, Span(2.7, 3.0))


def test_a_segment_in_a_gap_between_windows_takes_the_nearest_row():
    sparse = TimeGrid(Fraction(1, 10), 5)
    assert SegmentRows("overlap").index(sparse, 4, Span(6.0, 6.5)).tolist() == [1]


def test_the_middle_row_alone_where_rows_are_pooled_by_the_centre():
    assert SegmentRows("center", pool="center").index(GRID, 20, Span(1, 4)).tolist() == [4]


def test_all_rows_are_all_rows():
    assert AllRows().index(GRID, 3, Span(9, 10)).tolist() == [0, 1, 2]


def test_reach_beyond_the_segment():
    rows = SegmentRows("center").index(GRID, 20, Span(4, 6))
    assert reach_beyond(GRID, rows, Span(4, 6)) == pytest.approx(0.75)  # first window: 3.25 to 5.25
    assert reach_beyond(Spans(GRID.spans(20)), rows, Span(4, 6)) == pytest.approx(0.75)
    assert reach_beyond(GRID, rows, Span(0, 9)) == 0
    measured = leak([0.0, 1.0])
    assert (measured.mean_s, measured.max_s, measured.num_segments) == (0.5, 1.0, 2)
    assert leak([]).num_segments == 0


def test_frames_around_the_centre_one_row_per_cell():
    frames = FramesAround(window_s=2, rate_hz=2, top=5)
    assert (frames.num_frames, frames.num_slots) == (4, 20)
    assert frames.index(GRID, 20, Span(4, 6)).tolist() == [8, 9, 10, 11]


def test_cells_outside_the_video_are_empty():
    frames = FramesAround(window_s=4, rate_hz=2, top=1)
    assert frames.index(GRID, 20, Span(0, 1)).tolist() == [-1, -1, -1, 0, 1, 2, 3, 4]
    assert frames.index(GRID, 20, Span(90, 91)).tolist() == [-1] * 8


def test_a_sparse_stream_leaves_cells_empty_and_no_row_is_used_twice():
    sparse = center_grid(1, 1)  # centres 0.5, 1.5, ...
    found = FramesAround(window_s=4, rate_hz=2, top=1).index(sparse, 20, Span(9, 11))
    used = found[found >= 0].tolist()
    assert used == [8, 9, 10, 11]
    assert (found < 0).sum() == 4


@given(
    centre=st.floats(-5, 30),
    rate=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    window=st.sampled_from([1.0, 2.0, 6.0]),
    stride=st.sampled_from([Fraction(1, 25), Fraction(1, 5), Fraction(1, 2), Fraction(7, 3)]),
)
def test_each_cell_takes_its_nearest_row(centre, rate, window, stride):
    grid, num_rows = center_grid(1, stride), 40
    frames = FramesAround(window, rate, 1)
    found = frames.index(grid, num_rows, Span(centre - 0.5, centre + 0.5))
    centers = grid.centers(num_rows)
    start = (centre - 0.5 + centre + 0.5) * 0.5 - frames.num_frames / rate / 2
    used = found[found >= 0]
    assert len(set(used.tolist())) == len(used)
    for cell, row in enumerate(found):
        low, high = start + cell / rate, start + (cell + 1) / rate
        inside = centers[(centers >= low + 1e-6) & (centers < high - 1e-6)]
        middle = (low + high) / 2
        if row >= 0:
            assert low - 1e-6 <= centers[row] <= high + 1e-6
            assert all(abs(centers[row] - middle) <= abs(c - middle) + 1e-6 for c in inside)
        else:
            assert len(inside) == 0
