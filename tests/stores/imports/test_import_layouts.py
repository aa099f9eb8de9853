"""Every layout, from files made as their publishers make them: which row becomes what, at which time."""

from __future__ import annotations

import csv
import json
import pickle
from fractions import Fraction

import lmdb
import numpy as np
import pytest
import torch
from import_samples import box, datasets, message, numbers, objects, report, run, tsv_line

from vidloc.core.timeline import TimeGrid
from vidloc.errors import OptionError
from vidloc.stores.base import open_store


@pytest.fixture
def store(tmp_path):
    return tmp_path / "feats.zarr"


class TestNpy:
    def test_channels_become_streams_on_the_grid_of_the_flags(self, tmp_path, store):
        folder = tmp_path / "i3d"
        folder.mkdir()
        array = numbers(5, 8)
        np.save(folder / "video_test_0000004.npy", array)
        found = report(
            "npy", folder, "--store", store, "--fps", "30000/1001", "--window", "16f", "--stride", "4f",
            "--stream", "rgb:channels=0:6", "--stream", "flow:channels=6:8,dtype=float16",
        )  # fmt: skip
        assert found["done"] == ["video_test_0000004"]
        assert found["rows"] == {"flow": 5, "rgb": 5}
        with open_store(store) as opened:
            item = "video_test_0000004"
            assert np.array_equal(opened.read_field("rgb", item), array[:, :6])
            assert np.array_equal(opened.read_field("flow", item), array[:, 6:].astype(np.float16))
            assert opened.timeline("rgb", item) == TimeGrid(Fraction(16 * 1001, 30000), Fraction(4 * 1001, 30000))
            # ActionFormer's rule: t -> (t * fps - window / 2) / stride.
            assert opened.timeline("rgb", item).row_at(Fraction(2)) == pytest.approx((2 * 30000 / 1001 - 8) / 4)
            assert opened.streams()["rgb"].fields["features"].dtype == "float32"

    def test_npz_by_key_and_float64_as_float32(self, tmp_path, store):
        np.savez_compressed(tmp_path / "P01_01.npz", feats=numbers(3, 4).astype(np.float64), other=np.zeros(2))
        arguments = ("npy", tmp_path, "--store", store, "--window", "1s", "--stride", "1s", "--stream")
        failed = run(*arguments, "slowfast")
        assert "holds several arrays: name one by --stream NAME:key=... (feats, other)" in str(failed.exception)
        report(*arguments, "slowfast:key=feats")
        with open_store(store) as opened:
            assert np.array_equal(opened.read_field("slowfast", "P01_01"), numbers(3, 4))

    def test_rates_and_durations_by_item_come_from_facts(self, tmp_path, store):
        for item in "ab":
            np.save(tmp_path / f"{item}.npy", numbers(4, 2))
        facts = tmp_path / "facts.csv"
        facts.write_text("item_id,fps,duration_s\na,25,8\nb,50,\nc,30,9\n")
        arguments = ("npy", tmp_path, "--store", store, "--facts", facts, "--stream", "x")
        found = report(*arguments, "--window", "10f", "--stride", "50f")
        assert found["without_features"] == ["c"]
        with open_store(store) as opened:
            assert opened.timeline("x", "a") == TimeGrid(Fraction(10, 25), 2)
            assert opened.timeline("x", "b") == TimeGrid(Fraction(10, 50), 1)
            assert opened.info("a").duration_s == 8
            assert opened.entry("x", "a").extent == (0, 8)
            assert opened.entry("x", "b").extent is None

    def test_equal_parts_of_each_duration(self, shared, tmp_path, store):
        folder = shared / "data" / "features" / "c3d_ucfcrime_samples"
        labels = json.loads((folder / "labels.json").read_text())
        facts = tmp_path / "facts.csv"
        lines = [f"{item},{facts['n_frames'] / facts['fps']}" for item, facts in labels.items()]
        facts.write_text("\n".join(["item_id,duration_s", *lines]))
        found = report("npy", folder, "--store", store, "--equal-parts", "--facts", facts, "--stream", "c3d")
        assert found["rows"] == {"c3d": 320}
        with open_store(store) as opened:
            for item, stated in labels.items():
                spans = opened.timeline("c3d", item).spans(32) * stated["fps"]
                assert np.allclose(spans[:, 0], stated["segment_bounds_frames"][:-1], atol=0.01)
                assert np.allclose(spans[:, 1], stated["segment_bounds_frames"][1:], atol=0.01)

    def test_real_features_of_one_clip_on_two_clocks(self, shared, store):
        folder = shared / "data" / "features" / "bmt_women_long_jump"
        for feature, flags in {
            "rgb": ("--fps", 25, "--window", "64f", "--stride", "64f", "--stream", "i3d_rgb"),
            "vggish": ("--window", "0.96s", "--stride", "0.96s", "--stream", "vggish:kind=audio"),
        }.items():
            found = report("npy", folder, "--store", store, "--ids", f"{{item}}_{feature}", *flags)
            assert found["done"] == ["women_long_jump"]
            assert len(found["ignored"]) == 3
        with open_store(store) as opened:
            assert opened.streams()["vggish"].kind == "audio"
            ends = {s: opened.timeline(s, "women_long_jump").spans(n)[-1] for s, n in (("i3d_rgb", 14), ("vggish", 36))}
            # 35.155 s of video: the last stack is partial, the last row of sound too short to be made.
            assert ends["i3d_rgb"] == pytest.approx([33.28, 35.84])
            assert ends["vggish"] == pytest.approx([33.6, 34.56])
            stored = opened.read_field("i3d_rgb", "women_long_jump")
            assert np.array_equal(stored, np.load(folder / "women_long_jump_rgb.npy"))


