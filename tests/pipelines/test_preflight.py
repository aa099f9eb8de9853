"""`vidloc dataset check`: features imported at a wrong rate are found, and so is whatever else does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid, center_grid
from vidloc.core.windows import Windows
from vidloc.errors import AnnotationError, StreamNotFoundError
from vidloc.pipelines.preflight import _agreed, _possible_ends
from vidloc.stores.base import StreamSpec, create_store, open_store

SALADS = "salads50_cnn_svm"
MEAN_COLOUR = Path(__file__).parent.parent / "data" / "mean_colour.py"


def run(*arguments: object):
    return CliRunner().invoke(vidloc, list(map(str, arguments)))


def imported(folder, store, *flags):
    result = run("import", "npy", folder, "--store", store, *flags)
    assert result.exit_code == 0, (result.output, result.exception)
    return store


def checked(store, annotations, *flags):
    """Exit code and report."""
    result = run("dataset", "check", "segments", "--store", store, "--annotations", annotations, *flags, "--json")
    assert result.exit_code in (0, 3), (result.output, result.exception)
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture(scope="module")
def salads(shared, tmp_path_factory):
    """Real features, one row per second, and their real labels with durations."""
    folder = shared / "data" / "features" / SALADS
    labels = json.loads((folder / "labels.json").read_text())
    videos = {
        item: {
            "subset": "testing" if video["test_in_split"] == 1 else "training",
            "duration_s": video["duration_s"],
            "annotations": [{name: s[name] for name in ("start_s", "end_s", "label")} for s in video["segments"]],
        }
        for item, video in labels["videos"].items()
    }
    path = tmp_path_factory.mktemp("salads") / "salads.json"
    path.write_text(json.dumps({"classes": labels["classes_mid"], "videos": videos}))
    return folder / "features", path


def rows_of_a_second(fps):
    """Flags by which rows made every 25 frames are imported at a rate."""
    return ("--stream", "svm", "--window", "25f", "--stride", "25f", "--fps", fps)


class TestRealFeatures:
    def test_the_right_rate_passes(self, salads, tmp_path):
        features, annotations = salads
        code, report = checked(imported(features, tmp_path / "s.zarr", *rows_of_a_second(25)), annotations)
        assert code == 0
        assert report["problems"] == []
        [stream] = report["streams"]
        assert (stream["num_matched"], stream["num_timed"], stream["missing"]) == (50, 50, {})
        assert stream["ratio"][0] < 1 < stream["ratio"][1]
        assert (stream["off"], stream["without_rows"], stream["beyond"]) == ([], [], [])
        counts = report["classes"]["label"]
        assert sum(counts["train"].values()) + sum(counts["test"].values()) == 896
        assert counts["train"]["background"] == 0

    @pytest.mark.parametrize("wrong", [24, "29.97", 30, 15, 50])
    def test_a_wrong_rate_is_found_and_the_right_one_named(self, salads, tmp_path, wrong):
        features, annotations = salads
        code, report = checked(imported(features, tmp_path / "s.zarr", *rows_of_a_second(wrong)), annotations)
        assert code == 3
        [stream] = report["streams"]
        assert len(stream["off"]) == 50
        assert (
            f"The rows look as if made at 25 frames per second, not {float(wrong):g}: import them again with --fps 25."
            in report["problems"][0]
        )
        # Rows that end too early leave annotations without any.
        assert bool(stream["without_rows"]) == (float(wrong) > 25)

    def test_seconds_that_are_wrong_and_rates_by_item(self, salads, tmp_path):
        features, annotations = salads
        store = imported(
            features, tmp_path / "s.zarr", "--stream", "svm", "--window", "1.2s", "--stride", "1.2s"
        )  # fmt: skip
        code, report = checked(store, annotations)
        assert code == 3
        assert (
            "about 1.2 times as long as the videos. Import them again with --window and --stride divided by that"
            in (report["problems"][0])
        )
        facts = tmp_path / "facts.csv"
        items = sorted(path.stem for path in features.glob("*.npy"))
        facts.write_text("item_id,fps\n" + "".join(f"{item},30\n" for item in items))
        flags = ("--stream", "by_item", "--window", "25f", "--stride", "25f", "--facts", facts)
        code, report = checked(imported(features, store, *flags), annotations, "--stream", "by_item")
        assert code == 3
        assert "about 0.833 times as long" in report["problems"][0] or "about 0.834 times" in report["problems"][0]
        assert "with the frame rates of the items multiplied by that" in report["problems"][0]

    def test_one_clip_on_two_clocks(self, shared, tmp_path):
        folder = shared / "data" / "features" / "bmt_women_long_jump"
        annotations = tmp_path / "long_jump.csv"
        annotations.write_text("item_id,start_s,end_s,label\nwomen_long_jump,2,34,jump\n")
        durations = tmp_path / "durations.csv"
        durations.write_text("item_id,duration_s\nwomen_long_jump,35.155\n")
        store = tmp_path / "s.zarr"
        flags = ("--window", "64f", "--stride", "64f", "--ids", "{item}_rgb", "--stream")
        imported(folder, store, *flags, "i3d", "--fps", 25)
        imported(
            folder, store, "--window", "0.96s", "--stride", "0.96s", "--ids", "{item}_vggish", "--stream", "vggish"
        )
        code, report = checked(store, annotations)
        assert code == 0
        assert [stream["num_timed"] for stream in report["streams"]] == [0, 0]
        code, report = checked(store, annotations, "--durations", durations)
        assert (code, report["problems"]) == (0, [])
        assert [stream["num_timed"] for stream in report["streams"]] == [1, 1]
        imported(folder, store, *flags, "i3d_wrong", "--fps", 30)
        code, report = checked(store, annotations, "--durations", durations, "--stream", "i3d_wrong")
        assert code == 3
        assert "as if made at 25 frames per second, not 30" in report["problems"][0]


def test_a_stream_extracted_beside_imported_ones_tells_the_durations(shared, tmp_path):
    (tmp_path / "a.csv").write_text("item_id,start_s,end_s,label\nwomen_long_jump,2,34,jump\n")
    video = shared / "data" / "videos" / "women_long_jump.mp4"
    (tmp_path / "list.csv").write_text(f"item_id,path\nwomen_long_jump,{video}\n")
    flags = ("--window", "64f", "--stride", "64f", "--ids", "{item}_rgb", "--stream", "i3d", "--fps", 30)
    store = imported(shared / "data" / "features" / "bmt_women_long_jump", tmp_path / "s.zarr", *flags)
    arguments = ("--videos", tmp_path / "list.csv", "--store", store, "--encoder", MEAN_COLOUR, "--stride", 5)
    assert run("extract", *arguments).exit_code == 0
    _, report = checked(store, tmp_path / "a.csv")
    streams = {stream["stream"]: stream for stream in report["streams"]}
    assert [entry["item_id"] for entry in streams["i3d"]["off"]] == ["women_long_jump"]
    assert streams["mean_colour"]["off"] == []
    with open_store(store) as opened:
        info = opened.info("women_long_jump")
    assert info.source_name == "women_long_jump.mp4"
    assert list(info.imported["i3d"]) == ["women_long_jump_rgb.npy"]


def test_people_read_the_same(salads, tmp_path):
    features, annotations = salads
    store = imported(features, tmp_path / "s.zarr", *rows_of_a_second(30))
    arguments = ("dataset", "check", "segments", "--store", store, "--annotations", annotations)
    result = run(*arguments, "--split", "test")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0] == "segments: 10 items in the annotations."
    assert "10 items have rows, 0 lack them; 40 items of the store are not in the annotations" in lines[1]
    assert lines[2] == "  rows end where videos do in 0 of 10 items of known duration"
    assert any(line.startswith("label, test: 179 annotations of 18 classes; most often") for line in lines)
    assert lines[-3].startswith("PROBLEM svm: the rows of 10 of 10 items end elsewhere than their videos")
    assert lines[-1] == "2 problems found."


class TestSmallStores:
    """Made-up stores, one fault each."""

    SPEC = StreamSpec(name="clip", kind="clip", fields={"features": FieldSpec(row_shape=(2,), dtype="float16")})

    @pytest.fixture
    def annotations(self, tmp_path):
        lines = [f"v{k},{k + 1},{k + 3},run" for k in range(12)]
        (tmp_path / "a.csv").write_text("\n".join(["item_id,start_s,end_s,label", *lines]))
        (tmp_path / "d.csv").write_text("\n".join(["item_id,duration_s", *(f"v{k},{20 + k}" for k in range(12))]))
        return tmp_path / "a.csv"

    def store(self, tmp_path, seconds, names="v{}"):
        path = tmp_path / "s.zarr"
        with create_store(path) as writer:
            writer.add_stream(self.SPEC)
            for k, length in seconds.items():
                item = names.format(k)
                count = Windows(center_grid(2, 1)).num_rows(length)
                writer.write("clip", item, Rows.dense(features=np.ones((count, 2))), center_grid(2, 1))
                writer.commit(item)
        return path

    def test_a_few_items_that_are_off_are_told_apart_from_a_rate(self, tmp_path, annotations):
        store = self.store(tmp_path, {k: 20 + k + (9 if k == 3 else 0) for k in range(12)})
        code, report = checked(store, annotations, "--durations", tmp_path / "d.csv")
        assert code == 3
        assert [entry["item_id"] for entry in report["streams"][0]["off"]] == ["v3"]
        assert "The others agree" in report["problems"][0]

    def test_rates_that_differ_by_item_are_no_single_rate(self, tmp_path, annotations):
        store = self.store(tmp_path, {k: (20 + k) * (1.2 if k % 2 else 0.8) for k in range(12)})
        _, report = checked(store, annotations, "--durations", tmp_path / "d.csv")
        assert report["streams"][0]["ratio"] is None
        assert "No single rate explains them" in report["problems"][0]

    def test_streams_that_were_not_imported_get_another_advice(self, tmp_path, annotations):
        store = self.store(tmp_path, {k: (20 + k) * 1.5 for k in range(12)})
        _, report = checked(store, annotations, "--durations", tmp_path / "d.csv")
        assert (
            "about 1.5 times as long as the videos. Are these the videos that the annotations are of?"
            in (report["problems"][0])
        )

    def test_missing_items_and_ids_that_nearly_fit(self, tmp_path, annotations):
        store = self.store(tmp_path, {k: 20 + k for k in range(11)}, names="videos/v{}.mp4")
        code, report = checked(store, annotations)
        assert code == 3
        assert len(report["streams"][0]["missing"]) == 12
        assert report["streams"][0]["num_others"] == 11
        assert "The store has 'videos/v0.mp4' where the annotations say 'v0'" in report["problems"][0]

    def test_annotations_beyond_the_rows(self, tmp_path, annotations):
        store = self.store(tmp_path, {k: 11 if k == 11 else 12 for k in range(12)})
        code, report = checked(store, annotations)
        assert code == 3
        [stream] = report["streams"]
        # v11 is annotated from 12 s to 14 s and its rows end at 11.5 s; for v10 that is 13 s and 12.5 s.
        assert [(entry["item_id"], entry["beyond_s"]) for entry in stream["without_rows"]] == [("v11", 0.5)]
        assert [(entry["item_id"], entry["beyond_s"]) for entry in stream["beyond"]] == [("v10", 0.5)]
        assert "1 of 12 annotations have no row at all" in report["problems"][0]

    def test_wrong_names(self, tmp_path, annotations):
        store = self.store(tmp_path, {0: 20})
        arguments = ("dataset", "check", "segments", "--store", store, "--annotations", annotations)
        error = run(*arguments, "--stream", "clop").exception
        assert isinstance(error, StreamNotFoundError)
        assert "Did you mean clip?" in str(error)
        assert "no split 'tset'" in str(run(*arguments, "--split", "tset").exception)
        (tmp_path / "fps.csv").write_text("item_id,fps\nv0,25\n")
        assert isinstance(run(*arguments, "--durations", tmp_path / "fps.csv").exception, AnnotationError)


@pytest.mark.parametrize("tail", ["drop", "pad", "backpad"])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 0.5), (0.5, 2), (64 / 25, 16 / 25)])
def test_rows_of_every_tail_may_come_from_their_video(tail, window, stride):
    for duration_s in (window, 7.3, 30.0, 30.01, 55.5):
        for windows in (Windows(TimeGrid(window, stride), tail), Windows(center_grid(window, stride))):
            num_rows = windows.num_rows(duration_s)
            spans = [windows.span(row, duration_s) for row in range(num_rows)]
            timeline = windows.grid if windows.tail != "backpad" else Spans(np.array(spans, dtype=np.float64))
            if num_rows:
                low, high = _possible_ends(timeline, num_rows)
                assert low <= duration_s <= high, (duration_s, low, high)


def test_frames_here_and_there_count_as_they_mostly_lie():
    assert _possible_ends(Spans(np.array([[0, 1], [2, 3], [4, 5], [20, 21]])), 4) == (19.5, 24.0)
    assert _possible_ends(Spans(np.array([[3.0, 4.0]])), 1) == (3.0, 5.5)


def test_agreement_by_a_naive_search():
    generator = np.random.default_rng(0)
    for _ in range(30):
        middle = generator.uniform(0.5, 2)
        lows = middle - generator.uniform(0, 0.3, size=12)
        ranges = list(zip(lows, lows + generator.uniform(0.05, 0.6, size=12), strict=True))
        found = _agreed(ranges)
        points = np.linspace(0, 3, 1201)
        support = np.array([sum(low <= p <= high for low, high in ranges) for p in points])
        if sum(low <= 1 <= high for low, high in ranges) >= 0.9 * 12:
            assert found is not None
            assert found[0] <= 1 <= found[1]
        elif support.max() >= 0.9 * 12:
            assert found is not None
            inside = points[(points > found[0]) & (points < found[1])]
            assert all(support[np.searchsorted(points, p)] >= 0.9 * 12 for p in inside)
        else:
            assert found is None or found[1] - found[0] < 1e-3
