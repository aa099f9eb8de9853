"""Statistics of a store against NumPy over the rows that were written, on both backends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from store_samples import CLIP, FREE, GRID, OBJECTS, SPECS, clip_rows, fill, object_rows, spans

from vidloc.cli import vidloc
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, StoreError, StreamNotFoundError
from vidloc.stores import statistics
from vidloc.stores.base import StreamSpec, create_store, open_store
from vidloc.stores.statistics import Moments, statistics_of

BACKENDS = ("zarr", "h5")
# Below a row of any field, across items and inside of them, and all in one.
BLOCK_VALUES = (1, 40, 2**20)


@pytest.fixture(params=BACKENDS)
def path(request, tmp_path) -> Path:
    return tmp_path / f"feats.{request.param}"


def make(path: Path, lengths: dict[str, int]) -> Path:
    with create_store(path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for seed, (item, num_rows) in enumerate(lengths.items()):
            fill(writer, item, num_rows, seed=seed)
            writer.commit(item)
    return path


def as_numpy(numbers: np.ndarray) -> Moments:
    return Moments(numbers.size, numbers.mean(), numbers.std(), numbers.min(), numbers.max())


def assert_same(found: Moments, expected: Moments) -> None:
    assert found.count == expected.count
    for name in ("mean", "std", "min", "max"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("block_values", BLOCK_VALUES)
def test_every_numeric_field_agrees_with_numpy(path, monkeypatch, block_values):
    monkeypatch.setattr(statistics, "_BLOCK_VALUES", block_values)
    monkeypatch.setattr(statistics, "_BLOCK_PIECES", 3)
    monkeypatch.setattr(statistics, "_WAVE_BLOCKS", 4)
    make(path, {"a": 5, "b": 1, "none": 0, "c": 23})
    found = statistics_of(path).streams
    with open_store(path) as store:
        assert list(found) == list(store.streams())
        for name, stream in found.items():
            items = store.items(name)
            assert (stream.num_items, stream.num_rows) == (4, 29)
            for field, numbers in stream.fields.items():
                vectors = np.concatenate([store.read(name, item).fields[field] for item in items]).astype(np.float64)
                vectors = vectors.reshape(len(vectors), -1)
                assert numbers.num_vectors == len(vectors)
                assert numbers.num_nonfinite == 0
                assert numbers.num_zero == (vectors == 0).all(axis=1).sum()
                assert_same(numbers.values, as_numpy(vectors))
                assert_same(numbers.norms, as_numpy(np.linalg.norm(vectors, axis=1)))
    assert set(found["objects"].fields) == {"boxes", "labels", "image"}, "texts are no numbers"
    assert found["free"].fields["score"].num_zero == 1


def test_blocks_hold_no_more_than_they_may_and_every_row_once(path, monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK_VALUES", 24)
    sizes: dict[str, list[int]] = {}
    read = statistics._Column.read

    def watched(column, block):
        vectors = read(column, block)
        sizes.setdefault(column.name, []).append(vectors.size)
        return vectors

    monkeypatch.setattr(statistics._Column, "read", watched)
    statistics_of(make(path, {"a": 70, "b": 3, "c": 3}))
    assert sum(sizes["features"]) == 76 * 6
    assert sum(sizes["boxes"]) == sum(k % 3 for n in (70, 3, 3) for k in range(n)) * 4
    assert max(map(max, sizes.values())) <= 24
    assert len(sizes["features"]) == 20, "19 full blocks need 18 of item a, the last of them shared"


def test_small_spread_beside_a_large_mean_keeps_its_digits(path, monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK_VALUES", 64)
    values = 1e9 + np.random.default_rng(0).normal(size=1000)
    with create_store(path) as writer:
        writer.add_stream(FREE)
        writer.write("free", "a", Rows.dense(score=values), None)
        writer.commit("a")
    assert statistics_of(path).streams["free"].fields["score"].values.std == pytest.approx(values.std(), rel=1e-6)


def test_items_with_equal_rows_are_named_and_those_without_rows_are_not(path):
    with create_store(path) as writer:
        for spec in (CLIP, OBJECTS):
            writer.add_stream(spec)
        for number, (item, seed) in enumerate([("copy", 1), ("b", 2), ("a", 1), ("empty", 0), ("void", 0)]):
            num_rows = 4 if seed else 0
            writer.write("clip", item, clip_rows(num_rows, seed), GRID)
            rows = object_rows([1, 2][:num_rows], seed=number)
            writer.write("objects", item, rows, spans(len(rows)))
            writer.commit(item)
    found = statistics_of(path).streams
    assert found["clip"].duplicates == (("a", "copy"),)
    assert found["objects"].duplicates == ()


def test_stream_without_rows_has_no_moments(path):
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.add_stream(OBJECTS)
        writer.write("clip", "a", clip_rows(0), GRID)
        writer.mark("objects", "a", "failed", "no such track")
        writer.commit("a")
    found = statistics_of(path).streams
    nothing = Moments(0, None, None, None, None)
    for name, num_items in (("clip", 1), ("objects", 0)):
        assert (found[name].num_items, found[name].num_rows, found[name].duplicates) == (num_items, 0, ())
        assert all(numbers.values == numbers.norms == nothing for numbers in found[name].fields.values())


def test_values_not_finite_are_counted_and_left_out(tmp_path):
    spec = StreamSpec(name="x", kind="clip", fields={"features": FieldSpec(row_shape=(2,), dtype="float32")})
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        writer.add_stream(spec)
        writer.write("x", "a", Rows.dense(features=np.array([[3, 4], [1, 5], [6, 8], [2, 9]], np.float32)), GRID)
        writer.commit("a")
    chunk = path / "streams/x/features/c/0/0"
    values = np.memmap(chunk, np.float32, "r+")
    values[[2, 6, 7]] = np.nan, np.inf, -np.inf
    values.flush()
    numbers = statistics_of(path).streams["x"].fields["features"]
    assert (numbers.num_nonfinite, numbers.num_zero) == (3, 0)
    assert_same(numbers.values, as_numpy(np.array([3.0, 4, 5, 6, 8])))
    assert_same(numbers.norms, as_numpy(np.array([5.0, 10])))
    result = CliRunner().invoke(vidloc, ["store", "stats", str(path)])
    assert "x, features: 3 values are NaN or infinite" in result.output
    assert "no value is NaN" not in result.output


def test_progress_counts_rows_per_field_up_to_all(path, monkeypatch):
    monkeypatch.setattr(statistics, "_BLOCK_VALUES", 30)
    monkeypatch.setattr(statistics, "_WAVE_BLOCKS", 1)
    told: list[tuple[int, int]] = []
    statistics_of(make(path, {"a": 9, "b": 4}), progress=lambda *pair: told.append(pair))
    assert told == sorted(told)
    assert told[-1] == (13 * 5, 13 * 5)
    assert len(told) > 10


def test_only_asked_streams_are_read_and_unknown_ones_named(path):
    make(path, {"a": 2})
    assert list(statistics_of(path, ["free", "free"]).streams) == ["free"]
    with pytest.raises(StreamNotFoundError, match=r"no stream 'clp'\. Did you mean clip\?"):
        statistics_of(path, ["free", "clp"])


def test_damaged_store_says_where(tmp_path):
    path = make(tmp_path / "feats.zarr", {"a": 5})
    chunk = path / "streams/clip/features/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(StoreError, match=r"stream 'clip', array 'features'.*has 10 bytes, its rows need 60"):
        statistics_of(path)


def test_missing_dask_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(OptionError, match=r"need the package 'dask'.*pip install 'vidloc\[dask\]'"):
        statistics_of(make(tmp_path / "feats.zarr", {"a": 1}))


def test_command_prints_a_table_and_findings(path):
    make(path, {"a": 5, "b": 4})
    result = CliRunner().invoke(vidloc, ["store", "stats", str(path)])
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["stream", "field", "rows", "of", "mean", "std", "min", "max"]
    score = np.concatenate([np.arange(5), np.arange(4) + 1 / 3])
    numbers = [f"{number:.4g}" for number in (score.mean(), score.std(), score.min(), score.max())]
    assert ["free", "score", "9", "values", *numbers] in lines
    assert any(line[:3] == ["7", "entries", "norms"] for line in lines), "of boxes: 0, 1, 2, 0, 1 and 0, 1, 2, 0"
    assert "free, score: 1 of 9 rows are all zero" in result.stdout
    assert "no value is NaN or infinite" in result.stdout


def test_command_prints_one_json_document(path):
    make(path, {"a": 5})
    result = CliRunner().invoke(vidloc, ["store", "stats", str(path), "--stream", "clip", "--json"])
    found = json.loads(result.stdout)
    with open_store(path) as store:
        assert found["digest"] == store.digest()
    assert list(found["streams"]) == ["clip"]
    assert found["streams"]["clip"]["fields"]["features"]["values"]["count"] == 30
