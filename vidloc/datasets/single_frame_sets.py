"""THUMOS14, GTEA and BEOID: segments, and the single frames that four annotators marked (Ma et al., ECCV 2020).

Read from the folder of one corpus as SF-Net's authors published it (github.com/Flowerfan/SF-Net, `data/`):

    <name>_groundtruth.json        segments in ActivityNet's layout (THUMOS14: th14_groundtruth.json)
    classlist.npy                  class names in the order of their ids (THUMOS14: classlist_20classes.npy)
    videoname.npy, duration.npy    true durations (THUMOS14's JSON states wrong ones)
    single_frames/<NAME>1..4.txt   a file for each annotator: video, seconds and class, without a header

The videos of the corpora's training part (THUMOS14 calls it `validation`) are split `train`, the others `test`; only
the former have single frames. As published, one annotator is drawn for each video, here among those who marked any
frame of it and in the order of the files' numbers. Whatever is odd in the files is told by name.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.records import Point, Segment
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.own_labels import TASK, media_named
from vidloc.datasets.point_files import POINTS_HELP, points_of, read_points
from vidloc.datasets.segments import Segments, SegmentsOptions
from vidloc.datasets.tables import Row, read_table
from vidloc.errors import AnnotationError

NAMES = ("thumos14", "gtea", "beoid")
_COLUMNS = ("video", "time_s", "class")
_ANNOTATORS = ("1", "2", "3", "4")


@dataclass(frozen=True)
class _Layout:
    """What the files of a corpus are called, and the name of its training part."""

    truth: str
    classes: str
    frames: str
    training: str


_LAYOUTS = {
    "thumos14": _Layout("th14_groundtruth.json", "classlist_20classes.npy", "THUMOS", "validation"),
    "gtea": _Layout("gtea_groundtruth.json", "classlist.npy", "GTEA", "train"),
    "beoid": _Layout("beoid_groundtruth.json", "classlist.npy", "BEOID", "train"),
}


class SingleFrameOptions(Options):
    """Choices of the readers of THUMOS14, GTEA and BEOID."""

    annotator: Literal["drawn", "1", "2", "3", "4"] = Field(
        "drawn", description="Whose single frames: one annotator drawn for each video, as published, or one for all."
    )
    annotator_seed: int = Field(0, ge=0, description="Seed of that draw.")
    points: str = Field("", description=POINTS_HELP)


class SingleFrameSets(Dataset):
    """Reader of the folder of one corpus."""

    Options = SingleFrameOptions
    recipe: ClassVar[Mapping[str, Sequence[str]]] = {
        "rgb": ("i3d",),
        "flow": ("i3d_flow",),
        "visual": ("i3d", "slowfast_r50"),
    }
    eval_split: ClassVar[str] = "test"
    options: SingleFrameOptions

    def read(self, annotations: Path | None) -> Annotations:
        """Parse the folder.

        Raises:
            AnnotationError: a file is missing or malformed, or a label is no class.
        """
        if annotations is None or not annotations.is_dir():
            raise AnnotationError(
                f"{self.name} needs the folder of its annotation files, got {annotations}. "
                f"Give --annotations FOLDER, with {_LAYOUTS[self.name].truth} and single_frames/."
            )
        layout = _LAYOUTS[self.name]
        stated = Segments(SegmentsOptions(), name=self.name).read(annotations / layout.truth)
        digests = dict(stated.sha256)
        classes = tuple(_names(annotations / layout.classes, digests))
        splits, split_items = _splits(stated, layout, classes)
        durations = _durations(annotations, digests, stated.durations_s)
        notes = [*_duration_notes(layout, stated, durations, splits), *_twin_notes(splits, classes)]
        points, more = self._points(annotations, digests, classes, splits, split_items)
        return Annotations(
            dataset=self.name,
            classes={TASK: classes},
            splits=splits,
            items=stated.items,
            sha256=digests,
            durations_s=durations,
            points=points,
            split_items=split_items,
            protocol="segments",
            notes=(*notes, *more),
        )

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Files below `root` that the ids of the videos name.

        Raises:
            AnnotationError: without annotations it is not known which videos take part.
            MediaError: no such folder, or an id fits two files.
        """
        if annotations is None:
            raise AnnotationError(f"{self.name} needs --annotations FOLDER, to know which videos take part.")
        return media_named(root, annotations.items)

    def _points(
        self,
        folder: Path,
        digests: dict[str, str],
        classes: Sequence[str],
        splits: Mapping[str, tuple[Segment, ...]],
        split_items: Mapping[str, tuple[str, ...]],
    ) -> tuple[dict[str, tuple[Point, ...]], list[str]]:
        """Single frames by training video, and what is to be said of them."""
        if self.options.points:
            file = read_points(Path(self.options.points))
            digests[file.path.name] = file.sha256
            return points_of(file, classes, split_items["train"], task=TASK), []
        prefix = _LAYOUTS[self.name].frames
        wanted = _ANNOTATORS if self.options.annotator == "drawn" else (self.options.annotator,)
        marked, notes = [], []
        for number in wanted:
            path = folder / "single_frames" / f"{prefix}{number}.txt"
            own, said = _annotator(path, digests, classes, splits["train"], split_items["train"])
            marked.append(own)
            notes.extend(said)
        if self.options.annotator != "drawn":
            return marked[0], notes
        notes.append(
            f"the single frames of each video are those of one of {len(wanted)} annotators, drawn with "
            f"annotator_seed {self.options.annotator_seed}."
        )
        return _drawn(marked, split_items["train"], self.options.annotator_seed), notes


