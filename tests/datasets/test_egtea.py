"""The official split files of EGTEA Gaze+, read whole: every number that the specification and their notes state."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vidloc.core import registry
from vidloc.core.records import Prediction
from vidloc.datasets.base import Annotations
from vidloc.datasets.egtea import CLIP_FPS, Egtea, EgteaOptions
from vidloc.errors import AnnotationError, MediaError, OptionError
from vidloc.metrics.baselines import chance, most_frequent
from vidloc.metrics.protocols import evaluate

NUMBERS = (1, 2, 3)


def egtea(**options) -> Egtea:
    return Egtea(EgteaOptions.parse(options, where="dataset 'egtea'"), name="egtea")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "egtea"


@pytest.fixture(scope="module")
def splits(folder) -> dict[int, Annotations]:
    return {number: egtea(split_number=number).read(folder) for number in NUMBERS}


@pytest.fixture(scope="module")
def choices(folder, splits) -> dict[tuple[str, str], Annotations]:
    """Split 1 by `cut` and `items`."""
    others = (("clip", "video"), ("annotated", "clip"), ("clip", "clip"))
    found = {(cut, items): egtea(cut=cut, items=items).read(folder) for cut, items in others}
    return {("annotated", "video"): splits[1]} | found


def everything(annotations: Annotations):
    return [segment for split in annotations.splits.values() for segment in split]


def table(path: Path, columns: tuple[str, ...] = ()) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(csv.DictReader(file, fieldnames=columns or None, skipinitialspace=True))


def test_counts_of_the_corpus(splits):
    found = splits[1]
    segments = everything(found)
    assert (len(segments), len(found.items)) == (10_321, 86)
    assert {task: len(names) for task, names in found.classes.items()} == {"verb": 19, "noun": 53, "action": 106}
    assert {task: len({s.labels[task] for s in segments}) for task in found.classes} == {
        "verb": 19,
        "noun": 51,
        "action": 106,
    }
    assert found.protocol == "egtea"


def test_counts_of_the_three_splits(splits):
    assert [len(splits[n].split("train")) for n in NUMBERS] == [8_299, 8_299, 8_300]
    assert [len(splits[n].split("test")) for n in NUMBERS] == [2_022, 2_022, 2_021]
    tests = [{s.id for s in splits[n].split("test")} for n in NUMBERS]
    assert len(set.union(*tests)) == sum(map(len, tests)) == 6_065
    assert len(set.intersection(*({s.id for s in splits[n].split("train")} for n in NUMBERS))) == 4_256
    for number in NUMBERS:
        per_action = Counter(s.labels["action"] for s in splits[number].split("test"))
        assert (len(per_action), min(per_action.values()), max(per_action.values())) == (106, 6, 150)
    assert [splits[n].dataset for n in NUMBERS] == ["egtea_split1", "egtea_split2", "egtea_split3"]


def test_several_nouns_are_label_sets(splits):
    found = splits[2]
    sets = found.label_sets["noun"]
    assert Counter(map(len, sets.values())) == {1: 9_816, 2: 221, 3: 284}
    assert all(sets[s.id][0] == s.labels["noun"] for s in everything(found))
    # Ids of the files count from 1: 16 and 44 are never the first noun, and their names are not known.
    assert set(range(53)) - {nouns[0] for nouns in sets.values()} == {15, 43}
    assert {15, 43} <= {noun for nouns in sets.values() for noun in nouns[1:]}
    assert len(set(found.classes["noun"])) == 53
    assert [name for name in found.classes["noun"] if name.startswith("(secondary")] == [
        "(secondary noun, name not in the source) 16",
        "(secondary noun, name not in the source) 44",
    ]


def test_ids_count_from_zero_and_have_the_names_of_their_files(splits, folder):
    first = splits[1].split("train")[0]
    assert first.id == "P21-R04-ContinentalBreakfast-291175-294945-F006979-F007088"
    assert (first.item_id, first.group) == ("P21-R04-ContinentalBreakfast", "P21")
    assert first.labels == {"verb": 0, "noun": 0, "action": 0}
    names = splits[1].classes
    assert (names["verb"][0], names["noun"][0], names["action"][0]) == ("Inspect/Read", "recipe", "Inspect/Read_recipe")
    assert (names["verb"][18], names["action"][105]) == ("Squeeze", "Put_oil:container")
    released = table(folder / "rulstm_actions.csv", ("action", "verb_noun", "name"))
    assert list(names["action"]) == [row["name"] for row in released]


def test_an_action_is_one_pair_of_verb_and_first_noun(splits):
    parts = splits[1].groups["action_parts"]
    assert len(parts) == len({(verb, noun) for _, verb, noun in parts}) == 106
    assert {(s.labels["action"], s.labels["verb"], s.labels["noun"]) for s in everything(splits[1])} == parts


def test_the_clip_that_lists_another_noun_is_reported(splits):
    for number in NUMBERS:
        (note,) = [note for note in splits[number].notes if "action 85" in note]
        assert note == (
            "action 85 (Pour_seasoning): 1 of 41 clips with the nouns 47 29 14 where actions.csv has 47 29 44; "
            "kept as listed."
        )
    odd = [s for s in everything(splits[1]) if splits[1].label_sets["noun"][s.id] == (46, 28, 13)]
    assert [s.labels["action"] for s in odd] == [84]


@pytest.mark.parametrize("number", NUMBERS)
def test_always_the_most_frequent_action(splits, number):
    found = splits[number]
    test, train = found.split("test"), found.split("train")
    guess = most_frequent("egtea", test, classes=found.classes, groups=found.groups, train_segments=train)
    assert round(100 * guess["action"]["top1"], 2) == 7.42
    assert guess["action"]["mean_class_accuracy"] == pytest.approx(1 / 106)
    assert round(100 * guess["action"]["mean_class_accuracy"], 2) == 0.94
    assert set(guess["verb"]) == set(guess["noun"]) == {"top1", "top5", "mean_class_accuracy"}
    # The same guess as predictions of a head that scores actions alone.
    best, _ = Counter(s.labels["action"] for s in train).most_common(1)[0]
    scores = tuple(float(k == best) for k in range(106))
    predictions = [
        Prediction(item_id=s.item_id, span=s.span, score=1.0, query_id=s.id, scores={"action": scores}) for s in test
    ]
    scored = evaluate("egtea", predictions, test, classes=found.classes, groups=found.groups)
    assert {name: scored["action"][name] for name in ("top1", "mean_class_accuracy")} == {
        name: guess["action"][name] for name in ("top1", "mean_class_accuracy")
    }
    assert "verb" not in scored


def test_chance_is_one_in_the_number_of_classes(splits):
    found = splits[1]
    test, train = found.split("test"), found.split("train")
    guess = chance("egtea", test, classes=found.classes, groups=found.groups, train_segments=train)
    for task, names in found.classes.items():
        assert guess[task]["top1"] == pytest.approx(1 / len(names), rel=0.2)


@pytest.mark.parametrize("number", NUMBERS)
def test_splits_are_those_of_the_released_frame_tables(splits, folder, number):
    """RULSTM's tables, made by others from the same annotations: ids from 0, times in frames of 30 a second."""
    columns = ("id", "video", "start", "stop", "verb", "noun", "action")
    for split, stem in (("train", "training"), ("test", "validation")):
        ours = [
            (s.item_id, *(int(30 * t) for t in s.span), s.labels["verb"], s.labels["action"])
            for s in splits[number].split(split)
        ]
        rows = table(folder / f"rulstm_{stem}{number}.csv.gz", columns)
        theirs = [(r["video"], *(int(r[c]) for c in ("start", "stop", "verb", "action"))) for r in rows]
        assert Counter(ours) == Counter(theirs)


