"""What both backends promise: rows come back as written, states are kept, one writer, order does not matter."""

from __future__ import annotations

import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from store_samples import CLIP, GRID, OBJECTS, SPECS, clip_rows, fill, object_rows, same_rows, spans

from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid
from vidloc.errors import ProvenanceError, StoreError, StreamNotFoundError
from vidloc.stores.base import StreamSpec, append_to_store, create_store, gather, open_store


@pytest.fixture
def writer(store_path):
    with create_store(store_path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        yield writer


@pytest.fixture(params=["writing", "finished"])
def filled(request, writer, store_path):
    """A store of three items read while its writer is open, and after it was closed."""
    for number, item in enumerate(["b/two.mp4", "a one", "ü.mkv"]):
        writer.set_info(ItemInfo(item_id=item, duration_s=number + 0.5, fps_nominal="30000/1001"))
        fill(writer, item, 4 + number, seed=number)
        writer.commit(item)
    writer.mark("clip", "broken", "failed", "no picture\nin it")
    writer.mark("objects", "broken", "absent", "")
    writer.commit("broken")
    if request.param == "finished":
        writer.close()
    return open_store(store_path)


def test_rows_come_back_bit_for_bit(filled, backend):
    assert filled.backend == backend
    assert list(filled.streams()) == ["clip", "free", "objects"]
    assert filled.streams()["objects"] == OBJECTS
    for number, item in enumerate(["b/two.mp4", "a one", "ü.mkv"]):
        count = 4 + number
        assert same_rows(filled.read("clip", item), clip_rows(count, number), CLIP)
        assert same_rows(filled.read("objects", item), object_rows([k % 3 for k in range(count)], number), OBJECTS)
        assert filled.read_field("free", item, "score").tolist() == (np.arange(count) + number / 3).tolist()
        assert filled.timeline("clip", item) == GRID
        assert filled.timeline("objects", item) == spans(count)
        assert filled.timeline("free", item) is None


def test_states_and_facts(filled):
    assert filled.items() == ["a one", "b/two.mp4", "broken", "ü.mkv"]
    assert filled.items("clip") == ["a one", "b/two.mp4", "ü.mkv"]
    assert list(filled.entries("clip")) == filled.items()
    failed = filled.entry("clip", "broken")
    assert (failed.status, failed.num_rows, failed.digest, failed.reason) == ("failed", 0, "", "no picture in it")
    assert filled.entry("objects", "broken").status == "absent"
    assert filled.entry("free", "broken") is None
    assert filled.entry("clip", "a one").extent == (0.0, 2.5)
    assert filled.entry("objects", "a one").extent is None
    assert filled.info("a one") == ItemInfo(item_id="a one", duration_s=1.5, fps_nominal="30000/1001")
    assert filled.info("broken") == ItemInfo(item_id="broken")


def test_ranges_are_clipped_and_fill_out(filled):
    whole = filled.read("objects", "ü.mkv")
    part = filled.read("objects", "ü.mkv", slice(2, 99))
    assert same_rows(part, whole[2:6], OBJECTS)
    assert len(filled.read("objects", "ü.mkv", slice(5, 2))) == 0
    assert filled.read_field("objects", "ü.mkv", "boxes", slice(0, 1)).shape == (0, 4)
    clip = clip_rows(6, 2).fields["features"].astype(np.float16)
    for rows in (None, slice(1, 3), slice(-2, None), slice(4, 100), slice(6, 9)):
        expected = clip if rows is None else clip[rows]
        view = filled.read_field("clip", "ü.mkv", rows=rows)
        assert not view.flags.writeable
        assert np.array_equal(view, expected)
        out = np.full(expected.shape, 7, np.float16)
        assert filled.read_field("clip", "ü.mkv", rows=rows, out=out) is out
        assert np.array_equal(out, expected)
    boxes = np.empty((2, 4), np.float32)
    filled.read_field("objects", "ü.mkv", "boxes", slice(2, 3), out=boxes)
    assert np.array_equal(boxes, whole.entries("boxes")[2])
    assert len(gather(filled, "clip", ["ü.mkv", "a one"])) == 11


def test_what_is_not_there_is_named(filled):
    with pytest.raises(StreamNotFoundError, match=r"no stream 'clpi'. Did you mean clip\?"):
        filled.read("clpi", "a one")
    with pytest.raises(StreamNotFoundError, match=r"no item 'a two' in stream 'clip'\. Did you mean a one"):
        filled.read_field("clip", "a two")
    with pytest.raises(StreamNotFoundError, match=r"no field 'feature'\. Did you mean features"):
        filled.read_field("clip", "a one", "feature")
    with pytest.raises(StreamNotFoundError, match=r"'broken' .* has no rows: failed \(no picture in it\)"):
        filled.timeline("clip", "broken")
    with pytest.raises(StreamNotFoundError, match="no item 'nothing'"):
        filled.info("nothing")
    with pytest.raises(StoreError, match="contiguous"):
        filled.read_field("clip", "a one", rows=slice(0, 4, 2))
    with pytest.raises(StoreError, match=r"out is float32 \(5, 6\), expected .* float16 \(5, 6\)"):
        filled.read_field("clip", "a one", out=np.empty((5, 6), np.float32))


def test_digests_are_those_of_the_bytes_on_disk(filled):
    for stream in filled.streams():
        for item in filled.items(stream):
            assert filled.recomputed_digest(stream, item) == filled.entry(stream, item).digest


def test_pickles_as_its_path(filled):
    copy = pickle.loads(pickle.dumps(filled))
    assert copy.path == filled.path
    assert copy.digest() == filled.digest()


def test_a_pickled_writer_reads(writer):
    fill(writer, "x")
    writer.commit("x")
    copy = pickle.loads(pickle.dumps(writer))
    assert copy.items("clip") == ["x"]
    assert not hasattr(copy, "commit")


def test_same_rows_same_digest_in_any_order_and_backend(tmp_path):
    digests = set()
    for name, order in {"a.zarr": [0, 1, 2], "b.zarr": [2, 0, 1], "c.h5": [1, 2, 0]}.items():
        with create_store(tmp_path / name) as writer:
            for spec in reversed(SPECS) if order[0] else SPECS:
                writer.add_stream(spec)
            for number in order:  # rows of all items come mixed, in pieces
                writer.write("clip", f"v{number}", clip_rows(5, number)[:2], GRID)
            for number in order:
                writer.write("clip", f"v{number}", clip_rows(5, number)[2:], GRID, extent=(0.25, 3.0))
                writer.write("objects", f"v{number}", object_rows([2, 0, 1], number), spans(3))
                writer.commit(f"v{number}")
        digests.add(open_store(tmp_path / name).digest())
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["value", "grid", "extent", "counts", "item"])
def test_digest_tells_stores_apart(tmp_path, change):
    digests = []
    for name in ("", change):
        with create_store(tmp_path / f"x{name}.zarr") as writer:
            writer.add_stream(CLIP)
            writer.add_stream(OBJECTS)
            rows = clip_rows(3)
            if name == "value":
                rows.fields["features"][2, 5] += 1
            grid = TimeGrid(Fraction(1), Fraction(1, 2) + (name == "grid"))
            item = "w" if name == "item" else "v"
            writer.write("clip", item, rows, grid, extent=(0.0, 2.0 + (name == "extent")))
            entries = object_rows([1, 2])
            counts = {**entries.counts, "regions": np.array([2, 1])} if name == "counts" else entries.counts
            writer.write("objects", item, Rows(2, entries.fields, counts, entries.axes), spans(2))
            writer.commit(item)
            digests.append(writer.digest())
    assert digests[0] != digests[1]