def test_mstcn_arrays_are_turned_and_windows_lie_around_frames(tmp_path, store):
    array = numbers(6, 9)
    np.save(tmp_path / "S1_Cheese_C1.npy", array)
    arguments = ("mstcn", tmp_path, "--store", store, "--stream", "i3d")
    assert "add --fps" in str(run(*arguments).exception)
    report(*arguments, "--fps", 15)
    with open_store(store) as opened:
        assert np.array_equal(opened.read_field("i3d", "S1_Cheese_C1"), array.T)
        timeline = opened.timeline("i3d", "S1_Cheese_C1")
        assert timeline.span(0) == (Fraction(-10, 15), Fraction(11, 15))
        assert timeline.center(30) == Fraction(61, 30)  # the middle of frame 30


@pytest.mark.parametrize("key", ["", "rgb"])
def test_pt_tensors(tmp_path, store, key):
    tensor = torch.from_numpy(numbers(4, 3))
    torch.save({"rgb": tensor, "flow": tensor * 2} if key else tensor, tmp_path / "clip.pt")
    stream = f"x:key={key}" if key else "x"
    report("pt", tmp_path, "--store", store, "--fps", 30, "--window", "32f", "--stride", "16f", "--stream", stream)
    with open_store(store) as opened:
        assert np.array_equal(opened.read_field("x", "clip"), numbers(4, 3))


