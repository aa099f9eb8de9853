"""THUMOS14, GTEA and BEOID: the counts of the published files, their oddities by name, and the draw of annotators."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from vidloc.datasets.own_labels import TASK
from vidloc.datasets.single_frame_sets import NAMES
from vidloc.errors import AnnotationError
from vidloc.pipelines.labels import read_labels

# Rows, share of them inside a segment of their class, share of segments hit, mean position in the segment.
COUNTS = {
    "thumos14": [
        (2980, 0.959, 0.947, 0.305),
        (2919, 0.976, 0.945, 0.573),  # one row of 2920 names a video that does not exist
        (3014, 0.961, 0.958, 0.600),
        (2986, 0.984, 0.975, 0.340),
    ],
    "gtea": [
        (369, 0.992, 0.992, 0.390),
        (367, 0.984, 0.984, 0.332),
        (377, 0.973, 0.981, 0.551),
        (367, 0.997, 0.997, 0.484),
    ],
    "beoid": [
        (589, 0.971, 0.949, 0.444),
        (602, 0.980, 0.993, 0.506),
        (604, 0.957, 0.955, 0.492),
        (599, 0.960, 0.963, 0.466),
    ],
}
SPLITS = {
    "thumos14": {"train": (200, 3007), "test": (212, 3358)},
    "gtea": {"train": (21, 367), "test": (7, 130)},
    "beoid": {"train": (46, 594), "test": (12, 148)},
}
NUM_CLASSES = {"thumos14": 20, "gtea": 7, "beoid": 34}


def read(shared, name, **options):
    return read_labels(name, options, shared / "data" / name)[1]


@pytest.mark.parametrize("name", NAMES)
def test_splits_and_classes(shared, name):
    annotations = read(shared, name, annotator="1")
    found = {s: (len(annotations.items_of(s)), len(annotations.split(s))) for s in annotations.splits}
    assert found == SPLITS[name]
    assert len(annotations.classes[TASK]) == NUM_CLASSES[name]
    assert set(annotations.durations_s) == set(annotations.items)


def test_classes_are_numbered_as_the_files_list_them(shared):
    assert read(shared, "gtea").classes[TASK] == ("stir", "open", "put", "close", "take", "pour", "scoop")
    thumos = read(shared, "thumos14").classes[TASK]
    assert (thumos[0], thumos[-1], list(thumos)) == ("BaseballPitch", "VolleyballSpiking", sorted(thumos))


@pytest.mark.parametrize("name", NAMES)
def test_annotators_agree_with_the_segments_as_counted(shared, name):
    for number, (rows, inside, hit, position) in enumerate(COUNTS[name], start=1):
        annotations = read(shared, name, annotator=str(number))
        points = [point for own in annotations.points.values() for point in own]
        segments = annotations.split("train")
        by_class = defaultdict(list)
        for k, segment in enumerate(segments):
            by_class[segment.item_id, segment.labels[TASK]].append((k, segment.span))
        positions, hits = [], set()
        for point in points:
            spans = by_class[point.item_id, point.labels[TASK]]
            holding = [(k, span) for k, span in spans if span.start_s <= point.time_s <= span.end_s]
            hits.update(k for k, _ in holding)
            if holding:
                span = holding[0][1]
                positions.append((point.time_s - span.start_s) / span.duration_s)
        assert len(points) == rows
        assert len(positions) / len(points) == pytest.approx(inside, abs=6e-4)
        assert len(hits) / len(segments) == pytest.approx(hit, abs=6e-4)
        assert np.mean(positions) == pytest.approx(position, abs=6e-4)


def test_oddities_are_told_by_name(shared):
    notes = " ".join(read(shared, "thumos14").notes)
    for part in (
        "THUMOS2.txt: 'ideo_validation_0000945' is no training video; left out are as many of its rows: 1.",
        "THUMOS3.txt: no row of video_validation_0000052.",
        "THUMOS3.txt: 11 class names have blanks around them",
        "each of the 360 segments of CliffDiving is a segment of Diving as well.",
        "the durations of 16 videos are wrong by up to 235 s",
        "segments that end beyond the duration it states: 92.",
        "one of 4 annotators, drawn with annotator_seed 0.",
    ):
        assert part in notes
    unsorted = next(note for note in read(shared, "thumos14", annotator="3").notes if "order of time" in note)
    assert unsorted.count("video_validation_") == 11


def test_one_video_less_with_the_annotator_who_left_it_out(shared):
    assert len(read(shared, "thumos14", annotator="3").points) == 199
    assert len(read(shared, "thumos14", annotator="drawn").points) == 200


def test_the_draw_follows_from_the_seed_alone(shared):
    first, again = (read(shared, "gtea", annotator_seed=seed).points for seed in (0, 0))
    other = read(shared, "gtea", annotator_seed=1).points
    assert first == again
    assert first != other
    marked = [read(shared, "gtea", annotator=str(number)).points for number in (1, 2, 3, 4)]
    chosen = {item: [own[item] for own in marked].index(points) for item, points in first.items()}
    assert set(chosen.values()) == {0, 1, 2, 3}


def test_ones_own_single_frames_replace_those_of_the_corpus(shared, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text("item_id,frame,fps,label\nS1_Cheese_C1,30,15,take\n")
    annotations = read(shared, "gtea", points=str(own))
    [point] = annotations.points["S1_Cheese_C1"]
    assert (point.time_s, point.labels[TASK]) == (2.0, 4)
    assert list(annotations.points) == ["S1_Cheese_C1"]
    assert "own.csv" in annotations.sha256
    own.write_text("item_id,time_s,label\nS1_Peanut_C1,3,take\n")
    with pytest.raises(AnnotationError, match="no item is called 'S1_Peanut_C1'"):  # a test video
        read(shared, "gtea", points=str(own))


def copied(shared, tmp_path) -> Path:
    folder = tmp_path / "gtea"
    shutil.copytree(shared / "data" / "gtea", folder)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    return folder


def test_broken_files_are_one_line(shared, tmp_path):
    with pytest.raises(AnnotationError, match="gtea needs the folder of its annotation files"):
        read_labels("gtea", {}, shared / "data" / "gtea" / "gtea_groundtruth.json")
    folder = copied(shared, tmp_path)
    frames = folder / "single_frames" / "GTEA2.txt"
    frames.write_text("S1_Cheese_C1,1.5,jump\n")
    with pytest.raises(AnnotationError, match=r"GTEA2\.txt, line 1, column 'class': found 'jump'"):
        read_labels("gtea", {}, folder)
    frames.write_text("S1_Cheese_C1,-1.5,take\n")
    with pytest.raises(AnnotationError, match="seconds from the start of the video"):
        read_labels("gtea", {}, folder)
    np.save(folder / "classlist.npy", np.array(["take"], dtype=object), allow_pickle=True)
    with pytest.raises(AnnotationError, match="cannot be read as a plain array"):
        read_labels("gtea", {}, folder)
    np.save(folder / "classlist.npy", np.array([b"take"]))
    with pytest.raises(AnnotationError, match=r"is not in classlist\.npy"):
        read_labels("gtea", {}, folder)
    (folder / "classlist.npy").unlink()
    with pytest.raises(AnnotationError, match="there is no annotation file"):
        read_labels("gtea", {}, folder)


def test_videos_are_found_by_name(shared, tmp_path):
    (tmp_path / "S1_Cheese_C1.avi").touch()
    reader, annotations = read_labels("gtea", {}, shared / "data" / "gtea")
    media = reader.find_media(tmp_path, annotations)
    assert list(media.paths) == ["S1_Cheese_C1"]
    assert len(media.missing) == 27
    with pytest.raises(AnnotationError, match="to know which videos take part"):
        reader.find_media(tmp_path, None)
