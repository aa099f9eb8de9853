"""The official annotation files, read whole: every number of the specification that they determine."""

from __future__ import annotations

import csv
import gzip
import json
import math
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidloc.core import registry
from vidloc.datasets.base import Annotations
from vidloc.datasets.epic_kitchens import EpicKitchens, EpicOptions
from vidloc.errors import AnnotationError, MediaError, OptionError, UnknownNameError


def epic(name="epic", **options):
    return EpicKitchens(EpicOptions.parse(options, where="dataset 'epic'"), name=name)


@pytest.fixture(scope="module")
def epic55(shared: Path) -> Annotations:
    return epic().read(shared / "data" / "epic55")


@pytest.fixture(scope="module")
def everything55(shared: Path) -> Annotations:
    return epic(protocol="all").read(shared / "data" / "epic55")


@pytest.fixture(scope="module")
def epic100(shared: Path) -> Annotations:
    return epic().read(shared / "data" / "epic100")


def pairs(segments):
    return Counter((s.labels["verb"], s.labels["noun"]) for s in segments)


def column(path: Path, name: str) -> set[str]:
    with path.open(encoding="utf-8") as file:
        return {row[name] for row in csv.DictReader(file)}


def test_counts_of_the_labelled_part_of_55(everything55):
    train = everything55.split("train")
    assert everything55.dataset == everything55.protocol == "epic55"
    assert len(train) == 28_472
    assert {task: len(names) for task, names in everything55.classes.items()} == {"verb": 125, "noun": 352}
    assert everything55.classes["verb"][:2] == ("take", "put")
    assert everything55.classes["noun"][0] == "Nothing"
    assert len({s.labels["verb"] for s in train}) == 119
    assert len({s.labels["noun"] for s in train}) == 321
    assert len(pairs(train)) == 2_513
    assert sum(count > 50 for count in pairs(train).values()) == 101
    assert sum(len(nouns) > 1 for nouns in everything55.label_sets["noun"].values()) == 4_290
    assert all(everything55.label_sets["noun"][s.id][0] == s.labels["noun"] for s in train)


def test_times_of_55(everything55):
    lengths = np.array([s.span.duration_s for s in everything55.split("train")])
    assert (lengths.min(), lengths.max()) == (pytest.approx(0.5, abs=0.01), pytest.approx(207, abs=0.5))
    assert np.median(lengths) == pytest.approx(1.93, abs=0.005)
    assert lengths.mean() == pytest.approx(3.74, abs=0.005)
    assert everything55.split("train")[0].span == (0.14, 3.37)
    assert sum(everything55.durations_s.values()) / 3600 == pytest.approx(55, abs=1)


def test_test_sets_of_55_have_no_labels(epic55):
    assert {name: len(epic55.split(name)) for name in ("test_s1", "test_s2")} == {"test_s1": 8_047, "test_s2": 2_929}
    assert not any(s.labels for name in ("test_s1", "test_s2") for s in epic55.split(name))
    assert {s.group for s in epic55.split("test_s2")} == {"P09", "P11", "P18", "P32"}
    participants = {s.group for name in epic55.splits for s in epic55.split(name)}
    assert (len(epic55.items), len(participants)) == (432, 32)


def test_participant_split_of_55(epic55, shared):
    train, validation = epic55.split("train"), epic55.split("validation")
    assert (len(train), len(validation)) == (23_191, 5_281)
    stated = json.loads((shared / "data/epic55/split_participants_25_6.json").read_text())
    assert epic55.items_of("train") == tuple(sorted(stated["train_videos"]))
    assert epic55.items_of("validation") == tuple(sorted(stated["val_videos"]))
    assert len(stated["train_videos"]) == 200
    assert len(stated["val_videos"]) == 72
    assert len({s.labels["verb"] for s in train}) == 113
    assert len({s.labels["noun"] for s in train}) == 300
    seen, asked = pairs(train), pairs(validation)
    unseen = [pair for pair in asked if pair not in seen]
    assert (len(seen), len(asked), len(unseen)) == (2_266, 827, 247)
    assert sum(asked[pair] for pair in unseen) == 558


