"""Detection of segments in untrimmed videos: average precision, recall and precision at temporal IoU, frame accuracy.

Average precision follows the EPIC-KITCHENS-100 detection benchmark (and ActivityNet, THUMOS): the predictions of one
class over all videos, best first, each take the free true segment of their video with the highest temporal IoU of at
least the threshold; AP is the area under the precision-recall curve whose precision was made non-increasing from the
right. mAP is the mean over the classes that occur in the truth; a class without predictions counts 0, predictions of
classes outside the truth are dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.intervals import Intervals, as_intervals, temporal_iou
from vidloc.errors import OptionError

Metrics = dict[str, Any]
EPIC_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
BACKGROUND = -1


@dataclass(frozen=True, eq=False)
class Detections:
    """Segments of many videos, true or predicted; the arrays are of equal length.

    Attributes:
        items: item id of each.
        spans: `(n, 2)` seconds.
        labels: class ids (any integers; actions are numbered `verb * num_nouns + noun`).
        scores: confidence, `None` for true segments.
    """

    items: tuple[str, ...]
    spans: Intervals
    labels: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", as_intervals(self.spans))
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64).reshape(-1))
        if self.scores is not None:
            object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64).reshape(-1))
        lengths = {len(self.items), len(self.spans), len(self.labels)}
        if len(lengths) > 1 or (self.scores is not None and len(self.scores) != len(self.items)):
            raise OptionError("items, spans, labels and scores of detections differ in length.")
        if not np.isfinite(self.spans).all() or (self.scores is not None and np.isnan(self.scores).any()):
            raise OptionError("spans of detections must be finite and their scores numbers, not NaN.")

    def __len__(self) -> int:
        return len(self.items)

    def of_class(self, label: int) -> Detections:
        """Those of one class."""
        return self._taken(np.flatnonzero(self.labels == label))

    def of_item(self) -> dict[str, NDArray[np.int64]]:
        """Positions of the segments of each item, in order."""
        positions: defaultdict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            positions[item].append(index)
        return {item: np.array(index, dtype=np.int64) for item, index in positions.items()}

    def best_first(self) -> Detections:
        """Sorted by falling score, equals in the order given."""
        if self.scores is None:
            raise OptionError("predicted segments need scores.")
        return self._taken(np.argsort(-self.scores, kind="stable"))

    def _taken(self, index: NDArray[np.int64]) -> Detections:
        scores = None if self.scores is None else self.scores[index]
        return Detections(tuple(self.items[k] for k in index), self.spans[index], self.labels[index], scores)


Closeness = Callable[[Intervals, Intervals], NDArray[np.float64]]  # (n, 2) and (m, 2) spans to (n, m)
Matcher = Callable[[Detections, Detections, Sequence[float]], NDArray[np.bool_]]


def interpolated_ap(hits: ArrayLike, num_truth: int) -> float:
    """Area under the interpolated precision-recall curve (all points).

    Args:
        hits: whether each prediction, best first, is right.
        num_truth: true segments; at least one.
    """
    right = np.asarray(hits, dtype=np.float64)
    if not right.size:
        return 0.0
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1 / num_truth at each hit and nowhere else.
    return float((envelope * right).sum() / num_truth)


def assigned(
    predicted: Detections, truth: Detections, least: Sequence[float], closeness: Closeness
) -> NDArray[np.bool_]:
    """Which predictions, best first, take a true segment of their item, `(len(least), predictions)`.

    Each takes the closest free one that is at least so close. Classes are not looked at: pass one class, or all for a
    class-agnostic match. A true segment is taken once.

    Args:
        closeness: of every predicted span to every true one; higher is closer.
    """
    result = np.zeros((len(least), len(predicted)), dtype=bool)
    true_of = truth.of_item()
    for item, own in predicted.of_item().items():
        if item not in true_of:
            continue
        close = closeness(predicted.spans[own], truth.spans[true_of[item]])
        free = np.ones((len(least), close.shape[1]), dtype=bool)
        # Most predictions meet nothing at all; only the others need the loop.
        for k in np.flatnonzero(close.max(axis=1) >= min(least)):
            for t, threshold in enumerate(least):
                still_open = np.where(free[t], close[k], -np.inf)
                best = int(still_open.argmax())
                if still_open[best] >= threshold:
                    free[t, best] = False
                    result[t, own[k]] = True
    return result


def matched(predicted: Detections, truth: Detections, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Predictions that take a true segment of at least each temporal IoU; see `assigned`."""
    return assigned(predicted, truth, thresholds, temporal_iou)


