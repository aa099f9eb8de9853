"""Packed rows: cutting, joining and checking lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import StoreError


def regions(counts: list[int]) -> Rows:
    boxes = [np.full((n, 4), k, np.float32) for k, n in enumerate(counts)]
    scores = [np.arange(n, dtype=np.float32) for n in counts]
    return Rows.ragged("regions", boxes=boxes, scores=scores)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_a_range_of_ragged_rows_equals_the_range_of_a_list(counts: list[int], start: int, stop: int) -> None:
    rows = regions(counts)
    cut = rows[start:stop]
    expected = rows.entries("boxes")[start:stop]
    assert len(cut) == len(expected)
    for ours, theirs in zip(cut.entries("boxes"), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 11))
def test_pieces_joined_again_equal_the_whole(counts: list[int], cut: int) -> None:
    rows = regions(counts)
    again = Rows.concatenated([rows[:cut], rows[cut:]])
    np.testing.assert_array_equal(again.fields["scores"], rows.fields["scores"])
    np.testing.assert_array_equal(again.counts["regions"], rows.counts["regions"])


def test_texts_come_back() -> None:
    rows = Rows.texts("bytes", text=["öffne die Tür", ""], key=["P01_01_0", "P01_01_1"])
    assert rows.strings("text") == ["öffne die Tür", ""]
    assert rows.strings("key") == ["P01_01_0", "P01_01_1"]


def test_dense_and_ragged_fields_side_by_side() -> None:
    rows = Rows.joined(Rows.dense(pts_s=np.zeros(2)), regions([3, 0]))
    assert [len(e) for e in rows.entries("boxes")] == [3, 0]
    assert rows[1:].fields["pts_s"].shape == (1,)


def test_lengths_that_disagree_are_refused() -> None:
    with pytest.raises(StoreError, match="'scores' holds 3 entries, expected 2"):
        Rows(2, {"scores": np.zeros(3)})
    with pytest.raises(StoreError, match="counts of axis 'regions'"):
        Rows(2, {}, {"regions": np.zeros(3, np.int64)})
    with pytest.raises(StoreError, match="contiguous"):
        regions([1, 2])[::2]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, "regions"), "float32"), ((0,), "float32"), ((4,), "object"), ((4,), ">f4")]
)
def test_field_specs_that_no_store_can_hold(shape: tuple[int | str, ...], dtype: str) -> None:
    with pytest.raises(ValidationError):
        FieldSpec(row_shape=shape, dtype=dtype)


def test_ragged_field_spec() -> None:
    spec = FieldSpec(row_shape=("regions", 4), dtype="float32")
    assert (spec.axis, spec.entry_shape) == ("regions", (4,))
    assert FieldSpec(row_shape=(), dtype="float64").entry_shape == ()
