"""Single frames in a file of one's own: csv or JSON, one time and one class a line.

- csv with the columns `item_id,label` and either `time_s`, or `frame` and `fps`; where wanted also `split`.
- JSON, a list of objects with the same names.

Frames count from 0, so frame n is shown from n / fps seconds on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidloc.core.records import Point
from vidloc.datasets.tables import Row, read_json, read_table
from vidloc.errors import AnnotationError, did_you_mean

POINTS_HELP = (
    "Your own single frames, csv or JSON: item_id, label and time_s, or frame and fps; in place of any of the corpus."
)
_EXPECTED = "item_id, label, and either time_s, or frame and fps"


@dataclass(frozen=True)
class PointLine:
    """One single frame as a file states it."""

    where: str
    item_id: str
    time_s: float
    label: str
    split: str = ""


@dataclass(frozen=True)
class PointFile:
    """A file of single frames, in its order, with the sha256 of the file."""

    path: Path
    lines: tuple[PointLine, ...]
    sha256: str


def read_points(path: Path) -> PointFile:
    """Single frames of a csv or JSON file.

    Raises:
        AnnotationError: the file is missing, malformed or empty, or a time lies before the video.
    """
    if path.name.lower().removesuffix(".gz").endswith(".csv"):
        table = read_table(path, ("item_id", "label"))
        if "time_s" not in table.columns and not {"frame", "fps"} <= set(table.columns):
            raise AnnotationError(f"{path} has the columns {', '.join(table.columns)}; expected {_EXPECTED}.")
        lines, sha256 = [_table_line(row) for row in table.rows], table.sha256
    else:
        value, sha256 = read_json(path)
        if not isinstance(value, list):
            raise AnnotationError(f"{path}: expected a list of objects with {_EXPECTED}.")
        lines = [_json_line(f"{path}, entry {k}", entry) for k, entry in enumerate(value)]
    if not lines:
        raise AnnotationError(f"{path} holds no single frame.")
    return PointFile(path, tuple(lines), sha256)


def points_of(
    file: PointFile, classes: Sequence[str], items: Collection[str], *, task: str
) -> dict[str, tuple[Point, ...]]:
    """The single frames of a file by item, with class ids.

    Args:
        items: every item that may be named.

    Raises:
        AnnotationError: a label that is no class, or an item that the annotations do not have.
    """
    index = {name: k for k, name in enumerate(classes)}
    known = frozenset(items)
    found: defaultdict[str, list[Point]] = defaultdict(list)
    for line in file.lines:
        if line.label not in index:
            raise AnnotationError(f"{line.where}: {line.label!r} is no class. {did_you_mean(line.label, index)}")
        if line.item_id not in known:
            raise AnnotationError(
                f"{line.where}: no item is called {line.item_id!r}. {did_you_mean(line.item_id, known)}"
            )
        labels = {task: index[line.label]}
        found[line.item_id].append(Point(item_id=line.item_id, time_s=line.time_s, labels=labels))
    return {item: tuple(points) for item, points in found.items()}


def _table_line(row: Row) -> PointLine:
    where = f"{row.path}, line {row.line}"
    if row.values.get("time_s"):
        seconds = row.number("time_s")
    elif "frame" in row.values and "fps" in row.values:
        fps = row.number("fps")
        if fps <= 0:
            raise row.problem("fps", row.values["fps"], "frames per second, more than 0")
        seconds = row.integer("frame") / fps
    else:
        raise row.problem("time_s", "", "a time in seconds, or a frame and fps")
    return _line(where, row.text("item_id"), seconds, row.text("label"), row.values.get("split", ""))


def _json_line(where: str, entry: Any) -> PointLine:
    names = [entry.get(name) for name in ("item_id", "label")] if isinstance(entry, dict) else [None]
    if not all(isinstance(name, str) and name for name in names):
        raise AnnotationError(f"{where}: expected an object with {_EXPECTED}.")
    seconds = _number(where, entry, "time_s") if entry.get("time_s") is not None else _frame_time(where, entry)
    return _line(where, entry["item_id"], seconds, entry["label"], str(entry.get("split") or ""))


def _frame_time(where: str, entry: Mapping[str, Any]) -> float:
    frame, fps = _number(where, entry, "frame"), _number(where, entry, "fps")
    if fps <= 0:
        raise AnnotationError(f"{where}: fps must be more than 0, found {fps}.")
    return frame / fps


def _number(where: str, entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnnotationError(f"{where}: {name} must be a number, found {value!r}; expected {_EXPECTED}.")
    return float(value)


def _line(where: str, item_id: str, seconds: float, label: str, split: str) -> PointLine:
    if seconds < 0:
        raise AnnotationError(f"{where}: the time is {seconds} s; it must be 0 s or later.")
    return PointLine(where, item_id, seconds, label, split)
