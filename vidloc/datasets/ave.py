"""AVE (Tian et al., ECCV 2018): 4,143 clips of 10 s from AudioSet, each with one event that is both seen and heard.

Read from one folder: `Annotations.txt`, whose lines are

    Church bell&MH3m4AwEcRY&good&6&8

(category, video, quality, first second, second after the last), with the splits as `splits.json` (and, for matching,
`splits_cross_modality.json`), `{"train": [40, 30, ...], "val": ..., "test": ...}`, or as the files of the release,
`train_order.h5` and so on (`train_order_match.h5`). Both number the lines of `Annotations.txt` from 0; that number is a
segment's id. The order of classes is that of `categories.txt`, else that of first appearance. Second t has the clip's
class where start <= t < end, else it is background, the class after the last.

What `protocol` chooses:

- `event`: name the class of every second, background included; training sees the seconds of each event;
- `weak`: the same test, but training sees only the class of a clip: its segments cover their whole clips. To these
  the authors add 178 clips of mere background, which have no videos, only rows; items `background_000` and on;
- `matching`: find the event of one modality, given as an excerpt, in the other modality. Its splits are others and
  overlap those of `event`: runs of the two must not be mixed.

An item is a video. A few videos are annotated twice or more, with other categories, and even in different splits; each
annotation is a segment of its own, and the splits are kept as published. Labels are built from the annotation file (two
rows of the label array in the release are reported to disagree with it).
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import h5py
import numpy as np
from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.media_files import VIDEO_EXTENSIONS, by_stem, media_files
from vidloc.datasets.tables import Row, file_sha256, read_json, read_text
from vidloc.errors import AnnotationError

CLIP_S = 10
TASK, BACKGROUND = "event", "background"
_SPLITS = ("train", "val", "test")
_FIELDS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")
_BACKGROUND_ROWS = "background_audio_features.npz"
_LAYOUTS = {"event": ("splits.json", "{}_order.h5"), "matching": ("splits_cross_modality.json", "{}_order_match.h5")}

Orders = Mapping[str, tuple[int, ...]]


class AveOptions(Options):
    """Choices of the AVE reader."""

    protocol: Literal["event", "weak", "matching"] = Field(
        "event",
        description="Name the class of every second (event), the same learnt from classes of whole clips (weak), or "
        "find one modality's event in the other (matching).",
    )
    background: bool = Field(
        default=True,
        description="With protocol=weak: also learn from the background clips whose sound lies beside the annotations.",
    )


@dataclass(frozen=True)
class _Clip:
    """One line of the annotation file."""

    video: str
    category: str
    start: int
    end: int


class Ave(Dataset):
    """Reader of the annotation file and its splits."""

    Options = AveOptions
    recipe: ClassVar[Mapping[str, Sequence[str]]] = {"visual": ("vgg19",), "audio": ("vggish",)}
    eval_split: ClassVar[str] = "test"
    options: AveOptions

    def read(self, annotations: Path | None) -> Annotations:
        """Parse the folder.

        Raises:
            AnnotationError: a file is missing or malformed, or a clip is in two splits or in a split twice.
        """
        if annotations is None or not annotations.is_dir():
            raise AnnotationError(
                f"{self.name} needs the folder of its annotation files, got {annotations}. "
                "Give --annotations FOLDER, with Annotations.txt and splits.json."
            )
        sha256: dict[str, str] = {}
        clips = _read_clips(annotations / "Annotations.txt", sha256)
        names = _read_categories(annotations / "categories.txt", clips, sha256)
        matching = self.options.protocol == "matching"
        orders = _read_orders(annotations, "matching" if matching else "event", len(clips), sha256)
        splits = {split: self._segments(split, order, clips, names) for split, order in orders.items()}
        notes = [*_repeat_notes(clips, orders), *self._empty_notes(clips, orders)]
        if matching:
            notes += _matching_notes(annotations, clips, names, orders)
        if self.options.protocol == "weak":
            extra, note = self._background_clips(annotations, len(names), sha256)
            splits["train"] += extra
            notes.append(note)
        items = sorted({segment.item_id for segments in splits.values() for segment in segments})
        return Annotations(
            dataset=f"{self.name}_{self.options.protocol}",
            classes={TASK: names if matching else (*names, BACKGROUND)},
            splits=splits,
            items=tuple(items),
            sha256=dict(sorted(sha256.items())),
            durations_s=dict.fromkeys(items, float(CLIP_S)),
            protocol="av-matching" if matching else "av-event",
            notes=tuple(notes),
        )

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Videos anywhere below `root`, by their names without extension, as in the authors' folder `AVE/ID.mp4`.

        Raises:
            MediaError: no such folder, or two different files of one video.
        """
        files = media_files(root)
        known = None if annotations is None else set(annotations.items)

        def why_not(path: Path) -> str:
            if path.suffix.lower() not in VIDEO_EXTENSIONS:
                return f"{path.suffix} is no extension of a video"
            return f"{self.name} does not annotate it" if known is not None and path.stem not in known else ""

        found, ignored = by_stem(root, files, why_not, what="video")
        # Background clips of the weak protocol exist as rows only; no folder of videos can hold them.
        wanted = sorted(found) if known is None else sorted(i for i in known if not i.startswith(f"{BACKGROUND}_"))
        return Media(
            paths={item: found[item] for item in wanted if item in found},
            missing=tuple(item for item in wanted if item not in found),
            ignored=ignored,
        )

    def _segments(
        self, split: str, order: Sequence[int], clips: Sequence[_Clip], names: Sequence[str]
    ) -> tuple[Segment, ...]:
        """Segments of a split in its order; of the query clips of matching, those that have an event."""
        whole = self.options.protocol == "weak" and split == "train"
        return tuple(
            Segment(
                item_id=clips[line].video,
                span=Span(0.0, float(CLIP_S)) if whole else Span(float(clips[line].start), float(clips[line].end)),
                labels={TASK: names.index(clips[line].category)},
                id=str(line),
            )
            for line in order
            if self.options.protocol != "matching" or clips[line].start < clips[line].end
        )

    def _empty_notes(self, clips: Sequence[_Clip], orders: Orders) -> Iterator[str]:
        told = {
            "event": "all background, for all that it has a class",
            "weak": "learnt by its class, like any other in training",
            "matching": "nothing that could be matched, so it is left out",
        }
        for split, order in orders.items():
            for line in (line for line in order if clips[line].start == clips[line].end):
                yield f"clip {line} of split {split!r} has no second of its event: {told[self.options.protocol]}."

    def _background_clips(self, folder: Path, label: int, sha256: dict[str, str]) -> tuple[tuple[Segment, ...], str]:
        """Training segments of background alone, and what is to be said of them."""
        path = folder / _BACKGROUND_ROWS
        if not self.options.background or not path.is_file():
            why = f"{folder} has no {_BACKGROUND_ROWS}" if self.options.background else "background=false"
            return (), f"weak training goes without the authors' clips of background ({why})."
        count, sha256[path.name] = _num_background_clips(path), file_sha256(path)
        items = [f"{BACKGROUND}_{k:03d}" for k in range(count)]
        span = Span(0.0, float(CLIP_S))
        segments = tuple(Segment(item_id=item, span=span, labels={TASK: label}, id=item) for item in items)
        return segments, (
            f"weak training adds {count} clips of background, items {items[0]} to {items[-1]}; their maps are "
            "distributed by the authors only, and background=false leaves them out."
        )


