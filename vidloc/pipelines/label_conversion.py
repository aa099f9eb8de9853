"""Exports of annotation tools into labels: the files of ELAN and VIA to one csv of segments or of single frames.

The csv is what `--dataset segments`, `--dataset points` and `--points` read. Items without any segment are kept as
lines of their own. What does not become a label is listed with its place and reason.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vidloc.datasets.elan_eaf import read_eaf
from vidloc.datasets.elan_text import read_elan_text
from vidloc.datasets.media_files import unusable_id
from vidloc.datasets.tool_marks import Document, LeftOut, Mark
from vidloc.datasets.via3 import read_via_csv, read_via_project
from vidloc.errors import AnnotationError, OptionError, UnknownNameError, did_you_mean

Target = Literal["segments", "points"]
Ids = Literal["name", "stem", "document"]
_READERS = {
    ".eaf": read_eaf,
    ".txt": read_elan_text,
    ".tsv": read_elan_text,
    ".json": read_via_project,
    ".csv": read_via_csv,
}


@dataclass(frozen=True)
class ConversionPlan:
    """What is asked for.

    Attributes:
        files: exports of tools; their kind is told by their extension.
        tiers: those whose labels are wanted; may be empty where only one has any.
        target: `segments`, or `points`, one time of each mark.
        at: which time of a span a point is.
        ids: an item is called like its media file, like that without extension, or like the annotation file without.
        shift_s: seconds added to every time.
    """

    files: tuple[Path, ...]
    tiers: tuple[str, ...] = ()
    target: Target = "segments"
    at: Literal["start", "center"] = "start"
    ids: Ids = "name"
    shift_s: float = 0.0


@dataclass(frozen=True)
class Conversion:
    """Labels and what is to be said of them.

    Attributes:
        marks: with the item's id in place of the media file's name; of points `end_s` is `None`.
        items: all items, in the order of the files.
    """

    plan: ConversionPlan
    marks: tuple[Mark, ...]
    items: tuple[str, ...]
    tiers: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted({mark.label for mark in self.marks}))

    def csv_text(self) -> str:
        """The file of labels."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        points = self.plan.target == "points"
        writer.writerow(("item_id", "time_s", "label") if points else ("item_id", "start_s", "end_s", "label"))
        for item in self.items:
            own = sorted((m for m in self.marks if m.media == item), key=lambda m: (m.start_s, m.end_s or m.start_s))
            if points:
                writer.writerows((item, _written(mark.start_s), mark.label) for mark in own)
            else:
                lines = [(item, _written(m.start_s), _written(m.end_s or m.start_s), m.label) for m in own]
                writer.writerows(lines or [(item, "", "", "")])
        return out.getvalue()

    def lines(self) -> list[str]:
        """What was done, for people."""
        what = "single frames" if self.plan.target == "points" else "segments"
        tiers = " and ".join(map(repr, self.tiers))
        counts = f"{len(self.marks)} {what} of {len(self.items)} items and {len(self.classes)} classes"
        found = [f"{counts}, from tier {tiers}: {', '.join(self.classes)}."]
        found += [f"Note: {note}" for note in self.notes]
        reasons: defaultdict[str, list[str]] = defaultdict(list)
        for entry in self.left_out:
            reasons[entry.reason].append(entry.where)
        found += [f"Left out, {reason}: {len(places)}, the first at {places[0]}." for reason, places in reasons.items()]
        return found

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "target": self.plan.target,
            "tiers": self.tiers,
            "items": self.items,
            "classes": dict(sorted(Counter(mark.label for mark in self.marks).items())),
            "labels": len(self.marks),
            "notes": self.notes,
            "left_out": [vars(entry) for entry in self.left_out],
        }


def convert_labels(plan: ConversionPlan) -> Conversion:
    """Labels from the files of annotation tools.

    Raises:
        AnnotationError: a file is malformed, two media files would be one item, or nothing becomes a label.
        OptionError: several tiers and none chosen, or an extension of no tool.
        UnknownNameError: no file has a tier that was asked for.
    """
    documents = [_named_items(_read(path), plan.ids) for path in plan.files]
    _require_distinct(documents)
    tiers = _chosen_tiers(documents, plan.tiers)
    marks: list[Mark] = []
    left_out: list[LeftOut] = []
    for document in documents:
        left_out += [entry for entry in document.left_out if not entry.tier or entry.tier in tiers]
        for mark in document.marks:
            if mark.tier in tiers:
                label, reason = _label(mark, plan)
                if reason:
                    left_out.append(LeftOut(mark.where, mark.tier, reason))
                else:
                    marks.append(label)
    marks = _once(marks, left_out)
    if not marks:
        reason = f" {left_out[0].where}: {left_out[0].reason}." if left_out else ""
        raise AnnotationError(f"nothing of {', '.join(map(str, plan.files))} becomes one of {plan.target}.{reason}")
    notes = [note for document in documents for note in document.notes]
    notes += _tier_notes(documents, tiers)
    notes += _class_notes(marks)
    items = tuple(dict.fromkeys(item for document in documents for item in document.media))
    return Conversion(plan, tuple(marks), items, tiers, tuple(left_out), tuple(notes))


