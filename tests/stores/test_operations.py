"""Verify, merge, unlock, finish and the facts of a store, on both backends."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest

from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, center_grid
from vidloc.errors import ProvenanceError, StoreError
from vidloc.stores.base import StreamSpec, append_to_store, create_store, open_store
from vidloc.stores.facts import facts_of
from vidloc.stores.merging import merge
from vidloc.stores.operations import finish, unlock, verify, writer_of

CLIP = StreamSpec(
    name="clip",
    kind="clip",
    fields={"features": FieldSpec(row_shape=(16,), dtype="float16")},
    encoder="toy",
    weights="random:0",
    weights_sha256="random:0",
)
REGIONS = StreamSpec(
    name="regions",
    kind="objects",
    fields={
        "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
        "features": FieldSpec(row_shape=("regions", 8), dtype="float16"),
    },
    encoder="toy_detector",
    weights="w.pt",
    weights_sha256="ab" * 32,
)
WORDS = StreamSpec(
    name="words",
    kind="text",
    fields={
        "features": FieldSpec(row_shape=(3,), dtype="float32"),
        "key": FieldSpec(row_shape=("bytes",), dtype="uint8"),
    },
    timeline="spans",
)
GRID = center_grid(Fraction(32, 15), Fraction(1, 2))


def fill(writer, item: str, *, num_rows: int = 5, seed: int | None = None) -> None:
    rng = np.random.default_rng(sum(item.encode()) if seed is None else seed)
    writer.set_info(ItemInfo(item_id=item, duration_s=num_rows / 2, source_sha256="cd" * 32))
    features = rng.normal(size=(num_rows, 16)).astype(np.float16)
    writer.write("clip", item, Rows.dense(features=features), GRID, extent=(0.0, num_rows / 2))
    counts = rng.integers(0, 4, num_rows)
    regions = Rows.ragged(
        "regions",
        boxes=[rng.random((n, 4), dtype=np.float32) for n in counts],
        features=[rng.random((n, 8)).astype(np.float16) for n in counts],
    )
    writer.write("regions", item, regions, GRID)
    texts = Rows.joined(
        Rows.dense(features=rng.random((2, 3), dtype=np.float32)),
        Rows.ragged("bytes", key=[np.frombuffer(key, np.uint8) for key in (b"k1", b"key2")]),
    )
    writer.write("words", item, texts, Spans(np.array([(0.0, 1.5), (1.0, 2.0)])))
    writer.commit(item)


def make(path: Path, items: str, **options: int) -> Path:
    with create_store(path) as writer:
        for spec in (CLIP, REGIONS, WORDS):
            writer.add_stream(spec)
        for item in items:
            fill(writer, item, **options)
    return path


def flip_a_byte(path: Path, pattern: bytes) -> None:
    """Change one bit of the bytes that hold `pattern`, wherever the store keeps them."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and "table" not in p.parts]
    for file in files:
        data = bytearray(file.read_bytes())
        place = data.find(pattern)
        if place >= 0:
            data[place + 3] ^= 4
            file.write_bytes(data)
            return
    raise AssertionError(f"no file of {path} holds the pattern")


@pytest.fixture(params=[".zarr", ".h5"])
def suffix(request) -> str:
    return request.param


def test_a_sound_store_is_sound(tmp_path, suffix):
    path = make(tmp_path / f"s{suffix}", "abc")
    calls = []
    report = verify(path, progress=lambda done, total: calls.append((done, total)))
    assert report.damages == ()
    assert (report.num_entries, report.num_rows) == (9, 36)
    assert calls[-1] == (9, 9)
    with open_store(path) as store:
        assert report.digest == store.digest()


@pytest.mark.parametrize(("stream", "field"), [("clip", "features"), ("regions", "boxes"), ("words", "key")])
def test_a_flipped_bit_is_found_and_named(tmp_path, suffix, stream, field):
    path = make(tmp_path / f"s{suffix}", "abc")
    with open_store(path) as store:
        pattern = store.read_field(stream, "b", field).tobytes()
    flip_a_byte(path, pattern)
    report = verify(path)
    # All items have the same keys, so the flip hits the first of them.
    assert [(d.stream, d.item) for d in report.damages] == [(stream, "a" if field == "key" else "b")]
    assert "bytes changed since" in str(report.damages[0])
    assert verify(path, quick=True).damages == ()


def test_a_file_cut_short_is_found_by_a_quick_look(tmp_path):
    path = make(tmp_path / "s.zarr", "ab")
    chunk = path / "streams" / "clip" / "features" / "c" / "0" / "0"
    with chunk.open("r+b") as file:
        file.truncate(7 * 32)  # ten rows of 32 bytes were committed
    assert [(d.stream, d.item) for d in verify(path, quick=True).damages] == [("clip", "b")]


def test_verify_of_no_store_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="is not there"):
        verify(tmp_path / "none.zarr")