def test_a_later_commit_supersedes(writer, store_path):
    writer.mark("clip", "v", "failed", "driver crashed")
    writer.commit("v")
    assert writer.items("clip") == []
    for seed in (1, 2):
        fill(writer, "v", 3, seed=seed)
        writer.mark("clip", "v", "partial", "the last second is damaged")
        writer.commit("v")
        assert same_rows(writer.read("clip", "v"), clip_rows(3, seed), CLIP)
    writer.close()
    store = open_store(store_path)
    assert store.entry("clip", "v").status == "partial"
    assert same_rows(store.read("clip", "v"), clip_rows(3, 2), CLIP)
    with append_to_store(store_path) as again:
        again.mark("clip", "v", "absent", "")
        again.commit("v")
        assert again.items("clip") == []
    assert open_store(store_path).items("clip") == []
    assert open_store(store_path).items("objects") == ["v"]


def test_appending_goes_on(writer, store_path):
    fill(writer, "first", 4)
    writer.commit("first")
    writer.close()
    for number in range(3):
        with append_to_store(store_path) as again:
            again.add_stream(CLIP.model_copy(update={"versions": {"numpy": "3"}}))
            fill(again, f"later{number}", 2, seed=number)
            again.commit(f"later{number}")
            assert len(again.items("clip")) == number + 2
    store = open_store(store_path)
    assert store.streams()["clip"].versions == {"numpy": "2"}
    assert same_rows(store.read("clip", "first"), clip_rows(4), CLIP)
    assert same_rows(store.read("objects", "later2"), object_rows([0, 1], 2), OBJECTS)


