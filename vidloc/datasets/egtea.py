"""EGTEA Gaze+ (Li, Liu, Rehg, ECCV 2018): 10,321 cooking actions in 86 videos, from the official split files.

Read from one folder, plain or gzipped: `train_splitN.txt` and `test_splitN.txt`, with `actions.csv`, `verbs.csv` and
`nouns.csv` for the names. A line of a split file is one clip:

    OP01-R01-PastaSalad-1029725-1031715-F024708-F024767 1 1 1
    <video>-<first ms>-<last ms>-F<first frame>-F<last frame> <action> <verb> <noun> [<noun> [<noun>]]

Ids count from 1 there and from 0 here. The milliseconds are the annotated action. The frames, at 24 per second, are the
clip cut from the video, which is a tenth of the action longer at either end. `cut` says which one a segment covers.

There are three splits, and results are reported as the mean of all three: train and evaluate once for each
`split_number`. The splits are of clips, not of videos: every test video also holds training clips. Heads that read
whole items therefore need an item per clip (`items=clip`, for the files of the authors' cropped_clips), where times
count from the start of the clip.

An action is one of 106 pairs of a verb and the first of its nouns, so verb and noun scores rank actions as well.
Accuracy means top-1 in some papers on this corpus and mean class accuracy in others; both are reported, under these
names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.media_files import VIDEO_EXTENSIONS, by_stem, media_files
from vidloc.datasets.tables import Row, find_table, read_table, read_text
from vidloc.errors import AnnotationError

CLIP_FPS = 24
_SPLITS = ("train", "test")
_FIELDS = ("clip", "action", "verb", "noun", "second noun", "third noun")
_CLIP = re.compile(
    r"(?P<video>[^/\\]+)-(?P<start>\d{1,9})-(?P<end>\d{1,9})-F(?P<first>\d{1,9})-F(?P<last>\d{1,9})", re.ASCII
)
_CLIP_NAME = "a clip name VIDEO-FIRST_MS-LAST_MS-FFIRST_FRAME-FLAST_FRAME"


class EgteaOptions(Options):
    """Choices of the EGTEA Gaze+ reader."""

    split_number: int = Field(
        1, ge=1, le=3, description="Which of the three official splits; results are reported as the mean of all three."
    )
    cut: Literal["annotated", "clip"] = Field(
        "annotated",
        description="What a segment covers: the annotated action, or the clip cut from the video, which is a tenth of "
        "the action longer at either end.",
    )
    items: Literal["video", "clip"] = Field(
        "video", description="What an item is: a whole video, or a clip file of the authors' cropped_clips."
    )


@dataclass(frozen=True)
class _Clip:
    """A clip as its name states it: milliseconds of the action, frames of the clip."""

    video: str
    start_ms: int
    end_ms: int
    first: int
    last: int

    def span(self, options: EgteaOptions) -> Span:
        """What the segment covers, in seconds of its item."""
        clip = Span(self.first / CLIP_FPS, self.last / CLIP_FPS)
        action = Span(self.start_ms / 1000, self.end_ms / 1000)
        span = clip if options.cut == "clip" else action
        if options.items == "video":
            return span
        return Span(span.start_s - clip.start_s, span.end_s - clip.start_s)


@dataclass(frozen=True)
class _Classes:
    """Names by task, and what actions.csv says that each action is made of, as ids from 0."""

    names: Mapping[str, tuple[str, ...]]
    verbs: tuple[int, ...]
    nouns: tuple[tuple[int, ...], ...]
    sha256: Mapping[str, str]


class Egtea(Dataset):
    """Reader of the official split files."""

    Options = EgteaOptions
    recipe: ClassVar[Mapping[str, Sequence[str]]] = {
        "verb": ("slowfast_r50", "i3d_r50"),
        "noun": ("slowfast_r50", "i3d_r50"),
        "visual": ("slowfast_r50", "i3d_r50"),
        "objects": ("fasterrcnn",),
        "verb_bank": ("lfb_r50", "slowfast_r50", "i3d_r50"),
        "noun_bank": ("fasterrcnn",),
    }
    eval_split: ClassVar[str] = "test"
    options: EgteaOptions

    def read(self, annotations: Path | None) -> Annotations:
        """Parse the folder of split files.

        Raises:
            AnnotationError: a file is missing or malformed, a clip occurs twice, or its labels are not those of its
                action.
        """
        if annotations is None or not annotations.is_dir():
            raise AnnotationError(
                f"{self.name} needs the folder of its annotation files, got {annotations}. "
                "Give --annotations FOLDER, with train_split1.txt, test_split1.txt and the three files of classes."
            )
        classes = _read_classes(annotations)
        reader = _SplitReader(classes, self.options)
        number = self.options.split_number
        splits = {split: reader.segments(annotations, f"{split}_split{number}.txt") for split in _SPLITS}
        parts = zip(range(len(classes.verbs)), classes.verbs, (nouns[0] for nouns in classes.nouns), strict=True)
        return Annotations(
            dataset=f"{self.name}_split{number}",
            classes=classes.names,
            splits=splits,
            items=tuple(sorted({segment.item_id for segments in splits.values() for segment in segments})),
            sha256=dict(sorted({**classes.sha256, **reader.sha256}.items())),
            groups={"action_parts": frozenset(parts)},
            label_sets={"noun": reader.noun_sets},
            protocol="egtea",
            notes=(self._span_note(), *self._shared_note(splits), *reader.notes()),
        )

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Videos, or with `items=clip` clips, anywhere below `root`, by their names without extension.

        The authors' layouts are flat for videos and `cropped_clips/VIDEO/CLIP.mp4` for clips.

        Raises:
            MediaError: no such folder, or two different files of one item.
        """
        files = media_files(root)
        known = None if annotations is None else set(annotations.items)
        found, ignored = by_stem(root, files, lambda path: self._why_not(path, known), what=self.options.items)
        wanted = sorted(found) if annotations is None else annotations.items
        return Media(
            paths={item: found[item] for item in wanted if item in found},
            missing=tuple(item for item in wanted if item not in found),
            ignored=ignored,
        )

    def _why_not(self, path: Path, known: set[str] | None) -> str:
        if path.suffix.lower() not in VIDEO_EXTENSIONS:
            return f"{path.suffix} is no extension of a video"
        is_clip = _CLIP.fullmatch(path.stem) is not None
        if is_clip != (self.options.items == "clip"):
            return f"{'a clip' if is_clip else 'no clip'}, and items={self.options.items}"
        if known is not None and path.stem not in known:
            return f"{self.name} does not annotate it"
        return ""

    def _span_note(self) -> str:
        if self.options.cut == "clip":
            return "segments cover the cut clips, a tenth of the action longer at either end than annotated (cut=clip)."
        return "segments cover the annotated actions, not the longer clips cut around them (cut=annotated)."

    def _shared_note(self, splits: Mapping[str, Sequence[Segment]]) -> Iterator[str]:
        train, test = ({segment.item_id for segment in splits[split]} for split in _SPLITS)
        if shared := train & test:
            yield (
                f"{len(shared)} of {len(test)} test videos also hold training clips, as the official splits are of "
                "clips; rows that look beyond a segment's ends may show training actions."
            )


