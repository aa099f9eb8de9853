"""Exports of ELAN and VIA become labels that the readers take, and what is odd in them is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vidloc.cli import vidloc
from vidloc.datasets.elan_eaf import read_eaf
from vidloc.datasets.elan_text import read_elan_text
from vidloc.datasets.tool_marks import media_name
from vidloc.datasets.via3 import read_via_csv, read_via_project
from vidloc.errors import AnnotationError, OptionError, UnknownNameError
from vidloc.pipelines.label_conversion import ConversionPlan, convert_labels
from vidloc.pipelines.labels import read_labels

FOLDER = Path(__file__).parent.parent / "data" / "annotation_tools"
EMPTY, END = "<ANNOTATION_DOCUMENT><HEADER/>", "</ANNOTATION></TIER></ANNOTATION_DOCUMENT>"
HALL, YARD = ("hall.mp4", 1.349, 2.741, "open door"), ("yard.mp4", 0.5, 3.0, "close door")


def marks(document, tier):
    return [(m.media, m.start_s, m.end_s, m.label) for m in document.marks if m.tier == tier]


def run(*arguments):
    return CliRunner().invoke(vidloc, ["dataset", "convert", *map(str, arguments)])


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_eaf_times_count_from_the_start_of_the_media_file():
    document = read_eaf(FOLDER / "kitchen.eaf")
    assert document.media == ["kitchen 1.mp4"]
    assert document.tiers == ["actions", "hand"]
    assert marks(document, "actions") == [
        ("kitchen 1.mp4", pytest.approx(2.26), pytest.approx(3.5), "pour"),
        ("kitchen 1.mp4", pytest.approx(3.5), pytest.approx(4.54), "cut"),
        ("kitchen 1.mp4", pytest.approx(9.42), pytest.approx(10.5), "Pour"),
    ]
    assert "second 0 of its annotations is 1.5 s of kitchen 1.mp4" in " ".join(document.notes)
    assert "labels are those of kitchen 1.mp4, not ['kitchen.wav']" in " ".join(document.notes)


def test_eaf_annotations_that_refer_to_others_have_their_span():
    document = read_eaf(FOLDER / "kitchen.eaf")
    assert marks(document, "hand") == [("kitchen 1.mp4", pytest.approx(2.26), pytest.approx(3.5), "left")]
    shared = [entry for entry in document.left_out if entry.tier == "hand"]
    assert len(shared) == 2
    assert all("shares the span" in entry.reason for entry in shared)


def test_eaf_oddities_are_told_by_name():
    document = read_eaf(FOLDER / "kitchen.eaf")
    notes = " ".join(document.notes)
    assert "the text 'slice' of 1 annotations is called 'cut' in the controlled vocabulary" in notes
    assert "'Pour' (1 annotations) is not in the tier's controlled vocabulary" in notes
    reasons = {entry.where.rpartition(" ")[2]: entry.reason for entry in document.left_out if entry.tier == "actions"}
    assert "unaligned time slot" in reasons["'a3'"]
    assert reasons["'a5'"] == "it has no text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<ANNOTATION_DOCUMENT>", "is not XML"),
        ("<eaf/>", "expected <ANNOTATION_DOCUMENT>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><ANNOTATION_DOCUMENT/>', "declares its own entities"),
        ('<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="PAL-frames"/></ANNOTATION_DOCUMENT>', "times in PAL-frames"),
        (
            f'{EMPTY}<TIER TIER_ID="t"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a1" ANNOTATION_REF="a1"/>{END}',
            "leads to no annotation with times",
        ),
        (
            f'{EMPTY}<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="1.5"/></TIME_ORDER></ANNOTATION_DOCUMENT>',
            "expected whole milliseconds, found '1.5'",
        ),
    ],
)
def test_eaf_files_that_are_refused(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_eaf(written(tmp_path, "a.eaf", text))


def test_text_exports_of_both_kinds_say_the_same():
    plain, columns = read_elan_text(FOLDER / "garden.txt"), read_elan_text(FOLDER / "columns.txt")
    assert marks(plain, "dig") == [
        ("garden.mp4", 1.04, 2.5, "dig"),
        ("garden.mp4", 7.0, pytest.approx(62.12), "rake"),
    ]
    assert marks(plain, "weather") == [("garden.mp4", 0.0, 50.0, "sunny")]
    assert [mark[1:] for mark in marks(columns, "dig")] == [(1.04, 2.5, "dig"), (7.0, 62.12, "rake")]
    assert marks(columns, "weather") == [("columns", 7.0, 62.12, "rain")]
    assert columns.tiers == ["dig", "weather"]
    assert columns.notes == ["columns.txt names no media file; its own name is taken for it."]


def test_text_exports_whose_times_are_not_known_are_refused(tmp_path):
    for text, message in (
        ("a\tann\t1.0\t2.0\tdig\n", "fewer than two times hh:mm:ss.ms"),
        ("Begin Time - msec\tDuration - msec\ta\n1\t2\tdig\n", "Export it from ELAN with the columns"),
        ("a\tann\t00:00:01.000\t00:00:02.000\tdig\na\tann\t00:00:01.000\tdig\n", "line 2: 4 columns"),
        ("Begin Time - msec\tEnd Time - msec\ta\nsoon\t2\tdig\n", "line 2: expected a time in the form msec"),
        ("\n", "holds no annotation"),
    ):
        with pytest.raises(AnnotationError, match=message):
            read_elan_text(written(tmp_path, "a.txt", text))


def test_an_offset_that_may_or_may_not_be_in_the_times_is_told(tmp_path):
    text = (FOLDER / "garden.txt").read_text().replace("offset: 0", "offset: 1200")
    notes = read_elan_text(written(tmp_path, "a.txt", text)).notes
    assert "where they do not, use --shift 1.2" in notes[0]


def test_via_projects_and_exports_say_the_same():
    project, export = read_via_project(FOLDER / "project.json"), read_via_csv(FOLDER / "project.csv")
    assert project.media == ["hall.mp4", "yard.mp4", "empty.mp4"]
    assert marks(project, "action") == marks(export, "action") == [HALL, ("hall.mp4", 4.633, None, "close door"), YARD]
    assert marks(project, "who") == marks(export, "who") == [(*HALL[:3], "child"), (*HALL[:3], "dog")]
    assert marks(project, "remark") == [("hall.mp4", 4.633, None, "a squeak")]
    assert marks(read_via_csv(FOLDER / "segments.csv"), "action") == [HALL, YARD]
    reasons = {entry.where.rpartition(" ")[2]: entry.reason for entry in project.left_out}
    assert reasons == {
        "'2_dddddddd'": "attribute 'action' has no value, or no option of its own",
        "'2_eeeeeeee'": "it has no value of any attribute",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("view"), "no project of VIA 3"),
        (lambda p: (p.pop("view"), p.update(_via_settings={})), "a project of VIA 2, which is for pictures"),
        (lambda p: p["metadata"]["1_aaaaaaaa"].update(vid="9"), "of no view of the project"),
        (lambda p: p["metadata"]["1_aaaaaaaa"].update(z=[1, 2, 3]), "expected no, one or two times"),
        (lambda p: p["metadata"]["1_aaaaaaaa"].update(z=["1", 2]), "expected no, one or two times"),
        (lambda p: p["metadata"]["1_aaaaaaaa"].update(av={"8": "0"}), "attribute '8' is not defined"),
        (lambda p: p["view"]["1"].update(fid_list=["7"]), "expected a list fid_list of the project's files"),
        (lambda p: p["attribute"].update({"1": "action"}), "states no options"),
    ],
)
def test_via_projects_that_are_refused(tmp_path, change, message):
    project = json.loads((FOLDER / "project.json").read_text())
    change(project)
    with pytest.raises(AnnotationError, match=message):
        read_via_project(written(tmp_path, "p.json", json.dumps(project)))


def test_other_csv_files_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="no csv export of VIA 3"):
        read_via_csv(written(tmp_path, "a.csv", "item_id,start_s,end_s,label\n"))


def test_segments_are_read_by_the_dataset_of_segments(tmp_path):
    out = tmp_path / "labels.csv"
    result = run(FOLDER / "project.json", "--tier", "action", "--out", out)
    assert result.exit_code == 3, result.output  # an option that is none, a mark without values, and a moment
    assert out.read_text() == (
        "item_id,start_s,end_s,label\nhall.mp4,1.349,2.741,open door\nyard.mp4,0.5,3,close door\nempty.mp4,,,\n"
    )
    assert "2 segments of 3 items and 2 classes, from tier 'action': close door, open door." in result.output
    assert "Left out, it is a moment, and segments are wanted (--to points takes it): 1" in result.output
    read = read_labels("segments", {}, out)[1]
    assert read.items == ("empty.mp4", "hall.mp4", "yard.mp4")
    assert [tuple(s.span) for s in read.split("train")] == [(1.349, 2.741), (0.5, 3.0)]


def test_points_are_read_by_the_dataset_of_points(tmp_path):
    out = tmp_path / "frames.csv"
    result = run(FOLDER / "project.csv", "--tier", "action", "--to", "points", "--at", "center", "--json", "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["classes"] == {"close door": 2, "open door": 1}
    read = read_labels("points", {}, out)[1]
    assert [p.time_s for p in read.points["hall.mp4"]] == [pytest.approx(2.045), 4.633]
    assert [p.time_s for p in read.points["yard.mp4"]] == [1.75]
    assert run(FOLDER / "project.csv", "--tier", "action", "--out", out).exit_code == 1  # the file is not replaced


def test_several_documents_make_one_file_of_labels():
    files = (FOLDER / "kitchen.eaf", FOLDER / "garden.txt")
    found = convert_labels(ConversionPlan(files, ("actions", "dig"), ids="stem", shift_s=-2.0))
    assert found.items == ("kitchen 1", "garden")
    assert [(m.media, m.label) for m in found.marks] == [
        *(("kitchen 1", label) for label in ("pour", "cut", "Pour")),
        ("garden", "rake"),
    ]
    assert found.marks[0].start_s == pytest.approx(0.26)
    assert "'Pour' and 'pour' are different classes; are they meant to be?" in found.notes
    assert "tier 'dig' is not in kitchen.eaf." in found.notes
    assert "it begins before the video" in [entry.reason for entry in found.left_out]


def test_what_is_ambiguous_is_asked_for(tmp_path):
    with pytest.raises(OptionError, match=r"3 tiers with labels\. Choose with --tier 'action' \(3\)"):
        convert_labels(ConversionPlan((FOLDER / "project.json",)))
    with pytest.raises(UnknownNameError, match="Did you mean actions"):
        convert_labels(ConversionPlan((FOLDER / "kitchen.eaf",), ("action",)))
    twice = (FOLDER / "project.csv", FOLDER / "segments.csv")
    with pytest.raises(AnnotationError, match=r"are both of item 'hall\.mp4'"):
        convert_labels(ConversionPlan(twice, ("action",)))
    with pytest.raises(OptionError, match="is of 2 media files; --ids document needs one"):
        convert_labels(ConversionPlan(twice, ("action",), ids="document"))
    with pytest.raises(OptionError, match="of no annotation tool"):
        convert_labels(ConversionPlan((tmp_path / "a.docx",)))


def test_an_annotation_that_is_stated_twice_counts_once(tmp_path):
    text = (FOLDER / "segments.csv").read_text()
    doubled = written(tmp_path, "a.csv", text + text.splitlines()[-1] + "\n")
    found = convert_labels(ConversionPlan((doubled,)))
    assert len(found.marks) == 2
    assert [entry.reason for entry in found.left_out] == ["an earlier one says the same"]


def test_names_of_media_files():
    assert media_name("file:///C:/my%20videos/a%231.mp4") == "a#1.mp4"
    assert media_name(r"C:\videos\a.mp4") == "a.mp4"
    assert media_name("https://host/videos/a.mp4?token=1") == "a.mp4"
    assert media_name("a 100%25.mp4") == "a 100%25.mp4"