class TestSfnet:
    @pytest.mark.parametrize("names_as_objects", [False, True])
    def test_arrays_and_names_are_joined_by_their_order(self, tmp_path, store, names_as_objects):
        parts = [numbers(n, 8, seed=n) for n in (3, 5)]
        features = objects(tmp_path / "features.npy", parts)
        names = tmp_path / "videoname.npy"
        if names_as_objects:
            objects(names, ["video_b", b"video_a"])
        else:
            np.save(names, np.array(["video_b", "video_a"]))
        arguments = ["sfnet", features, "--store", store, "--fps", 25]
        arguments += ["--stream", "rgb:channels=0:4", "--stream", "flow:channels=4:8"]
        assert "add --names" in str(run(*arguments).exception)
        arguments += ["--names", names]
        assert "Add --allow-pickle" in str(run(*arguments).exception)
        assert not store.exists()
        report(*arguments, "--allow-pickle")
        with open_store(store) as opened:
            assert opened.items("rgb") == ["video_a", "video_b"]
            assert np.array_equal(opened.read_field("flow", "video_a"), parts[1][:, 4:])
            assert opened.timeline("rgb", "video_b") == TimeGrid(Fraction(16, 25), Fraction(16, 25))
            assert "names" not in opened.streams()["rgb"].options
            assert set(opened.info("video_a").imported["rgb"]) == {"features.npy", "videoname.npy"}

    def test_names_that_do_not_fit(self, tmp_path, store):
        features = objects(tmp_path / "features.npy", [numbers(3, 8), numbers(2, 8)])
        arguments = ("sfnet", features, "--store", store, "--fps", 25, "--allow-pickle", "--stream", "x", "--names")
        for names, reason in ((["a"], "holds 2 arrays"), (["a", "a"], "names 'a' more than once")):
            np.save(tmp_path / "names.npy", np.array(names))
            assert reason in str(run(*arguments, tmp_path / "names.npy").exception)


class TestVideoFeatures:
    def write(self, folder, stamps, fps=25.0):
        np.save(folder / "v_rgb.npy", numbers(len(stamps), 4))
        np.save(folder / "v_timestamps_ms.npy", np.array(stamps))
        if fps:
            np.save(folder / "v_fps.npy", np.array(fps))

    def arguments(self, folder, store, *more):
        return ("video_features", folder, "--store", store, "--stream", "i3d:key=rgb", *more)

    def test_i3d_windows_end_where_the_next_frame_begins(self, tmp_path, store):
        self.write(tmp_path, [2560.0, 5120.0])
        found = report(*self.arguments(tmp_path, store, "--window", "64f", "--last", "after"))
        assert found["ignored"] == {}
        with open_store(store) as opened:
            assert opened.timeline("i3d", "v").array.tolist() == [[0, 2.56], [2.56, 5.12]]
            assert set(opened.info("v").imported["i3d"]) == {"v_fps.npy", "v_rgb.npy", "v_timestamps_ms.npy"}

    def test_frame_networks_hold_the_frame_of_the_timestamp(self, tmp_path, store):
        self.write(tmp_path, [0.0, 500.0, 1000.0], fps=None)
        report(*self.arguments(tmp_path, store, "--window", "1f", "--fps", 20))
        with open_store(store) as opened:
            assert opened.timeline("i3d", "v").array == pytest.approx(np.array([[0, 0.05], [0.5, 0.55], [1, 1.05]]))

    @pytest.mark.parametrize(
        ("window", "last", "start"), [(64, "inside", "0.040"), (32, "after", "1.280"), (128, "after", "-2.560")]
    )
    def test_a_window_that_does_not_fit_the_timestamps_is_found(self, tmp_path, store, window, last, start):
        self.write(tmp_path, [2560.0, 5120.0])
        error = run(*self.arguments(tmp_path, store, "--window", f"{window}f", "--last", last)).exception
        assert f"the first row would begin at {start} s and not with the video" in str(error)

    def test_what_is_missing_is_named(self, tmp_path, store):
        self.write(tmp_path, [2560.0], fps=None)
        assert "add --window" in str(run(*self.arguments(tmp_path, store)).exception)
        assert "give --fps" in str(run(*self.arguments(tmp_path, store, "--window", "64f")).exception)