def test_a_reader_keeps_the_state_it_opened(writer, store_path):
    fill(writer, "a")
    writer.commit("a")
    reader = open_store(store_path)
    before = reader.digest()
    for item in "bcd":
        fill(writer, item, seed=9)
        writer.commit(item)
        writer.flush()
    assert reader.items() == ["a"]
    assert reader.digest() == before
    assert same_rows(reader.read("objects", "a"), object_rows([0, 1, 2, 0, 1]), OBJECTS)
    assert open_store(store_path).items() == ["a", "b", "c", "d"]


def test_nothing_shows_before_its_commit(writer, store_path):
    fill(writer, "a")
    assert writer.items() == []
    writer.discard("a")
    with pytest.raises(StoreError, match="nothing was said of item 'a'"):
        writer.commit("a")
    fill(writer, "b")
    writer.close()
    assert open_store(store_path).items() == []


def test_origins_are_not_mixed(writer):
    other = CLIP.model_copy(update={"weights_sha256": "random:2", "options": {"weights": "random:2"}})
    with pytest.raises(
        ProvenanceError, match=r"options: .*random:1.* here, .*random:2.* now; weights_sha256: random:1"
    ):
        writer.add_stream(other)


def test_one_writer(writer, store_path):
    fill(writer, "a")
    writer.commit("a")
    with pytest.raises(StoreError, match=rf"being written by process \d+ on .* vidloc store unlock {store_path}"):
        append_to_store(store_path)
    writer.close()
    append_to_store(store_path).close()


def test_a_new_store_takes_no_others_place(writer, store_path):
    with pytest.raises(StoreError, match="exists"):
        create_store(store_path)
    with pytest.raises(StoreError, match=r"ends in \.zarr, \.h5, \.hdf5"):
        create_store(store_path.with_suffix(".npz"))


def test_a_closed_writer_says_so(writer):
    writer.close()
    for use in (lambda: writer.commit("a"), writer.items, writer.flush, lambda: writer.discard("a")):
        with pytest.raises(StoreError, match="was closed"):
            use()
    writer.close()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Rows.dense(features=np.ones((2, 5), np.float32)), r"rows of shape \(5,\), the stream has \(6,\)"),
        (Rows.dense(features=np.ones((2, 6), np.int32)), "is int32, the stream stores float16"),
        (Rows.dense(scores=np.ones((2, 6), np.float32)), r"got fields \['scores'\], the stream has \['features'\]"),
        (Rows.dense(features=np.array([[0] * 6, [0, 0, 7e4, 0, 0, 0]], np.float32)), "70000 in row 1.*dtype=float32"),
        (Rows.dense(features=np.full((1, 6), np.nan, np.float32)), "nan in row 0.*dtype=float32"),
        (Rows.dense(features=np.full((1, 6), -np.inf, np.float16)), "-inf in row 0.*dtype=float32"),
        (
            Rows.ragged("regions", features=[np.ones((1, 6), np.float32)]),
            "field 'features' has axis 'regions', the stream has None",
        ),
    ],
)
def test_unsuitable_rows_are_refused(writer, rows, message):
    with pytest.raises(StoreError, match=message):
        writer.write("clip", "v", rows, GRID)


def test_integers_keep_their_range(writer):
    rows = object_rows([1])
    fields = {**rows.fields, "labels": np.array([2**31], np.int64)}
    with pytest.raises(StoreError, match="'labels' has values from 2147483648 to 2147483648, outside int32"):
        writer.write("objects", "v", Rows(1, fields, rows.counts, rows.axes), spans(1))


def test_unsuitable_times_are_refused(writer):
    with pytest.raises(StoreError, match="got no timeline, the stream keeps times as 'grid'"):
        writer.write("clip", "v", clip_rows(2), None)
    with pytest.raises(StoreError, match="got TimeGrid, the stream keeps times as 'spans'"):
        writer.write("objects", "v", object_rows([1]), GRID)
    with pytest.raises(StoreError, match="got 3 spans for 1 rows"):
        writer.write("objects", "v", object_rows([1]), spans(3))
    with pytest.raises(StoreError, match="do not fit 64 bits"):
        writer.write("clip", "v", clip_rows(2), TimeGrid(Fraction(1, 10**20), Fraction(1)))
    with pytest.raises(StoreError, match="extent"):
        writer.write("clip", "v", clip_rows(2), GRID, extent=(2.0, 1.0))
    writer.write("clip", "v", clip_rows(2), GRID)
    with pytest.raises(StoreError, match="an item has one grid"):
        writer.write("clip", "v", clip_rows(2), TimeGrid(Fraction(1), Fraction(1)))