def test_merge_in_any_order_gives_the_content_of_one_store(tmp_path, suffix):
    whole = make(tmp_path / f"whole{suffix}", "abcd")
    parts = [
        make(tmp_path / f"p{k}{end}", items)
        for k, (items, end) in enumerate([("a", suffix), ("cb", ".zarr"), ("d", suffix)])
    ]
    with open_store(whole) as store:
        digest = store.digest()
    for k, order in enumerate(itertools.permutations(parts)):
        out = tmp_path / f"out{k}{suffix}"
        report = merge(out, order)
        assert (report.digest, report.num_items, report.num_copied) == (digest, 4, 12)
    with open_store(out) as merged, open_store(whole) as store:
        assert merged.streams() == store.streams()
        for item in "abcd":
            assert merged.info(item) == store.info(item)
            assert merged.read("words", item).strings("key") == ["k1", "key2"]
            assert merged.timeline("clip", item) == store.timeline("clip", item) == GRID
    assert verify(out).damages == ()


def test_a_repeated_merge_copies_only_what_is_new(tmp_path):
    first, second = make(tmp_path / "p1.zarr", "a"), make(tmp_path / "p2.zarr", "b")
    out = tmp_path / "out.zarr"
    assert merge(out, [first]).num_copied == 3
    report = merge(out, [first, second, first])
    assert (report.num_copied, report.num_entries) == (3, 6)


def test_large_items_are_copied_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("vidloc.stores.copying._BLOCK_BYTES", 40)
    part = make(tmp_path / "p.zarr", "a", num_rows=7)
    report = merge(tmp_path / "out.zarr", [part])
    with open_store(part) as store:
        assert report.digest == store.digest()


def test_different_rows_of_one_item_are_refused_before_anything_is_written(tmp_path):
    parts = [make(tmp_path / "p1.zarr", "ab"), make(tmp_path / "p2.zarr", "b", seed=99)]
    with pytest.raises(StoreError, match=r"stream 'clip', item 'b': .*p1.zarr and .*p2.zarr hold different rows"):
        merge(tmp_path / "out.zarr", parts)
    assert not (tmp_path / "out.zarr").exists()


def test_streams_of_different_origin_are_refused_with_what_differs(tmp_path):
    part = make(tmp_path / "p1.zarr", "a")
    with create_store(tmp_path / "p2.zarr") as writer:
        writer.add_stream(CLIP.model_copy(update={"weights_sha256": "ef" * 32, "options": {"alpha": 4}}))
    with pytest.raises(
        ProvenanceError,
        match=r"stream 'clip' of .*p1.zarr and of .*p2.zarr.*alpha None and 4; .*weights_sha256 .random:0. and .efef",
    ):
        merge(tmp_path / "out.zarr", [part, tmp_path / "p2.zarr"])


def test_items_made_from_different_files_are_refused(tmp_path):
    part = make(tmp_path / "p1.zarr", "a")
    with create_store(tmp_path / "p2.zarr") as writer:
        writer.add_stream(CLIP)
        writer.set_info(ItemInfo(item_id="a", source_sha256="00" * 32))
        writer.mark("clip", "a", "failed", "no frames")
        writer.commit("a")
    with pytest.raises(StoreError, match=r"item 'a' has source_sha256 .* made from different files"):
        merge(tmp_path / "out.zarr", [part, tmp_path / "p2.zarr"])


def test_the_best_status_wins_whatever_the_order(tmp_path):
    done = make(tmp_path / "done.zarr", "a")
    with create_store(tmp_path / "failed.zarr") as writer:
        for spec in (CLIP, REGIONS):
            writer.add_stream(spec)
        for item in "ax":
            writer.mark("clip", item, "failed", "the file ends early")
            writer.mark("regions", item, "absent", "no picture")
            writer.commit(item)
    reports = [
        merge(tmp_path / f"o{k}.zarr", order)
        for k, order in enumerate(itertools.permutations([done, tmp_path / "failed.zarr"]))
    ]
    assert reports[0] == reports[1]
    with open_store(tmp_path / "o0.zarr") as store:
        assert store.entry("clip", "a").status == "done"
        assert store.entry("clip", "x").reason == "the file ends early"
        assert store.entry("regions", "x").status == "absent"


def test_a_partial_item_stays_partial(tmp_path):
    with create_store(tmp_path / "p.zarr") as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", Rows.dense(features=np.ones((2, 16), np.float16)), GRID)
        writer.mark("clip", "a", "partial", "frames after 1 s are damaged")
        writer.commit("a")
    merge(tmp_path / "out.h5", [tmp_path / "p.zarr"])
    with open_store(tmp_path / "out.h5") as out, open_store(tmp_path / "p.zarr") as part:
        assert out.entry("clip", "a") == part.entry("clip", "a")


def test_a_damaged_part_is_not_merged(tmp_path):
    part = make(tmp_path / "p.zarr", "ab")
    with open_store(part) as store:
        pattern = store.read_field("clip", "b").tobytes()
    flip_a_byte(part, pattern)
    with pytest.raises(StoreError, match=r"stream 'clip', item 'b' of .*p.zarr is damaged: .*vidloc store verify"):
        merge(tmp_path / "out.zarr", [part])