def write_labels(conversion: Conversion, out: Path) -> None:
    """Write the csv.

    Raises:
        OptionError: the file exists, or cannot be written.
    """
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(conversion.csv_text())
    except FileExistsError:
        raise OptionError(f"{out} exists already. Give another --out, or delete it.") from None
    except OSError as error:
        raise OptionError(f"--out {out} cannot be written: {error}") from None


def _read(path: Path) -> Document:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise OptionError(
            f"{path}: {path.suffix or 'no extension'} is of no annotation tool known here; expected .eaf or .txt of "
            "ELAN, .json or .csv of VIA 3."
        )
    return reader(path)


def _named_items(document: Document, ids: Ids) -> Document:
    """A document whose media files are called as items are."""
    if ids == "document" and len(document.media) > 1:
        raise OptionError(f"{document.path} is of {len(document.media)} media files; --ids document needs one.")
    own = {
        name: document.path.stem if ids == "document" else PurePosixPath(name).stem if ids == "stem" else name
        for name in document.media
    }
    for name, item in own.items():
        if reason := unusable_id(item) if item else "it is empty":
            raise AnnotationError(f"{document.path}: the media file {name!r} cannot name an item: {reason}.")
    if len(set(own.values())) < len(own):
        raise AnnotationError(
            f"{document.path} has media files that differ in their extension alone ({', '.join(own)}). Use --ids name."
        )
    marks = [replace(mark, media=own[mark.media]) for mark in document.marks]
    return replace(document, media=list(own.values()), marks=marks)


def _require_distinct(documents: Sequence[Document]) -> None:
    """An item that two files label would get both their labels, as if both were true."""
    first: dict[str, Path] = {}
    for document in documents:
        for item in document.media:
            other = first.setdefault(item, document.path)
            if other != document.path:
                raise AnnotationError(
                    f"{other} and {document.path} are both of item {item!r}. Convert the files of one annotator at a "
                    "time, or name items after their annotation files: --ids document."
                )


def _chosen_tiers(documents: Sequence[Document], asked: tuple[str, ...]) -> tuple[str, ...]:
    counts = Counter(mark.tier for document in documents for mark in document.marks)
    known = {tier for document in documents for tier in document.tiers}
    for tier in asked:
        if tier not in known:
            raise UnknownNameError(f"no file has a tier {tier!r}. {did_you_mean(tier, known)}")
    if asked or len(counts) == 1:
        return asked or tuple(counts)
    if not counts:
        raise AnnotationError("no annotation of the files has both a time and a label.")
    shown = ", ".join(f"--tier {tier!r} ({count})" for tier, count in counts.most_common())
    raise OptionError(f"the files have {len(counts)} tiers with labels. Choose with {shown}.")


def _label(mark: Mark, plan: ConversionPlan) -> tuple[Mark, str]:
    """A mark as it is to be written, and why it is not (empty where it is)."""
    start_s = mark.start_s + plan.shift_s
    end_s = None if mark.end_s is None else mark.end_s + plan.shift_s
    if end_s is not None and end_s <= start_s:
        return mark, "it does not end after its start"
    if plan.target == "points":
        start_s, end_s = (start_s + end_s) / 2 if end_s is not None and plan.at == "center" else start_s, None
    elif end_s is None:
        return mark, "it is a moment, and segments are wanted (--to points takes it)"
    if start_s < 0:
        return mark, "it begins before the video"
    return replace(mark, start_s=start_s, end_s=end_s), ""


def _once(marks: Sequence[Mark], left_out: list[LeftOut]) -> list[Mark]:
    """Marks without those that say again what an earlier one says."""
    seen: set[Any] = set()
    kept = []
    for mark in marks:
        said = (mark.media, mark.label, mark.start_s, mark.end_s)
        if said in seen:
            left_out.append(LeftOut(mark.where, mark.tier, "an earlier one says the same"))
        else:
            kept.append(mark)
        seen.add(said)
    return kept


def _tier_notes(documents: Sequence[Document], tiers: Sequence[str]) -> Iterator[str]:
    for tier in tiers:
        if lacking := [document.path.name for document in documents if tier not in document.tiers]:
            yield f"tier {tier!r} is not in {', '.join(lacking)}."


def _class_notes(marks: Sequence[Mark]) -> Iterator[str]:
    """Classes that may be one class, written in two ways."""
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for mark in marks:
        alike["".join(mark.label.casefold().replace("_", " ").split())].add(mark.label)
    for names in alike.values():
        if len(names) > 1:
            yield f"{' and '.join(map(repr, sorted(names)))} are different classes; are they meant to be?"


def _written(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
