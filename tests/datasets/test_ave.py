"""The annotation and split files of AVE, read whole: every number that its description states."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from vidloc.core import registry
from vidloc.datasets.ave import BACKGROUND, CLIP_S, TASK, Ave, AveOptions
from vidloc.datasets.base import Annotations
from vidloc.errors import AnnotationError, MediaError

PROTOCOLS = ("event", "weak", "matching")
PER_CLASS = [
    188, 176, 171, 184, 188, 175, 178, 187, 172, 163, 182, 138, 102, 99,
    186, 176, 160, 183, 100, 83, 69, 160, 60, 64, 180, 109, 154, 156,
]  # fmt: skip
LINES = ("Church bell&aaaaaaaaaaa&good&6&8", "Male speech, man speaking&bbbbbbbbbbb&good&0&10", "Bark&c.c&good&0&0")
SPLITS = {"train": [0], "val": [2], "test": [1]}


def ave(**options) -> Ave:
    return Ave(AveOptions.parse(options, where="dataset 'ave'"), name="ave")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "ave"


@pytest.fixture(scope="module")
def read(folder) -> dict[str, Annotations]:
    return {protocol: ave(protocol=protocol).read(folder) for protocol in PROTOCOLS}


@pytest.fixture
def small(tmp_path) -> Path:
    (tmp_path / "Annotations.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (tmp_path / "splits.json").write_text(json.dumps(SPLITS), encoding="utf-8")
    return tmp_path


def everything(annotations: Annotations):
    return {int(s.id): s for split in annotations.splits.values() for s in split if s.id.isdigit()}


def seconds(segment) -> list[int]:
    """The labels of a clip's seconds; 28 is background."""
    return [segment.labels[TASK] if segment.span.start_s <= t < segment.span.end_s else 28 for t in range(CLIP_S)]


def test_counts_of_the_corpus(read, folder):
    found = everything(read["event"])
    assert sorted(found) == list(range(4143))
    names = read["event"].classes[TASK]
    assert (len(names), names[28], names[1]) == (29, BACKGROUND, "Male speech, man speaking")
    assert list(names[:28]) == (folder / "categories.txt").read_text().splitlines()
    counts = Counter(s.labels[TASK] for s in found.values())
    assert [counts[k] for k in range(28)] == PER_CLASS
    assert len({s.item_id for s in found.values()}) == 4097
    labels = np.array([seconds(found[k]) for k in range(4143)])
    assert (int((labels != 28).sum()), int((labels == 28).sum())) == (34_352, 7_078)
    lengths = Counter(int(s.span.duration_s) for s in found.values())
    assert (lengths[10], lengths[0], min(k for k in lengths if k)) == (2750, 1, 2)


def test_rows_stated_one_by_one(read):
    found = everything(read["event"])
    assert found[1].item_id == "MH3m4AwEcRY"
    assert seconds(found[1]) == [28, 28, 28, 28, 28, 28, 0, 0, 28, 28]
    assert (found[26].item_id, seconds(found[26])) == ("VWi2ENBuTbw", [28] * 10)


@pytest.mark.parametrize(
    ("split", "events", "background", "full", "partial", "none"),
    [("train", 27_759, 5_631, 2231, 1107, 1), ("val", 3_288, 732, 258, 144, 0), ("test", 3_305, 715, 261, 141, 0)],
)
def test_splits_of_the_event_protocol(read, split, events, background, full, partial, none):
    segments = read["event"].split(split)
    labels = np.array([seconds(s) for s in segments])
    assert (int((labels != 28).sum()), int((labels == 28).sum())) == (events, background)
    kinds = Counter((labels != 28).sum(axis=1).tolist())
    assert (kinds[10], kinds[0], len(segments) - kinds[10] - kinds[0]) == (full, none, partial)


def test_splits_keep_the_released_order(read, folder):
    for protocol, name in (("event", "splits.json"), ("matching", "splits_cross_modality.json")):
        orders = json.loads((folder / name).read_text())
        assert sorted(n for order in orders.values() for n in order) == list(range(4143))
        assert [len(orders[split]) for split in ("train", "val", "test")] == [3339, 402, 402]
        for split, order in orders.items():
            expected = [n for n in order if protocol == "event" or n != 26]
            assert [int(s.id) for s in read[protocol].split(split)] == expected


def test_matching_has_a_split_of_its_own(read):
    found = read["matching"]
    lengths = Counter(int(s.span.duration_s) for s in found.split("test"))
    assert [lengths[k] for k in range(2, 10)] == [57, 57, 58, 58, 53, 46, 39, 34]
    assert sum(lengths.values()) == 402
    per_class = {split: Counter(s.labels[TASK] for s in found.split(split)) for split in found.splits}
    assert (per_class["train"][0], per_class["train"][1]) == (0, 0)
    assert (per_class["test"][0], per_class["test"][1]) == (14, 34)
    assert set(per_class["val"]) == {0, 1, 2}
    assert (len(found.classes[TASK]), found.protocol) == (28, "av-matching")
    learnt = {s.id for s in read["event"].split("train")}
    assert sum(s.id in learnt for s in found.split("test")) == 314


def test_weak_training_sees_no_seconds(read):
    train = read["weak"].split("train")
    assert len(train) == 3339 + 178
    assert {tuple(s.span) for s in train} == {(0.0, 10.0)}
    extra = [s for s in train if s.labels[TASK] == 28]
    assert [s.item_id for s in extra] == [f"background_{k:03d}" for k in range(178)]
    assert train[:3339] != read["event"].split("train")
    assert {k: s.labels for k, s in everything(read["weak"]).items()} == {
        k: s.labels for k, s in everything(read["event"]).items()
    }
    for split in ("val", "test"):
        assert read["weak"].split(split) == read["event"].split(split)


