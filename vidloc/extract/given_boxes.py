"""Boxes that are given beside a video, by item and time: ground truth, or another detector's output.

Two layouts are read:

- a csv file with the columns `item_id,time_s,x1,y1,x2,y2` and, if wished, `score` and `label`: one box a line, its
  corners over width and height, `label` the number of its class;
- a folder with one csv per item, `ITEM.csv`, with the columns `frame,class_id_raw,x1,y1,x2,y2,score`: the detections
  released for EPIC-KITCHENS (Furnari and Farinella, RULSTM) as text. Frames count from 1, corners are pixels of the
  original video, and class ids count the background, so that noun k is `class_id_raw` k + 1.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.errors import MediaError, OptionError
from vidloc.extract.base import EncoderOptions

_COLUMNS = ("item_id", "time_s", "x1", "y1", "x2", "y2")
_EPIC_COLUMNS = ("frame", "class_id_raw", "x1", "y1", "x2", "y2", "score")
_CORNERS = ("x1", "y1", "x2", "y2")
_ROUNDING_PX = 1.0  # by which detectors' boxes may leave the picture


class GivenBoxesOptions(EncoderOptions):
    """Options of encoders that make vectors of given boxes."""

    boxes: str = Field(
        "",
        exclude=True,
        description="Boxes to make vectors of: a csv with item_id,time_s,x1,y1,x2,y2 (over width and height) and, if "
        "known, score,label; or a folder of EPIC's released detections as ITEM.csv.",
    )
    boxes_fps: Fraction | None = Field(
        None, gt=0, description="Frames per second by which a folder's boxes count frames, such as 60000/1001."
    )
    boxes_within_s: Fraction = Field(
        Fraction(1, 2),
        ge=0,
        description="A row takes the given boxes of the time nearest to its own, if at most so far away; else none.",
    )

    def given_boxes(self) -> GivenBoxes | None:
        """The boxes, where some are given.

        Raises:
            OptionError: as `GivenBoxes` does.
        """
        if not self.boxes:
            return None
        return GivenBoxes(Path(self.boxes).expanduser(), fps=self.boxes_fps, within_s=self.boxes_within_s)

    def check_boxes(self) -> None:
        """Make sure that given boxes can be read, by a look at the columns of the file or of the folder's files.

        Raises:
            OptionError: as `GivenBoxes` does.
        """
        if self.boxes:
            check_boxes(Path(self.boxes).expanduser(), self.boxes_fps)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one moment, by falling score, ties in the order of the file.

    Attributes:
        boxes: float32 `(n, 4)`, x1 y1 x2 y2 over width and height.
        scores: float32 `(n,)`, 1 where the file has none.
        labels: int32 `(n,)`, 0 where the file has none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]


NO_BOXES = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


@dataclass(frozen=True, eq=False)
class _Track:
    # All boxes of an item by time; those of moment k are the entries ends[k - 1] to ends[k]. Corners as in the file.
    times_s: NDArray[np.float64]
    ends: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    in_pixels: bool


class GivenBoxes:
    """A file or folder of boxes, read as items are asked for.

    Args:
        path: the file or the folder.
        fps: frames per second of the videos whose frames a folder's files count.
        within_s: how far a moment may lie from its boxes' time.

    Raises:
        OptionError: nothing is there, the columns are others, a line is malformed, or a folder is given without `fps`.
    """

    def __init__(self, path: Path, *, fps: Fraction | None, within_s: Fraction) -> None:
        self._path, self._fps, self._within_s = path, fps, float(within_s)
        self._files = _files_of(path, fps)
        self._tracks: dict[str, _Track] = {} if path.is_dir() else _tracks_of(path)

    def sha256(self) -> str:
        """Of the file, or of the names and hashes of the folder's files."""
        if not self._files:
            return _sha256(self._path)
        parts = [f"{name} {_sha256(file)}\n" for name, file in sorted(self._files.items())]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def at(self, item_id: str, time_s: float, image_size: tuple[int, int]) -> Boxes:
        """Boxes of the time nearest to a moment of an item; none where that is too far away.

        Args:
            image_size: width and height of the video, pixels.

        Raises:
            MediaError: there are no boxes of this item at all, or they leave its picture.
        """
        # Messages name the file alone: they are kept in the store, which travels.
        track = self._track(item_id)
        nearest = int(np.abs(track.times_s - time_s).argmin())
        # A microsecond for times that were written with six digits.
        if abs(float(track.times_s[nearest]) - time_s) > self._within_s + 1e-6:
            return NO_BOXES
        entries = slice(int(track.ends[nearest - 1]) if nearest else 0, int(track.ends[nearest]))
        boxes = _normalised(
            track, entries, image_size, where=f"{self._path.name}: {item_id} at {track.times_s[nearest]:g} s"
        )
        return Boxes(boxes, track.scores[entries], track.labels[entries])

    def _track(self, item_id: str) -> _Track:
        if item_id in self._tracks:
            return self._tracks[item_id]
        # Released files are named after the video, without its extension.
        file = self._files.get(item_id) or self._files.get(item_id.rpartition(".")[0])
        if file is None:
            raise MediaError(f"{self._path.name} has no boxes of this item.")
        # Items are asked for one after another; a folder's files together may be too much for memory.
        self._tracks = {item_id: _epic_track(file, self._fps or Fraction(1))}
        return self._tracks[item_id]


