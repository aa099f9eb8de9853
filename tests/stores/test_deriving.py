"""Derived streams: their numbers by naive loops, joined by time, with the statuses and origins of their parents."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vidloc.core.grammar import parse_derivation
from vidloc.core.records import ItemInfo, Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid, center_grid
from vidloc.errors import OptionError, ProvenanceError, StoreError, StreamNotFoundError, UnknownNameError
from vidloc.stores.base import StreamSpec, append_to_store, create_store, open_store
from vidloc.stores.deriving import derive
from vidloc.stores.digest import digest_of_stream
from vidloc.stores.operations import verify

GRID = center_grid(2, Fraction(1, 2))
# Rows of 0.96 s, as VGGish makes them, from another start and at another stride.
SOUND_GRID = TimeGrid(Fraction(24, 25), Fraction(24, 25))


def spec(name, row_shape, *, kind="clip", weights="random:1", dtype="float32", timeline="grid"):
    return StreamSpec(
        name=name,
        kind=kind,
        fields={"features": FieldSpec(row_shape=row_shape, dtype=dtype)},
        encoder=f"made_up_{name}",
        weights=f"{name}.pt",
        weights_sha256=weights,
        source=Source(paper=f"{name} 2020", licence="MIT"),
        sampling={"align": "center"},
        preprocessing={"resize": 256},
        timeline=timeline,
    )


SPECS = (
    spec("clip", (3,), dtype="float16"),
    spec("maps", (2, 2, 4), weights="ab" * 32),
    spec("sound", (2,), kind="audio", weights="cd" * 32),
    spec("words", (2,), kind="text", timeline="none"),
    spec("key_frames", (2,), kind="objects", timeline="spans"),
    spec("regions", ("regions", 2), kind="objects"),
)


def fill(path):
    """Item `a` of 10 rows (5 s); `b` is partial, `c` failed, `d` has no sound, and `e` lacks the sound stream."""
    rng = np.random.default_rng(0)
    with create_store(path) as writer:
        for one in SPECS:
            writer.add_stream(one)
        for item, count in (("a", 10), ("b", 4), ("d", 3), ("e", 2)):
            writer.set_info(ItemInfo(item_id=item, duration_s=count / 2))
            writer.write("clip", item, dense(rng, count, 3, np.float16), GRID, extent=(0.0, count / 2))
            writer.write("maps", item, dense(rng, count, 2, 2, 4), GRID)
            writer.write("words", item, dense(rng, count, 2), None)
            starts = rng.permutation(count) * 0.5
            writer.write("key_frames", item, dense(rng, count, 2), Spans(np.stack([starts, starts], axis=1)))
            regions = [rng.random((n % 3, 2), np.float32) for n in range(count)]
            writer.write("regions", item, Rows.ragged("regions", features=regions), GRID)
            if item in "ab":
                writer.write("sound", item, dense(rng, count // 2, 2), SOUND_GRID, extent=(0.0, count / 2 - 0.2))
        writer.mark("clip", "b", "partial", "frames after 2 s are damaged")
        writer.mark("sound", "d", "absent", "no sound track")
        for name in ("clip", "sound"):
            writer.mark(name, "c", "failed", "no frames")
        for item in "abcde":
            writer.commit(item)
    return path


@pytest.fixture
def filled(tmp_path):
    return fill(tmp_path / "feats.zarr")


@pytest.fixture
def filled_either(store_path):
    """The same in either backend, for what appends to the store that it reads; operations know of no backend."""
    return fill(store_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("unchanged") / "feats.zarr")


def dense(rng, *shape):
    *lengths, last = shape
    dtype = np.float32 if isinstance(last, int) else last
    return Rows.dense(features=rng.standard_normal(lengths if dtype is last else shape).astype(dtype))


def made(path, text, **options):
    return derive(path, parse_derivation(text), **options)


def test_mean_of_maps_and_regions(filled_either):
    made(filled_either, "flat=mean(maps)")
    made(filled_either, "each=mean(regions)")
    with open_store(filled_either) as store:
        for item in store.items("maps"):
            maps, found = store.read_field("maps", item), store.read_field("flat", item)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, maps.reshape(len(maps), 4, 4).mean(axis=1), atol=1e-6)
            rows = store.read("regions", item).entries("features")
            wanted = np.array([entry.mean(axis=0) if len(entry) else [0, 0] for entry in rows])
            np.testing.assert_allclose(store.read_field("each", item), wanted, atol=1e-7)
            assert store.timeline("flat", item) == GRID
    assert verify(filled_either).damages == ()


def test_pool_is_the_mean_of_rows_centred_in_each_window(filled):
    made(filled, "slow=pool(clip,stride=1)")
    made(filled, "wide=pool(clip,stride=3/2,window=3)")
    made(filled, "keys=pool(key_frames,stride=2)")
    with open_store(filled) as store:
        rows = store.read_field("clip", "a").astype(np.float64)
        centers = np.arange(10) / 2 + 0.25
        for name, stride, window, count in (("slow", 1, 1, 5), ("wide", 1.5, 3, 3)):
            assert store.timeline(name, "a") == center_grid(Fraction(window), Fraction(stride))
            found = store.read_field(name, "a")
            assert (found.dtype, len(found)) == (np.float16, count)
            for k, row in enumerate(found):
                start = (k + 0.5) * stride - window / 2
                inside = (centers >= start) & (centers < start + window)
                np.testing.assert_allclose(row, rows[inside].mean(axis=0), rtol=2e-3, atol=1e-3)
        at = store.timeline("key_frames", "a").array[:, 0]
        frames = store.read_field("key_frames", "a")
        for k, row in enumerate(store.read_field("keys", "a")):
            inside = (at >= 2 * k) & (at < 2 * k + 2)
            np.testing.assert_allclose(row, frames[inside].mean(axis=0), atol=1e-6)
        assert store.entry("slow", "a").extent == (0.0, 5.0)


def test_a_window_without_a_centre_takes_the_nearest_row(filled):
    made(filled, "fast=pool(sound,stride=1/4)")
    with open_store(filled) as store:
        rows, found = store.read_field("sound", "a"), store.read_field("fast", "a")
        assert len(found) == 19  # centres before the end of the track at 4.8 s
        centers = np.arange(5) * 0.96 + 0.48
        for k, row in enumerate(found):
            np.testing.assert_allclose(row, rows[np.abs(centers - (k + 0.5) / 4).argmin()], atol=1e-6)


def test_concat_joins_by_time_and_never_by_row_number(filled):
    report = made(filled, "both=concat(clip,sound)")
    assert report.left_out == {"e": "sound"}
    with open_store(filled) as store:
        found = store.read_field("both", "a")
        clip, sound = store.read_field("clip", "a"), store.read_field("sound", "a")
        centers = np.arange(5) * 0.96 + 0.48
        assert found.shape == (10, 5)
        for k, row in enumerate(found):
            assert np.array_equal(row[:3], clip[k].astype(np.float32))
            assert np.array_equal(row[3:], sound[np.abs(centers - (k / 2 + 0.25)).argmin()])
        assert store.timeline("both", "a") == GRID
        assert store.entry("both", "a").extent == (0.0, 4.8)
        assert store.streams()["both"].kind == "clip"


def test_concat_leaves_out_ends_without_a_partner_and_says_so(filled):
    with append_to_store(filled) as writer:
        writer.add_stream(spec("late", (1,)))
        for item, start in (("a", 2), ("b", 100)):
            grid = TimeGrid(Fraction(1, 2), Fraction(1, 2), Fraction(start))
            writer.write("late", item, Rows.dense(features=np.arange(4, dtype=np.float32)[:, None]), grid)
            writer.commit(item)
    made(filled, "both=concat(clip,late,within=0.1)")
    with open_store(filled) as store:
        entry = store.entry("both", "a")
        assert (entry.status, entry.num_rows) == ("partial", 4)
        assert entry.reason == "6 of 10 rows of 'clip' at its ends have no partner"
        assert store.timeline("both", "a") == TimeGrid(GRID.window_s, GRID.stride_s, GRID.start_s + 2)
        assert np.array_equal(store.read_field("both", "a")[:, :3], store.read_field("clip", "a")[4:8])
        assert store.read_field("both", "a")[:, 3].tolist() == [0, 1, 2, 3]
        assert (store.entry("both", "b").status, store.entry("both", "b").reason) == (
            "failed",
            "no row has a partner in time",
        )


def test_a_hole_between_partners_fails_the_item(filled):
    with append_to_store(filled) as writer:
        writer.add_stream(spec("holey", (1,), timeline="spans"))
        rows = Rows.dense(features=np.ones((2, 1), np.float32))
        writer.write("holey", "a", rows, Spans(np.array([(4.5, 5.0), (0.0, 0.5)])))
        writer.commit("a")
    report = made(filled, "both=concat(clip,holey,within=0.1)")
    assert report.reasons == {"a": "row 1 of 'clip', at 0.750 s, has no partner in time"}


def test_normalise_by_length_and_by_channel(filled):
    with append_to_store(filled) as writer:
        writer.write("sound", "e", Rows.dense(features=np.zeros((1, 2), np.float32)), SOUND_GRID)
        writer.commit("e")
    made(filled, "unit=normalise(sound)")
    made(filled, "even=normalise(maps,how=standard)")
    with open_store(filled) as store:
        for item in "ab":
            rows = store.read_field("sound", item)
            wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            np.testing.assert_allclose(store.read_field("unit", item), wanted, atol=1e-6)
        assert store.read_field("unit", "e").tolist() == [[0, 0]]
        maps = np.concatenate([store.read_field("maps", item) for item in store.items("maps")]).astype(np.float64)
        found = np.concatenate([store.read_field("even", item) for item in store.items("even")])
        flat = maps.reshape(-1, 4)
        np.testing.assert_allclose(found, (maps - flat.mean(axis=0)) / flat.std(axis=0), atol=1e-5)


def test_statuses_carry_over(filled):
    report = made(filled, "slow=pool(clip,stride=1)")
    assert report.statuses == {"done": 3, "partial": 1, "absent": 0, "failed": 1}
    assert report.reasons == {
        "b": "stream 'clip': frames after 2 s are damaged",
        "c": "stream 'clip': no frames",
    }
    assert made(filled, "both=concat(clip,sound)").statuses == {"done": 1, "partial": 1, "absent": 1, "failed": 1}


def test_a_derived_stream_names_its_parents_by_name_digest_and_weights(filled):
    made(filled, "both=concat(clip,sound)")
    made(filled, "two=concat(sound,key_frames)")
    made(filled, "mapped=normalise(maps,how=standard)")
    with open_store(filled) as store:
        specs = store.streams()
        both = specs["both"]
        assert both.parents == {name: digest_of_stream(store, name) for name in ("clip", "sound")}
        assert both.encoder == "derived:concat"
        assert both.options["parents"]["sound"] == {
            "encoder": "made_up_sound",
            "weights": "sound.pt",
            "weights_sha256": "cd" * 32,
        }
        # What is made of random rows is random, whatever it is joined with.
        assert both.weights_sha256 == "random:1"
        assert both.weights == "clip.pt + sound.pt"
        assert both.source == Source(paper="clip 2020; sound 2020", licence="MIT")
        assert both.preprocessing["sound"] == {"resize": 256}
        assert specs["mapped"].weights_sha256 == "ab" * 32
        assert len(specs["mapped"].options["mean_and_deviation_sha256"]) == 64


def test_it_goes_on_and_refuses_parents_that_changed(filled_either):
    assert made(filled_either, "slow=pool(clip,stride=1)").num_made == 5
    assert made(filled_either, "slow=pool(clip,stride=1)").num_made == 0
    with pytest.raises(ProvenanceError, match="stream 'slow' in"):
        made(filled_either, "slow=pool(clip,stride=2)")
    with append_to_store(filled_either) as writer:
        writer.write("clip", "c", Rows.dense(features=np.ones((1, 3), np.float16)), GRID)
        writer.commit("c")
    with pytest.raises(ProvenanceError, match="parents"):
        made(filled_either, "slow=pool(clip,stride=1)")


def test_into_another_store(filled, tmp_path):
    out = tmp_path / "out.zarr"
    report = made(filled, "flat=mean(maps)", out=out)
    with open_store(out) as store:
        assert list(store.streams()) == ["flat"]
        assert store.info("a").duration_s == 5
        assert store.digest() == report.digest
    with open_store(filled) as store:
        assert "flat" not in store.streams()


def test_blocks_of_any_size_give_the_same_rows(filled, monkeypatch):
    texts = ("{}=mean(maps)", "{}=pool(clip,stride=1)", "{}=concat(clip,sound)", "{}=normalise(maps,how=standard)")
    for k, text in enumerate(texts):
        made(filled, text.format(f"whole{k}"))
    for module in ("derivations", "row_operations"):
        monkeypatch.setattr(f"vidloc.stores.{module}.BLOCK_VALUES", 20)
    for k, text in enumerate(texts):
        made(filled, text.format(f"cut{k}"))
    with open_store(filled) as store:
        for k in range(len(texts)):
            for item in store.items(f"whole{k}"):
                np.testing.assert_allclose(
                    store.read_field(f"whole{k}", item), store.read_field(f"cut{k}", item), rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x=median(clip)", UnknownNameError, "no operation 'median'"),
        ("x=mean(clips)", StreamNotFoundError, r"no stream 'clips'\. Did you mean clip\?"),
        ("x=mean(clip)", OptionError, "without positions"),
        ("x=mean(clip,sound)", OptionError, "it takes one stream"),
        ("x=concat(clip)", OptionError, "it takes two streams or more"),
        ("x=concat(clip,maps)", OptionError, r"no vectors\. Make some: v=mean\(maps\)"),
        ("x=concat(clip,words)", OptionError, "have no times"),
        ("x=pool(clip)", OptionError, "needs a stride"),
        ("x=pool(clip,stride=fast)", OptionError, "'fast' is no number of seconds"),
        ("x=pool(clip,stride=-1)", OptionError, "must be more than 0 s"),
        ("x=pool(regions,stride=1)", OptionError, r"v=mean\(regions\)"),
        ("x=normalise(clip,how=best)", OptionError, "option 'how'"),
        ("x=normalise(clip,why=1)", OptionError, "has no option 'why'"),
        ("clip=normalise(clip)", OptionError, "cannot be made of itself"),
    ],
)
def test_what_cannot_be_derived_is_said(unchanged, text, error, message):
    with pytest.raises(error, match=message):
        made(unchanged, text)
    with open_store(unchanged) as store:
        assert "x" not in store.streams()


@pytest.mark.parametrize(
    "text", ["pool(clip)", "x=pool", "x=pool()", "X=pool(clip)", "x=pool(stride=1)", "x=pool(a b)"]
)
def test_the_grammar_is_told(text):
    with pytest.raises(OptionError, match=r"is not NEW=OPERATION\(STREAM"):
        parse_derivation(text)


def test_a_damaged_parent_is_not_used(tmp_path):
    with create_store(tmp_path / "s.zarr") as writer:
        writer.add_stream(SPECS[0])
        writer.write("clip", "a", Rows.dense(features=np.ones((4, 3), np.float16)), GRID)
        writer.commit("a")
    chunk = tmp_path / "s.zarr" / "streams" / "clip" / "features" / "c" / "0" / "0"
    chunk.write_bytes(b"\1" + chunk.read_bytes()[1:])
    with pytest.raises(StoreError, match=r"item 'a' of .* is damaged"):
        made(tmp_path / "s.zarr", "unit=normalise(clip)")