def test_background_clips_can_be_left_out(folder):
    without = ave(protocol="weak", background=False).read(folder)
    assert len(without.split("train")) == 3339
    assert without.notes[-1] == "weak training goes without the authors' clips of background (background=false)."


def test_defects_are_reported(read, folder):
    with (folder / "repeated_videos.csv").open() as file:
        repeated = list(csv.DictReader(file))
    assert (len({row["video_id"] for row in repeated}), len(repeated)) == (45, 91)
    notes = {protocol: " ".join(found.notes) for protocol, found in read.items()}
    for text in notes.values():
        assert "45 videos are annotated more than once (91 of 4143 clips)" in text
    assert "8 test and 10 val clips are videos that also occur in train" in notes["event"]
    assert "clip 26 of split 'train' has no second of its event" in notes["event"]
    assert "Church bell (14 test clips), Male speech, man speaking (34 test clips)" in notes["matching"]
    assert "314 test clips of protocol=matching are training clips of protocol=event" in notes["matching"]
    assert "178 clips of background" in notes["weak"]


def test_a_header_line_changes_nothing(folder, read, tmp_path):
    for name in ("splits.json", "categories.txt"):
        shutil.copy(folder / name, tmp_path / name)
    text = (folder / "Annotations.txt").read_text()
    (tmp_path / "Annotations.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n" + text)
    assert ave().read(tmp_path).splits == read["event"].splits


def test_the_releases_own_split_files_and_order_of_classes(folder, read, tmp_path):
    """`*_order.h5` in place of splits.json, and no categories.txt: the same annotations."""
    shutil.copy(folder / "Annotations.txt", tmp_path)
    for protocol, name in (("event", "splits.json"), ("matching", "splits_cross_modality.json")):
        end = "_order.h5" if protocol == "event" else "_order_match.h5"
        for split, order in json.loads((folder / name).read_text()).items():
            with h5py.File(tmp_path / f"{split}{end}", "w") as file:
                file["order"] = np.array(order)
        found = ave(protocol=protocol).read(tmp_path)
        assert (found.splits, found.classes) == (read[protocol].splits, read[protocol].classes)
        assert f"train{end}" in found.sha256


def test_names_of_the_registry_and_durations(small):
    assert registry.load("datasets", "ave").target is Ave
    found = ave().read(small)
    assert set(found.durations_s.values()) == {10.0}
    assert found.classes[TASK] == ("Church bell", "Male speech, man speaking", "Bark", BACKGROUND)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Annotations.txt", "Bark&aaaaaaaaaaa&good&6", r"line 1: 4 fields .* expected 5 with & between"),
        (
            "Annotations.txt",
            "Bark&aaaaaaaaaaa&good&6&11",
            "column 'EndTime': found '11', expected a whole number from 0",
        ),
        ("Annotations.txt", "Bark&aaaaaaaaaaa&good&6&5", "expected a second from 6 on"),
        ("categories.txt", "Bark\n", "lacks 'Church bell', which a clip has"),
        ("splits.json", "[]", "expected an object with lists train, val, test"),
        ("splits.json", '{"train": [0, 7], "val": [], "test": []}', "whole numbers from 0 to 2"),
        ("splits.json", '{"train": [0], "val": [0], "test": []}', "clip 0 was in split 'train' before"),
    ],
)
def test_malformed_files_are_refused_by_place(small, name, text, message):
    (small / name).write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=message):
        ave().read(small)


def test_missing_files_are_named(small, tmp_path):
    (small / "splits.json").unlink()
    with pytest.raises(AnnotationError, match=r"has no splits\.json, and no train_order\.h5 of the release"):
        ave().read(small)
    with pytest.raises(AnnotationError, match="needs the folder of its annotation files"):
        ave().read(None)
    (small / "train_order.h5").write_text("no hdf5")
    for split in ("val", "test"):
        shutil.copy(small / "train_order.h5", small / f"{split}_order.h5")
    with pytest.raises(AnnotationError, match="is no HDF5 file with a dataset 'order'"):
        ave().read(small)


def test_a_damaged_file_of_background_rows_is_refused(small):
    (small / "background_audio_features.npz").write_bytes(b"PK no zip")
    with pytest.raises(AnnotationError, match="is no file with an array 'features'"):
        ave(protocol="weak").read(small)
    np.savez(small / "background_audio_features.npz", features=np.zeros((3, 5, 128), np.float32))
    with pytest.raises(AnnotationError, match=r"has the shape \(3, 5, 128\), expected \(clips, 10, 128\)"):
        ave(protocol="weak").read(small)


def test_videos_are_found_by_their_names(small, tmp_path):
    root = tmp_path / "AVE"
    (root / "more").mkdir(parents=True)
    for name in ("aaaaaaaaaaa.mp4", "c.c.mkv", "other.mp4", "notes.txt", "aaaaaaaaaaa.wav"):
        (root / name).write_bytes(name.encode())
    annotations = ave().read(small)
    found = ave().find_media(root, annotations)
    assert {item: path.name for item, path in found.paths.items()} == {
        "aaaaaaaaaaa": "aaaaaaaaaaa.mp4",
        "c.c": "c.c.mkv",
    }
    assert found.missing == ("bbbbbbbbbbb",)
    assert found.ignored["other.mp4"] == "ave does not annotate it"
    assert set(found.ignored) == {"other.mp4", "notes.txt", "aaaaaaaaaaa.wav"}
    (root / "more" / "aaaaaaaaaaa.webm").write_bytes(b"x")
    with pytest.raises(MediaError, match=r"video aaaaaaaaaaa lies below .* twice"):
        ave().find_media(root, annotations)
