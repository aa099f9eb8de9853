"""`vidloc extract` over all real videos, the broken ones included, and what the command says and returns."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_videos import write_folder
from tiny_models import write_bert

from vidloc.cli import vidloc
from vidloc.core.registry import load
from vidloc.datasets.epic_kitchens import EpicOptions
from vidloc.errors import WeightsError
from vidloc.stores.base import open_store

DATA = Path(__file__).parent / "data"
COLOUR, LOUDNESS = f"colour={DATA / 'mean_colour.py'}", f"loudness={DATA / 'loudness.py'}"
REPOSITORY = Path(__file__).parent.parent


def invoke(*arguments: object):
    return CliRunner().invoke(vidloc, ["extract", *map(str, arguments)], catch_exceptions=False)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("made") / "videos", 4)


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    store = tmp_path_factory.mktemp("real") / "feats.zarr"
    result = invoke(
        "--dataset", "folder", "--root", shared / "data" / "videos", "--store", store, "--stride", "1",
        "--encoder", f"{COLOUR}:num_frames=2", "--encoder", LOUDNESS, "--device", "cpu", "--json",
    )  # fmt: skip
    return store, result


@pytest.fixture(scope="module")
def broken(shared, tmp_path_factory):
    store = tmp_path_factory.mktemp("bad") / "feats.zarr"
    result = invoke(
        "--dataset", "folder", "--root", shared / "data" / "videos_bad", "--store", store,
        "--encoder", f"{COLOUR}:num_frames=2", "--encoder", LOUDNESS, "--json",
    )  # fmt: skip
    return store, result, table(shared / "data" / "videos_bad" / "bad.csv")


class TestRealVideos:
    def test_all_real_videos_extract(self, shared, real):
        store, result = real
        listed = table(shared / "data" / "videos" / "videos.csv")
        report = json.loads(result.stdout)
        assert (result.exit_code, report["failed"], report["partial"]) == (0, [], [])
        with open_store(store) as opened:
            assert opened.items("colour") == sorted((row["file"] for row in listed), key=str.encode)
            with_sound = {row["file"] for row in listed if row["has_audio"] == "yes"}
            assert set(opened.items("loudness")) == with_sound
            assert {entry["item"] for entry in report["absent"]} == {row["file"] for row in listed} - with_sound

    def test_rows_of_all_encoders_describe_the_same_instants(self, real):
        with open_store(real[0]) as store:
            for item in store.items("loudness"):
                entries = [store.entry(stream, item) for stream in ("colour", "loudness")]
                assert entries[0].num_rows == entries[1].num_rows, item
                centres = [
                    [store.timeline(stream, item).center(row) for row in range(entries[0].num_rows)]
                    for stream in ("colour", "loudness")
                ]
                assert centres[0] == centres[1], item

    def test_facts_agree_with_the_list(self, shared, real):
        with open_store(real[0]) as store:
            for row in table(shared / "data" / "videos" / "videos.csv"):
                info = store.info(row["file"])
                assert info.num_frames == int(row["n_frames"]), row["file"]
                assert info.source_bytes == int(row["size_bytes"]), row["file"]
                # Every second of the video has a row.
                assert store.entry("colour", row["file"]).num_rows == max(round(info.duration_s), 1), row["file"]
                assert np.isfinite(store.read_field("colour", row["file"])).all()


class TestBrokenVideos:
    """Each file of videos_bad ends as bad.csv says."""

    def test_the_run_goes_on_and_exits_3_with_a_list(self, broken):
        _, result, listed = broken
        assert result.exit_code == 3
        report = json.loads(result.stdout)
        worked = {entry["item"] for status in ("done", "partial", "absent", "failed") for entry in report[status]}
        assert worked == {row["file"] for row in listed}
        bad = {row["file"] for row in listed if row["kind"] in ("partial", "reject")}
        assert set(report["items_with_failures"]) == bad
        assert all(entry["reason"] for entry in report["failed"] + report["partial"])

    def test_statuses_by_kind(self, broken):
        store, _, listed = broken
        with open_store(store) as opened:
            for row in listed:
                colour, loudness = (opened.entry(stream, row["file"]) for stream in ("colour", "loudness"))
                expected = {"reject": "failed", "audio_only": "absent", "partial": "partial"}.get(row["kind"], "done")
                assert colour.status == expected, row["file"]
                assert (colour.num_rows > 0) == (expected in ("done", "partial")), row["file"]
                if row["kind"] in ("ok", "care", "edge", "audio_only"):
                    assert loudness.status == ("done" if row["acodec"] else "absent"), row["file"]
            assert opened.entry("loudness", "bit_errors.mp4").status == "partial"
            assert opened.entry("loudness", "truncated_60pct_faststart.mp4").status in ("done", "partial")

    def test_frames_are_counted_by_decoding(self, broken):
        store, _, listed = broken
        with open_store(store) as opened:
            for row in listed:
                if row["kind"] in ("ok", "care", "edge"):
                    assert opened.info(row["file"]).num_frames == int(row["frames_decoded"]), row["file"]

    def test_a_rerun_tries_the_failed_ones_again_and_exits_alike(self, shared, broken):
        store, first, listed = broken
        again = invoke(
            "--dataset", "folder", "--root", shared / "data" / "videos_bad", "--store", store,
            "--encoder", f"{COLOUR}:num_frames=2", "--encoder", LOUDNESS, "--json",
        )  # fmt: skip
        assert again.exit_code == 3
        report = json.loads(again.stdout)
        assert report["items_with_failures"] == json.loads(first.stdout)["items_with_failures"]
        assert {e["item"] for e in report["failed"]} == {row["file"] for row in listed if row["kind"] == "reject"}
        assert all(entry["earlier"] for entry in report["partial"])

    def test_allowed_failures_exit_0(self, shared, broken):
        store, first, _ = broken
        common = (
            "--dataset", "folder", "--root", shared / "data" / "videos_bad", "--store", store,
            "--encoder", f"{COLOUR}:num_frames=2", "--encoder", LOUDNESS, "--allow-failures",
        )  # fmt: skip
        count = len(json.loads(first.stdout)["items_with_failures"])
        assert invoke(*common, count).exit_code == 0
        assert invoke(*common, count - 1).exit_code == 3


class TestCommand:
    def test_plan_says_what_would_be_done_and_writes_nothing(self, folder, tmp_path):
        arguments = ("--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr", "--encoder", COLOUR)
        result = invoke(*arguments, "--plan")
        assert result.exit_code == 0
        assert "4 items found; 0 done already, 4 to do." in result.stdout
        assert "stored as features[3] float16" in result.stdout
        assert not (tmp_path / "s.zarr").exists()
        plan = json.loads(invoke(*arguments, "--plan", "--json").stdout)
        assert plan["streams"]["colour"]["rows"] == 2 + 3 + 3 + 2
        assert plan["items_to_do"] == [f"v{k:02d}.mp4" for k in range(4)]

    def test_a_run_prints_its_plan_first_and_its_report_last(self, folder, tmp_path):
        result = invoke(
            "--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr", "--encoder", COLOUR,
            "--report", tmp_path / "report.json",
        )  # fmt: skip
        assert result.exit_code == 0
        assert "4 to do" in result.stderr
        assert "4 items worked on (4 done, counted per stream)" in result.stdout
        assert json.loads((tmp_path / "report.json").read_text())["rows"] == {"colour": 10}

    def test_videos_of_a_list_and_encoders_of_a_file(self, folder, tmp_path):
        (tmp_path / "list.csv").write_text(f"item_id,path\nb,{folder / 'v01.mp4'}\na,{folder / 'v00.mp4'}\n")
        (tmp_path / "plan.txt").write_text(f"# two streams\n{COLOUR}:num_frames=2  # coarse\n\n{LOUDNESS}\n")
        common = ("--videos", tmp_path / "list.csv", "--plan-file", tmp_path / "plan.txt")
        assert invoke(*common, "--store", tmp_path / "s.zarr").exit_code == 0
        with open_store(tmp_path / "s.zarr") as store:
            assert (store.items("colour"), store.items("loudness")) == (["a", "b"], ["a", "b"])
            assert store.streams()["colour"].options["num_frames"] == 2
        assert invoke(*common, "--store", tmp_path / "a.zarr", "--items", "a").exit_code == 0
        with open_store(tmp_path / "a.zarr") as store:
            assert store.items() == ["a"]

    def test_parts_merge_to_the_whole(self, folder, tmp_path):
        common = ("--dataset", "folder", "--root", folder, "--encoder", COLOUR, "--store")
        for k in (1, 2):
            assert invoke(*common, tmp_path / f"{k}.zarr", "--part", f"{k}/2").exit_code == 0
        assert invoke(*common, tmp_path / "whole.zarr").exit_code == 0
        merged = CliRunner().invoke(
            vidloc,
            ["store", "merge", *(str(tmp_path / f"{name}.zarr") for name in ("m", 1, 2))],
            catch_exceptions=False,
        )
        assert merged.exit_code == 0, merged.output
        with open_store(tmp_path / "m.zarr") as merged_store, open_store(tmp_path / "whole.zarr") as whole:
            assert merged_store.digest() == whole.digest()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--encoder", COLOUR, "--stride", "0"], "must be more than 0 s"),
            (["--encoder", COLOUR, "--stride", "fast"], "'fast' is no number"),
            (["--encoder", COLOUR, "--report", "/no/such/folder/r.json"], "is not a file in an existing folder"),
            (["--encoder", COLOUR, "--allow-failures", "-1"], "-1 is not in the range"),
            ([], "name at least one --encoder, a --plan-file or a --recipe"),
        ],
    )
    def test_wrong_usage_exits_2(self, folder, tmp_path, arguments, message):
        result = invoke("--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "s.zarr").exists()

    def test_missing_weights_end_the_run_before_any_work(self, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path / "empty"))
        with pytest.raises(WeightsError, match="vidloc weights fetch i3d_r50"):
            invoke(
                "--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr",
                "--encoder", COLOUR, "--encoder", "i3d_r50",
            )  # fmt: skip
        assert not (tmp_path / "s.zarr").exists()

    def test_help_teaches_with_an_example(self):
        text = invoke("--help").stdout
        assert "vidloc extract --dataset epic --root EPIC/" in text
        assert "Exit codes: 0 all done" in " ".join(text.split())


def test_epic_layout_narrations_and_missing_videos(shared, tmp_path):
    """The command of the README, with small encoders, over two kitchens' videos of the official layout."""
    root = tmp_path / "EPIC"
    (root / "videos" / "train" / "P01").mkdir(parents=True)
    write_folder(tmp_path / "made", 1)
    (tmp_path / "made" / "v00.mp4").rename(root / "videos" / "train" / "P01" / "P01_01.MP4")
    result = invoke(
        "--dataset", "epic", "--root", root, "--annotations", shared / "data" / "epic55",
        "--store", tmp_path / "s.zarr",
        "--encoder", COLOUR, "--encoder", "text:weights=random:0", "--items", "P01_0[12]", "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert (result.exit_code, report["missing"]) == (0, ["P01_02"])
    assert "Missing: 1 videos that the annotations name: P01_02." in result.stderr
    assert "WEIGHTS ARE RANDOM (random:0)" in result.stderr
    with open_store(tmp_path / "s.zarr") as store:
        rows = store.read("text", "P01_01")
        spans = store.timeline("text", "P01_01").spans(len(rows))
        assert store.streams()["text"].sampling == {"align": "annotations"}
    narrations = load("datasets", "epic").target(EpicOptions(), name="epic").read(shared / "data" / "epic55").narrations
    said = narrations["P01_01"]
    assert rows.strings("text") == [narration.text for narration in said]
    assert rows.strings("key") == [narration.id for narration in said]
    assert np.allclose(spans, [tuple(narration.span) for narration in said])


def test_narrations_token_by_token_need_no_video(shared, tmp_path):
    write_bert(tmp_path / "bert")
    (tmp_path / "glove.txt").write_text("open 1 2 3\ndoor 4 5 6\n")
    store_path = tmp_path / "s.zarr"
    result = invoke(
        "--dataset", "epic", "--annotations", shared / "data" / "epic55", "--items", "P01_01", "--store", store_path,
        "--encoder", f"bert:weights={tmp_path / 'bert'}", "--encoder", f"glove:weights={tmp_path / 'glove.txt'}",
    )  # fmt: skip
    assert result.exit_code == 0
    with open_store(store_path) as store:
        states, words = (store.read(stream, "P01_01") for stream in ("bert", "glove"))
    assert states.strings("text")[:2] == words.strings("text")[:2] == ["open door", "turn on light"]
    assert [entry.shape for entry in states.entries("features")[:2]] == [(4, 32), (5, 32)]
    assert words.entries("features")[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert words.entries("features")[1].shape == (0, 3)
    assert words.fields["unknown"][:2].tolist() == [0, 3]


def test_a_run_outside_a_terminal_says_now_and_then_how_far_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vidloc.pipelines.extraction.progress._FIRST_LINE_S", 0.0)
    monkeypatch.setattr("vidloc.pipelines.extraction.progress._LINE_EVERY_S", 0.0)
    result = invoke(
        "--dataset", "folder", "--root", folder, "--store", tmp_path / "s.zarr", "--encoder", f"{COLOUR}:delay_s=0.2"
    )
    lines = [line for line in result.stderr.splitlines() if "of 4 videos" in line]
    assert lines[-1].startswith("4 of 4 videos")
    assert any("clips/s, about" in line and "left" in line for line in lines)


def test_sigterm_commits_the_item_at_hand_and_exits_143(tmp_path):
    """In a process of its own, as a scheduler sees it."""
    videos = write_folder(tmp_path / "videos", 6)
    store = tmp_path / "s.zarr"
    arguments = ["--dataset", "folder", "--root", videos, "--store", store, "--encoder"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vidloc.cli", "extract", *map(str, arguments), f"{COLOUR}:delay_s=0.25"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not _committed(store):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by signal 15" in output
    assert 1 <= len(_committed(store)) < 6
    result = invoke(*arguments, f"{COLOUR}:delay_s=0.25", "--json")
    assert (result.exit_code, len(_committed(store))) == (0, 6)


def _committed(path: Path) -> list[str]:
    if not (path / "zarr.json").exists():
        return []
    with open_store(path) as store:
        return store.items()
