"""Your own timed labels: one file, csv or JSON, one class per segment.

- csv with the columns `item_id,start_s,end_s,label` and, where wanted, `split` and `id`. A line with an item and
  nothing else but its split states an item without segments.
- JSON, a list of objects with the same names.
- JSON in ActivityNet's layout: `{"database": {ITEM: {"subset": ..., "duration": ..., "annotations":
  [{"segment": [start, end], "label": ...}]}}}`.
- JSON by video: `{"classes": [...], "videos": {ITEM: {"subset": ..., "duration_s": ..., "annotations":
  [{"start_s": ..., "end_s": ..., "label": ...}]}}}`.

The task is called `label`. Classes are numbered as `classes` lists them, else in alphabetical order. The subsets
`training` and `testing` are called `train` and `test`; items without a split are in `train`. Splits may lie in a file
of their own (`--splits`: csv `item_id,split`), which then decides alone.

Heads that learn from one frame per segment take these from a file of their own (`--points`, see `datasets.points`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.datasets.base import Annotations
from vidloc.datasets.own_labels import TASK, OwnLabels, one_split_each
from vidloc.datasets.point_files import POINTS_HELP, points_of, read_points
from vidloc.datasets.tables import read_json, read_table
from vidloc.errors import AnnotationError, OptionError

_SPLIT_NAMES = {"training": "train", "testing": "test"}


class SegmentsOptions(Options):
    """Choices of the reader of one's own segments."""

    splits: str = Field(
        "", description="Csv file item_id,split that says which items train, validate and test; overrides other splits."
    )
    points: str = Field("", description=POINTS_HELP)


@dataclass(frozen=True)
class _Line:
    """One segment as a file states it, or an item without any (`span` and `label` are then `None`)."""

    where: str
    item_id: str
    span: Span | None
    label: str | None
    split: str = ""
    id: str = ""


@dataclass
class _File:
    """What a file of any layout says."""

    lines: list[_Line]
    classes: tuple[str, ...] | None = None
    durations_s: dict[str, float] = field(default_factory=dict)


class Segments(OwnLabels):
    """Reader of one annotation file."""

    Options = SegmentsOptions
    recipe: ClassVar[Mapping[str, Sequence[str]]] = {
        "visual": ("slowfast_r50", "i3d_r50"),
        "audio": ("vggish",),
        "objects": ("fasterrcnn",),
        "text": ("text",),
    }
    options: SegmentsOptions

    def read(self, annotations: Path | None) -> Annotations:
        """Parse the file.

        Raises:
            OptionError: no file was given.
            AnnotationError: the file or the file of splits is malformed.
        """
        if annotations is None:
            raise OptionError(
                "--dataset segments needs --annotations FILE, a csv with the columns item_id,start_s,end_s,label."
            )
        is_table = annotations.name.lower().removesuffix(".gz").endswith(".csv")
        file, sha256 = _read_csv(annotations) if is_table else _read_json(annotations)
        digests = {annotations.name: sha256}
        item_splits = self._item_splits(file, digests)
        classes = _classes(annotations, file)
        splits: dict[str, list[Segment]] = {name: [] for name in sorted(set(item_splits.values()), key=_split_order)}
        for segment in _segments(file, classes):
            splits[item_splits[segment.item_id]].append(segment)
        points = {}
        if self.options.points:
            own = read_points(Path(self.options.points))
            points = points_of(own, classes, item_splits, task=TASK)
            digests[own.path.name] = own.sha256
        return self.described(
            {name: tuple(segments) for name, segments in splits.items()},
            item_splits,
            classes=classes,
            sha256=digests,
            points=points,
            durations_s=file.durations_s,
        )

    def _item_splits(self, file: _File, digests: dict[str, str]) -> dict[str, str]:
        """Split of every item."""
        if self.options.splits:
            path = Path(self.options.splits)
            table = read_table(path, ("item_id", "split"))
            digests[path.name] = table.sha256
            stated = [(f"{path}, line {r.line}", r.text("item_id"), r.text("split")) for r in table.rows]
        else:
            stated = [(line.where, line.item_id, line.split or "train") for line in file.lines]
        splits = one_split_each((where, item, _SPLIT_NAMES.get(split, split)) for where, item, split in stated)
        for line in file.lines:
            if line.item_id not in splits:
                raise AnnotationError(
                    f"{line.where}: item {line.item_id!r} has no line in {self.options.splits}. Give it a split there."
                )
        return splits


DATASET = Segments