def average_precision(
    predicted: Detections, truth: Detections, thresholds: Sequence[float], match: Matcher = matched
) -> dict[int, list[float]]:
    """AP at each threshold for every class of the truth."""
    ranked = predicted.best_first()
    result = {}
    for label in np.unique(truth.labels).tolist():
        true = truth.of_class(label)
        right = match(ranked.of_class(label), true, thresholds)
        result[label] = [interpolated_ap(row, len(true)) for row in right]
    return result


def mean_average_precision(
    predicted: Detections,
    truth: Detections,
    thresholds: Sequence[float] = EPIC_THRESHOLDS,
    match: Matcher = matched,
) -> Metrics:
    """Mean AP at each threshold (`map@0.5`) and their mean (`map`); NaN without true segments."""
    per_class = np.array(list(average_precision(predicted, truth, thresholds, match).values()))
    means = per_class.mean(axis=0) if per_class.size else np.full(len(thresholds), np.nan)
    return {"map": float(means.mean()), **{f"map@{t:g}": float(m) for t, m in zip(thresholds, means, strict=True)}}


def epic100_detection(predicted: Mapping[str, Detections], truth: Mapping[str, Detections]) -> Metrics:
    """The EPIC-KITCHENS-100 detection metric: mean AP of `verb`, `noun` and `action`, each evaluated by itself.

    Duplicates are not merged: a segment submitted with several nouns is several verb predictions.
    """
    return {task: mean_average_precision(predicted[task], truth[task]) for task in truth}


def recall_precision(
    predicted: Detections, truth: Detections, threshold: float, *, with_class: bool = True
) -> tuple[float, float]:
    """Share of true segments found and share of predictions that found one, matched one to one, best first.

    Args:
        with_class: whether a prediction must have the true segment's class.

    Returns:
        Recall (NaN without true segments) and precision (0 without predictions).
    """
    ranked = predicted.best_first()
    if with_class:
        labels = np.unique(np.concatenate([truth.labels, ranked.labels])).tolist()
        found = sum(int(matched(ranked.of_class(c), truth.of_class(c), [threshold]).sum()) for c in labels)
    else:
        found = int(matched(ranked, truth, [threshold]).sum())
    recall = found / len(truth) if len(truth) else float("nan")
    return recall, found / max(len(ranked), 1)


def frame_times(duration_s: float, step_s: float) -> NDArray[np.float64]:
    """Centres of the cells of `step_s` that a video of `duration_s` is cut into; at least one."""
    count = max(int(np.ceil(duration_s / step_s - 0.5)), 1)
    times: NDArray[np.float64] = (np.arange(count, dtype=np.float64) + 0.5) * step_s
    return times


def labels_at(
    times: ArrayLike, spans: ArrayLike, labels: ArrayLike, scores: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Class at each time, `BACKGROUND` outside all spans.

    Where spans overlap, the one with the highest score counts; without scores the shortest.
    """
    moments, intervals = np.asarray(times, dtype=np.float64), as_intervals(spans)
    classes = np.asarray(labels, dtype=np.int64)
    ranks = intervals[:, 0] - intervals[:, 1] if scores is None else np.asarray(scores, dtype=np.float64)
    order = np.argsort(ranks, kind="stable")
    result = np.full(len(moments), BACKGROUND, dtype=np.int64)
    for k in order:
        result[(moments >= intervals[k, 0]) & (moments < intervals[k, 1])] = classes[k]
    return result


def frame_accuracy(predicted: Iterable[ArrayLike], truth: Iterable[ArrayLike]) -> Metrics:
    """Share of frames with the right class over all videos: `all`, and `foreground` alone (true class not background).

    `background_share` is what always guessing background would score.
    """
    guess, true = (
        np.concatenate([np.asarray(v) for v in videos] or [np.empty(0, dtype=np.int64)])
        for videos in (predicted, truth)
    )
    right, foreground = np.equal(guess, true), np.not_equal(true, BACKGROUND)
    return {
        "all": float(right.mean()) if right.size else float("nan"),
        "foreground": float(right[foreground].mean()) if foreground.any() else float("nan"),
        "background_share": float(1 - foreground.mean()) if foreground.size else float("nan"),
    }
