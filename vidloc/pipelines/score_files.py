"""Two files of JSON lines scored against each other: predictions and truth, from any program. No torch, no store.

    truth         {"item_id": "v1", "start_s": 3.2, "end_s": 9.6, "label": "wave"}
    predictions   {"item_id": "v1", "start_s": 3.0, "end_s": 9.0, "label": "wave", "score": 0.7}

`span` may stand for start and end, as in `predictions.jsonl` of a run. For single frames a prediction has `time_s`; for
classes of whole videos it has neither. Files of audio-visual events are described in `score_clip_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from vidloc.errors import OptionError
from vidloc.metrics.localization import Detections, mean_average_precision
from vidloc.metrics.single_frames import FRAME_THRESHOLDS, classification_map, frame_map
from vidloc.pipelines.score_clip_files import CLIP_TASKS
from vidloc.pipelines.score_lines import Line, read_lines, read_truth, require

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
Metrics = dict[str, Any]


class ClassLine(Line):
    """One line of labelled spans, frames or videos."""

    label: str = Field(min_length=1)


def score_files(task: str, predictions: Path, truth: Path, thresholds: Sequence[float] = ()) -> Metrics:
    """Metrics of a file of predictions.

    Args:
        task: one of `TASKS` or `CLIP_TASKS`.
        thresholds: of temporal IoU for `detection`, of distance for `frame-detection`; empty for the usual ones.

    Returns:
        The metrics, with how many predictions there are; of `TASKS` also how many of classes or items that the truth
        lacks, which `CLIP_TASKS` refuse.

    Raises:
        OptionError: no such file, a line that lacks what the task needs, or a truth without lines.
    """
    if task in CLIP_TASKS:
        if thresholds:
            raise OptionError(f"--thresholds are of detection; {task} has none.")
        return CLIP_TASKS[task](predictions, truth)
    made, true = read_lines(predictions, ClassLine), read_truth(truth, ClassLine)
    require(made, predictions, "a score", lambda line: line.score is not None)
    if task == "classification" and thresholds:
        raise OptionError("--thresholds are of detection; classification has none.")
    counts = {
        "num_truth": len(true),
        "num_predictions": len(made),
        "num_predictions_of_other_classes": len([p for p in made if p.label not in {t.label for t in true}]),
        "num_predictions_of_other_items": len([p for p in made if p.item_id not in {t.item_id for t in true}]),
    }
    return {**TASKS[task](made, predictions, true, truth, thresholds), **counts}


def _detection(
    made: Sequence[ClassLine], predictions: Path, true: Sequence[ClassLine], truth: Path, thresholds: Sequence[float]
) -> Metrics:
    spans = _spans(made, predictions)
    index = _index(made, true)
    found = mean_average_precision(
        _detections(made, spans, index), _truth(true, truth, index), thresholds or IOU_THRESHOLDS
    )
    return {"detection": found}


def _frame_detection(
    made: Sequence[ClassLine], predictions: Path, true: Sequence[ClassLine], truth: Path, thresholds: Sequence[float]
) -> Metrics:
    require(made, predictions, "time_s", lambda line: line.time_s is not None)
    index = _index(made, true)
    frames = _detections(made, [(float(p.time_s or 0), float(p.time_s or 0)) for p in made], index)
    return {"frame_detection": frame_map(frames, _truth(true, truth, index), thresholds or FRAME_THRESHOLDS)}


def _classification(
    made: Sequence[ClassLine], predictions: Path, true: Sequence[ClassLine], truth: Path, thresholds: Sequence[float]
) -> Metrics:
    del predictions, truth, thresholds
    items, classes = (sorted({getattr(line, name) for line in true}) for name in ("item_id", "label"))
    row, column = ({name: k for k, name in enumerate(names)} for names in (items, classes))
    scores = np.full((len(items), len(classes)), -np.inf)  # what was not predicted comes last
    labels = np.zeros(scores.shape, dtype=bool)
    for line in true:
        labels[row[line.item_id], column[line.label]] = True
    for line in made:
        if line.item_id in row and line.label in column:
            place = row[line.item_id], column[line.label]
            scores[place] = max(scores[place], float(line.score or 0))
    return {"classification": {"map": classification_map(scores, labels)}}


TASKS: Mapping[str, Callable[[Sequence[ClassLine], Path, Sequence[ClassLine], Path, Sequence[float]], Metrics]] = {
    "detection": _detection,
    "frame-detection": _frame_detection,
    "classification": _classification,
}


def _spans(lines: Sequence[ClassLine], path: Path) -> list[tuple[float, float]]:
    require(lines, path, "start_s and end_s", lambda line: line.ends is not None)
    return [line.ends for line in lines if line.ends is not None]


def _index(made: Sequence[ClassLine], true: Sequence[ClassLine]) -> dict[str, int]:
    return {name: k for k, name in enumerate(sorted({line.label for line in (*made, *true)}))}


def _detections(
    lines: Sequence[ClassLine], spans: Sequence[tuple[float, float]], index: Mapping[str, int]
) -> Detections:
    items, labels = (
        tuple(line.item_id for line in lines),
        np.array([index[line.label] for line in lines], dtype=np.int64),
    )
    return Detections(items, np.array(spans), labels, np.array([float(line.score or 0) for line in lines]))


def _truth(lines: Sequence[ClassLine], path: Path, index: Mapping[str, int]) -> Detections:
    items, labels = (
        tuple(line.item_id for line in lines),
        np.array([index[line.label] for line in lines], dtype=np.int64),
    )
    return Detections(items, np.array(_spans(lines, path)), labels)