DATASET = Egtea


class _SplitReader:
    """Split files read one after the other, with what was seen in them."""

    def __init__(self, classes: _Classes, options: EgteaOptions) -> None:
        self.classes = classes
        self.options = options
        self.sha256: dict[str, str] = {}
        self.noun_sets: dict[str, tuple[int, ...]] = {}
        self.listed: Counter[tuple[int, tuple[int, ...]]] = Counter()

    def segments(self, folder: Path, name: str) -> tuple[Segment, ...]:
        """Segments of one file, in its order."""
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise AnnotationError(
                f"{folder} has no {name} (or {name}.gz), which split_number={self.options.split_number} needs. "
                "Give --annotations the folder with the official split files."
            )
        content, self.sha256[path.name] = read_text(path)
        return tuple(self._segment(row) for row in _rows(path, content))

    def notes(self) -> Iterator[str]:
        """Where clips list other further nouns than actions.csv has for their action."""
        totals: Counter[int] = Counter()
        for (action, _), count in self.listed.items():
            totals[action] += count
        for (action, nouns), count in sorted(self.listed.items()):
            if nouns != (usual := self.classes.nouns[action]):
                yield (
                    f"action {action + 1} ({self.classes.names['action'][action]}): {count} of {totals[action]} clips "
                    f"with the nouns {_written(nouns)} where actions.csv has {_written(usual)}; kept as listed."
                )

    def _segment(self, row: Row) -> Segment:
        clip = _clip(row)
        names = self.classes.names
        action, verb = (_class_id(row, task, len(names[task])) for task in ("action", "verb"))
        nouns = tuple(_class_id(row, column, len(names["noun"])) for column in _FIELDS[3:] if column in row.values)
        usual = (self.classes.verbs[action], self.classes.nouns[action])
        if (verb, nouns[0]) != (usual[0], usual[1][0]):
            raise row.problem(
                "verb" if verb != usual[0] else "noun",
                row.values["verb"] if verb != usual[0] else row.values["noun"],
                f"verb {usual[0] + 1} and noun {usual[1][0] + 1}, which actions.csv has for action {action + 1}",
            )
        name = row.values["clip"]
        if name in self.noun_sets:
            raise AnnotationError(
                f"{row.path}, line {row.line}: the clip {name!r} occurs a second time, here or in the training split."
            )
        self.noun_sets[name] = nouns
        self.listed[action, nouns] += 1
        return Segment(
            item_id=clip.video if self.options.items == "video" else name,
            span=clip.span(self.options),
            labels={"verb": verb, "noun": nouns[0], "action": action},
            id=name,
            group=clip.video.split("-")[0],
        )