def test_constant_guesses_of_55(epic55):
    train, validation = epic55.split("train"), epic55.split("validation")
    for key, share, guess in (
        (lambda s: s.labels["verb"], 22.0, 1),
        (lambda s: s.labels["noun"], 4.1, 3),
        (lambda s: (s.labels["verb"], s.labels["noun"]), 3.1, (2, 8)),
    ):
        best, _ = Counter(map(key, train)).most_common(1)[0]
        assert best == guess
        assert 100 * Counter(map(key, validation))[best] / len(validation) == pytest.approx(share, abs=0.05)


def test_other_protocols_of_55(shared, everything55):
    rulstm = epic(protocol="rulstm").read(shared / "data" / "epic55")
    assert (len(rulstm.split("train")), len(rulstm.split("validation"))) == (23_493, 4_979)
    assert (len(rulstm.items_of("train")), len(rulstm.items_of("validation"))) == (232, 40)
    with pytest.raises(UnknownNameError, match="no split 'validation'"):
        everything55.split("validation")


def test_many_shot_lists_equal_the_files(epic55, shared):
    folder = shared / "data" / "epic55"
    groups = epic55.groups
    assert {name: len(group) for name, group in groups.items()} == {
        "many_shot_verb": 26,
        "many_shot_noun": 71,
        "many_shot_action": 819,
    }
    assert groups["many_shot_verb"] == {int(v) for v in column(folder / "EPIC_many_shot_verbs.csv", "verb_class")}
    assert groups["many_shot_noun"] == {int(n) for n in column(folder / "EPIC_many_shot_nouns.csv", "noun_class")}
    written = column(folder / "EPIC_many_shot_actions.csv", "action_class")
    assert {str(pair) for pair in groups["many_shot_action"]} == written


def test_narrations_belong_to_segments(epic55, epic100):
    for corpus in (epic55, epic100):
        spans = {s.id: s.span for segments in corpus.splits.values() for s in segments}
        narrations = [n for item in corpus.narrations.values() for n in item]
        assert all(spans[n.id] == n.span for n in narrations)
    assert sum(map(len, epic55.narrations.values())) == 28_472
    assert epic55.narrations["P01_01"][0].text == "open door"
    assert sum(map(len, epic100.narrations.values())) == 9_668


def test_counts_of_100(epic100):
    assert epic100.dataset == epic100.protocol == "epic100"
    assert {name: len(segments) for name, segments in epic100.splits.items()} == {
        "train": 67_217,
        "validation": 9_668,
        "test": 13_092,
    }
    assert [len(epic100.items_of(name)) for name in ("train", "validation", "test")] == [495, 138, 67]
    assert (len(epic100.items), len(epic100.durations_s)) == (700, 700)
    assert sum(epic100.durations_s.values()) / 3600 == pytest.approx(100.0, abs=0.05)
    assert {task: len(names) for task, names in epic100.classes.items()} == {"verb": 97, "noun": 300}
    seen = pairs(epic100.split("train"))
    assert len(seen) == 3_568
    assert len(seen + pairs(epic100.split("validation"))) == 3_806
    assert any("times are rounded down to 1/30 s" in note for note in epic100.notes)


def test_unseen_participants_equal_the_files(epic100, shared):
    folder = shared / "data" / "epic100"
    files = [f"EPIC_100_unseen_participant_ids_{part}.csv" for part in ("validation", "test")]
    official = [column(folder / name, "participant_id") for name in files]
    assert official == [{"P18", "P32"}, {"P33", "P34", "P36"}]
    assert epic100.groups["unseen_participants"] == official[0] | official[1]
    assert sum(s.group in official[0] for s in epic100.split("validation")) == 1_065