class TestH5:
    def test_a_dataset_per_item(self, tmp_path, store):
        path = datasets(tmp_path / "average_fc7.h5", **{"a@N01.mp4": numbers(6, 4), "b.mp4": numbers(6, 4, seed=1)})
        arguments = ("h5", path, "--store", store, "--window", "5s", "--stride", "5s", "--stream", "vgg")
        report(*arguments, "--ids", "{item}.mp4")
        with open_store(store) as opened:
            assert opened.items() == ["a@N01", "b"]
            assert np.array_equal(opened.read_field("vgg", "b"), numbers(6, 4, seed=1))
            assert opened.timeline("vgg", "b") == TimeGrid(5, 5)

    def test_a_group_per_item(self, tmp_path, store):
        path = datasets(
            tmp_path / "f.h5", **{"v1/rgb": numbers(3, 4), "v1/flow": numbers(3, 2), "v2/rgb": numbers(2, 4)}
        )
        arguments = ("h5", path, "--store", store, "--window", "1s", "--stride", "1s", "--stream")
        assert "holds several datasets (flow, rgb): name one" in str(run(*arguments, "x").exception)
        found = report(*arguments, "rgb:key=rgb", "--stream", "flow:key=flow")
        assert found["rows"] == {"flow": 3, "rgb": 5}
        assert found["failed"][0] == {"item": "v2", "stream": "flow", "reason": found["failed"][0]["reason"]}
        assert "holds several datasets (rgb)" in found["failed"][0]["reason"]


class TestAve:
    LINES = "Church bell&RUhOCu3LNXM&good&0&10\nBark&abc&good&1&4\nFlute&RUhOCu3LNXM&good&2&5\n"

    def test_rows_are_those_of_the_line_and_what_occurs_twice_agrees(self, tmp_path, store):
        (tmp_path / "Annotations.txt").write_text(self.LINES)
        array = numbers(3, 10, 2, 2, 4).astype(np.float64)
        array[2] = array[0]
        path = datasets(tmp_path / "visual_feature.h5", avadataset=array)
        arguments = ("ave", path, "--store", store, "--stream", "vgg")
        assert "add --order" in str(run(*arguments).exception)
        found = report(*arguments, "--order", tmp_path / "Annotations.txt")
        assert found["done"] == ["RUhOCu3LNXM", "abc"]
        assert "1 items occur more than once" in found["notes"][0]
        with open_store(store) as opened:
            assert np.array_equal(opened.read_field("vgg", "abc"), array[1].astype(np.float32))
            assert opened.streams()["vgg"].fields["features"].row_shape == (2, 2, 4)
            assert opened.timeline("vgg", "abc") == TimeGrid(1, 1)

    def test_occurrences_that_differ_fail_the_item(self, tmp_path, store):
        (tmp_path / "Annotations.txt").write_text(self.LINES)
        path = datasets(tmp_path / "audio_feature.h5", avadataset=numbers(3, 10, 8))
        found = report(
            "ave", path, "--store", store, "--stream", "a:kind=audio", "--order", tmp_path / "Annotations.txt"
        )
        assert [entry["item"] for entry in found["failed"]] == ["RUhOCu3LNXM"]
        assert "occurs on lines 1 and 3 with different rows" in found["failed"][0]["reason"]

    def test_real_background_features(self, shared, tmp_path, store):
        path = shared / "data" / "ave" / "background_audio_features.npz"
        (tmp_path / "order.txt").write_text("\n".join(f"background_{k:03d}" for k in range(178)))
        found = report(
            "ave", path, "--store", store, "--stream", "vggish:kind=audio", "--order", tmp_path / "order.txt"
        )
        assert found["rows"] == {"vggish": 1780}
        with open_store(store) as opened:
            expected = np.load(path)["features"][17]
            assert np.array_equal(opened.read_field("vggish", "background_017"), expected)


