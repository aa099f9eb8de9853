"""FAISS indexes against exact search, their files, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, StoreError
from vidloc.retrieval.exact import ExactSearch
from vidloc.retrieval.index_build import build_index, measured_recall
from vidloc.retrieval.index_files import open_index
from vidloc.retrieval.index_meta import IndexOptions, built_types, index_folder
from vidloc.retrieval.vectors import normalised, row_table
from vidloc.stores.base import StreamSpec

pytest.importorskip("faiss")


def queries(dim, count=20):
    return normalised(np.random.default_rng(7).standard_normal((count, dim)))


@pytest.fixture
def large(new_store, clip_spec, clustered, grid):
    """12,000 rows in six items: enough for IVF-PQ."""
    store = new_store("large.zarr")
    store.add_stream(clip_spec(dim=32))
    for n in range(6):
        store.write("clips", f"v{n}", Rows.dense(features=clustered(2000, 32, n)), grid)
        store.commit(f"v{n}")
    return store


@pytest.mark.parametrize("type_", ["flat", "sq16", "hnsw"])
def test_small_store_equals_exact_search(store, type_):
    build_index(store, "clips", IndexOptions(type=type_), block_bytes=1000)
    index = open_index(store, "clips", type_)
    exact = ExactSearch(store, "clips", index.table)
    for query in queries(16):
        scores, rows, mean = index.search(query, 5)
        expected_scores, expected, expected_mean = exact.search(query, 5)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-6 if type_ == "flat" else 2e-3)
        assert mean == pytest.approx(expected_mean, abs=1e-6)


@pytest.mark.parametrize(("type_", "least"), [("flat", 1.0), ("sq16", 0.99), ("hnsw", 0.95), ("ivfpq", 0.5)])
def test_recall_on_clustered_rows(large, type_, least):
    meta = build_index(large, "clips", IndexOptions(type=type_))
    index = open_index(large, "clips", type_)
    assert (meta.num_vectors, meta.num_rows, meta.dim) == (12_000, 12_000, 32)
    if type_ == "ivfpq":  # 12,000 / 39 lists; 8 parts of 4 numbers
        assert (meta.options.nlist, meta.options.m) == (307, 8)
    assert measured_recall(large, "clips", index, k=10, num_queries=20) >= least


def test_ivfpq_is_trained_the_same_way_each_time(large):
    found = []
    for _ in range(2):
        meta = build_index(large, "clips", IndexOptions(type="ivfpq", nlist=20, m=8, seed=3))
        found.append(open_index(large, "clips", "ivfpq").search(queries(32)[0], 20)[1])
    np.testing.assert_array_equal(*found)
    assert (meta.options.nlist, meta.options.m) == (20, 8)


def test_too_few_rows_for_ivfpq_says_what_to_use(store):
    with pytest.raises(OptionError, match=r"needs at least 9,984 rows .* this stream has 68\. Use --type sq16"):
        build_index(store, "clips", IndexOptions(type="ivfpq"))
    assert built_types(store.path, "clips") == []


def test_m_must_divide_the_length(large):
    with pytest.raises(OptionError, match="must divide the length of the vectors, 32; 5 does not"):
        build_index(large, "clips", IndexOptions(type="ivfpq", m=5))


def test_options_of_another_type_are_refused(store):
    with pytest.raises(OptionError, match="index type flat has no option 'nprobe'; it belongs to ivfpq"):
        build_index(store, "clips", IndexOptions(type="flat", nprobe=4))


def test_an_empty_stream_is_refused(store, clip_spec):
    store.add_stream(clip_spec("empty"))
    with pytest.raises(StoreError, match="has no rows to index"):
        build_index(store, "empty", IndexOptions())


def test_a_stale_index_is_refused_with_the_line_that_rebuilds_it(store, clustered, grid):
    build_index(store, "clips", IndexOptions())
    store.write("clips", "new", Rows.dense(features=clustered(2, 16, 8)), grid)
    store.commit("new")
    with pytest.raises(
        StoreError,
        match=r"sq16 index of stream 'clips' is stale: .*\(68 rows then, 70 now\)\. "
        r"Rebuild it: vidloc index build .*feats.zarr --stream clips --type sq16",
    ):
        open_index(store, "clips", "sq16")
    build_index(store, "clips", IndexOptions())
    assert open_index(store, "clips", "sq16").table.num_rows == 70


def test_a_flipped_bit_is_found_before_faiss_reads(store):
    build_index(store, "clips", IndexOptions())
    path = index_folder(store.path, "clips", "sq16") / "vectors.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"vectors.faiss is damaged: its sha256 is not the one in meta.json"):
        open_index(store, "clips", "sq16")
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match=r"vectors.faiss has \d+ bytes, its description says \d+"):
        open_index(store, "clips", "sq16")
    path.unlink()
    with pytest.raises(StoreError, match=r"vectors.faiss is missing from its index"):
        open_index(store, "clips", "sq16")


def test_a_description_is_not_trusted(store):
    build_index(store, "clips", IndexOptions())
    path = index_folder(store.path, "clips", "sq16") / "meta.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"format": 2}, "does not describe an index: format"),
        ({"num_vectors": -1}, "does not describe an index: num_vectors"),
        ({"surprise": 1}, "does not describe an index: surprise"),
        ({"stream": "other"}, r"describes other.sq16, not clips.sq16"),
        ({"num_vectors": 67}, r"holds \(vectors, length, metric\) \(68, 16, 0\), expected \(67, 16, 0\)"),
    ]:
        path.write_text(json.dumps(good | change))
        with pytest.raises(StoreError, match=message):
            open_index(store, "clips", "sq16")
    path.write_text("{" + " " * 2**20)
    with pytest.raises(StoreError, match="larger than any index description"):
        open_index(store, "clips", "sq16")


def test_a_missing_index_says_how_to_build_it(store):
    with pytest.raises(StoreError, match=r"no flat index of stream 'clips' .* Build it: vidloc index build"):
        open_index(store, "clips", "flat")


def test_a_failed_build_leaves_the_old_index(store, monkeypatch):
    build_index(store, "clips", IndexOptions())
    root = index_folder(store.path, "clips", "sq16").parent

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("vidloc.retrieval.index_files.faiss.write_index", full)
    with pytest.raises(OSError, match="no space left"):
        build_index(store, "clips", IndexOptions())
    assert [p.name for p in root.iterdir()] == ["clips.sq16"]
    assert open_index(store, "clips", "sq16").table.num_rows == 68


def test_regions_lead_to_their_rows(new_store, grid):
    store = new_store()
    spec = StreamSpec(
        name="objects", kind="objects", fields={"features": FieldSpec(row_shape=("regions", 8), dtype="float32")}
    )
    store.add_stream(spec)
    generator = np.random.default_rng(0)
    for item in ("a", "b"):
        regions = [generator.standard_normal((n, 8)).astype(np.float32) for n in (2, 0, 3)]
        store.write("objects", item, Rows.ragged("regions", features=regions), grid)
        store.commit(item)
    build_index(store, "objects", IndexOptions(type="flat"))
    index = open_index(store, "objects", "flat")
    exact = ExactSearch(store, "objects", row_table(store, "objects"))
    for query in queries(8):
        np.testing.assert_array_equal(index.search(query, 4)[1], exact.search(query, 4)[1])
    assert set(index.search(queries(8)[0], 10)[1].tolist()) == {0, 2, 3, 5}

    path = index_folder(store.path, "objects", "flat") / "row_of_vector.npy"
    path.write_bytes(path.read_bytes()[:-8] + (99).to_bytes(8, "little"))
    with pytest.raises(StoreError, match=r"row_of_vector.npy is damaged"):
        open_index(store, "objects", "flat")


def test_progress_counts_rows(store):
    seen = []
    build_index(
        store, "clips", IndexOptions(), block_bytes=640, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (68, 68)
    assert seen == sorted(seen)
    assert len(seen) > 3
