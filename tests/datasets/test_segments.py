"""One's own labels, in each file layout; folders; lists of videos; what a bad file is told."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path

import pytest

from vidloc.core import registry
from vidloc.datasets.folder import Folder
from vidloc.datasets.segments import Segments, SegmentsOptions
from vidloc.datasets.video_list import read_video_list
from vidloc.errors import AnnotationError, MediaError, OptionError, UnknownNameError


def segments(**options):
    return Segments(SegmentsOptions.parse(options, where="dataset 'segments'"), name="segments")


def folder():
    return Folder(Folder.Options(), name="folder")


def layout(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


CSV = """item_id,start_s,end_s,label,split
a.mp4,1.5,2.25,wave,train
b.mp4,0,1,nod,test
a.mp4,3,4,nod,train
c.mp4,,,,test
"""


def as_objects(text: str) -> list[dict[str, object]]:
    header, *lines = [line.split(",") for line in text.splitlines()]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    return [{k: float(v) if k.endswith("_s") else v for k, v in row.items() if v} for row in rows]


ACTIVITYNET = {
    "version": "1",
    "database": {
        "a.mp4": {
            "subset": "training",
            "duration": 9.5,
            "annotations": [{"segment": [1.5, 2.25], "label": "wave"}, {"segment": [3, 4], "label": "nod"}],
        },
        "b.mp4": {"subset": "testing", "duration": 4, "annotations": [{"segment": [0, 1], "label": "nod"}]},
        "c.mp4": {"subset": "testing", "duration": 5, "annotations": []},
    },
}
BY_VIDEO = {
    "classes": ["nod", "wave"],
    "videos": {
        "a.mp4": {
            "subset": "train",
            "annotations": [
                {"start_s": 1.5, "end_s": 2.25, "label": "wave", "speed": 1.1},
                {"start_s": 3, "end_s": 4, "label": "nod"},
            ],
        },
        "b.mp4": {"subset": "test", "annotations": [{"start_s": 0, "end_s": 1, "label": "nod"}]},
        "c.mp4": {"subset": "test", "annotations": []},
    },
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my.csv", CSV),
        ("list.json", json.dumps(as_objects(CSV))),
        ("activitynet.json", json.dumps(ACTIVITYNET)),
        ("by_video.json", json.dumps(BY_VIDEO)),
    ],
)
def test_every_layout_says_the_same(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    found = segments().read(tmp_path / name)
    assert found.classes == {"label": ("nod", "wave")}
    assert [(s.item_id, *s.span, s.labels["label"], s.id) for s in found.split("train")] == [
        ("a.mp4", 1.5, 2.25, 1, "a.mp4#0"),
        ("a.mp4", 3.0, 4.0, 0, "a.mp4#1"),
    ]
    assert [s.id for s in found.split("test")] == ["b.mp4#0"]
    assert found.items_of("test") == ("b.mp4", "c.mp4")
    assert found.items == ("a.mp4", "b.mp4", "c.mp4")
    assert found.protocol == "segments"
    assert list(found.sha256) == [name]
    assert segments().default_eval_split(found) == "test"


def test_gzipped_csv_and_durations(tmp_path):
    (tmp_path / "my.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    assert len(segments().read(tmp_path / "my.csv.gz").split("train")) == 2
    (tmp_path / "a.json").write_text(json.dumps(ACTIVITYNET))
    assert segments().read(tmp_path / "a.json").durations_s == {"a.mp4": 9.5, "b.mp4": 4.0, "c.mp4": 5.0}


def test_file_of_splits_decides_alone(tmp_path):
    (tmp_path / "my.csv").write_text(CSV)
    (tmp_path / "splits.csv").write_text("item_id,split\na.mp4,validation\nb.mp4,train\nc.mp4,training\nd.mp4,train\n")
    found = segments(splits=str(tmp_path / "splits.csv")).read(tmp_path / "my.csv")
    assert list(found.splits) == ["train", "validation"]
    assert found.items_of("train") == ("b.mp4", "c.mp4", "d.mp4")
    assert sorted(found.sha256) == ["my.csv", "splits.csv"]
    assert segments().default_eval_split(found) == "validation"
    (tmp_path / "splits.csv").write_text("item_id,split\na.mp4,train\n")
    with pytest.raises(AnnotationError, match=r"line 3: item 'b\.mp4' has no line in .*splits\.csv"):
        segments(splits=str(tmp_path / "splits.csv")).read(tmp_path / "my.csv")


def test_without_splits_everything_trains_and_nothing_is_evaluated(tmp_path):
    (tmp_path / "my.csv").write_text("item_id,start_s,end_s,label\na,1,2,x\n")
    found = segments().read(tmp_path / "my.csv")
    assert list(found.splits) == ["train"]
    with pytest.raises(
        UnknownNameError, match=r"no split 'test' to evaluate on\. Name one with --split\. Known: train"
    ):
        segments().default_eval_split(found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "item_id,start_s,end_s\na,1,2\n", "has no column 'label'. Found: item_id, start_s, end_s"),
        ("a.csv", "", r"Found: \(an empty file\)"),
        ("a.csv", "item_id,start_s,end_s,label\n", "holds no segment with a label"),
        ("a.csv", "item_id,start_s,end_s,label\na,1,x,l\n", "line 2, column 'end_s': found 'x', expected a number"),
        ("a.csv", "item_id,start_s,end_s,label\na,1,nan,l\n", "found 'nan', expected a number"),
        ("a.csv", "item_id,start_s,end_s,label\na,2,1,l\n", "line 2: the segment goes from 2.0 s to 1.0 s"),
        ("a.csv", "item_id,start_s,end_s,label\na,1,2,\n", "column 'label': found '', expected a value"),
        ("a.csv", 'item_id,start_s,end_s,label\n"a"b,1,2,l\n', "expected a csv file"),
        (
            "a.csv",
            "item_id,start_s,end_s,label,split\na,1,2,l,x\na,3,4,l,y\n",
            "is in split 'y', but it was in 'x' before",
        ),
        ("a.csv", "item_id,start_s,end_s,label,id\na,1,2,l,1\na,3,4,l,1\n", "line 3: the id '1' occurs a second time"),
        ("a.json", "{", r"a\.json is not JSON"),
        ("a.json", '{"x": 1}', "is none of the JSON layouts known"),
        ("a.json", "[1]", "entry 0: expected an object"),
        ("a.json", '[{"item_id": "a", "start_s": 1, "end_s": true, "label": "l"}]', "end must be a number of seconds"),
        ("a.json", '{"database": {"a": {"annotations": 1}}}', "video 'a': expected an object with a list"),
        ("a.json", '{"database": {"a": {"annotations": [{"segment": [1], "label": "l"}]}}}', r"must be \[start, end\]"),
        (
            "a.json",
            '{"database": {"a": {"annotations": [{"segment": [2, 1], "label": "l"}]}}}',
            "must end after its start",
        ),
        ("a.json", '{"database": {"a": {"annotations": [{"segment": [1, 2]}]}}}', 'annotation 0: .* "label"'),
        (
            "a.json",
            '{"classes": ["m"], "videos": {"a": {"annotations": [{"start_s": 1, "end_s": 2, "label": "l"}]}}}',
            "\"classes\" lacks 'l'",
        ),
        ("a.json", '{"classes": [1], "videos": {}}', '"classes" must be a list of names'),
    ],
)
def test_bad_files_are_explained(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=message):
        segments().read(tmp_path / name)


def test_unreadable_files_are_explained(tmp_path):
    with pytest.raises(AnnotationError, match="there is no annotation file"):
        segments().read(tmp_path / "no.csv")
    (tmp_path / "latin.csv").write_bytes(b"item_id,start_s,end_s,label\nk\xfcche,1,2,x\n")
    with pytest.raises(AnnotationError, match=r"is not UTF-8 text \(byte 29\)"):
        segments().read(tmp_path / "latin.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(CSV.encode())[:-9])
    with pytest.raises(AnnotationError, match=r"cut\.csv\.gz cannot be read"):
        segments().read(tmp_path / "cut.csv.gz")
    with pytest.raises(OptionError, match="needs --annotations FILE"):
        segments().read(None)


def test_real_untrimmed_gestures(shared):
    root = shared / "data" / "videos_asl"
    found = segments().read(root / "untrimmed_labels.json")
    assert {name: len(s) for name, s in found.splits.items()} == {"train": 131, "test": 44}
    assert (len(found.items_of("train")), len(found.items_of("test"))) == (24, 8)
    assert found.classes["label"][0] == "again"
    assert found.durations_s["train_00"] == 28.24
    media = segments().find_media(root / "untrimmed", found)
    assert (len(media.paths), media.missing, media.ignored) == (32, (), {})


def test_item_ids_name_files_in_four_ways(tmp_path):
    root = layout(tmp_path / "root", "x/a.mp4", "x/b.mp4", "y/b.mp4", "c.mkv", "d.txt", "z/e.AVI")
    labels = tmp_path / "my.csv"
    labels.write_text(
        "item_id,start_s,end_s,label\n" + "".join(f"{i},0,1,l\n" for i in ("a.mp4", "x/b", "c", "d", "e"))
    )
    media = segments().find_media(root, segments().read(labels))
    named = {item: path.relative_to(root).as_posix() for item, path in media.paths.items()}
    assert named == {"a.mp4": "x/a.mp4", "c": "c.mkv", "e": "z/e.AVI", "x/b": "x/b.mp4"}
    assert media.missing == ("d",)
    assert media.ignored == {
        "d.txt": ".txt is not an extension of a video or sound file",
        "y/b.mp4": "no item of the annotations names it",
    }
    labels.write_text("item_id,start_s,end_s,label\nb,0,1,l\n")
    with pytest.raises(MediaError, match=r"item 'b' fits two files below .*: x/b\.mp4 and y/b\.mp4"):
        segments().find_media(root, segments().read(labels))
    with pytest.raises(OptionError, match="use --dataset folder"):
        segments().find_media(root, None)


def test_folder_takes_media_and_lists_the_rest(tmp_path):
    root = layout(
        tmp_path / "root", "b/-dash .MP4", "a.m4a", "a.gif", "küche.wmv", "notes.txt", "README", ".DS_Store",
        ".cache/x.mp4", "feats.zarr/c/0", "bad\nname.mp4",
    )  # fmt: skip
    media = folder().find_media(root, None)
    assert list(media.paths) == ["a.gif", "a.m4a", "b/-dash .MP4", "küche.wmv"]
    assert media.paths["b/-dash .MP4"] == root / "b" / "-dash .MP4"
    assert media.ignored == {
        "README": "no extension is not an extension of a video or sound file",
        "notes.txt": ".txt is not an extension of a video or sound file",
        "bad\nname.mp4": "its name holds control characters",
    }


def test_folder_follows_links_once(tmp_path):
    root = layout(tmp_path / "root", "real/a.mp4")
    (root / "again").symlink_to(root, target_is_directory=True)
    layout(tmp_path / "disk2", "b.mp4")
    (root / "more").symlink_to(tmp_path / "disk2", target_is_directory=True)
    assert list(folder().find_media(root, None).paths) == ["more/b.mp4", "real/a.mp4"]


def test_folder_has_no_annotations(tmp_path, shared):
    assert folder().read(None).items == ()
    with pytest.raises(OptionError, match="use --dataset segments"):
        folder().read(tmp_path / "x.csv")
    with pytest.raises(MediaError, match=r"there is no folder .*Give --root"):
        folder().find_media(tmp_path / "no", None)
    bad = folder().find_media(shared / "data" / "videos_bad", None)
    assert sorted(bad.ignored) == ["README.md", "bad.csv"]
    assert registry.load("datasets", "folder").target is Folder


def test_video_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("item_id,path,comment\nk1,sub/a.mp4,x\nk2,/data/b.mp4,\n")
    assert read_video_list(path).paths == {"k1": tmp_path / "sub/a.mp4", "k2": Path("/data/b.mp4")}
    path.write_text("path\nsub/a.mp4\n/data/b.mp4\n")
    assert read_video_list(path).paths == {"sub/a.mp4": tmp_path / "sub/a.mp4", "b.mp4": Path("/data/b.mp4")}


def test_video_list_of_numbered_pictures(tmp_path):
    (tmp_path / "k2").mkdir()
    path = tmp_path / "list.csv"
    path.write_text("path,fps\na.mp4,\nk1.tar, 50 \nk2,60000/1001\n/far/k3.TAR.GZ,59.94\nb.mp4,25\n")
    found = read_video_list(path)
    assert list(found.paths) == ["a.mp4", "k1.tar", "k2", "k3.TAR.GZ", "b.mp4"]
    assert {item: rate.fps for item, rate in found.frame_rates.items()} == {
        "k1.tar": 50, "k2": Fraction(60_000, 1001), "k3.TAR.GZ": Fraction(2997, 50),
    }  # fmt: skip
    assert {(rate.basis, rate.duration_s) for rate in found.frame_rates.values()} == {("column fps of list.csv", None)}
    path.write_text("path\nk2\n")
    with pytest.raises(AnnotationError, match=r"line 2: 'k2' is a folder or tar archive .*Add a column fps"):
        read_video_list(path)
    for bad in ("", "0", "-5", "60/0", "1e3", "2000", "sixty", "NaN"):
        path.write_text(f"path,fps\nk2,{bad}\n")
        with pytest.raises(AnnotationError, match=r"line 2, column 'fps': found .*expected frames per second such as"):
            read_video_list(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.mp4\n", "has no column 'path'"),
        ("path\n", "lists no videos"),
        ("path\n/x/a.mp4\n/y/a.mp4\n", r"line 3: the item id 'a\.mp4' occurs a second time"),
        ("item_id,path\n,a.mp4\n", "column 'item_id': found ''"),
        ('item_id,path\n"a\tb",a.mp4\n', "cannot be an item id: its name holds control characters"),
    ],
)
def test_bad_video_lists_are_explained(tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read_video_list(tmp_path / "list.csv")
