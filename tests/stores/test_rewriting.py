"""New stores of a store's rows: subsets, the rest, live rows alone, other backends and dtypes."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import zarr
from store_samples import CLIP, FREE, GRID, SPECS, clip_rows, fill, object_rows, same_rows

from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, ProvenanceError, StoreError, StreamNotFoundError
from vidloc.stores.base import append_to_store, create_store, open_store
from vidloc.stores.digest import digest_of_stream
from vidloc.stores.operations import verify
from vidloc.stores.rewriting import compact, convert, subset, without


@pytest.fixture
def filled(store_path):
    """Three items in three streams, of which one is partial, and one more without rows."""
    with create_store(store_path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for seed, item in enumerate(("P01/a.mp4", "P01/b.mp4", "P02")):
            writer.set_info(ItemInfo(item_id=item, duration_s=2.5))
            fill(writer, item, 5 + seed, seed=seed)
            if item == "P02":
                writer.mark("clip", item, "partial", "frames after 1 s are damaged")
            writer.commit(item)
        writer.mark("clip", "broken", "failed", "no frames")
        writer.commit("broken")
    return store_path


def test_a_subset_keeps_digests_statuses_and_facts(filled, tmp_path):
    calls = []
    for out in (tmp_path / "sub.zarr", tmp_path / "sub.h5"):
        report = subset(
            out,
            filled,
            streams=["objects", "clip"],
            items=["P01/b.mp4", "P02", "broken"],
            progress=lambda done, total: calls.append((done, total)),
        )
        assert (report.num_items, report.num_copied, report.num_entries) == (3, 5, 5)
        assert calls[-1] == (5, 5)
        with open_store(filled) as store, open_store(out) as found:
            assert found.streams() == {name: store.streams()[name] for name in ("clip", "objects")}
            assert found.items() == ["P01/b.mp4", "P02", "broken"]
            for name in found.streams():
                assert found.entries(name) == {
                    item: entry for item, entry in store.entries(name).items() if item in found.items()
                }
            assert found.info("P02") == store.info("P02")
            assert same_rows(found.read("objects", "P02"), object_rows([k % 3 for k in range(7)], 2), SPECS[1])
            assert found.digest() == report.digest
        assert verify(out).damages == ()


def test_a_subset_goes_on_where_it_was_stopped(filled, tmp_path):
    def stop_after_two(done, total):
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out.zarr"
    with pytest.raises(KeyboardInterrupt):
        subset(out, filled, streams=["clip"], progress=stop_after_two)
    report = subset(out, filled, streams=["clip"])
    assert (report.num_copied, report.num_entries) == (2, 4)


def test_a_subset_holds_nothing_but_what_was_chosen(filled, tmp_path):
    out = tmp_path / "out.zarr"
    subset(out, filled, items=["P02"])
    with pytest.raises(StoreError, match=r"exists and holds item 'P02' in stream 'clip', which is not chosen now"):
        subset(out, filled, items=["P01/a.mp4"])
    with pytest.raises(StoreError, match="exists and holds stream 'free'"):
        subset(out, filled, items=["P02"], streams=["clip", "objects"])
    with append_to_store(out) as writer:
        writer.write("free", "P02", Rows.dense(score=np.zeros(3)), None)
        writer.commit("P02")
    with pytest.raises(StoreError, match=r"stream 'free', item 'P02': .* hold different rows"):
        subset(out, filled, items=["P02"])


def test_what_is_not_there_is_named(filled, tmp_path):
    out = tmp_path / "out.zarr"
    with pytest.raises(StreamNotFoundError, match=r"no stream 'clips'\. Did you mean clip\?"):
        subset(out, filled, streams=["clips"])
    with pytest.raises(StreamNotFoundError, match="lacks 1 of the 2 items asked for, such as 'P03'"):
        subset(out, filled, items=["P02", "P03"])
    with pytest.raises(StoreError, match=r"nothing of .* is chosen"):
        subset(out, filled, streams=["objects"], items=["broken"])
    with pytest.raises(StoreError, match="is the store itself"):
        compact(filled, filled)
    assert not out.exists()


def test_without_leaves_out_streams_items_or_both(filled, tmp_path):
    def left(**dropped):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        without(out, filled, **dropped)
        with open_store(out) as store:
            return {name: store.items(name) for name in store.streams()}

    everyone = ["P01/a.mp4", "P01/b.mp4", "P02"]
    assert left(streams=["objects"]) == {"clip": everyone, "free": everyone}
    assert left(items=["P02", "broken"]) == dict.fromkeys(("clip", "free", "objects"), everyone[:2])
    assert left(streams=["free"], items=["P02"]) == {"clip": everyone, "free": everyone[:2], "objects": everyone}
    with pytest.raises(OptionError, match="nothing to drop"):
        left()


def test_compact_leaves_dead_rows_behind_and_keeps_the_content_id(filled, tmp_path):
    with append_to_store(filled) as writer:
        for seed in range(3):
            writer.write("clip", "P02", clip_rows(400, seed), GRID)
            writer.commit("P02")
    out = tmp_path / f"out{filled.suffix}"
    report = compact(out, filled)
    assert report.digest == report.source_digest
    assert rows_in_arrays(out) == 5 + 6 + 400
    if filled.suffix == ".zarr":  # an HDF5 file is rewritten without them whenever a writer closes it
        assert rows_in_arrays(filled) == 5 + 6 + 7 + 3 * 400
        assert report.disk_bytes < report.source_bytes


def rows_in_arrays(path) -> int:
    """Rows of the clip stream, dead ones too, as plain zarr or h5py sees them."""
    if path.suffix == ".zarr":
        return zarr.open_group(path, mode="r")["streams/clip/features"].shape[0]
    with h5py.File(path) as file:
        return file["streams/clip/features"].shape[0]


def test_another_backend_has_the_same_content_id(filled, tmp_path):
    report = convert(tmp_path / "one.zarr", filled)
    again = convert(tmp_path / "two.h5", tmp_path / "one.zarr")
    assert report.digest == report.source_digest == again.digest


def test_another_dtype_is_the_cast_and_names_what_it_was_made_of(filled, tmp_path):
    out = tmp_path / "wide.zarr"
    report = convert(out, filled, {"": "float32"})
    assert convert(out, filled, {"": "float32"}).num_copied == 0
    with open_store(filled) as store, open_store(out) as found:
        spec = found.streams()["clip"]
        assert spec.fields["features"].dtype == "float32"
        assert spec.parents == {"clip": digest_of_stream(store, "clip")}
        assert spec.preprocessing == {"converted": "features cast from float16 to float32"}
        assert spec.weights_sha256 == "random:1"
        assert found.streams()["free"] == FREE  # it has no features
        assert found.entry("clip", "P02").reason == "frames after 1 s are damaged"
        for item in store.items("clip"):
            assert np.array_equal(found.read_field("clip", item), store.read_field("clip", item).astype(np.float32))
    assert report.digest != report.source_digest
    # Back to float16 the same rows have the digests they had.
    convert(tmp_path / "back.zarr", out, {"clip": "float16"})
    with open_store(filled) as store, open_store(tmp_path / "back.zarr") as back:
        assert back.entries("clip") == store.entries("clip")
        assert back.streams()["clip"].preprocessing["converted"].endswith("; features cast from float32 to float16")
    with pytest.raises(ProvenanceError, match=r"stream 'clip' in .* was made otherwise"):
        convert(out, filled)


def test_values_that_do_not_fit_are_named_before_anything_is_written(tmp_path):
    wide = CLIP.model_copy(
        update={"fields": {"features": FieldSpec(row_shape=(2,), dtype="float32")}, "options": {"dtype": "float32"}}
    )
    with create_store(tmp_path / "s.zarr") as writer:
        writer.add_stream(wide)
        for item, value in (("a", 1.0), ("b", 7e4)):
            writer.write("clip", item, Rows.dense(features=np.array([[0, value]], np.float32)), GRID)
            writer.commit(item)
    out = tmp_path / "out.zarr"
    with pytest.raises(StoreError, match=r"stream 'clip', item 'b': the value 70000 is beyond what float16 holds"):
        convert(out, tmp_path / "s.zarr", {"clip": "float16"})
    assert not out.exists()
    with pytest.raises(OptionError, match="'float64' is none of"):
        convert(out, tmp_path / "s.zarr", {"clip": "float64"})
    without(tmp_path / "small.zarr", tmp_path / "s.zarr", items=["b"])
    convert(out, tmp_path / "small.zarr", {"clip": "float16"})
    with open_store(out) as store:
        assert store.streams()["clip"].options == {"dtype": "float16"}


def test_only_float_features_are_converted(filled, tmp_path):
    with pytest.raises(OptionError, match=r"stream 'free' of .* has no floating-point features"):
        convert(tmp_path / "out.zarr", filled, {"free": "float32"})
