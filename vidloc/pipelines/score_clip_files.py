"""Files of audio-visual events scored against each other: a line of truth per clip, whose span is its event.

    truth         {"item_id": "v1", "start_s": 2, "end_s": 6, "label": "bell"}
    predictions   {"item_id": "v1", "start_s": 2, "end_s": 3, "label": "bell"}                 av-event
                  {"item_id": "v1", "start_s": 3, "end_s": 7, "direction": "a2v"}              av-matching

`av-event` wants every second of a clip named, by spans with the label of an event, or without one for background; heads
that learnt from the classes of clips alone are scored alike. `av-matching` wants where the event begins in the other
modality, for one direction or both. A clip lasts `duration_s`, 10 s where its truth does not say so. Where an item is
several clips, `id` of the truth tells them apart, and `query_id` of a prediction says which it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vidloc.core.records import Prediction, Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.metrics.audio_visual import BACKGROUND, event_metrics, matching_metrics
from vidloc.pipelines.score_lines import Line, read_lines, read_truth, require

_CLIP_S = 10.0  # of AVE
_EVENT = "event"
Metrics = dict[str, Any]


class ClipLine(Line):
    """One line of either file.

    Attributes:
        id: of a clip, in the truth.
        query_id: the clip that a prediction answers.
        duration_s: of the clip, in the truth.
    """

    id: str | None = Field(None, min_length=1)
    query_id: str | None = Field(None, min_length=1)
    duration_s: float = Field(_CLIP_S, gt=0)
    direction: Literal["a2v", "v2a"] | None = None


def _event(predictions: Path, truth: Path) -> Metrics:
    made, true = read_lines(predictions, ClipLine), read_truth(truth, ClipLine)
    require(true, truth, "a label", lambda line: line.label is not None)
    names = sorted({line.label for line in true if line.label})
    if BACKGROUND in names:
        raise OptionError(f"{truth}: {BACKGROUND!r} is the class of seconds without an event; leave such lines out.")
    found = event_metrics(
        _predictions(made, predictions),
        _clips(true, truth, {name: k for k, name in enumerate(names)}),
        names,
        task=_EVENT,
        durations_s=_durations(true, truth),
    )
    return {"av_event": found}


def _matching(predictions: Path, truth: Path) -> Metrics:
    made, true = read_lines(predictions, ClipLine), read_truth(truth, ClipLine)
    clips = _clips(true, truth, {})
    return {
        "av_matching": matching_metrics(_predictions(made, predictions), clips, durations_s=_durations(true, truth))
    }


CLIP_TASKS: Mapping[str, Callable[[Path, Path], Metrics]] = {"av-event": _event, "av-matching": _matching}


def _predictions(lines: Sequence[ClipLine], path: Path) -> list[Prediction]:
    require(lines, path, "start_s and end_s", lambda line: line.ends is not None)
    return [
        Prediction(
            item_id=line.item_id,
            span=Span(*line.ends),
            score=0.0 if line.score is None else line.score,
            label=line.label,
            query_id=line.query_id or line.item_id,
            direction=line.direction,
        )
        for line in lines
        if line.ends is not None
    ]


def _clips(lines: Sequence[ClipLine], path: Path, index: Mapping[str, int]) -> list[Segment]:
    require(lines, path, "start_s and end_s", lambda line: line.ends is not None)
    clips: dict[str, Segment] = {}
    for line in lines:
        name = line.id or line.item_id
        if name in clips:
            raise OptionError(f"{path} has two lines of clip {name!r}; tell the clips of one item apart by `id`.")
        labels = {_EVENT: index[line.label]} if line.label and line.label in index else {}
        if line.ends is not None:
            clips[name] = Segment(item_id=line.item_id, span=Span(*line.ends), labels=labels, id=name)
    return list(clips.values())


def _durations(lines: Sequence[ClipLine], path: Path) -> dict[str, float]:
    durations: dict[str, float] = {}
    for line in lines:
        if durations.setdefault(line.item_id, line.duration_s) != line.duration_s:
            raise OptionError(f"{path} gives item {line.item_id!r} two durations; its clips all last as long.")
        if line.ends is not None and line.ends[1] > line.duration_s:
            raise OptionError(
                f"{path}: the event of item {line.item_id!r} ends at {line.ends[1]:g} s, after its clip, which lasts "
                f"{line.duration_s:g} s. Give longer clips a duration_s."
            )
    return durations