def test_segments_cover_the_action_or_the_clip_cut_around_it(choices):
    actions, clips = (everything(choices[cut, "video"]) for cut in ("annotated", "clip"))
    first = actions[0], clips[0]
    assert [s.span for s in first] == [(291.175, 294.945), (6979 / CLIP_FPS, 7088 / CLIP_FPS)]
    action, clip = (np.array([s.span for s in found]) for found in (actions, clips))
    margin = 0.1 * (action[:, 1] - action[:, 0])[:, None] * np.array([-1, 1])
    assert np.abs(CLIP_FPS * (clip - action - margin)).max() < 1.3


@pytest.mark.parametrize("cut", ["annotated", "clip"])
def test_clips_as_items_keep_their_places(choices, cut):
    whole, cropped = choices[cut, "video"], choices[cut, "clip"]
    assert len(cropped.items) == 10_321
    for of_video, of_clip in zip(everything(whole), everything(cropped), strict=True):
        begin, end = (int(part[1:]) / CLIP_FPS for part in of_clip.item_id.split("-")[-2:])
        assert of_clip.item_id == of_clip.id == of_video.id
        assert 0 <= of_clip.span.start_s < of_clip.span.end_s <= end - begin
        assert of_clip.span.start_s == pytest.approx(of_video.span.start_s - begin)
        assert of_clip.span.duration_s == pytest.approx(of_video.span.duration_s)
    assert not set(cropped.items_of("train")) & set(cropped.items_of("test"))