DATASET = Ave


def _read_clips(path: Path, sha256: dict[str, str]) -> tuple[_Clip, ...]:
    content, sha256[path.name] = read_text(path)
    clips = []
    for number, text in enumerate(content.splitlines(), start=1):
        values = text.split("&")  # categories hold commas and spaces
        if not text.strip() or (number == 1 and tuple(values) == _FIELDS):
            continue
        if len(values) != len(_FIELDS):
            raise AnnotationError(
                f"{path}, line {number}: {len(values)} fields ({text[:80]!r}), expected {len(_FIELDS)} with & between: "
                f"{', '.join(_FIELDS)}."
            )
        row = Row(path, number, dict(zip(_FIELDS, values, strict=True)))
        start, end = row.integer("StartTime", CLIP_S + 1), row.integer("EndTime", CLIP_S + 1)
        if start > end:
            raise row.problem("EndTime", row.values["EndTime"], f"a second from {start} on, where the event starts")
        clips.append(_Clip(row.text("VideoID"), row.text("Category"), start, end))
    return tuple(clips)


def _read_categories(path: Path, clips: Sequence[_Clip], sha256: dict[str, str]) -> tuple[str, ...]:
    used = dict.fromkeys(clip.category for clip in clips)
    if not path.is_file():
        return tuple(used)
    content, sha256[path.name] = read_text(path)
    names = tuple(line.strip() for line in content.splitlines() if line.strip())
    unlisted = [name for name in used if name not in names]
    if unlisted or len(set(names)) < len(names):
        problem = f"lacks {unlisted[0]!r}, which a clip has" if unlisted else "lists a category twice"
        raise AnnotationError(f"{path} {problem}.")
    return names


