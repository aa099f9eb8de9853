"""Single frames as predictions, and classes of whole videos: the other metrics of SF-Net (Ma et al., ECCV 2020).

Frame mAP is detection mAP with a distance in place of temporal IoU. A prediction is one time t; its distance to a true
segment [b, e] is

    |t - (b + e) / 2| / ((e - b) / 2)      where b <= t <= e, else 2

so 0 in the middle and 1 at either end. It is right where the distance is at most the threshold. At threshold 1 the time
may lie anywhere in a free segment, which the paper calls mAP@hit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.intervals import Intervals, as_intervals
from vidloc.errors import OptionError
from vidloc.metrics.localization import Detections, Metrics, assigned, mean_average_precision

FRAME_THRESHOLDS = (0.25, 0.5, 0.75, 1.0)
HIT = 1.0
_OUTSIDE = 2.0


def frame_distance(times: ArrayLike, spans: ArrayLike) -> NDArray[np.float64]:
    """Distance of every time `(n,)` to every true span `(m, 2)`, `(n, m)`."""
    moments, true = np.asarray(times, dtype=np.float64).reshape(-1, 1), as_intervals(spans)
    start, end = true[:, 0], true[:, 1]
    half = (end - start) / 2
    off = np.abs(moments - (start + end) / 2)
    distance = np.divide(
        off, half, out=np.zeros_like(off), where=half > 0
    )  # a segment of no length is hit in its middle
    result: NDArray[np.float64] = np.where((moments >= start) & (moments <= end), distance, _OUTSIDE)
    return result


def frames_matched(predicted: Detections, truth: Detections, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Predictions, best first, that take a true segment within each distance; their spans begin at their times."""
    return assigned(predicted, truth, [-threshold for threshold in thresholds], _closeness)


def frame_map(predicted: Detections, truth: Detections, thresholds: Sequence[float] = FRAME_THRESHOLDS) -> Metrics:
    """Mean AP at each distance (`map@0.5`), their mean (`map`), and `map@hit`; NaN without true segments.

    Args:
        predicted: the time of each prediction is the start of its span.
    """
    result = mean_average_precision(predicted, truth, thresholds, frames_matched)
    return {**result, "map@hit": mean_average_precision(predicted, truth, (HIT,), frames_matched)["map"]}


def ranked_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean precision at the ranks of the positives, not interpolated; equal scores in the order given.

    NaN without a positive.
    """
    right = np.asarray(labels, dtype=bool)[np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].mean()) if right.any() else float("nan")


def classification_map(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes that any video has of `ranked_precision` over the videos.

    Args:
        scores: `(videos, classes)`.
        labels: `(videos, classes)`, whether a video has a class.

    Raises:
        OptionError: the shapes differ, or a score is not a number.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if values.ndim != 2 or values.shape != truth.shape or np.isnan(values).any():
        raise OptionError(
            f"scores {values.shape} and labels {truth.shape} must be (videos, classes) alike, without NaN."
        )
    each = [ranked_precision(values[:, k], truth[:, k]) for k in np.flatnonzero(truth.any(axis=0))]
    return float(np.mean(each)) if each else float("nan")


def _closeness(predicted: Intervals, true: Intervals) -> NDArray[np.float64]:
    return -frame_distance(predicted[:, 0], true)