def test_notes_say_what_segments_cover_and_which_videos_are_shared(splits, choices):
    for (cut, _), found in choices.items():
        assert any(f"(cut={cut})" in note for note in found.notes)
    assert [note.split(",")[0] for number in NUMBERS for note in splits[number].notes if "hold" in note] == [
        f"{count} of {count} test videos also hold training clips" for count in (65, 42, 58)
    ]
    assert not any("hold" in note for note in choices["clip", "clip"].notes)


def test_files_may_be_plain_or_gzipped(splits, folder, tmp_path):
    for path in folder.glob("*_split3.txt.gz"):
        (tmp_path / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    for name in ("verbs", "nouns", "actions"):
        shutil.copy(folder / f"{name}.csv", tmp_path)
    plain = egtea(split_number=3).read(tmp_path)
    assert plain.splits == splits[3].splits
    assert set(plain.sha256) == {"train_split3.txt", "test_split3.txt", "verbs.csv", "nouns.csv", "actions.csv"}


def test_options_are_closed(folder):
    with pytest.raises(OptionError, match="option 'split_number'"):
        egtea(split_number=4)
    assert egtea(split_number="2").read(folder).dataset == "egtea_split2"
    assert registry.load("datasets", "egtea").target is Egtea


TRAIN = "OP01-R01-Soup-1000-3000-F000019-F000077 1 1 1\nOP01-R01-Soup-4000-5000-F000093-F000123 2 2 2 1\n"
TEST = "OP02-R01-Soup-1000-3000-F000019-F000077 2 2 2 1\n"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    content = {
        "verbs.csv": "verb_id,verb\n1,take\n2,put\n",
        "nouns.csv": "noun_id,noun\n1,pan\n2,lid\n",
        "actions.csv": "action_id,action_name,verb_id,noun_ids\n1,take_pan,1,1\n2,put_lid,2,2 1\n",
        "train_split1.txt": TRAIN,
        "test_split1.txt": TEST,
    }
    for name, text in (content | {f"{k.replace('__', '.')}": v for k, v in files.items()}).items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("OP01-R01-Soup-1-3-F0-F1 1 1", r"train_split1.txt, line 3: 3 fields \('OP01.* expected 4 to 6"),
        ("OP01-R01-Soup-1-3-F0-F1 1 1 1 1 1 1", "line 3: 7 fields"),
        ("OP01-R01-Soup 1 1 1", "line 3, column 'clip': found 'OP01-R01-Soup', expected a clip name VIDEO-FIRST_MS"),
        ("../x-0-1000-F000000-F000024 1 1 1", r"column 'clip': found '\.\./x"),
        ("OP01-R01-Soup-3000-3000-F000019-F000077 1 1 1", "column 'clip': .* expected milliseconds in order"),
        ("OP01-R01-Soup-1000-9000-F000019-F000077 1 1 1", "frames \\(24 a second\\) that begin and end around them"),
        (
            "OP01-R01-Soup-1000-2000-F000019-F000077 3 1 1",
            "column 'action': found '3', expected a class id from 1 to 2",
        ),
        (
            "OP01-R01-Soup-1000-2000-F000019-F000077 0 1 1",
            "column 'action': found '0', expected a class id from 1 to 2",
        ),
        ("OP01-R01-Soup-1000-2000-F000019-F000077 1 x 1", "column 'verb': found 'x', expected a whole number"),
        ("OP01-R01-Soup-1000-2000-F000019-F000077 1 1 1 9", "column 'second noun': found '9'"),
        (
            "OP01-R01-Soup-1000-2000-F000019-F000077 1 2 1",
            "column 'verb': found '2', expected verb 1 and noun 1, which actions.csv has for action 1",
        ),
        ("OP01-R01-Soup-1000-2000-F000019-F000077 1 1 2", "column 'noun': found '2', expected verb 1 and noun 1"),
        (TRAIN.splitlines()[0], "line 3: the clip 'OP01-R01-Soup-1000-3000-F000019-F000077' occurs a second time"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    folder = write(tmp_path / "a", train_split1__txt=TRAIN + line + "\n")
    with pytest.raises(AnnotationError, match=message):
        egtea().read(folder)


def test_a_clip_in_both_splits_is_refused(tmp_path):
    folder = write(tmp_path / "a", test_split1__txt=TRAIN.splitlines()[1] + "\n")
    with pytest.raises(AnnotationError, match=r"test_split1\.txt, line 1: the clip .* or in the training split"):
        egtea().read(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"verbs__csv": "verb_id,verb\n0,take\n"}, r"verbs\.csv, line 2, column 'verb_id': found '0', expected 1"),
        ({"nouns__csv": "noun_id,name\n1,pan\n"}, r"nouns\.csv has no column 'noun'"),
        (
            {"actions__csv": "action_id,action_name,verb_id,noun_ids\n1,take_pan,1,7\n"},
            r"actions\.csv, line 2, column 'noun_ids': found '7', expected a class id from 1 to 2",
        ),
    ],
)
def test_bad_classes_are_named(tmp_path, files, message):
    with pytest.raises(AnnotationError, match=message):
        egtea().read(write(tmp_path / "a", **files))