def check_boxes(path: Path, fps: Fraction | None) -> None:
    """Make sure that boxes can be read, by a look at the columns of the file or of the folder's files.

    Raises:
        OptionError: as the constructor.
    """
    files = _files_of(path, fps)
    for file in files.values():
        next(_lines(file, _EPIC_COLUMNS), None)
    if not files:
        next(_lines(path, _COLUMNS), None)


def _files_of(path: Path, fps: Fraction | None) -> dict[str, Path]:
    if path.is_file():
        return {}
    if not path.is_dir():
        raise OptionError(f"boxes={path}: there is no such file or folder.")
    if fps is None:
        raise OptionError(
            f"boxes={path} is a folder, whose files count frames; add boxes_fps=RATE, such as boxes_fps=60000/1001."
        )
    files = {file.stem: file for file in path.glob("*.csv")}
    if not files:
        raise OptionError(f"boxes={path} holds no csv files; it should hold one ITEM.csv for each item.")
    return files


def _tracks_of(path: Path) -> dict[str, _Track]:
    by_item: dict[str, list[tuple[float, ...]]] = {}
    for line, row in _lines(path, _COLUMNS):
        numbers = [_number(row, name, path, line) for name in ("time_s", *_CORNERS)]
        score = _number(row, "score", path, line) if row.get("score") else 1.0
        label = _number(row, "label", path, line) if row.get("label") else 0.0
        _check_box(numbers[1:], score, label, path, line)
        by_item.setdefault(row["item_id"], []).append((*numbers, score, label))
    return {item: _track(boxes, in_pixels=False) for item, boxes in by_item.items()}


def _epic_track(path: Path, fps: Fraction) -> _Track:
    found: list[tuple[float, ...]] = []
    for line, row in _lines(path, _EPIC_COLUMNS):
        frame, raw, *corners, score = (_number(row, name, path, line) for name in _EPIC_COLUMNS)
        _check_box(corners, score, raw - 1, path, line)
        found.append((float((Fraction(frame) - 1) / fps), *corners, score, raw - 1))
    if not found:
        raise MediaError(f"{path.name} has no boxes of this item.")
    return _track(found, in_pixels=True)


def _track(found: Sequence[tuple[float, ...]], *, in_pixels: bool) -> _Track:
    table = np.array(found, dtype=np.float64)
    # By time, then by falling score; a stable order keeps ties as they stand in the file.
    table = table[np.lexsort((np.arange(len(table)), -table[:, 5], table[:, 0]))]
    times, first = np.unique(table[:, 0], return_index=True)
    return _Track(
        times_s=times,
        ends=np.append(first[1:], len(table)).astype(np.int64),
        boxes=table[:, 1:5],
        scores=table[:, 5].astype(np.float32),
        labels=table[:, 6].astype(np.int32),
        in_pixels=in_pixels,
    )


def _normalised(track: _Track, entries: slice, image_size: tuple[int, int], *, where: str) -> NDArray[np.float32]:
    width, height = image_size
    sides = np.array([width, height, width, height], np.float64)
    boxes = track.boxes[entries] / sides if track.in_pixels else track.boxes[entries]
    if ((boxes * sides < -_ROUNDING_PX) | (boxes * sides > sides + _ROUNDING_PX)).any():
        raise MediaError(
            f"{where}: a box leaves the picture of {width} x {height}. Pixels count in the original video; "
            "was this one resized? Give boxes over width and height then."
        )
    inside = np.clip(boxes, 0.0, 1.0).astype(np.float32)
    if not (inside[:, 2:] > inside[:, :2]).all():
        raise MediaError(f"{where}: a box has no area inside the picture of {width} x {height}.")
    return inside


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise OptionError(f"{path} lacks the column {missing[0]!r}; a file of boxes has {','.join(columns)}.")
            for row in reader:
                if None in row or None in row.values():
                    raise OptionError(f"{path}, line {reader.line_num} has not as many cells as there are columns.")
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"file of boxes {str(path)!r} cannot be read: {error}") from error


def _number(row: Mapping[str, str], name: str, path: Path, line: int) -> float:
    try:
        number = float(row[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"{path}, line {line}: {name} is {row[name]!r}, expected a number.")
    return number


def _check_box(corners: Sequence[float], score: float, label: float, path: Path, line: int) -> None:
    x1, y1, x2, y2 = corners
    if not (x2 > x1 and y2 > y1):
        raise OptionError(
            f"{path}, line {line}: x2 must be more than x1, and y2 more than y1 (got {x1}, {y1}, {x2}, {y2})."
        )
    if not 0 <= score <= 1:
        raise OptionError(f"{path}, line {line}: score is {score}, expected 0 to 1.")
    if label != int(label) or not 0 <= label < 2**31:
        raise OptionError(f"{path}, line {line}: the class is {label:g}, expected a whole number from 0.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
