"""Ranked rows become moments: joined across neighbours, cut to the track, without the query itself."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, Spans, TimeGrid
from vidloc.retrieval.exact import ExactSearch, Ranked
from vidloc.retrieval.moments import find_moments
from vidloc.retrieval.vectors import row_table

QUERY = np.float32([1, 0])


def rows_of(*cosines):
    """Two numbers per row with these cosines to the query."""
    values = np.float32([(c, np.sqrt(1 - c * c)) for c in cosines])
    return Rows.dense(features=values.astype(np.float16))


@pytest.fixture
def search(new_store, clip_spec):
    """Moments of made-up items, given as rows and timeline."""

    def run(items, k, timeline="grid", **how):
        store = new_store()
        store.add_stream(clip_spec(dim=2, timeline=timeline))
        for item, (rows, times, extent) in items.items():
            store.write("clips", item, rows, times, extent=extent)
            store.commit(item)
        return find_moments(store, "clips", ExactSearch(store, "clips", row_table(store, "clips")), QUERY, k, **how)

    return run


GRID = TimeGrid(Fraction(1), Fraction(1, 2))


def test_neighbouring_windows_are_one_moment_with_the_best_score(search):
    found = search({"a": (rows_of(0.1, 0.9, 0.95, 0.2, 0.1, 0.8, 0.0, 0.0), GRID, None)}, 2)
    # Windows of 1 s every 0.5 s; the mean cosine is 0.38, half height is 0.67 at row 2 and 0.59 at row 5.
    assert [(m.span, m.rows, m.best_row) for m in found] == [
        (Span(0.5, 2.0), (1, 2), 2),
        (Span(2.5, 3.5), (5,), 5),
    ]
    assert [round(m.score, 2) for m in found] == [0.95, 0.8]


def test_rows_touching_a_moment_begin_no_other(search):
    found = search({"a": (rows_of(0.0, 0.3, 0.95, 0.3, 0.0, 0.25, 0.0), GRID, None)}, 5)
    # Rows 1 and 3 lie under half height and next to the peak; row 4 touches it at 2.0 s, row 0 at 1.0 s.
    assert [m.rows for m in found] == [(2,), (5,)]


def test_moments_do_not_depend_on_k(search):
    items = {"a": (rows_of(*np.cos(np.linspace(0, 20, 60)) * 0.9), GRID, None)}
    many = search(items, 6)
    assert len(many) > 2
    assert [search(items, k) for k in (1, 2, 3)] == [many[:1], many[:2], many[:3]]


def test_a_moment_ends_where_an_earlier_one_begins(search):
    # Row 2 lies above half height around row 4 (0.75), but touches the window of row 0.
    items = {"a": (rows_of(0.9, 0.3, 0.75, 0.76, 0.8), GRID, None)}
    assert [m.rows for m in search(items, 4)] == [(0,), (3, 4)]
    items = {"a": (rows_of(0.0, 0.3, 0.75, 0.76, 0.8), GRID, None)}
    assert [m.rows for m in search(items, 4)] == [(2, 3, 4)]


def test_more_rows_are_fetched_until_k_moments_are_found(search):
    alike = {"a": (rows_of(*[0.9] * 300), GRID, None), "b": (rows_of(0.8, 0.8), GRID, None)}
    assert [(m.item_id, len(m.rows)) for m in search(alike, 2)] == [("a", 300), ("b", 1)]


def test_scores_are_those_of_the_store_not_of_the_index(search, monkeypatch):
    def rounded(self, query, k, search=ExactSearch.search):
        scores, rows, mean = search(self, query, k)
        return Ranked(np.round(scores, 1), rows, mean)

    monkeypatch.setattr(ExactSearch, "search", rounded)
    (found,) = search({"a": (rows_of(0.73, 0.0, 0.0), GRID, None)}, 1)
    assert found.score == pytest.approx(0.73, abs=1e-3)


def test_moments_end_with_the_track_and_padding_answers_nothing(search):
    grid = TimeGrid(Fraction(1), Fraction(1, 2), Fraction(-1, 4))
    items = {"a": (rows_of(0.9, 0.89, 0.89, 0.95), grid, (0.0, 1.2)), "b": (rows_of(0.1, 0.1), grid, (0.0, 1.0))}
    found = search(items, 1)
    # Row 3 covers 1.25-2.25 s, all beyond the end of the track.
    assert [m.rows for m in found] == [(0, 1, 2)]
    assert found[0].span == Span(0.0, 1.2)


def test_gaps_between_short_windows_do_not_part_neighbours(search):
    sparse = TimeGrid(Fraction(1, 5), Fraction(1))
    items = {"a": (rows_of(0.9, 0.88, -0.9, 0.85, 0.84), sparse, None)}
    assert [m.rows for m in search(items, 3)] == [(0, 1), (3, 4)]


def test_annotated_spans_can_be_kept_apart(search):
    spans = Spans(np.array([[0.0, 2.0], [1.0, 3.0], [9.0, 9.5]]))
    items = {"a": (rows_of(0.9, 0.89, 0.6), spans, None)}
    assert [m.span for m in search(items, 3, timeline="spans", joined=False)] == [(0, 2), (1, 3), (9, 9.5)]
    assert [m.span for m in search(items, 3, timeline="spans")] == [(0, 3), (9, 9.5)]


def test_rows_without_times_stand_alone(search):
    found = search({"a": (rows_of(0.9, 0.8), None, None)}, 5, timeline="none")
    assert [(m.span, m.rows) for m in found] == [(None, (0,)), (None, (1,))]


def test_excluded_rows_are_left_out_and_do_not_count(search):
    items = {"a": (rows_of(0.9, 0.1), GRID, None), "b": (rows_of(0.5), GRID, None)}
    found = search(items, 1, excluded=lambda item, _row: item == "a")
    assert [(m.item_id, m.rows) for m in found] == [("b", (0,))]
