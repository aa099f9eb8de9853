"""Vectors of a stream in blocks, and exact search, against NumPy on the whole array."""

from __future__ import annotations

import numpy as np
import pytest

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import StreamNotFoundError
from vidloc.retrieval.exact import ExactSearch
from vidloc.retrieval.vectors import normalised, row_table, searchable_spec, vector_blocks, vector_rule
from vidloc.stores.base import StreamSpec


def whole(store, stream):
    rows = [np.asarray(store.read_field(stream, item), np.float64) for item in store.items(stream)]
    vectors = np.concatenate(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rows_are_numbered_through_the_items_in_order(store):
    table = row_table(store, "clips")
    assert table.items == ["a", "b/c", "d@1"]
    assert [table.locate(n) for n in (0, 39, 40, 42, 43, 67)] == [
        ("a", 0), ("a", 39), ("b/c", 0), ("b/c", 2), ("d@1", 0), ("d@1", 24),
    ]  # fmt: skip


@pytest.mark.parametrize("block_rows", [1, 7, 1000])
def test_blocks_hold_every_vector_once_and_stay_small(store, block_rows):
    spec, table = searchable_spec(store, "clips"), row_table(store, "clips")
    blocks = list(vector_blocks(store, spec, table, block_bytes=block_rows * 16 * 4))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), np.arange(68))
    np.testing.assert_allclose(np.concatenate([v for v, _ in blocks]), whole(store, "clips"), atol=1e-6)
    # A block closes as soon as it is full, so one piece at most lies beyond the limit.
    assert max(len(v) for v, _ in blocks) < 2 * block_rows


def test_reading_never_asks_for_more_than_a_block(store, monkeypatch):
    asked = []
    original = store.read_field

    def watched(stream, item, field="features", rows=None, out=None):
        found = original(stream, item, field, rows)
        asked.append(len(found))
        return found

    monkeypatch.setattr(store, "read_field", watched)
    list(vector_blocks(store, searchable_spec(store, "clips"), row_table(store, "clips"), block_bytes=8 * 16 * 4))
    assert max(asked) == 8
    assert sum(asked) == 68


def test_exact_search_equals_brute_force(store):
    query = normalised(np.random.default_rng(5).standard_normal((1, 16)))[0]
    scores, rows, mean = ExactSearch(store, "clips", row_table(store, "clips")).search(query, 10)
    similarity = whole(store, "clips") @ query
    np.testing.assert_array_equal(rows, np.argsort(-similarity)[:10])
    np.testing.assert_allclose(scores, np.sort(similarity)[::-1][:10], atol=1e-6)
    assert mean == pytest.approx(similarity.mean(), abs=1e-6)


def test_exact_search_gives_what_there_is(store):
    query = normalised(np.ones((1, 16)))[0]
    scores, rows, _ = ExactSearch(store, "clips", row_table(store, "clips")).search(query, 1000)
    assert len(scores) == len(rows) == 68


def test_rows_of_zeros_score_zero():
    np.testing.assert_array_equal(normalised(np.array([[0.0, 0.0], [3.0, 4.0]])), np.float32([[0, 0], [0.6, 0.8]]))


def test_a_map_is_averaged_and_regions_stand_for_their_row(new_store, grid):
    store = new_store()
    maps = np.random.default_rng(0).standard_normal((4, 2, 2, 8)).astype(np.float32)
    spec = StreamSpec(name="maps", kind="clip", fields={"features": FieldSpec(row_shape=(2, 2, 8), dtype="float32")})
    store.add_stream(spec)
    store.write("maps", "a", Rows.dense(features=maps), grid)
    regions = [np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32) for n in (2, 0, 3, 1)]
    ragged = StreamSpec(
        name="objects",
        kind="objects",
        fields={"features": FieldSpec(row_shape=("regions", 8), dtype="float32")},
    )
    store.add_stream(ragged)
    store.write("objects", "a", Rows.ragged("regions", features=regions), grid)
    store.commit("a")

    ((vectors, _),) = vector_blocks(store, spec, row_table(store, "maps"))
    np.testing.assert_allclose(vectors, normalised(maps.mean(axis=(1, 2))), atol=1e-6)
    ((vectors, rows),) = vector_blocks(store, ragged, row_table(store, "objects"))
    np.testing.assert_array_equal(rows, [0, 0, 2, 2, 2, 3])
    np.testing.assert_allclose(vectors, normalised(np.concatenate(regions)), atol=1e-6)
    assert [vector_rule(s) for s in (spec, ragged)] == [
        "one vector per row, the mean over its map",
        "one vector per entry of axis 'regions'",
    ]
    found = ExactSearch(store, "objects", row_table(store, "objects")).search(vectors[4], 1).rows
    np.testing.assert_array_equal(found, [2])


def test_a_stream_without_vectors_is_refused(store):
    store.add_stream(StreamSpec(name="words", kind="text", fields={"text": FieldSpec(row_shape=("b",), dtype="uint8")}))
    with pytest.raises(StreamNotFoundError, match=r"stream 'words' of .* has no vectors to search\. .*Known: clips\."):
        searchable_spec(store, "words")
    with pytest.raises(StreamNotFoundError, match=r"stream 'clip' of .* is not in this store\. Did you mean clips\?"):
        searchable_spec(store, "clip")