def _read_csv(path: Path) -> tuple[_File, str]:
    table = read_table(path, ("item_id", "start_s", "end_s", "label"))
    lines = []
    for row in table.rows:
        split, segment_id = row.values.get("split", ""), row.values.get("id", "")
        where = f"{path}, line {row.line}"
        if not (row.values["start_s"] or row.values["end_s"] or row.values["label"]):
            lines.append(_Line(where, row.text("item_id"), None, None, split))
            continue
        span = row.span(row.number("start_s"), row.number("end_s"))
        lines.append(_Line(where, row.text("item_id"), span, row.text("label"), split, segment_id))
    return _File(lines), table.sha256


def _read_json(path: Path) -> tuple[_File, str]:
    value, sha256 = read_json(path)
    if isinstance(value, list):
        return _File([_flat_line(f"{path}, entry {k}", entry) for k, entry in enumerate(value)]), sha256
    videos = value.get("database", value.get("videos")) if isinstance(value, dict) else None
    if not isinstance(videos, dict):
        raise AnnotationError(
            f"{path} is none of the JSON layouts known: a list of objects with item_id, start_s, end_s and label, or "
            'an object with "database" (ActivityNet) or "videos".'
        )
    classes = value.get("classes")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
        raise AnnotationError(f'{path}: "classes" must be a list of names.')
    file = _File([], tuple(classes) if classes is not None else None)
    for item, video in videos.items():
        where = f"{path}, video {item!r}"
        entries = video.get("annotations", []) if isinstance(video, dict) else None
        if not isinstance(entries, list):
            raise AnnotationError(f'{where}: expected an object with a list "annotations".')
        split = str(video.get("subset") or "")
        duration = video.get("duration_s", video.get("duration"))
        if duration is not None:
            file.durations_s[item] = _number(where, "duration", duration)
        file.lines.append(_Line(where, item, None, None, split))
        file.lines.extend(_nested_line(f"{where}, annotation {k}", item, split, e) for k, e in enumerate(entries))
    return file, sha256


def _flat_line(where: str, entry: Any) -> _Line:
    if not isinstance(entry, dict) or not isinstance(entry.get("item_id"), str) or not entry["item_id"]:
        raise AnnotationError(f'{where}: expected an object with "item_id", "start_s", "end_s" and "label".')
    split = str(entry.get("split") or "")
    if all(entry.get(name) is None for name in ("start_s", "end_s", TASK)):
        return _Line(where, entry["item_id"], None, None, split)
    return _nested_line(where, entry["item_id"], split, entry)


def _nested_line(where: str, item: str, split: str, entry: Any) -> _Line:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or not entry["label"]:
        raise AnnotationError(f'{where}: expected an object with a "label" that is a name.')
    ends = entry.get("segment", [entry.get("start_s"), entry.get("end_s")])
    if not isinstance(ends, list) or len(ends) != 2:
        raise AnnotationError(f'{where}: "segment" must be [start, end] in seconds, found {ends!r}.')
    start, end = (_number(where, name, value) for name, value in zip(("start", "end"), ends, strict=True))
    if not 0 <= start < end:
        raise AnnotationError(f"{where}: the segment goes from {start} s to {end} s; it must end after its start.")
    return _Line(where, item, Span(start, end), entry["label"], split, str(entry.get("id") or ""))


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnnotationError(f"{where}: {name} must be a number of seconds, found {value!r}.")
    return float(value)


def _classes(path: Path, file: _File) -> tuple[str, ...]:
    used = {line.label for line in file.lines if line.label is not None}
    if not used:
        raise AnnotationError(f"{path} holds no segment with a label.")
    if file.classes is None:
        return tuple(sorted(used))
    unlisted = sorted(used - set(file.classes))
    if unlisted or len(set(file.classes)) < len(file.classes):
        problem = f"lacks {unlisted[0]!r}, which a segment has" if unlisted else "lists a name twice"
        raise AnnotationError(f'{path}: "classes" {problem}.')
    return file.classes


def _segments(file: _File, classes: tuple[str, ...]) -> Iterator[Segment]:
    index = {name: k for k, name in enumerate(classes)}
    numbers: Counter[str] = Counter()
    seen: set[str] = set()
    for line in file.lines:
        if line.span is None or line.label is None:
            continue
        segment_id = line.id or f"{line.item_id}#{numbers[line.item_id]}"
        numbers[line.item_id] += 1
        if segment_id in seen:
            raise AnnotationError(f"{line.where}: the id {segment_id!r} occurs a second time.")
        seen.add(segment_id)
        yield Segment(item_id=line.item_id, span=line.span, labels={TASK: index[line.label]}, id=segment_id)


def _split_order(name: str) -> tuple[int, str]:
    known = ("train", "validation", "test")
    return (known.index(name) if name in known else len(known), name)