def test_marks_and_rows_must_agree(writer):
    writer.mark("clip", "v", "partial", "cut")
    with pytest.raises(StoreError, match="marked partial, but no rows were written"):
        writer.commit("v")
    writer.mark("clip", "v", "failed", "cut")
    with pytest.raises(StoreError, match="was marked failed"):
        writer.write("clip", "v", clip_rows(2), GRID)
    writer.discard("v")
    writer.write("clip", "v", clip_rows(2), GRID)
    writer.mark("clip", "v", "failed", "crashed later")
    writer.commit("v")
    assert writer.entry("clip", "v").num_rows == 0


@pytest.mark.parametrize("item", ["", "x" * 1025, "a\nb", "a\x00", "\ud800", "tab\t"])
def test_impossible_ids_are_refused(writer, item):
    with pytest.raises(StoreError, match="item id"):
        writer.write("clip", item, clip_rows(1), GRID)


@pytest.mark.parametrize("item", ["../../etc/passwd", "/abs", "ж" * 512, "a.zarr", "clip"])
def test_ids_are_data_and_not_paths(writer, store_path, item):
    fill(writer, item, 2)
    writer.commit(item)
    writer.close()
    assert open_store(store_path).items("clip") == [item]


@pytest.mark.parametrize("name", ["table", "spans", "regions_end"])
def test_names_of_the_format_are_reserved(writer, name):
    fields = {name: FieldSpec(row_shape=(1,), dtype="float32"), "b": FieldSpec(row_shape=("regions",), dtype="uint8")}
    with pytest.raises(StoreError, match=f"field '{name}', a name the format uses itself"):
        writer.add_stream(StreamSpec(name="other", kind="clip", fields=fields))


def test_empty_items_and_streams(writer, store_path):
    writer.write("clip", "none", clip_rows(0), GRID)
    writer.write("objects", "none", object_rows([]), Spans(np.empty((0, 2))))
    writer.commit("none")
    writer.close()
    store = open_store(store_path)
    assert store.items("clip") == ["none"]
    assert store.items("free") == []
    assert store.read_field("clip", "none").shape == (0, 6)
    assert store.read("objects", "none").fields["boxes"].shape == (0, 4)
    assert len(store.timeline("objects", "none")) == 0
    assert store.recomputed_digest("objects", "none") == store.entry("objects", "none").digest


def test_what_the_caller_does_to_its_arrays_later_does_not_show(writer):
    rows = Rows.dense(features=np.ones((2, 6), np.float16))
    writer.write("clip", "v", rows, GRID)
    rows.fields["features"][:] = 5
    writer.commit("v")
    assert (writer.read_field("clip", "v") == 1).all()


def test_large_items_wait_in_a_file(writer, store_path, monkeypatch):
    monkeypatch.setattr("vidloc.stores.pending.MEMORY_BYTES", 1000)
    monkeypatch.setattr("vidloc.stores.pending._BLOCK_BYTES", 77)
    for piece in range(6):  # two items at once, rows mixed
        for item in ("a", "b"):
            writer.write("clip", item, clip_rows(50, piece), GRID)
            writer.write("objects", item, object_rows([1, 2], piece), spans(2))
    assert not any(buffer.in_memory for buffer in _buffers(writer) if buffer.size > 1000)
    writer.commit("b")
    writer.commit("a")
    expected = Rows.concatenated([clip_rows(50, piece) for piece in range(6)])
    assert same_rows(writer.read("clip", "a"), expected, CLIP)
    assert writer.entry("clip", "a").digest == writer.entry("clip", "b").digest == writer.recomputed_digest("clip", "a")
    assert len(writer.timeline("objects", "a")) == 12


def _buffers(writer):
    pending = getattr(writer, "_staging", writer)._pending
    return [b for item in ("a", "b") for rows in pending.get(item).streams.values() for b in rows.buffers.values()]


def test_reading_imports_no_torch(filled):
    code = (
        f"import sys; from vidloc.stores.base import open_store; s = open_store({filled.path!r});"
        "print(s.read_field('clip', 'a one').shape, 'torch' in sys.modules, 'zarr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(5, 6) False False"
