"""Which windows an item's rows take: published layouts by their own arithmetic, and what holds at every end."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidloc.core.timeline import TimeGrid, center_grid, num_center_rows
from vidloc.core.windows import Tail, Windows

quickly = settings(deadline=None, max_examples=60)
lengths = st.fractions(Fraction(1, 100), 5, max_denominator=300)
durations = st.fractions(0, 20, max_denominator=1001)
GAP = Fraction(1, 30)
SLOWFAST = TimeGrid(32 * GAP, 16 * GAP)


def frames_of(windows: Windows, num_frames: int) -> list[tuple[Fraction, Fraction]]:
    """Windows of a video at 30 frames per second, in frames."""
    duration = num_frames * GAP
    spans = [windows.span(row, duration) for row in range(windows.num_rows(duration))]
    return [(start / GAP, end / GAP) for start, end in spans]


def test_start_grid_of_published_sets() -> None:
    """Acceptance check 18."""
    drop, pad, backpad, cover = (Windows(SLOWFAST, tail, GAP / 2) for tail in get_args(Tail))
    assert frames_of(drop, 100) == [(16 * k, 16 * k + 32) for k in range(5)]
    assert frames_of(backpad, 100) == [*((16 * k, 16 * k + 32) for k in range(5)), (68, 100)]
    assert frames_of(drop, 20) == []
    assert frames_of(backpad, 20) == frames_of(pad, 20) == [(0, 32)]
    assert len(frames_of(backpad, 96)) == 5
    assert len(frames_of(pad, 100)) == 6
    assert frames_of(cover, 100) == [(16 * k, 16 * k + 32) for k in range(7)]
    assert frames_of(cover, 20) == [(0, 32), (16, 48)]
    assert frames_of(cover, 16) == [(0, 32)]


@pytest.mark.parametrize("num_frames", [1, 15, 16, 17, 19, 20, 64, 65, 100, 129])
def test_rows_of_published_sets_by_their_own_formulas(num_frames: int) -> None:
    i3d = Windows(TimeGrid(16 * GAP, 4 * GAP), "drop", GAP / 2)
    assert len(frames_of(i3d, num_frames)) == max((num_frames - 16) // 4 + 1, 0)
    one_more = Windows(TimeGrid(64 * GAP, 64 * GAP), "drop", GAP / 2, spare_s=GAP)
    assert len(frames_of(one_more, num_frames)) == max((num_frames - 65) // 64 + 1, 0)


@quickly
@given(st.sampled_from([Fraction(25), Fraction(10), Fraction(30_000, 1001)]), durations, st.integers(1, 40))
def test_a_constant_rate_counts_the_frames_of_a_re_encoded_video(rate: Fraction, duration: Fraction, step: int) -> None:
    num_frames = math.floor(duration * rate + Fraction(1, 2))
    windows = Windows(TimeGrid(16 / rate, step / rate), "drop", rate=rate)
    assert windows.num_rows(duration) == max((num_frames - 16) // step + 1, 0)
    assert windows.end(duration) == num_frames / rate


@quickly
@given(lengths, lengths, durations, st.fractions(0, 1, max_denominator=60), st.fractions(-1, 1, max_denominator=25))
def test_what_each_tail_keeps(
    window: Fraction, stride: Fraction, duration: Fraction, slack: Fraction, start: Fraction
) -> None:
    grid = TimeGrid(window, stride, start)
    dropped = Windows(grid, "drop", slack).num_rows(duration)
    assert dropped == 0 or grid.span(dropped - 1)[1] <= duration + slack
    assert grid.span(dropped)[1] > duration + slack
    padded = Windows(grid, "pad").num_rows(duration)
    assert padded == 1 or grid.center(padded - 1) < duration
    assert grid.center(padded) >= duration
    covered = Windows(grid, "cover").num_rows(duration)
    assert covered == 1 or grid.span(covered - 1)[0] < duration
    assert grid.span(covered)[0] >= duration
    backpad = Windows(grid, "backpad", slack)
    moved = backpad.num_rows(duration)
    assert moved >= max(dropped, 1)
    starts = [backpad.span(row, duration)[0] for row in range(moved)]
    assert starts == sorted(set(starts))
    if moved > 1:
        assert duration <= backpad.span(moved - 1, duration)[1] <= duration + slack
    assert all(backpad.span(row, duration) == grid.span(row) for row in range(dropped))


@quickly
@given(lengths, lengths, durations)
def test_the_centre_grid_is_the_tail_pad(window: Fraction, stride: Fraction, duration: Fraction) -> None:
    assert Windows(center_grid(window, stride)).num_rows(duration) == num_center_rows(stride, duration)


@pytest.mark.parametrize("tail", get_args(Tail))
def test_spans_are_regular_while_the_end_is_unknown(tail: Tail) -> None:
    assert [Windows(SLOWFAST, tail).span(row) for row in range(9)] == [SLOWFAST.span(row) for row in range(9)]
