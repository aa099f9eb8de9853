"""EPIC-KITCHENS-55 and -100 (Damen et al., ECCV 2018; IJCV 2022), from the official annotation files.

`epic` finds out from the files which edition a folder holds; `epic55` and `epic100` name one. Class ids of the two
editions differ and are never mixed. Times come from the timestamps, since the frame columns are valid only for the
official frame extractions. Files may be plain or gzipped csv.

EPIC-KITCHENS-55 publishes one labelled part; `protocol` splits it:

- `participants_25` (default): participants up to P25 train, P26 to P31 validate (Baradel et al. 2018; LFB; SAP);
- `rulstm`: the 232 and 40 videos of Furnari and Farinella, read from `rulstm_training_videos.csv` and
  `rulstm_validation_videos.csv`;
- `all`: every labelled row trains, for models that are submitted.

The labels of `test_s1` (seen kitchens), `test_s2` (unseen) and of -100's `test` are withheld by the challenge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.records import Narration, Segment
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.epic_groups import many_shot_groups, tail_classes
from vidloc.datasets.epic_media import VIDEO_NAME, find_epic_flow, find_epic_media
from vidloc.datasets.tables import Row, Table, find_table, read_table
from vidloc.errors import AnnotationError, OptionError

NAMES = ("epic", "epic55", "epic100")

Protocol = Literal["participants_25", "rulstm", "all"]
_LAST_TRAINING_PARTICIPANT = 25
_SIGNS = {
    "epic55": ("EPIC_train_action_labels", "EPIC_verb_classes", "EPIC_noun_classes"),
    "epic100": ("EPIC_100_train", "EPIC_100_validation", "EPIC_100_verb_classes", "EPIC_100_noun_classes"),
}
_VIDEO_FILES = {"epic55": ("EPIC_video_info", "video"), "epic100": ("EPIC_100_video_info", "video_id")}
_TIMES = ("video_id", "start_timestamp", "stop_timestamp")
_LABELS = ("narration", "verb_class", "noun_class", "all_noun_classes")


class EpicOptions(Options):
    """Choices of the EPIC-KITCHENS reader."""

    protocol: Protocol | None = Field(
        None,
        description="EPIC-KITCHENS-55 only, how its labelled part is split: participants_25 (used when not given), "
        "rulstm, or all (everything trains).",
    )


class EpicKitchens(Dataset):
    """Reader of both editions; `name` is `epic`, `epic55` or `epic100`."""

    Options = EpicOptions
    recipe: ClassVar[Mapping[str, Sequence[str]]] = {
        "verb": ("slowfast_r50", "i3d_r50"),
        "noun": ("slowfast_r50", "i3d_r50"),
        "visual": ("slowfast_r50", "i3d_r50"),
        "objects": ("fasterrcnn",),
        "verb_bank": ("lfb_r50", "slowfast_r50", "i3d_r50"),
        "noun_bank": ("fasterrcnn",),
        "audio": ("vggish",),
        "text": ("text",),
    }
    options: EpicOptions

    def read(self, annotations: Path | None) -> Annotations:
        """Parse a folder of official annotation files.

        Raises:
            AnnotationError: a needed file is missing or malformed, or the edition cannot be told.
            OptionError: `protocol` was given for EPIC-KITCHENS-100.
        """
        if annotations is None or not annotations.is_dir():
            raise AnnotationError(
                f"{self.name} needs the folder of its annotation files, got {annotations}. "
                "Give --annotations FOLDER, a clone of epic-kitchens-55-annotations or epic-kitchens-100-annotations."
            )
        edition = _edition(annotations) if self.name == "epic" else self.name
        reader = _Reader(annotations, edition)
        if edition == "epic55":
            return _read_55(reader, self.options.protocol or "participants_25")
        if self.options.protocol is not None:
            raise OptionError(
                f"option 'protocol' ({self.options.protocol}) is for EPIC-KITCHENS-55; {annotations} holds "
                "EPIC-KITCHENS-100, whose splits are fixed. Leave it out."
            )
        return _read_100(reader)

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Videos in any of the official layouts, and the released frames of those that are not there.

        `vidloc.datasets.epic_media` says which they are; object images are not looked at.

        Raises:
            MediaError: no such folder, or two different copies of one video.
        """
        return find_epic_media(root, annotations)

    def find_flow(self, root: Path, annotations: Annotations | None) -> Media:
        """The released flow pictures, in any of the official layouts.

        Raises:
            MediaError: no such folder, or two different copies of one video's flow.
        """
        return find_epic_flow(root, annotations)