def test_tail_classes_equal_the_files(epic100, shared):
    verbs, nouns = epic100.groups["tail_verb"], epic100.groups["tail_noun"]
    assert verbs == {int(v) for v in column(shared / "data/epic100/EPIC_100_tail_verbs.csv", "verb")}
    assert nouns == {int(n) for n in column(shared / "data/epic100/EPIC_100_tail_nouns.csv", "noun")}
    assert (len(verbs), len(nouns)) == (86, 228)
    train = epic100.split("train")
    assert sum(s.labels["verb"] in verbs for s in train) / len(train) == pytest.approx(0.189, abs=0.0005)
    assert sum(s.labels["noun"] in nouns for s in train) / len(train) == pytest.approx(0.200, abs=0.0005)
    validation = [(s.labels["verb"] in verbs, s.labels["noun"] in nouns) for s in epic100.split("validation")]
    assert np.array(validation).sum(axis=0).tolist() == [1_760, 1_900]
    assert sum(verb or noun for verb, noun in validation) == 3_105


def test_frame_columns_follow_the_stated_rule(epic100, shared):
    """Why times come from timestamps: the frame columns count frames of the official extraction."""
    starts = {s.id: s.span.start_s for name in ("validation", "test") for s in epic100.split(name)}
    off = []
    for name in ("validation", "test_timestamps"):
        with gzip.open(shared / f"data/epic100/EPIC_100_{name}.csv.gz", "rt") as file:
            for row in csv.DictReader(file):
                fps = 50 if len(row["video_id"]) == len("P01_101") else 60
                off.append(int(row["start_frame"]) - max(1, math.floor(fps * starts[row["narration_id"]] + 1e-6)))
    assert set(off) == {0, -1}
    assert 0.01 <= np.mean(np.array(off) == -1) <= 0.03


def test_detection_sample(shared):
    with (shared / "data/epic55/detections_sample_P01_01.csv").open() as file:
        rows = list(csv.DictReader(file))
    per_frame = Counter(row["frame"] for row in rows)
    assert (len(per_frame), len(rows), max(per_frame.values())) == (100, 357, 7)
    assert Counter(int(row["class_id_raw"]) - 1 for row in rows)[8] == 342


def write_100(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "EPIC_100_verb_classes.csv").write_text("id,key\n0,take\n1,put\n")
    (folder / "EPIC_100_noun_classes.csv").write_text("id,key\n0,tap\n1,spoon\n")
    for stem, content in files.items():
        (folder / f"{stem}.csv").write_text(content)
    return folder


COLUMNS = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,narration,"
    "verb_class,noun_class,all_noun_classes\n"
)


