"""Two files of JSON lines scored against each other: predictions and truth, from any program. No torch, no store.

    truth         {"item_id": "v1", "start_s": 3.2, "end_s": 9.6, "label": "wave"}
    predictions   {"item_id": "v1", "start_s": 3.0, "end_s": 9.0, "label": "wave", "score": 0.7}

`span` may stand for start and end, as in `predictions.jsonl` of a run. For single frames a prediction has `time_s`; for
classes of whole videos it has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.metrics.localization import Detections, mean_average_precision
from vidloc.metrics.single_frames import FRAME_THRESHOLDS, classification_map, frame_map

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
Metrics = dict[str, Any]


class Line(BaseModel):
    """One line of either file; keys that are not needed are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    item_id: str = Field(min_length=1)
    label: str = Field(min_length=1)
    start_s: float | None = None
    end_s: float | None = None
    span: Span | None = None
    time_s: float | None = None
    score: float | None = None

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if (self.start_s is None) != (self.end_s is None):
            raise ValueError("start_s and end_s belong together")
        if self.ends is not None and self.ends[0] > self.ends[1]:
            raise ValueError(f"it ends at {self.ends[1]} s, before its start at {self.ends[0]} s")
        return self

    @property
    def ends(self) -> tuple[float, float] | None:
        """Start and end, however they are given."""
        if self.start_s is not None and self.end_s is not None:
            return self.start_s, self.end_s
        return self.span


def score_files(task: str, predictions: Path, truth: Path, thresholds: Sequence[float] = ()) -> Metrics:
    """Metrics of a file of predictions.

    Args:
        task: one of `TASKS`.
        thresholds: of temporal IoU for `detection`, of distance for `frame-detection`; empty for the usual ones.

    Returns:
        The metrics, with how many predictions there are, and how many of classes or items that the truth lacks.

    Raises:
        OptionError: no such file, a line that lacks what the task needs, or a truth without lines.
    """
    made, true = _read(predictions), _read(truth)
    if not true:
        raise OptionError(f"{truth} is empty, so there is nothing to compare with.")
    _require(made, predictions, "a score", lambda line: line.score is not None)
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
    made: Sequence[Line], predictions: Path, true: Sequence[Line], truth: Path, thresholds: Sequence[float]
) -> Metrics:
    spans = _spans(made, predictions)
    index = _index(made, true)
    found = mean_average_precision(
        _detections(made, spans, index), _truth(true, truth, index), thresholds or IOU_THRESHOLDS
    )
    return {"detection": found}


def _frame_detection(
    made: Sequence[Line], predictions: Path, true: Sequence[Line], truth: Path, thresholds: Sequence[float]
) -> Metrics:
    _require(made, predictions, "time_s", lambda line: line.time_s is not None)
    index = _index(made, true)
    frames = _detections(made, [(float(p.time_s or 0), float(p.time_s or 0)) for p in made], index)
    return {"frame_detection": frame_map(frames, _truth(true, truth, index), thresholds or FRAME_THRESHOLDS)}


def _classification(
    made: Sequence[Line], predictions: Path, true: Sequence[Line], truth: Path, thresholds: Sequence[float]
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


TASKS: Mapping[str, Callable[[Sequence[Line], Path, Sequence[Line], Path, Sequence[float]], Metrics]] = {
    "detection": _detection,
    "frame-detection": _frame_detection,
    "classification": _classification,
}


def _read(path: Path) -> list[Line]:
    if not path.is_file():
        raise OptionError(f"there is no file {path}.")
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            found.append(Line.model_validate_json(text))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            raise OptionError(f"{path}, line {number}: {where}{problem['msg']}.") from None
    return found


def _require(lines: Sequence[Line], path: Path, what: str, has: Callable[[Line], bool]) -> None:
    lacking = [line for line in lines if not has(line)]
    if lacking:
        raise OptionError(
            f"{path}: {len(lacking)} of {len(lines)} lines have no {what.removeprefix('a ')}, such as that of item "
            f"{lacking[0].item_id!r}, label {lacking[0].label!r}. Every line needs {what}."
        )


def _spans(lines: Sequence[Line], path: Path) -> list[tuple[float, float]]:
    _require(lines, path, "start_s and end_s", lambda line: line.ends is not None)
    return [line.ends for line in lines if line.ends is not None]


def _index(made: Sequence[Line], true: Sequence[Line]) -> dict[str, int]:
    return {name: k for k, name in enumerate(sorted({line.label for line in (*made, *true)}))}


def _detections(lines: Sequence[Line], spans: Sequence[tuple[float, float]], index: Mapping[str, int]) -> Detections:
    items, labels = (
        tuple(line.item_id for line in lines),
        np.array([index[line.label] for line in lines], dtype=np.int64),
    )
    return Detections(items, np.array(spans), labels, np.array([float(line.score or 0) for line in lines]))


def _truth(lines: Sequence[Line], path: Path, index: Mapping[str, int]) -> Detections:
    items, labels = (
        tuple(line.item_id for line in lines),
        np.array([index[line.label] for line in lines], dtype=np.int64),
    )
    return Detections(items, np.array(_spans(lines, path)), labels)