DATASET = EpicKitchens


class _Reader:
    """The annotation folder: files by name, with what was read of them."""

    def __init__(self, folder: Path, edition: str) -> None:
        self.folder = folder
        self.edition = edition
        self.sha256: dict[str, str] = {}
        self.notes: list[str] = []
        self.noun_sets: dict[str, tuple[int, ...]] = {}
        self.narrations: defaultdict[str, list[Narration]] = defaultdict(list)
        self.classes: dict[str, tuple[str, ...]] = {}

    def table(self, stem: str, columns: Sequence[str], *, header: Sequence[str] | None = None) -> Table | None:
        """A table, `None` where the file is absent."""
        path = find_table(self.folder, stem)
        if path is None:
            return None
        table = read_table(path, columns, header=header)
        self.sha256[path.name] = table.sha256
        return table

    def needed(self, stem: str, columns: Sequence[str]) -> Table:
        """A table that cannot be done without."""
        table = self.table(stem, columns)
        if table is None:
            raise AnnotationError(
                f"{self.folder} has no {stem}.csv (or .csv.gz), which {self.edition} needs. "
                f"Give --annotations the folder with all files of the official annotation repository."
            )
        return table

    def read_classes(self, task: str, stem: str, id_column: str, name_column: str) -> None:
        """Class names of a task; ids must count from 0."""
        names = []
        for expected, row in enumerate(self.needed(stem, (id_column, name_column)).rows):
            if row.integer(id_column) != expected:
                raise row.problem(id_column, row.values[id_column], f"{expected} (ids count from 0 without gaps)")
            names.append(row.text(name_column))
        self.classes[task] = tuple(names)

    def labelled(self, table: Table, id_column: str) -> tuple[Segment, ...]:
        """Segments of a table with labels; noun sets and narrations are kept."""
        return _unique(table, (self._labelled_row(row, id_column) for row in table.rows))

    def unlabelled(self, stem: str, id_column: str) -> tuple[Segment, ...] | None:
        """Segments whose labels are withheld, `None` where the file is absent."""
        table = self.table(stem, (id_column, *_TIMES))
        return None if table is None else _unique(table, (_timed_row(row, id_column) for row in table.rows))

    def videos(self) -> tuple[dict[str, float], dict[str, Fraction]]:
        """Duration and frame rate by video, empty where the file of videos does not state them."""
        stem, id_column = _VIDEO_FILES[self.edition]
        table = self.table(stem, (id_column, "duration"))
        if table is None:
            return {}, {}
        # Cameras count frames in whole numbers over 1 or 1001; the file has them as decimals.
        timed = table.rows if "fps" in table.columns else []
        rates = {row.text(id_column): row.rate("fps").limit_denominator(1001) for row in timed}
        return {row.text(id_column): row.number("duration") for row in table.rows}, rates

    def annotations(self, splits: dict[str, tuple[Segment, ...]], groups: dict[str, frozenset[Any]]) -> Annotations:
        """Everything read, as one record."""
        items = sorted({segment.item_id for segments in splits.values() for segment in segments})
        durations_s, fps = self.videos()
        return Annotations(
            dataset=self.edition,
            classes=self.classes,
            splits=splits,
            items=tuple(items),
            sha256=dict(sorted(self.sha256.items())),
            narrations={item: tuple(self.narrations[item]) for item in sorted(self.narrations)},
            durations_s=durations_s,
            fps=fps,
            groups=groups,
            label_sets={"noun": self.noun_sets},
            protocol=self.edition,
            notes=tuple(self.notes),
        )

    def _labelled_row(self, row: Row, id_column: str) -> Segment:
        num_verbs, num_nouns = len(self.classes["verb"]), len(self.classes["noun"])
        noun = row.integer("noun_class", num_nouns)
        nouns = row.integers("all_noun_classes", num_nouns)
        if nouns[0] != noun:
            raise row.problem("all_noun_classes", row.values["all_noun_classes"], f"a list that begins with {noun}")
        labels = {"verb": row.integer("verb_class", num_verbs), "noun": noun}
        segment = _timed_row(row, id_column, labels)
        self.noun_sets[segment.id] = nouns
        self.narrations[segment.item_id].append(
            Narration(item_id=segment.item_id, span=segment.span, text=row.text("narration"), id=segment.id)
        )
        return segment