class TestLfb:
    def test_verb_banks_hold_a_clip_around_each_frame_number(self, tmp_path, store):
        bank = {"P01_01": {30: numbers(4, seed=30), 60: numbers(4, seed=60)}, "P01_02": {90: numbers(4, seed=90)}}
        path = tmp_path / "verb.pkl"
        path.write_bytes(pickle.dumps(bank, 2))
        arguments = ["lfb", path, "--store", store, "--stream", "verb"]
        assert "add --window (64f for verb banks" in str(run(*arguments).exception)
        report(*arguments, "--window", "64f", "--allow-pickle")
        with open_store(store) as opened:
            assert np.array_equal(opened.read_field("verb", "P01_01"), [bank["P01_01"][30], bank["P01_01"][60]])
            # File number 30 is frame 29: 0-based frames 29 - 32 to 29 + 31.
            expected = [[(k - 1 - 32) / 30, (k - 1 + 32) / 30] for k in (30, 60)]
            assert opened.timeline("verb", "P01_01").array == pytest.approx(np.array(expected))

    def test_noun_banks_hold_any_number_of_vectors(self, tmp_path, store):
        bank = {"P01_01": {60: [numbers(4, seed=1), numbers(4, seed=2)], 30: [], 90: numbers(3, 4)}}
        path = tmp_path / "noun.pkl"
        path.write_bytes(pickle.dumps(bank, 4))
        arguments = ["lfb", path, "--store", store, "--window", "1f", "--allow-pickle", "--stream"]
        assert "import it with --stream NAME:kind=objects" in str(run(*arguments, "noun").exception)
        report(*arguments, "noun:kind=objects")
        with open_store(store) as opened:
            rows = opened.read("noun", "P01_01")
            assert [len(entry) for entry in rows.entries("features")] == [0, 2, 3]
            assert np.array_equal(rows.entries("features")[1], bank["P01_01"][60])


class TestRulstm:
    def write(self, path, values):
        with lmdb.open(str(path), map_size=2**22) as database, database.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key.encode(), value)

    def test_one_row_per_frame_in_the_order_of_frames(self, tmp_path, store):
        array = numbers(12, 4)
        values = {f"P01_01_frame_{k + 1:010d}.jpg": row.tobytes() for k, row in enumerate(array)}
        self.write(tmp_path / "rgb", values | {"P02_03_frame_0000000007.jpg": array[0].tobytes(), "meta": b"x"})
        arguments = ("rulstm", tmp_path / "rgb", "--store", store, "--stream", "tsn_rgb")
        assert "add --fps" in str(run(*arguments).exception)
        found = report(*arguments, "--fps", 30)
        assert list(found["ignored"]) == ["meta"]
        with open_store(store) as opened:
            assert np.array_equal(opened.read_field("tsn_rgb", "P01_01"), array)
            assert opened.timeline("tsn_rgb", "P01_01").array[[0, 11]].tolist() == [[0, 1 / 30], [11 / 30, 12 / 30]]
            assert opened.timeline("tsn_rgb", "P02_03").array.tolist() == [[6 / 30, 7 / 30]]

    def test_values_of_other_lengths_fail_the_item(self, tmp_path, store):
        good = {"b_frame_1.jpg": b"\0" * 16}
        self.write(tmp_path / "rgb", good | {"a_frame_1.jpg": b"\0" * 16, "a_frame_2.jpg": b"\0" * 12})
        found = report("rulstm", tmp_path / "rgb", "--store", store, "--fps", 30, "--stream", "x")
        assert "values of [12, 16] bytes" in found["failed"][0]["reason"]
        assert found["done"] == ["b"]