DATASET = SingleFrameSets


def _splits(
    stated: Annotations, layout: _Layout, classes: Sequence[str]
) -> tuple[dict[str, tuple[Segment, ...]], dict[str, tuple[str, ...]]]:
    """Segments and items by split, classes numbered as the list of classes does."""
    index = {name: k for k, name in enumerate(classes)}
    names = stated.classes[TASK]
    if unlisted := [name for name in names if name not in index]:
        raise AnnotationError(f"{layout.truth}: the label {unlisted[0]!r} is not in {layout.classes}.")
    if layout.training not in stated.splits or len(stated.splits) != 2:
        raise AnnotationError(
            f"{layout.truth} has the parts {', '.join(stated.splits)}; expected {layout.training!r} and one other."
        )
    called = {name: "train" if name == layout.training else "test" for name in stated.splits}
    splits = {
        called[name]: tuple(
            segment.model_copy(update={"labels": {TASK: index[names[segment.labels[TASK]]]}}) for segment in segments
        )
        for name, segments in stated.splits.items()
    }
    return splits, {called[name]: items for name, items in stated.split_items.items()}


def _annotator(
    path: Path,
    digests: dict[str, str],
    classes: Sequence[str],
    segments: Sequence[Segment],
    items: Sequence[str],
) -> tuple[dict[str, tuple[Point, ...]], list[str]]:
    """One annotator's single frames by video, with the oddities of the file."""
    table = read_table(path, _COLUMNS, header=_COLUMNS)
    digests[path.name] = table.sha256
    index = {name: k for k, name in enumerate(classes)}
    known = frozenset(items)
    found: defaultdict[str, list[Point]] = defaultdict(list)
    strangers: Counter[str] = Counter()
    for row in table.rows:
        item, label = row.text("video").strip(), row.text("class").strip()
        if label not in index:
            raise row.problem("class", label, "one of the corpus's classes")
        if item not in known:
            strangers[item] += 1
            continue
        found[item].append(Point(item_id=item, time_s=_seconds(row), labels={TASK: index[label]}))
    notes = [
        f"{path.name}: {item!r} is no training video; left out are as many of its rows: {count}."
        for item, count in strangers.items()
    ]
    notes.extend(_oddities(path.name, table.rows, found, segments, items))
    return {item: tuple(points) for item, points in found.items()}, notes


def _seconds(row: Row) -> float:
    seconds = row.number("time_s")
    if seconds < 0:
        raise row.problem("time_s", row.values["time_s"], "seconds from the start of the video")
    return seconds


def _oddities(
    name: str,
    rows: Sequence[Row],
    found: Mapping[str, Sequence[Point]],
    segments: Sequence[Segment],
    items: Sequence[str],
) -> Iterator[str]:
    if absent := [item for item in items if item not in found]:
        yield f"{name}: no row of {', '.join(absent)}."
    if padded := sum(row.values["class"] != row.values["class"].strip() for row in rows):
        yield f"{name}: {padded} class names have blanks around them, which are stripped."
    times = {item: [point.time_s for point in points] for item, points in found.items()}
    if unsorted := [item for item, own in times.items() if own != sorted(own)]:
        yield f"{name}: not in order of time are the rows of {', '.join(unsorted)}."
    spans = _spans_by_class(segments)
    points = [point for own in found.values() for point in own]
    outside = sum(not any(start <= p.time_s <= end for start, end in spans[p.item_id, p.labels[TASK]]) for p in points)
    if outside:
        yield f"{name}: {outside} of {len(points)} single frames lie in no segment of their class."