def _edition(folder: Path) -> str:
    found = {edition: [s for s in stems if find_table(folder, s)] for edition, stems in _SIGNS.items()}
    present = [edition for edition, stems in found.items() if stems]
    if len(present) == 1:
        return present[0]
    if present:
        raise AnnotationError(
            f"{folder} holds files of both editions ({found['epic55'][0]} and {found['epic100'][0]}). "
            "Say which one is meant with --dataset epic55 or --dataset epic100."
        )
    raise AnnotationError(
        f"{folder} holds no EPIC-KITCHENS annotations: expected {_SIGNS['epic55'][0]}.csv (EPIC-KITCHENS-55) or "
        f"{_SIGNS['epic100'][0]}.csv (EPIC-KITCHENS-100), plain or .gz. Give --annotations the folder they lie in."
    )


def _read_55(reader: _Reader, protocol: Protocol) -> Annotations:
    reader.read_classes("verb", "EPIC_verb_classes", "verb_id", "class_key")
    reader.read_classes("noun", "EPIC_noun_classes", "noun_id", "class_key")
    labelled = reader.labelled(reader.needed("EPIC_train_action_labels", ("uid", *_TIMES, *_LABELS)), "uid")
    splits = _split_55(reader, labelled, protocol)
    for name in ("test_s1", "test_s2"):
        segments = reader.unlabelled(f"EPIC_{name}_timestamps", "uid")
        if segments is None:
            reader.notes.append(f"EPIC_{name}_timestamps.csv is not there, so there is no split {name}.")
        else:
            splits[name] = segments
    return reader.annotations(splits, dict(many_shot_groups(labelled)))


def _split_55(reader: _Reader, labelled: tuple[Segment, ...], protocol: Protocol) -> dict[str, tuple[Segment, ...]]:
    if protocol == "all":
        return {"train": labelled}
    if protocol == "participants_25":
        first = [s for s in labelled if int(s.group.removeprefix("P")) <= _LAST_TRAINING_PARTICIPANT]
        second = [s for s in labelled if int(s.group.removeprefix("P")) > _LAST_TRAINING_PARTICIPANT]
        return {"train": tuple(first), "validation": tuple(second)}
    parts = {}
    for split, stem in (("train", "rulstm_training_videos"), ("validation", "rulstm_validation_videos")):
        table = reader.table(stem, ("video_id",), header=("video_id",))
        if table is None:
            raise AnnotationError(
                f"protocol 'rulstm' needs {stem}.csv in {reader.folder}: the file training_videos.csv or "
                "validation_videos.csv of the RULSTM repository (data/ek55), renamed."
            )
        videos = {row.text("video_id") for row in table.rows}
        parts[split] = tuple(segment for segment in labelled if segment.item_id in videos)
    return parts


