"""Annotation files of made-up videos, in the columns of the official EPIC-KITCHENS-55 csv files.

The class lists hold the few verbs and nouns there are. Withheld test parts and many-shot lists (which the rule of more
than 100 training segments would leave empty) are not written.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

# The corpus counts frames of pictures extracted at this rate, whatever the video's own.
_NOMINAL_FPS = 60


@dataclass(frozen=True)
class AnnotatedSegment:
    """One action: what is seen, in which video, when (whole hundredths of a second), and the sentence said of it."""

    video_id: str
    verb: str
    noun: str
    start_s: Fraction
    stop_s: Fraction
    narration: str

    @property
    def participant_id(self) -> str:
        """The kitchen, `P01` of `P01_02`."""
        return self.video_id.split("_")[0]


@dataclass(frozen=True)
class AnnotatedVideo:
    """Facts of one video that EPIC_video_info.csv states."""

    video_id: str
    resolution: str
    duration_s: Fraction
    fps: Fraction


def write_epic55(
    folder: Path,
    segments: Sequence[AnnotatedSegment],
    videos: Sequence[AnnotatedVideo],
    *,
    verbs: Sequence[str],
    nouns: Sequence[str],
) -> None:
    """Write the csv files; class ids are positions in `verbs` and `nouns`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "EPIC_train_action_labels.csv", (_label(k, s, verbs, nouns) for k, s in enumerate(segments)))
    _write(folder / "EPIC_train_action_narrations.csv", (_narration(s) for s in segments))
    _write(folder / "EPIC_video_info.csv", (_video(v) for v in videos))
    _write(
        folder / "EPIC_verb_classes.csv",
        ({"verb_id": k, "class_key": verb, "verbs": str([verb])} for k, verb in enumerate(verbs)),
    )
    _write(
        folder / "EPIC_noun_classes.csv",
        ({"noun_id": k, "class_key": noun, "nouns": str([noun])} for k, noun in enumerate(nouns)),
    )


def _label(uid: int, segment: AnnotatedSegment, verbs: Sequence[str], nouns: Sequence[str]) -> dict[str, Any]:
    verb_class, noun_class = verbs.index(segment.verb), nouns.index(segment.noun)
    return {
        "uid": uid,
        "participant_id": segment.participant_id,
        "video_id": segment.video_id,
        "narration": segment.narration,
        "start_timestamp": timestamp(segment.start_s, digits=2),
        "stop_timestamp": timestamp(segment.stop_s, digits=2),
        "start_frame": _frame(segment.start_s),
        "stop_frame": _frame(segment.stop_s),
        "verb": segment.verb,
        "verb_class": verb_class,
        "noun": segment.noun,
        "noun_class": noun_class,
        "all_nouns": str([segment.noun]),
        "all_noun_classes": str([noun_class]),
    }


def _narration(segment: AnnotatedSegment) -> dict[str, Any]:
    return {
        "participant_id": segment.participant_id,
        "video_id": segment.video_id,
        "start_timestamp": timestamp(segment.start_s, digits=3),
        "stop_timestamp": timestamp(segment.stop_s, digits=3),
        "narration": segment.narration,
    }


def _video(video: AnnotatedVideo) -> dict[str, Any]:
    return {
        "video": video.video_id,
        "resolution": video.resolution,
        "duration": f"{float(video.duration_s):.6f}",
        "fps": repr(float(video.fps)),
    }


def timestamp(seconds: Fraction, *, digits: int) -> str:
    """A time as `HH:MM:SS.ss`, with so many digits behind the point (cut off, not rounded)."""
    ticks = int(seconds * 10**digits)
    whole, rest = divmod(ticks, 10**digits)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{rest:0{digits}d}"


def _frame(seconds: Fraction) -> int:
    return max(1, int(_NOMINAL_FPS * seconds))


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    table = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
