"""Streams as files of other programs: every format read back by its own library, and safe file names."""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_samples import SPECS, fill

from vidloc.errors import OptionError, StoreError, StreamNotFoundError
from vidloc.stores.base import create_store, open_store
from vidloc.stores.export import export, safe_names

ITEMS = ("../../etc/passwd", "P01/a.mp4", "sous-sol/été.mp4")


@pytest.fixture
def filled(store_path):
    with create_store(store_path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for seed, item in enumerate(ITEMS):
            fill(writer, item, 4 + seed, seed=seed)
            writer.commit(item)
        writer.mark("clip", "broken", "failed", "no frames")
        writer.commit("broken")
    return store_path


def index_of(folder):
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        return {line["item_id"]: line for line in csv.DictReader(file)}


def read_npy(folder, file):
    return {path.parent.name: np.load(path) for path in folder.glob(file)}


def read_npz(folder, file):
    with np.load(folder / file) as archive:
        return dict(archive)


def read_h5(folder, file):
    with h5py.File(folder / file) as root:
        return {name: data.asstr()[:] if data.dtype.kind == "O" else data[:] for name, data in root.items()}


def read_webdataset(folder, file):
    shard, name = file.split(":")
    with tarfile.open(folder / shard) as tar:
        return {
            member.name.split(".")[1]: np.load(io.BytesIO(tar.extractfile(member).read()))
            for member in tar
            if member.name.startswith(f"{name}.") and member.name.endswith(".npy")
        }


READERS = {"npy": read_npy, "npz": read_npz, "h5": read_h5, "webdataset": read_webdataset}


@pytest.mark.parametrize("kind", READERS)
def test_every_array_comes_back_bit_for_bit(filled, tmp_path, kind):
    out, calls = tmp_path / "out", []
    report = export(out, filled, "objects", kind, progress=lambda done, total: calls.append((done, total)))
    assert (report.num_items, report.num_rows, report.without_rows) == (3, 15, {})
    assert calls[-1] == (3, 3)
    index = index_of(out)
    with open_store(filled) as store:
        assert json.loads((out / "stream.json").read_text(encoding="utf-8"))["name"] == "objects"
        for item in ITEMS:
            rows, found = store.read("objects", item), READERS[kind](out, index[item]["file"])
            assert set(found) == {"boxes", "labels", "image", "key", "regions_counts", "spans"}
            for name in ("boxes", "labels", "image"):
                assert found[name].dtype == rows.fields[name].dtype
                assert np.array_equal(found[name], rows.fields[name])
            assert np.array_equal(found["regions_counts"], rows.counts["regions"])
            assert list(found["key"]) == rows.strings("key")
            assert np.array_equal(found["spans"], store.timeline("objects", item).array)
            assert index[item]["sha256"] == store.entry("objects", item).digest
    strays = [path for path in tmp_path.rglob("*") if path.is_file() and not {out, filled} & {path, *path.parents}]
    assert strays == []  # whatever an item is called


def test_parquet_has_a_line_per_row(filled, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    export(tmp_path / "clip", filled, "clip", "parquet")
    export(tmp_path / "objects", filled, "objects", "parquet")
    with open_store(filled) as store:
        item = ITEMS[1]
        clip = parquet.read_table(tmp_path / "clip" / index_of(tmp_path / "clip")[item]["file"])
        assert clip.schema.metadata[b"item_id"].decode() == item
        spans = store.timeline("clip", item).spans(5)
        assert np.array_equal(clip["start_s"].to_numpy(), spans[:, 0])
        assert np.array_equal(clip["end_s"].to_numpy(), spans[:, 1])
        assert np.array_equal(np.array(clip["features"].to_pylist(), np.float16), store.read_field("clip", item))
        rows = store.read("objects", item)
        objects = parquet.read_table(tmp_path / "objects" / index_of(tmp_path / "objects")[item]["file"])
        assert objects["key"].to_pylist() == rows.strings("key")
        assert objects["labels"].to_pylist() == [entry.tolist() for entry in rows.entries("labels")]
        assert objects["boxes"].to_pylist() == [entry.tolist() for entry in rows.entries("boxes")]
        assert objects["image"].to_pylist() == rows.fields["image"].reshape(5, 6).tolist()


def test_parquet_without_pyarrow_says_what_to_install(filled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match=r"pip install 'vidloc\[parquet\]'"):
        export(tmp_path / "out", filled, "clip", "parquet")
    assert not (tmp_path / "out").exists()


def test_items_without_rows_are_told_and_a_stream_without_times_has_no_spans(filled, tmp_path):
    assert export(tmp_path / "clip", filled, "clip", "npz").without_rows == {"broken": "failed: no frames"}
    export(tmp_path / "free", filled, "free", "npy", items={ITEMS[1]})
    assert list(index_of(tmp_path / "free")) == [ITEMS[1]]
    assert {path.name for path in (tmp_path / "free").iterdir()} == {"score", "index.csv", "stream.json"}


def test_nothing_is_overwritten(filled, tmp_path):
    out = tmp_path / "out"
    export(out, filled, "clip", "npy")
    with pytest.raises(StoreError, match="exists and is not an empty folder"):
        export(out, filled, "clip", "npy")
    with pytest.raises(StreamNotFoundError, match="no stream 'clips'"):
        export(tmp_path / "two", filled, "clips", "npy")


def test_equal_rows_give_equal_shards(filled, tmp_path):
    for name in ("one", "two"):
        export(tmp_path / name, filled, "clip", "webdataset")
    one, two = ((tmp_path / name / "shard-000000.tar").read_bytes() for name in ("one", "two"))
    assert one == two


def test_shards_are_begun_anew(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("vidloc.stores.export._SHARD_BYTES", 1)
    export(tmp_path / "out", filled, "clip", "webdataset")
    files = [line["file"].split(":")[0] for line in index_of(tmp_path / "out").values()]
    assert files == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, max_size=6), st.booleans())
def test_names_are_safe_and_never_collide(items, dots):
    items = [item for item in items if item.isprintable()]
    names = safe_names(items, dots=dots)
    assert len({name.lower() for name in names.values()}) == len(items)
    for name in names.values():
        assert 0 < len(name) <= 200
        assert name.isascii()
        assert not set(name) & set('/\\:*?"<>|\0')
        assert not name.startswith(".")
        assert dots or "." not in name


def test_names_that_differ_in_case_alone_are_told_apart():
    names = safe_names(["a/B.mp4", "a/b.mp4", "x" * 300])
    assert names["a/B.mp4"] == "a%2FB.mp4"
    assert names["a/b.mp4"].startswith("a%2Fb.mp4-")
    assert names["x" * 300].startswith("xxx")