def _rows(path: Path, content: str) -> Iterator[Row]:
    for line, text in enumerate(content.splitlines(), start=1):
        values = text.split()
        if not values:
            continue
        if not 4 <= len(values) <= len(_FIELDS):
            raise AnnotationError(
                f"{path}, line {line}: {len(values)} fields ({text[:80]!r}), expected 4 to 6 with a space between: "
                "clip name, action, verb, and one to three nouns."
            )
        yield Row(path, line, dict(zip(_FIELDS, values, strict=False)))


def _clip(row: Row) -> _Clip:
    match = _CLIP.fullmatch(row.values["clip"])
    if match is None:
        raise row.problem("clip", row.values["clip"], _CLIP_NAME)
    clip = _Clip(match["video"], *(int(match[part]) for part in ("start", "end", "first", "last")))
    begins, ends = clip.start_ms * CLIP_FPS, clip.end_ms * CLIP_FPS
    if not clip.first * 1000 <= begins < ends <= clip.last * 1000:
        raise row.problem(
            "clip",
            row.values["clip"],
            f"milliseconds in order, and frames ({CLIP_FPS} a second) that begin and end around them",
        )
    return clip


def _class_id(row: Row, column: str, num_classes: int) -> int:
    """An id that counts from 1 in the file, as one that counts from 0."""
    value = row.integer(column)
    if not 1 <= value <= num_classes:
        raise row.problem(column, row.values[column], f"a class id from 1 to {num_classes}")
    return value - 1


def _read_classes(folder: Path) -> _Classes:
    sha256: dict[str, str] = {}
    verb_rows = _class_rows(folder, "verbs", "verb_id", ("verb",), sha256)
    noun_rows = _class_rows(folder, "nouns", "noun_id", ("noun",), sha256)
    action_rows = _class_rows(folder, "actions", "action_id", ("action_name", "verb_id", "noun_ids"), sha256)
    names = {
        "verb": _names(verb_rows, "verb"),
        "noun": _names(noun_rows, "noun"),
        "action": _names(action_rows, "action_name"),
    }
    return _Classes(
        names=names,
        verbs=tuple(_class_id(row, "verb_id", len(verb_rows)) for row in action_rows),
        nouns=tuple(_noun_ids(row, len(noun_rows)) for row in action_rows),
        sha256=sha256,
    )


def _class_rows(
    folder: Path, stem: str, id_column: str, columns: Sequence[str], sha256: dict[str, str]
) -> Sequence[Row]:
    """Rows of a file of classes, whose ids count from 1 without gaps."""
    path = find_table(folder, stem)
    if path is None:
        raise AnnotationError(
            f"{folder} has no {stem}.csv (or .csv.gz) with the columns {id_column},{','.join(columns)}, "
            "which egtea takes its classes from."
        )
    table = read_table(path, (id_column, *columns))
    sha256[path.name] = table.sha256
    for expected, row in enumerate(table.rows, start=1):
        if row.integer(id_column) != expected:
            raise row.problem(id_column, row.values[id_column], f"{expected} (ids count from 1 without gaps)")
    return table.rows


def _names(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    """Names of classes; one that several share gets its id, since detections are told apart by names."""
    names = [row.text(column) for row in rows]
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} {k}" for k, name in enumerate(names, start=1))


def _noun_ids(row: Row, num_nouns: int) -> tuple[int, ...]:
    ids = row.text("noun_ids").split()
    return tuple(_class_id(Row(row.path, row.line, {"noun_ids": one}), "noun_ids", num_nouns) for one in ids)


def _written(nouns: Sequence[int]) -> str:
    """Ids as the files write them."""
    return " ".join(str(noun + 1) for noun in nouns)
