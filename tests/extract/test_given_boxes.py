"""Boxes beside a video: which belong to a moment, both layouts, and files that are none."""

from __future__ import annotations

import shutil
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from vidloc.errors import MediaError, OptionError
from vidloc.extract.given_boxes import GivenBoxes, check_boxes

HEAD = "item_id,time_s,x1,y1,x2,y2,score,label\n"
EPIC_HEAD = "frame,class_id_raw,x1,y1,x2,y2,score\n"
SIZE = (200, 100)


def given(path, *, fps=None, within="1/2"):
    return GivenBoxes(path, fps=fps, within_s=Fraction(within))


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "boxes.csv").write_text(text)
        return tmp_path / "boxes.csv"

    return write


@pytest.fixture
def folder(tmp_path):
    def write(text):
        (tmp_path / "detections").mkdir(exist_ok=True)
        (tmp_path / "detections" / "P01_01.csv").write_text(text)
        return tmp_path / "detections"

    return write


class TestMoments:
    def test_the_nearest_time_counts_up_to_the_limit(self, file):
        boxes = given(file(HEAD + "a,1,0,0,0.5,1,0.5,1\na,2,0,0,1,1,0.9,2\nb,1.5,0,0,0.1,0.1,0.5,3\n"))
        labels = [boxes.at("a", t, SIZE).labels.tolist() for t in (0.4, 0.5, 1.4, 1.6, 2.5, 2.6)]
        assert labels == [[], [1], [1], [2], [2], []]
        assert boxes.at("b", 1.5, SIZE).labels.tolist() == [3]

    def test_boxes_come_by_falling_score_ties_in_the_order_of_the_file(self, file):
        lines = [(0.3, 5), (0.9, 6), (0.3, 7), (0.9, 8)]
        text = "".join(f"a,0,0,0,1,1,{score},{label}\n" for score, label in lines)
        found = given(file(HEAD + text)).at("a", 0, SIZE)
        assert found.labels.tolist() == [6, 8, 5, 7]
        assert found.scores.tolist() == pytest.approx([0.9, 0.9, 0.3, 0.3])
        assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int32)

    def test_score_and_label_may_be_left_out(self, file):
        found = given(file("x1,y1,x2,y2,time_s,item_id\n0,0,0.5,1,0,a\n")).at("a", 0.0, SIZE)
        assert (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()) == ([[0, 0, 0.5, 1]], [1], [0])

    def test_an_item_without_a_line_is_an_error_not_an_empty_row(self, file):
        with pytest.raises(MediaError, match=r"boxes\.csv has no boxes of this item"):
            given(file(HEAD + "a,1,0,0,1,1,1,1\n")).at("b", 1.0, SIZE)


class TestEpic:
    def test_frames_count_from_one_and_classes_from_the_background(self, folder):
        path = folder(EPIC_HEAD + "1,9,20,10,100,50,0.8\n31,1,0,0,200,100,0.5\n")
        boxes = given(path, fps=Fraction(30))
        first = boxes.at("P01_01", 0.0, SIZE)
        assert first.boxes.tolist() == [[pytest.approx(v) for v in (0.1, 0.1, 0.5, 0.5)]]
        assert first.labels.tolist() == [8]
        # The item may be a file, whose extension the released names lack.
        assert boxes.at("P01_01.MP4", 1.0, SIZE).labels.tolist() == [0]
        with pytest.raises(MediaError, match="has no boxes of this item"):
            boxes.at("../P01_01", 1.0, SIZE)

    def test_boxes_of_another_picture_size_are_refused(self, folder):
        boxes = given(folder(EPIC_HEAD + "1,9,20,10,200.4,50,0.8\n"), fps=Fraction(30))
        assert boxes.at("P01_01", 0.0, SIZE).boxes[0, 2] == 1
        with pytest.raises(MediaError, match=r"P01_01 at 0 s: a box leaves the picture of 100 x 50\..* resized"):
            boxes.at("P01_01", 0.0, (100, 50))

    def test_the_hash_is_that_of_names_and_contents(self, folder):
        path = folder(EPIC_HEAD + "1,9,20,10,100,50,0.8\n")
        before = given(path, fps=Fraction(30)).sha256()
        shutil.copy(path / "P01_01.csv", path / "P01_02.csv")
        both = given(path, fps=Fraction(30)).sha256()
        folder(EPIC_HEAD + "1,9,20,10,100,50,0.9\n")
        assert len({before, both, given(path, fps=Fraction(30)).sha256()}) == 3

    def test_the_released_sample_has_the_published_counts(self, shared, tmp_path):
        shutil.copy(shared / "data" / "epic55" / "detections_sample_P01_01.csv", tmp_path / "P01_01.csv")
        boxes = given(tmp_path, fps=Fraction(60), within="0")
        found = [boxes.at("P01_01", k / 60, (1920, 1080)) for k in range(100)]
        assert sum(len(f.boxes) for f in found) == 357
        assert max(len(f.boxes) for f in found) == 7
        assert Counter(label for f in found for label in f.labels.tolist())[8] == 342
        assert all(((f.boxes >= 0) & (f.boxes <= 1)).all() for f in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,time_s,x1,y1,x2\n", r"lacks the column 'y2'; a file of boxes has item_id,time_s,"),
        (HEAD + "a,1,0,0,1,1\n", r"line 2 has not as many cells"),
        (HEAD + "a,soon,0,0,1,1,1,1\n", r"line 2: time_s is 'soon', expected a number"),
        (HEAD + "a,1,0,0,nan,1,1,1\n", r"line 2: x2 is 'nan'"),
        (HEAD + "a,1,0.5,0,0.5,1,1,1\n", r"line 2: x2 must be more than x1, .* \(got 0\.5, 0\.0, 0\.5, 1\.0\)"),
        (HEAD + "a,1,0,0,1,1,1.5,1\n", r"line 2: score is 1\.5, expected 0 to 1"),
        (HEAD + "a,1,0,0,1,1,1,-1\n", r"line 2: the class is -1, expected a whole number from 0"),
    ],
)
def test_malformed_files_are_refused_by_line(file, text, message):
    with pytest.raises(OptionError, match=message):
        given(file(text))


def test_folders_need_a_rate_and_files(folder):
    path = folder(EPIC_HEAD)
    with pytest.raises(OptionError, match="add boxes_fps=RATE"):
        check_boxes(path, None)
    (path / "P01_01.csv").unlink()
    with pytest.raises(OptionError, match="holds no csv files"):
        check_boxes(path, Fraction(30))
    (path / "P01_01.csv").write_text("frame,x1\n")
    with pytest.raises(OptionError, match=r"P01_01\.csv lacks the column 'class_id_raw'"):
        check_boxes(path, Fraction(30))