def test_missing_files_are_named(tmp_path):
    folder = write(tmp_path / "a")
    with pytest.raises(AnnotationError, match=r"has no train_split2\.txt \(or train_split2\.txt\.gz\)"):
        egtea(split_number=2).read(folder)
    (folder / "actions.csv").unlink()
    with pytest.raises(AnnotationError, match=r"has no actions\.csv .* action_id,action_name,verb_id,noun_ids"):
        egtea().read(folder)
    with pytest.raises(AnnotationError, match="needs the folder of its annotation files, got None"):
        egtea().read(None)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


CLIP = "OP01-R01-Soup-1000-3000-F000019-F000077"


def test_videos_are_found_by_name_and_the_rest_is_listed(tmp_path):
    annotations = egtea().read(write(tmp_path / "a"))
    root = touch(tmp_path / "root", "videos/OP01-R01-Soup.mp4", "P09-R01-Soup.MP4", f"cropped_clips/x/{CLIP}.mp4")
    touch(root, "OP02-R01-Soup.wav", "README.txt")
    media = egtea().find_media(root, annotations)
    assert media.paths == {"OP01-R01-Soup": root / "videos" / "OP01-R01-Soup.mp4"}
    assert media.missing == ("OP02-R01-Soup",)
    assert dict(media.ignored) == {
        "OP02-R01-Soup.wav": ".wav is no extension of a video",
        "P09-R01-Soup.MP4": "egtea does not annotate it",
        "README.txt": ".txt is not an extension of a video or sound file",
        f"cropped_clips/x/{CLIP}.mp4": "a clip, and items=video",
    }
    assert list(egtea().find_media(root, None).paths) == ["OP01-R01-Soup", "P09-R01-Soup"]


def test_cropped_clips_are_found_in_the_authors_layout(tmp_path):
    annotations = egtea(items="clip").read(write(tmp_path / "a"))
    root = touch(tmp_path / "root", f"cropped_clips/OP01-R01-Soup/{CLIP}.mp4", "OP02-R01-Soup.mp4")
    media = egtea(items="clip").find_media(root, annotations)
    assert media.paths == {CLIP: root / "cropped_clips" / "OP01-R01-Soup" / f"{CLIP}.mp4"}
    assert len(media.missing) == 2
    assert dict(media.ignored) == {"OP02-R01-Soup.mp4": "no clip, and items=clip"}


def test_two_copies_of_a_video_are_refused_unless_they_are_one_file(tmp_path):
    annotations = egtea().read(write(tmp_path / "a"))
    root = touch(tmp_path / "root", "a/OP01-R01-Soup.mp4")
    (root / "OP01-R01-Soup.mp4").symlink_to(root / "a" / "OP01-R01-Soup.mp4")
    assert list(egtea().find_media(root, annotations).paths) == ["OP01-R01-Soup"]
    touch(root, "b/OP01-R01-Soup.mp4")
    with pytest.raises(MediaError, match=r"video OP01-R01-Soup lies below .* twice"):
        egtea().find_media(root, annotations)
    with pytest.raises(MediaError, match="there is no folder"):
        egtea().find_media(tmp_path / "nowhere", annotations)