def _read_100(reader: _Reader) -> Annotations:
    reader.read_classes("verb", "EPIC_100_verb_classes", "id", "key")
    reader.read_classes("noun", "EPIC_100_noun_classes", "id", "key")
    columns = ("narration_id", *_TIMES, *_LABELS)
    splits: dict[str, tuple[Segment, ...]] = {}
    train = reader.table("EPIC_100_train", columns)
    if train is not None:
        splits["train"] = reader.labelled(train, "narration_id")
    elif rows := _training_rows_30fps(reader):
        splits["train"] = rows
    validation = reader.table("EPIC_100_validation", columns)
    if validation is not None:
        splits["validation"] = reader.labelled(validation, "narration_id")
    test = reader.unlabelled("EPIC_100_test_timestamps", "narration_id")
    if test is not None:
        splits["test"] = test
    absent = [name for name in ("train", "validation", "test") if name not in splits]
    if len(absent) == 3:
        raise AnnotationError(
            f"{reader.folder} has class files of EPIC-KITCHENS-100 but none of EPIC_100_train.csv, "
            "EPIC_100_validation.csv and EPIC_100_test_timestamps.csv."
        )
    reader.notes.extend(f"the file of split {name!r} is not there, so there is no such split." for name in absent)
    return reader.annotations(splits, _groups_100(reader, splits))


def _groups_100(reader: _Reader, splits: dict[str, tuple[Segment, ...]]) -> dict[str, frozenset[Any]]:
    if "train" not in splits:
        reader.notes.append("without training rows, tail classes and unseen participants are not known.")
        return {}
    train = splits["train"]
    groups: dict[str, frozenset[Any]] = {
        f"tail_{task}": tail_classes(segment.labels[task] for segment in train) for task in reader.classes
    }
    seen = {segment.group for segment in train}
    everyone = {segment.group for segments in splits.values() for segment in segments}
    groups["unseen_participants"] = frozenset(everyone - seen)
    return groups


def _training_rows_30fps(reader: _Reader) -> tuple[Segment, ...]:
    """Training rows from RULSTM's table, for copies of the annotations that lack `EPIC_100_train.csv`."""
    header = ("narration_id", "video_id", "start_frame", "stop_frame", "verb_class", "noun_class", "action_class")
    table = reader.table("ek100_training_30fps", header, header=header)
    if table is None:
        return ()
    reader.notes.append(
        "EPIC_100_train.csv is not there; training rows are read from ek100_training_30fps.csv: the labels are the "
        "official ones, times are rounded down to 1/30 s, and there are no narrations and only the first noun of each."
    )
    return _unique(table, (_row_30fps(row, reader.classes) for row in table.rows))


def _row_30fps(row: Row, classes: dict[str, tuple[str, ...]]) -> Segment:
    item = row.text("video_id")
    return Segment(
        item_id=item,
        span=row.span(row.integer("start_frame") / 30, row.integer("stop_frame") / 30),
        labels={task: row.integer(f"{task}_class", len(names)) for task, names in classes.items()},
        id=row.text("narration_id"),
        group=_participant(row, item),
    )


def _timed_row(row: Row, id_column: str, labels: dict[str, int] | None = None) -> Segment:
    item = row.text("video_id")
    return Segment(
        item_id=item,
        span=row.span(row.timestamp("start_timestamp"), row.timestamp("stop_timestamp")),
        labels=labels or {},
        id=row.text(id_column),
        group=_participant(row, item),
    )


def _participant(row: Row, item: str) -> str:
    match = VIDEO_NAME.fullmatch(item)
    if match is None:
        raise row.problem("video_id", item, "a video id such as P01_01 or P01_101")
    return match[1]


def _unique(table: Table, segments: Iterable[Segment]) -> tuple[Segment, ...]:
    kept = {}
    for row, segment in zip(table.rows, segments, strict=True):
        if segment.id in kept:
            raise AnnotationError(f"{row.path}, line {row.line}: the id {segment.id!r} occurs a second time.")
        kept[segment.id] = segment
    return tuple(kept.values())