class TestDetections:
    def test_the_published_sample(self, shared, tmp_path, store):
        folder = shared / "data" / "epic55"
        frames = [
            [] for _ in range(json.loads((folder / "detections_sample_P01_01_meta.json").read_text())["n_frames"])
        ]
        with (folder / "detections_sample_P01_01.csv").open() as file:
            for row in csv.DictReader(file):
                columns = ("class_id_raw", "x1", "y1", "x2", "y2", "score")
                frames[int(row["frame"]) - 1].append([float(row[name]) for name in columns])
        (tmp_path / "boxes").mkdir()
        objects(tmp_path / "boxes" / "P01_01_detections.npy", [np.array(frame).reshape(-1, 6) for frame in frames])
        arguments = [
            "detections",
            tmp_path / "boxes",
            "--store",
            store,
            "--ids",
            "{item}_detections",
            "--stream",
            "nouns",
        ]
        arguments += ["--fps", "59.94"]
        assert "Add --allow-pickle" in str(run(*arguments).exception)
        arguments += ["--allow-pickle"]
        assert "add --image-size" in str(run(*arguments).exception)
        report(*arguments, "--image-size", "1920x1080")
        with open_store(store) as opened:
            rows = opened.read("nouns", "P01_01")
            counts = [len(entry) for entry in rows.entries("labels")]
            assert (len(counts), sum(counts), max(counts)) == (100, 357, 7)
            assert (rows.fields["labels"] == 8).sum() == 342
            assert rows.fields["boxes"][0] == pytest.approx(
                [128.8962 / 1920, 6.3366 / 1080, 1676.7319 / 1920, 1005.0518 / 1080]
            )
            assert all((np.diff(entry) <= 0).all() for entry in rows.entries("scores"))
            assert opened.streams()["nouns"].kind == "objects"
            assert opened.timeline("nouns", "P01_01").array[99].tolist() == pytest.approx([99 / 59.94, 100 / 59.94])

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            (np.array([[0.0, 0, 0, 1, 1, 0.5]]), "classes of this layout begin at 1"),
            (np.array([[1.5, 0, 0, 1, 1, 0.5]]), "no whole number"),
            (np.zeros((2, 5)), "expected (boxes, 6) numbers"),
            ("boxes", "is a str"),
        ],
    )
    def test_what_is_no_table_of_boxes_fails_the_item(self, tmp_path, store, entry, reason):
        good = np.array([[3.0, 0, 0, 8, 8, 0.5]])
        objects(tmp_path / "a.npy", [good, []])
        objects(tmp_path / "b.npy", [good, entry])
        found = report(
            "detections", tmp_path, "--store", store, "--fps", 30, "--image-size", "16x8", "--allow-pickle",
            "--stream", "x",
        )  # fmt: skip
        assert found["done"] == ["a"]
        assert reason in found["failed"][0]["reason"]
        assert "frame 2" in found["failed"][0]["reason"]


class TestHandObjects:
    def write(self, path, messages):
        path.write_bytes(pickle.dumps(messages, 3))

    def arguments(self, folder, store):
        return ("hand_objects", folder, "--store", store, "--fps", 50, "--allow-pickle", "--stream", "hands")

    def test_the_published_frame(self, shared, tmp_path, store):
        sample = json.loads((shared / "data" / "epic100" / "hand_object_sample_P01_09.json").read_text())
        hands = [
            message(
                f1=[box(**hand["bbox"])], f2=[hand["score"]], f3=[hand["state"]],
                f4=[message(f1=[hand["object_offset"]["x"]], f2=[hand["object_offset"]["y"]])], f5=[hand["side"]],
            )
            for hand in sample["hands"]
        ]  # fmt: skip
        found = [message(f1=[box(**thing["bbox"])], f2=[thing["score"]]) for thing in sample["objects"]]
        empty = message(f1=[b"P01_09"], f2=[1])
        self.write(tmp_path / "P01_09.pkl", [empty, message(f1=[b"P01_09"], f2=[2], f3=hands, f4=found)])
        report(*self.arguments(tmp_path, store))
        with open_store(store) as opened:
            rows = opened.read("hands", "P01_09")
            assert [len(entry) for entry in rows.entries("hand_boxes")] == [0, 2]
            assert rows.fields["hand_states"].tolist() == [3, 3]
            assert rows.fields["hand_sides"].tolist() == [0, 1]
            assert rows.fields["hand_offsets"][1] == pytest.approx([-0.014591899700462818, -0.01821986399590969])
            expected = [list(thing["bbox"].values()) for thing in sample["objects"]]
            assert rows.fields["boxes"] == pytest.approx(np.array(expected))
            assert rows.fields["scores"] == pytest.approx([thing["score"] for thing in sample["objects"]])
            assert opened.timeline("hands", "P01_09").array[1].tolist() == [1 / 50, 2 / 50]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (message(f2=[7]), "is of frame 7; entry 2"),
            (message(f2=[2], f3=[message(f3=[9])]), "state 9"),
            (message(f2=[2], f3=[message(f2=[5])]), "no number of 32 bits"),
            (message(f2=[2], f3=[4]), "field 3 holds a number"),
            (message(f2=[2]) + b"\x1a\x7f", "in the middle of a value"),
            (b"\x10" + b"\xff" * 11, "has no end"),
            (b"\x13", "wire type 3"),
            (b"\x00\x01", "field number 0"),
        ],
    )
    def test_what_is_no_message_fails_the_item(self, tmp_path, store, content, reason):
        first = message(f2=[1], f3=[message(f1=[box(0.0, 0.0, 0.5, 0.5)])], f4=[message(f2=[0.5])])
        self.write(tmp_path / "a.pkl", [first])
        self.write(tmp_path / "b.pkl", [first, content])
        found = report(*self.arguments(tmp_path, store))
        assert found["done"] == ["a"]
        assert reason in found["failed"][0]["reason"]