def test_full_training_file_of_100_is_preferred(tmp_path):
    row = 'P01_101_0,P01,P01_101,01:00:02.85,01:00:03.10,"take tap, spoon",0,1,"[1, 0]"\n'
    folder = write_100(tmp_path / "a", EPIC_100_train=COLUMNS + row, ek100_training_30fps="x,P01_01,1,2,0,0,0\n")
    found = epic().read(folder)
    assert [s.span for s in found.split("train")] == [(3602.85, 3603.10)]
    assert found.label_sets["noun"] == {"P01_101_0": (1, 0)}
    assert found.narrations["P01_101"][0].text == "take tap, spoon"
    assert "the file of split 'test' is not there, so there is no such split." in found.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("P01_101_0,P01,P01_101,00:00:02,00:00:01,x,0,0,[0]", "line 2: the segment goes from 2.0 s to 1.0 s"),
        (
            "P01_101_0,P01,P01_101,2 s,00:00:03,x,0,0,[0]",
            r"line 2, column 'start_timestamp': found '2 s', expected a time",
        ),
        (
            "P01_101_0,P01,P01_101,00:00:02,00:00:03,x,2,0,[0]",
            "'verb_class': found '2', expected a whole number from 0 to 1",
        ),
        ("P01_101_0,P01,P01_101,00:00:02,00:00:03,x,,0,[0]", "'verb_class': found ''"),
        ("P01_101_0,P01,P01_101,00:00:02,00:00:03,x,0,0,[1]", r"expected a list that begins with 0"),
        ("P01_101_0,P01,P01_101,00:00:02,00:00:03,x,0,0,open()", "expected a list of whole numbers from 0 to 1"),
        ("P01_101_0,P01,kitchen,00:00:02,00:00:03,x,0,0,[0]", "expected a video id such as P01_01"),
        ("P01_101_0,P01,P01_101,00:00:02", "line 2: 4 values, but there are 9 columns"),
        (
            "P01_101_0,P01,P01_101,0:0:2,0:0:3,x,0,0,[0]\nP01_101_0,P01,P01_101,0:0:2,0:0:3,x,0,0,[0]",
            "line 3: the id 'P01_101_0' occurs a second time",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    folder = write_100(tmp_path / "a", EPIC_100_validation=COLUMNS + row + "\n")
    with pytest.raises(AnnotationError, match=message):
        epic().read(folder)


def test_class_ids_count_from_zero(tmp_path):
    folder = write_100(tmp_path / "a", EPIC_100_noun_classes="id,key\n1,tap\n")
    with pytest.raises(AnnotationError, match="expected 0 \\(ids count from 0"):
        epic().read(folder)


def test_edition_is_told_from_the_files(tmp_path, shared):
    with pytest.raises(AnnotationError, match="holds no EPIC-KITCHENS annotations: expected EPIC_train_action_labels"):
        epic().read(tmp_path)
    folder = write_100(tmp_path / "mixed")
    shutil.copy(shared / "data/epic55/EPIC_verb_classes.csv", folder)
    with pytest.raises(AnnotationError, match=r"files of both editions .* --dataset epic55 or --dataset epic100"):
        epic().read(folder)
    with pytest.raises(AnnotationError, match=r"has no EPIC_noun_classes\.csv .* which epic55 needs"):
        epic("epic55").read(folder)
    with pytest.raises(AnnotationError, match=r"none of EPIC_100_train\.csv"):
        epic("epic100").read(folder)
    with pytest.raises(AnnotationError, match="needs the folder of its annotation files, got None"):
        epic().read(None)
    with pytest.raises(OptionError, match="is for EPIC-KITCHENS-55"):
        epic(protocol="all").read(write_100(tmp_path / "only100"))


def test_registered_under_three_names():
    for name in ("epic", "epic55", "epic100"):
        assert registry.load("datasets", name).target is EpicKitchens


def layout(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


@pytest.fixture
def three_videos(tmp_path) -> Annotations:
    rows = "".join(f"{v}_0,P0{v[2]},{v},0:0:0,0:0:1\n" for v in ("P01_01", "P01_101", "P02_03"))
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp\n"
    return epic().read(write_100(tmp_path / "annotations", EPIC_100_test_timestamps=header + rows))


@pytest.mark.parametrize(
    "names",
    [
        ("videos/train/P01/P01_01.MP4", "videos/train/P01/P01_101.MP4", "videos/test/P02/P02_03.MP4"),
        ("P01/videos/P01_01.MP4", "P01/videos/P01_101.mp4", "P02/videos/P02_03.MP4"),
        ("EPIC-KITCHENS/P01/videos/P01_01.MP4", "EPIC-KITCHENS/P01/videos/P01_101.MP4", "P02_03.mkv"),
        ("P01_01.mp4", "P01_101.Mp4", "P02_03.MP4"),
    ],
)
def test_official_layouts(tmp_path, three_videos, names):
    root = layout(tmp_path / "root", *names, "P01/flow_frames/P01_01.tar", "P01/object_detection_images/P01_01.tar")
    media = epic().find_media(root, three_videos)
    assert {item: path.relative_to(root).as_posix() for item, path in media.paths.items()} == dict(
        zip(("P01_01", "P01_101", "P02_03"), names, strict=True)
    )
    assert media.missing == ()
    assert media.ignored == {}
    assert media.frame_rates == {}


@pytest.mark.parametrize(
    "names",
    [
        [f"frames_rgb_flow/rgb/{n}.tar" for n in ("train/P01/P01_01", "train/P01/P01_101", "test/P02/P02_03")],
        [f"P{n[:2]}/rgb_frames/P{n}.tar" for n in ("01_01", "01_101", "02_03")],
        [f"EPIC-KITCHENS/P{n[:2]}/rgb_frames/P{n}" for n in ("01_01", "01_101", "02_03")],
        ["rgb/train/P01/P01_01", "P01_101.tgz", "P02/P02_03.tar.gz"],
    ],
)
def test_released_frames_stand_for_videos(tmp_path, three_videos, names):
    files = [name if ".t" in name else f"{name}/frame_0000000001.jpg" for name in names]
    root = layout(tmp_path / "root", *files, "P01/flow_frames/P01_01/u/frame_0000000001.jpg", "P02/P02_03/readme.txt")
    media = epic().find_media(root, three_videos)
    assert [path.relative_to(root).as_posix() for path in media.paths.values()] == names
    assert (media.missing, media.ignored, media.notes) == ((), {}, ())
    assert {item: rate.fps for item, rate in media.frame_rates.items()} == {"P01_01": 60, "P01_101": 50, "P02_03": 60}


def test_a_video_file_wins_over_frames_and_an_archive_over_its_folder(tmp_path, three_videos):
    root = layout(
        tmp_path / "root", "P01/videos/P01_01.MP4", "P01/rgb_frames/P01_01.tar", "P01/rgb_frames/P01_101.tar",
        "P01/rgb_frames/P01_101/frame_0000000001.jpg", "P09/rgb_frames/P09_09.tar",
    )  # fmt: skip
    media = epic().find_media(root, three_videos)
    assert {item: path.relative_to(root).as_posix() for item, path in media.paths.items()} == {
        "P01_01": "P01/videos/P01_01.MP4", "P01_101": "P01/rgb_frames/P01_101.tar",
    }  # fmt: skip
    assert list(media.frame_rates) == ["P01_101"]
    assert media.ignored == {
        "P01/rgb_frames/P01_01.tar": "the video file P01/videos/P01_01.MP4 is taken",
        "P01/rgb_frames/P01_101": "the archive P01_101.tar beside it is taken",
        "P09/rgb_frames/P09_09.tar": "epic100 does not annotate this video",
    }
    assert media.notes == ("1 videos are there as frames too; the video files are taken.",)
    assert list(epic().find_media(root, None).frame_rates) == ["P01_101", "P09_09"]
    layout(root, "rgb/train/P01/P01_101.tar")
    with pytest.raises(MediaError, match=r"the pictures of P01_101 lie below .* twice: .* and .*Give --root"):
        epic().find_media(root, three_videos)


def test_rates_of_frames_are_those_that_their_numbers_follow(epic55, epic100, shared, tmp_path):
    """EPIC-100's authors published how many frames each video was released in; a rate that is wrong would show."""
    with (shared / "data" / "epic100" / "EPIC_100_frame_counts.csv").open(encoding="utf-8") as file:
        counts = {row["video_id"]: int(row["rgb_n_frames"]) for row in csv.DictReader(file)}
    root = layout(tmp_path / "root", *(f"{item[:3]}/rgb_frames/{item}.tar" for item in counts))
    rates = epic().find_media(root, epic55).frame_rates | epic().find_media(root, epic100).frame_rates
    assert len(rates) == 700
    late_s = {item: counts[item] / rate.fps - rate.duration_s for item, rate in rates.items()}
    # Two videos of 2020 were first released at 60 fps by mistake, and counted so (the authors' erratum).
    wrong = {item: late_s.pop(item) for item in ("P01_109", "P27_103")}
    assert all(0 < late < 0.4 for late in late_s.values())
    assert all(late > 480 for late in wrong.values())
    assert (epic55.fps["P01_01"], epic100.fps["P01_101"]) == (Fraction(60_000, 1001), 50)


@pytest.mark.parametrize(
    "names",
    [
        [f"frames_rgb_flow/flow/{n}.tar" for n in ("train/P01/P01_01", "train/P01/P01_101", "test/P02/P02_03")],
        [f"EPIC-KITCHENS/P{n[:2]}/flow_frames/P{n}.tar" for n in ("01_01", "01_101", "02_03")],
        ["P01/flow_frames/P01_01", "flow_frames/P01_101", "flow/train/P02/P02_03"],
    ],
)
def test_released_flow_is_found_beside_frames_and_never_taken_for_them(tmp_path, three_videos, names):
    files = [name if name.endswith(".tar") else f"{name}/v/frame_0000000001.jpg" for name in names]
    root = layout(tmp_path / "root", *files, "P01/rgb_frames/P01_01.tar", "rgb/train/P01/P01_101.tar")
    media = epic().find_flow(root, three_videos)
    assert [path.relative_to(root).as_posix() for path in media.paths.values()] == names
    assert (media.missing, media.ignored) == ((), {})
    assert {item: rate.fps for item, rate in media.frame_rates.items()} == {"P01_01": 30, "P01_101": 50, "P02_03": 30}
    assert epic().find_media(root, three_videos).missing == ("P02_03",)
    layout(root, "P09/flow_frames/P09_09.tar")
    assert epic().find_flow(root, three_videos).ignored == {
        "P09/flow_frames/P09_09.tar": "epic100 does not annotate this video"
    }
    layout(root, "frames_rgb_flow/flow/P01_01.tar")
    with pytest.raises(MediaError, match=r"the pictures of P01_01 lie below .* twice"):
        epic().find_flow(root, three_videos)


def test_rates_of_flow_put_each_picture_at_its_frame(epic100, shared, tmp_path):
    """The flow of frame n is what is shown when it is; the published counts of both confirm the strides of 2 and 1."""
    with (shared / "data" / "epic100" / "EPIC_100_frame_counts.csv").open(encoding="utf-8") as file:
        counts = {
            row["video_id"]: (int(row["rgb_n_frames"]), int(row["flow_n_frames"])) for row in csv.DictReader(file)
        }
    root = layout(
        tmp_path / "root", *(f"{item[:3]}/{kind}_frames/{item}.tar" for item in counts for kind in ("rgb", "flow"))
    )
    frames, flow = (found(root, epic100).frame_rates for found in (epic().find_media, epic().find_flow))
    shown = {
        item: [math.floor((n - 1) / frames[item].fps * flow[item].fps) + 1 for n in (1, 2, 3, 202)]
        for item in ("P01_01", "P01_101")
    }
    assert shown == {"P01_01": [1, 1, 2, 101], "P01_101": [1, 2, 3, 202]}
    for item in frames:
        num_frames, num_flow = counts[item]
        stride = frames[item].fps / flow[item].fps
        assert num_frames - stride * num_flow in ((1, 2) if stride == 2 else (0,)), item


def test_missing_and_foreign_videos_are_listed(tmp_path, three_videos):
    root = layout(tmp_path / "root", "P01/videos/P01_01.MP4", "P09/videos/P09_09.MP4")
    media = epic().find_media(root, three_videos)
    assert list(media.paths) == ["P01_01"]
    assert media.missing == ("P01_101", "P02_03")
    assert media.ignored == {"P09/videos/P09_09.MP4": "epic100 does not annotate this video"}
    assert list(epic().find_media(root, None).paths) == ["P01_01", "P09_09"]


def test_two_copies_of_a_video_are_refused_unless_they_are_one_file(tmp_path, three_videos):
    root = layout(tmp_path / "root", "P01/videos/P01_01.MP4")
    (root / "P01_01.MP4").symlink_to(root / "P01/videos/P01_01.MP4")
    assert "P01_01" in epic().find_media(root, three_videos).paths
    layout(root, "videos/train/P01/P01_01.MP4")
    with pytest.raises(MediaError, match=r"video P01_01 lies below .* twice"):
        epic().find_media(root, three_videos)
    with pytest.raises(MediaError, match="there is no folder"):
        epic().find_media(tmp_path / "nowhere", three_videos)