def test_a_part_cannot_be_the_result(tmp_path):
    part = make(tmp_path / "p.zarr", "a")
    with pytest.raises(StoreError, match="a part and the result at once"):
        merge(part, [part])


def test_a_part_that_is_being_written_is_merged_as_far_as_it_is_with_a_note(tmp_path):
    path = tmp_path / "p.zarr"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", Rows.dense(features=np.ones((2, 16), np.float16)), GRID)
        writer.commit("a")
        report = merge(tmp_path / "out.zarr", [path])
    assert report.num_items == 1
    assert "being written by process" in report.notes[0]


def test_a_lock_is_shown_and_removed_by_hand(tmp_path, suffix):
    path = make(tmp_path / f"s{suffix}", "a")
    assert writer_of(path) == ""
    with pytest.raises(StoreError, match="is not locked"):
        unlock(path)
    writer = append_to_store(path)
    assert writer_of(path).startswith("process")
    assert unlock(path).startswith("process")
    assert writer_of(path) == ""
    with pytest.raises(StoreError, match="was removed"):
        writer.close()


def test_finish_folds_what_a_stopped_writer_left(tmp_path, suffix):
    path = make(tmp_path / f"s{suffix}", "a")
    stopped = append_to_store(path)
    fill(stopped, "b")
    unlock(path)  # the writer is never closed, as after a kill
    digest = finish(path)
    with open_store(path) as store:
        assert store.items() == ["a", "b"]
        assert store.digest() == digest
    plain = read_plainly(path)
    assert plain == 10


def read_plainly(path: Path) -> int:
    """Rows of the clip stream as plain zarr or h5py sees them."""
    if path.suffix == ".zarr":
        import zarr

        return zarr.open_group(path, mode="r")["streams/clip/features"].shape[0]
    import h5py

    with h5py.File(path) as file:
        return file["streams/clip/features"].shape[0]


def test_finish_makes_no_store_where_there_is_none(tmp_path):
    with pytest.raises(StoreError):
        finish(tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()


def test_facts_count_rows_bytes_and_statuses(tmp_path, suffix):
    path = make(tmp_path / f"s{suffix}", "ab")
    with append_to_store(path) as writer:
        writer.mark("clip", "c", "failed", "no frames")
        writer.commit("c")
    facts = facts_of(path)
    clip, regions, words = facts.streams
    assert (facts.num_items, facts.writer) == (3, "")
    assert (clip.num_items, clip.num_rows, clip.num_bytes) == (2, 10, 320)
    assert clip.statuses == {"done": 2, "partial": 0, "absent": 0, "failed": 1}
    assert clip.random_weights
    assert not regions.random_weights
    assert (clip.window_s, clip.stride_s, clip.times) == (Fraction(32, 15), Fraction(1, 2), "2.133 s every 0.5 s")
    assert words.times == "a span per row"
    with open_store(path) as store:
        read = [store.read("regions", item) for item in "ab"]
        assert regions.num_bytes == sum(array.nbytes for rows in read for array in rows.fields.values())
        assert facts.digest == store.digest()
    assert 0 < facts.disk_bytes < 2**20


def test_a_digest_that_became_zeros_is_damage(tmp_path, suffix):
    # As after a lost page of the disk: without its digest an item's rows cannot be told to be the committed ones.
    path = make(tmp_path / f"s{suffix}", "ab")
    if suffix == ".zarr":
        column = path / "streams" / "clip" / "table" / "digest" / "c" / "0" / "0"
        column.write_bytes(bytes(32) + column.read_bytes()[32:])
    else:
        with h5py.File(path, "r+") as file:
            file["streams/clip/table/digest"][0] = 0
    damages = verify(path).damages
    assert [(d.stream, d.item) for d in damages] == [("clip", "a")]
    assert "no digest" in damages[0].problem
    assert len(verify(path, quick=True).damages) == 1
    with pytest.raises(StoreError, match="is damaged"):
        merge(tmp_path / "all.zarr", [path])


def test_rows_that_wait_beside_an_hdf5_file_take_part_in_a_merge(tmp_path):
    writer = create_store(tmp_path / "all.h5")
    writer.add_stream(CLIP)
    writer.write("clip", "a", Rows.dense(features=np.ones((2, 16), np.float16)), GRID)
    writer.commit("a")
    writer.stop()
    assert facts_of(tmp_path / "all.h5").disk_bytes > 0
    with create_store(tmp_path / "part.zarr") as part:
        part.add_stream(CLIP)
        part.mark("clip", "a", "failed", "the disk was away")
        part.commit("a")
    merge(tmp_path / "all.h5", [tmp_path / "part.zarr"])
    with open_store(tmp_path / "all.h5") as store:
        assert store.entry("clip", "a").status == "done"


def test_facts_while_files_are_folded_away(tmp_path, monkeypatch):
    path = make(tmp_path / "s.zarr", "a")
    listed = Path.rglob

    def and_one_that_goes(self, pattern):
        yield from listed(self, pattern)
        yield self / ".zarr.json.tmp"

    monkeypatch.setattr(Path, "rglob", and_one_that_goes)
    assert facts_of(path).disk_bytes > 0