def _drawn(
    marked: Sequence[Mapping[str, tuple[Point, ...]]], items: Sequence[str], seed: int
) -> dict[str, tuple[Point, ...]]:
    """For each video the single frames of one annotator who marked any."""
    random = np.random.default_rng(seed)
    drawn = {}
    for item in items:
        known = [own[item] for own in marked if item in own]
        if known:
            drawn[item] = known[int(random.integers(len(known)))]
    return drawn


def _durations(folder: Path, digests: dict[str, str], stated: Mapping[str, float]) -> dict[str, float]:
    """Duration by video, from the arrays."""
    videos = _names(folder / "videoname.npy", digests)
    seconds = _array(folder / "duration.npy", digests).reshape(-1)
    if len(seconds) != len(videos) or seconds.dtype.kind != "f":
        raise AnnotationError(
            f"{folder / 'duration.npy'} holds {len(seconds)} values of {seconds.dtype}, expected a number of seconds "
            f"for each of the {len(videos)} videos in videoname.npy."
        )
    known = dict(zip(videos, seconds.tolist(), strict=True))
    return {item: known.get(item, seconds_stated) for item, seconds_stated in stated.items()}


def _duration_notes(
    layout: _Layout,
    stated: Annotations,
    durations: Mapping[str, float],
    splits: Mapping[str, tuple[Segment, ...]],
) -> Iterator[str]:
    off = {item: abs(seconds - durations[item]) for item, seconds in stated.durations_s.items()}
    if wrong := [item for item, seconds in off.items() if seconds > 1]:
        worst = max(wrong, key=lambda item: off[item])
        yield (
            f"{layout.truth}: the durations of {len(wrong)} videos are wrong by up to {off[worst]:.0f} s ({worst}); "
            "those of duration.npy are used."
        )
    beyond = sum(s.span.end_s > stated.durations_s[s.item_id] for own in splits.values() for s in own)
    if beyond:
        yield f"{layout.truth}: segments that end beyond the duration it states: {beyond}."


def _twin_notes(splits: Mapping[str, tuple[Segment, ...]], classes: Sequence[str]) -> Iterator[str]:
    """Classes all of whose segments are segments of another class as well."""
    everything = [segment for segments in splits.values() for segment in segments]
    at: defaultdict[Any, set[int]] = defaultdict(set)
    for segment in everything:
        at[segment.item_id, segment.span].add(segment.labels[TASK])
    total: Counter[int] = Counter(segment.labels[TASK] for segment in everything)
    shared: Counter[tuple[int, int]] = Counter()
    for segment in everything:
        own = segment.labels[TASK]
        shared.update((own, other) for other in at[segment.item_id, segment.span] if other != own)
    for (own, other), count in sorted(shared.items()):
        if count == total[own]:
            yield f"each of the {count} segments of {classes[own]} is a segment of {classes[other]} as well."


def _spans_by_class(segments: Sequence[Segment]) -> defaultdict[tuple[str, int], list[tuple[float, float]]]:
    spans: defaultdict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for segment in segments:
        spans[segment.item_id, segment.labels[TASK]].append(segment.span)
    return spans


def _names(path: Path, digests: dict[str, str]) -> list[str]:
    """Text of an array of byte strings."""
    values = _array(path, digests)
    if values.dtype.kind != "S" or values.ndim != 1:
        raise AnnotationError(f"{path} is an array of {values.dtype}, expected one row of names (bytes).")
    return [name.decode("utf-8") for name in values.tolist()]


def _array(path: Path, digests: dict[str, str]) -> NDArray[Any]:
    try:
        raw = path.read_bytes()
        array: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
    except FileNotFoundError:
        raise AnnotationError(f"there is no annotation file {path}.") from None
    except (OSError, ValueError, EOFError) as error:
        raise AnnotationError(f"{path} cannot be read as a plain array: {error}") from None
    digests[path.name] = hashlib.sha256(raw).hexdigest()
    return array
