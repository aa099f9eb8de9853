"""Single frames of one's own: both units of time, both kinds of file, and what is refused."""

from __future__ import annotations

import json

import pytest

from vidloc.datasets.own_labels import TASK
from vidloc.errors import AnnotationError, OptionError
from vidloc.pipelines.labels import read_labels

ROWS = [
    {"item_id": "a.mp4", "time_s": 12.4, "label": "pour", "split": "train"},
    {"item_id": "a.mp4", "time_s": 3.0, "label": "cut", "split": "train"},
    {"item_id": "b.mp4", "time_s": 0.5, "label": "pour", "split": "held_out"},
]


def table(tmp_path, text):
    path = tmp_path / "points.csv"
    path.write_text(text)
    return path


def times(annotations):
    return {item: [(p.time_s, p.labels[TASK]) for p in points] for item, points in annotations.points.items()}


def test_seconds_frames_and_json_say_the_same(tmp_path):
    lines = "".join(f"{r['item_id']},{r['time_s']},{r['label']},{r['split']}\n" for r in ROWS)
    seconds = read_labels("points", {}, table(tmp_path, "item_id,time_s,label,split\n" + lines))[1]
    lines = "".join(f"{r['item_id']},{r['time_s'] * 10:.0f},10,{r['label']},{r['split']}\n" for r in ROWS)
    frames = read_labels("points", {}, table(tmp_path, "item_id,frame,fps,label,split\n" + lines))[1]
    path = tmp_path / "points.json"
    path.write_text(json.dumps(ROWS))
    parsed = read_labels("points", {}, path)[1]
    assert times(seconds) == times(frames) == times(parsed)
    assert times(seconds) == {"a.mp4": [(12.4, 1), (3.0, 0)], "b.mp4": [(0.5, 1)]}
    assert seconds.classes == {TASK: ("cut", "pour")}
    assert seconds.split_items == {"held_out": ("b.mp4",), "train": ("a.mp4",)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("item_id,label\na,pour\n", "expected item_id, label, and either time_s, or frame and fps"),
        ("item_id,time_s,label\n", "holds no single frame"),
        ("item_id,time_s,label\na,-1,pour\n", "line 2: the time is -1.0 s"),
        ("item_id,time_s,label\na,,pour\n", "a time in seconds, or a frame and fps"),
        ("item_id,frame,fps,label\na,3,0,pour\n", "frames per second, more than 0"),
        ("item_id,time_s,label,split\na,1,pour,train\na,2,pour,test\n", "line 3: item 'a' is in split 'test'"),
    ],
)
def test_what_is_refused(tmp_path, text, problem):
    with pytest.raises(AnnotationError, match=problem):
        read_labels("points", {}, table(tmp_path, text))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": 1}, "expected a list of objects"),
        ([{"item_id": "a"}], "entry 0: expected an object with item_id"),
        ([{"item_id": "a", "label": "x", "time_s": "1"}], "time_s must be a number, found '1'"),
        ([{"item_id": "a", "label": "x", "frame": 1}], "fps must be a number, found None"),
        ([{"item_id": "a", "label": "x", "frame": 1, "fps": 0}], "fps must be more than 0"),
    ],
)
def test_what_is_refused_of_json(tmp_path, value, problem):
    path = tmp_path / "points.json"
    path.write_text(json.dumps(value))
    with pytest.raises(AnnotationError, match=problem):
        read_labels("points", {}, path)


def test_a_file_is_needed():
    with pytest.raises(OptionError, match="--dataset points needs --annotations FILE"):
        read_labels("points", {}, None)


def test_single_frames_beside_true_segments(tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("item_id,start_s,end_s,label,split\na,1,5,pour,train\nb,1,5,cut,test\n")
    own = table(tmp_path, "item_id,time_s,label\na,2,pour\n")
    annotations = read_labels("segments", {"points": str(own)}, truth)[1]
    assert times(annotations) == {"a": [(2.0, 1)]}
    assert set(annotations.sha256) == {"truth.csv", "points.csv"}
    assert read_labels("segments", {}, truth)[1].points == {}
    own.write_text("item_id,time_s,label\na,2,poor\n")
    with pytest.raises(AnnotationError, match=r"line 2: 'poor' is no class\. Did you mean pour\?"):
        read_labels("segments", {"points": str(own)}, truth)