def _read_orders(folder: Path, protocol: str, num_clips: int, sha256: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Numbers of clips by split, from the json file or from the release's own."""
    one_file, each_split = _LAYOUTS[protocol]
    if (folder / one_file).is_file():
        value, sha256[one_file] = read_json(folder / one_file)
        if not isinstance(value, dict) or not set(_SPLITS) <= set(value):
            raise AnnotationError(f"{folder / one_file}: expected an object with lists {', '.join(_SPLITS)}.")
        orders = {split: (folder / one_file, value[split]) for split in _SPLITS}
    else:
        paths = {split: folder / each_split.format(split) for split in _SPLITS}
        if missing := next((path for path in paths.values() if not path.is_file()), None):
            raise AnnotationError(f"{folder} has no {one_file}, and no {missing.name} of the release in its place.")
        orders = {split: (path, _read_order(path)) for split, path in paths.items()}
        sha256 |= {path.name: file_sha256(path) for path in paths.values()}
    seen: dict[int, str] = {}
    for split, (path, order) in orders.items():
        if not isinstance(order, list) or not all(type(n) is int and 0 <= n < num_clips for n in order):
            raise AnnotationError(
                f"{path}, split {split!r}: expected a list of whole numbers from 0 to {num_clips - 1}."
            )
        for number in order:
            if number in seen:
                raise AnnotationError(f"{path}, split {split!r}: clip {number} was in split {seen[number]!r} before.")
            seen[number] = split
    return {split: tuple(order) for split, (_, order) in orders.items()}


def _read_order(path: Path) -> list[int]:
    try:
        with h5py.File(path) as file:
            order = file["order"]
            if not isinstance(order, h5py.Dataset) or order.ndim != 1 or order.dtype.kind not in "iu":
                raise AnnotationError(f"{path}: the dataset 'order' is no list of whole numbers.")
            numbers: list[int] = order[:].tolist()
    except (OSError, KeyError) as error:
        raise AnnotationError(f"{path} is no HDF5 file with a dataset 'order': {error}.") from None
    return numbers


def _num_background_clips(path: Path) -> int:
    """How many clips the file of background rows holds; the rows themselves belong into a store."""
    try:
        # The header alone: it says the shape, and the rows need not be read.
        with zipfile.ZipFile(path) as archive, archive.open("features.npy") as file:
            version = np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((), False, None)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AnnotationError(
            f"{path} is no file with an array 'features' of (clips, {CLIP_S}, 128): {error}."
        ) from None
    if len(shape) != 3 or shape[1] != CLIP_S:
        raise AnnotationError(f"{path}: 'features' has the shape {shape}, expected (clips, {CLIP_S}, 128).")
    return int(shape[0])


def _repeat_notes(clips: Sequence[_Clip], orders: Orders) -> Iterator[str]:
    counts = Counter(clip.video for clip in clips)
    repeated = [video for video, count in counts.items() if count > 1]
    if not repeated:
        return
    yield (
        f"{len(repeated)} videos are annotated more than once ({sum(counts[v] for v in repeated)} of {len(clips)} "
        "clips), with another category each time; each annotation counts by itself."
    )
    videos = {split: [clips[line].video for line in order] for split, order in orders.items()}
    train = set(videos["train"])
    shared = {split: sum(video in train for video in videos[split]) for split in ("val", "test")}
    if any(shared.values()):
        yield (
            f"{shared['test']} test and {shared['val']} val clips are videos that also occur in train, under another "
            "category; the splits are kept as published."
        )


def _matching_notes(folder: Path, clips: Sequence[_Clip], names: Sequence[str], orders: Orders) -> Iterator[str]:
    counts = {split: Counter(clips[line].category for line in order) for split, order in orders.items()}
    if absent := [name for name in names if counts["test"][name] and not counts["train"][name]]:
        listed = ", ".join(f"{name} ({counts['test'][name]} test clips)" for name in absent)
        yield f"classes of the test split that training never sees: {listed}."
    if (folder / _LAYOUTS["event"][0]).is_file():
        learnt = set(_read_orders(folder, "event", len(clips), {})["train"])
        shared = sum(line in learnt for line in orders["test"])
        yield (
            f"{shared} test clips of protocol=matching are training clips of protocol=event: never use anything "
            "trained by one protocol under the other."
        )