class TestBottomUp:
    def test_lines_in_any_order_become_rows_of_frames(self, tmp_path, store):
        boxes = np.array([[10, 20, 30, 40], [0, 0, 100, 50]], np.float32)
        features = {k: numbers(2, 6, seed=k) for k in (1, 3)}
        path = tmp_path / "boxes.tsv"
        path.write_text(
            tsv_line("v1_3", (100, 50), boxes, features[3])
            + tsv_line("v1_1", (100, 50), boxes, features[1])
            + tsv_line("v1_2", (100, 50), boxes[:0], features[1][:0])
            + tsv_line("cover", (100, 50), boxes, features[1])
        )
        arguments = ["bottom_up", path, "--store", store, "--fps", 2, "--stream", "regions:dtype=float16"]
        assert "add --ids" in str(run(*arguments).exception)
        found = report(*arguments, "--ids", "{item}_{frame}")
        assert list(found["ignored"]) == ["cover"]
        with open_store(store) as opened:
            rows = opened.read("regions", "v1")
            assert [len(entry) for entry in rows.entries("boxes")] == [2, 0, 2]
            assert rows.entries("boxes")[0] == pytest.approx(boxes / [100, 50, 100, 50])
            assert np.array_equal(rows.entries("features")[2], features[3].astype(np.float16))
            assert opened.timeline("regions", "v1").array.tolist() == [[0, 0.5], [0.5, 1], [1, 1.5]]

    def test_lines_that_are_none_are_named(self, tmp_path, store):
        path = tmp_path / "boxes.tsv"
        arguments = ("bottom_up", path, "--store", store, "--fps", 2, "--ids", "{item}_{frame}", "--stream", "x")
        good = tsv_line("v1_1", (100, 50), numbers(2, 4), numbers(2, 6))
        for line, reason in (
            ("v1_1\t3\n", "has 2 columns, --columns names 6"),
            (good + good, "two lines of frame 1"),
            (good.replace("\t2\t", "\t3\t"), "bytes, which 3 boxes of float32 do not divide"),
            (good.replace("\t2\t", "\t-2\t"), "'-2' is no whole number"),
            (good.replace("\t100\t", "\t0\t"), "has size 0x50"),
            ("v1_1\t100\t50\t1\t****\t****\n", "is no base64"),
        ):
            path.write_text(line)
            assert reason in str(run(*arguments).exception)


def test_what_only_the_user_knows_is_asked_for_by_the_name_of_its_flag(tmp_path, store):
    np.save(tmp_path / "a.npy", numbers(3, 4))
    arguments = ["npy", tmp_path, "--store", store, "--stream", "x"]
    for flags, missing in (
        ((), "add --window"),
        (("--window", "16f"), "add --stride"),
        (("--window", "16f", "--stride", "4f"), "add --fps, or --facts"),
    ):
        error = run(*arguments, *flags).exception
        assert isinstance(error, OptionError)
        assert missing in str(error)
    assert not store.exists()
    assert run(*arguments, "--window", "16s", "--stride", "4s").exit_code == 0
