"""Two files scored against each other from the command line: every task, and every line that is refused."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.errors import OptionError

TRUTH = [{"item_id": "v", "start_s": s, "end_s": e, "label": "wave"} for s, e in ((0, 10), (20, 30))]
MADE = [
    {"item_id": "v", "start_s": 0, "end_s": 10, "label": "wave", "score": 0.9, "time_s": 6.2},
    {"item_id": "v", "span": [1, 11], "label": "wave", "score": 0.8, "time_s": 7.0, "query_id": "x"},
    {"item_id": "v", "span": [21, 29], "label": "wave", "score": 0.7, "time_s": 40.0},
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(tmp_path, task, made=MADE, truth=TRUTH, *more):
    files = {name: lines(tmp_path / f"{name}.jsonl", rows) for name, rows in (("predictions", made), ("truth", truth))}
    arguments = ["evaluate", "--task", task, *(f"--{name}={path}" for name, path in files.items()), *more]
    return CliRunner().invoke(vidloc, arguments)


def test_detection(tmp_path):
    found = json.loads(score(tmp_path, "detection", MADE, TRUTH, "--json").stdout)
    assert list(found["detection"]) == ["map", *(f"map@0.{k}" for k in range(1, 8))]
    assert found["detection"]["map@0.5"] == pytest.approx(5 / 6)
    narrow = json.loads(score(tmp_path, "detection", MADE, TRUTH, "--json", "--thresholds", "0.8,0.81").stdout)
    assert narrow["detection"] == {"map": pytest.approx(2 / 3), "map@0.8": pytest.approx(5 / 6), "map@0.81": 0.5}
    table = score(tmp_path, "detection")
    assert table.exit_code == 0
    assert "83.33 %" in table.stdout


def test_frames(tmp_path):
    found = json.loads(score(tmp_path, "frame-detection", MADE, TRUTH, "--json").stdout)["frame_detection"]
    assert found["map@0.25"] == found["map@hit"] == 0.5
    without = [{k: v for k, v in row.items() if k != "time_s"} for row in MADE]
    error = score(tmp_path, "frame-detection", without).exception
    assert "3 of 3 lines have no time_s, such as that of item 'v', label 'wave'" in str(error)


def test_classes_of_videos(tmp_path):
    truth = [{"item_id": item, "label": "wave", "start_s": 0, "end_s": 1} for item in "ac"]
    truth += [{"item_id": item, "label": "jump", "start_s": 0, "end_s": 1} for item in "bd"]
    made = [
        {"item_id": item, "label": "wave", "score": s} for item, s in zip("abcd", (0.9, 0.8, 0.7, 0.6), strict=True)
    ]
    made.append({"item_id": "b", "label": "jump", "score": 0.1})
    found = json.loads(score(tmp_path, "classification", made, truth, "--json").stdout)
    assert found["classification"]["map"] == pytest.approx((5 / 6 + (1 + 2 / 4) / 2) / 2)
    assert "classification has none" in str(
        score(tmp_path, "classification", made, truth, "--thresholds=0.5").exception
    )


CLIPS = [
    {"item_id": "a", "start_s": 0, "end_s": 4, "label": "bell"},
    {"item_id": "b", "start_s": 2, "end_s": 4, "label": "dog", "duration_s": 5},
]


def test_seconds_of_audio_visual_events(tmp_path):
    made = [
        {"item_id": "a", "start_s": 0, "end_s": 5, "label": "bell", "score": 0.9},
        {"item_id": "a", "start_s": 4, "end_s": 10},
        {"item_id": "b", "start_s": 0, "end_s": 5, "label": "bell", "score": 0.2},
        {"item_id": "b", "start_s": 2, "end_s": 4, "label": "dog", "score": 0.8},
    ]
    found = json.loads(score(tmp_path, "av-event", made, CLIPS, "--json").stdout)["av_event"]
    # Right: seconds 0-3 and 5-9 of a, where 4 is taken for the bell, and 2 and 3 of b; b's others are not background.
    assert found["accuracy"] == pytest.approx(11 / 15)
    assert found["event_accuracy"] == 1
    assert found["background_accuracy"] == pytest.approx(5 / 9)
    assert found["num_seconds"] == 15


def test_starts_of_audio_visual_matching(tmp_path):
    made = [
        {"item_id": "a", "start_s": 0, "end_s": 4, "direction": "a2v"},
        {"item_id": "a", "start_s": 1, "end_s": 5, "direction": "v2a"},
        {"item_id": "b", "start_s": 2, "end_s": 4, "direction": "a2v"},
        {"item_id": "b", "start_s": 2, "end_s": 4, "direction": "v2a"},
    ]
    found = json.loads(score(tmp_path, "av-matching", made, CLIPS, "--json").stdout)["av_matching"]
    assert found["accuracy"] == {"a2v": 1, "v2a": 0.5, "mean": 0.75}
    table = score(tmp_path, "av-matching", made, CLIPS)
    assert table.exit_code == 0
    assert "75.00 %" in table.stdout


@pytest.mark.parametrize(
    ("task", "made", "truth", "problem"),
    [
        ("av-event", CLIPS[:1], CLIPS, "1 of 2 clips have no prediction, such as b"),
        ("av-event", [*CLIPS, {**CLIPS[0], "item_id": "z"}], CLIPS, "answers 'z', which is none of the 2 clips"),
        ("av-event", [CLIPS[0], {**CLIPS[1], "label": "cat"}], CLIPS, "'cat', which is no class"),
        ("av-event", CLIPS, [*CLIPS, CLIPS[0]], "two lines of clip 'a'; tell the clips of one item apart by `id`"),
        ("av-event", CLIPS, [{**CLIPS[0], "end_s": 12}], "ends at 12 s, after its clip, which lasts 10 s"),
        ("av-event", CLIPS, [{**CLIPS[0], "label": "background"}], "the class of seconds without an event"),
        ("av-event", CLIPS, [{**CLIPS[0], "label": None}], "1 of 1 lines have no label"),
        ("av-matching", CLIPS, CLIPS, "give it a direction, a2v or v2a"),
        ("av-matching", [{**CLIPS[0], "direction": "up"}], CLIPS, "line 1: direction: Input should be 'a2v' or 'v2a'"),
    ],
)
def test_lines_of_audio_visual_events_that_are_refused(tmp_path, task, made, truth, problem):
    error = score(tmp_path, task, made, truth).exception
    assert isinstance(error, OptionError)
    assert problem in str(error)


def test_predictions_of_other_classes_and_items_are_counted(tmp_path):
    more = [*MADE, {**MADE[0], "label": "jump"}, {**MADE[0], "item_id": "w"}]
    found = json.loads(score(tmp_path, "detection", more, TRUTH, "--json").stdout)
    assert (found["num_predictions_of_other_classes"], found["num_predictions_of_other_items"]) == (1, 1)


@pytest.mark.parametrize(
    ("made", "truth", "problem"),
    [
        ([{"item_id": "v"}], TRUTH, "predictions.jsonl, line 1: label: Field required"),
        ([{**MADE[0], "score": None}], TRUTH, "1 of 1 lines have no score"),
        ([{**MADE[0], "start_s": None}], TRUTH, "start_s and end_s belong together"),
        ([{**MADE[0], "start_s": 11}], TRUTH, "it ends at 10.0 s, before its start at 11.0 s"),
        ([{"item_id": "v", "label": "wave", "score": 1}], TRUTH, "have no start_s and end_s"),
        (MADE, [], "is empty, so there is nothing to compare with"),
    ],
)
def test_lines_that_are_refused(tmp_path, made, truth, problem):
    error = score(tmp_path, "detection", made, truth).exception
    assert isinstance(error, OptionError)
    assert problem in str(error)


def test_flags_that_do_not_go_together(tmp_path):
    assert (
        "give --predictions FILE and --truth FILE"
        in CliRunner().invoke(vidloc, ["evaluate", "--task", "detection"]).output
    )
    assert "give a run or a file of predictions" in CliRunner().invoke(vidloc, ["evaluate"]).output
    assert "expected numbers above 0" in str(score(tmp_path, "detection", MADE, TRUTH, "--thresholds=x").exception)
    missing = ["evaluate", "--task", "detection", "--predictions", str(tmp_path / "a"), "--truth", str(tmp_path / "b")]
    assert "there is no file" in str(CliRunner().invoke(vidloc, missing).exception)
