"""Intervals of time as arrays `(n, 2)` of start and end in seconds, and their overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Intervals = NDArray[np.float64]


def as_intervals(spans: ArrayLike) -> Intervals:
    """Spans as float64 `(n, 2)`; nothing at all becomes `(0, 2)`."""
    intervals: Intervals = np.asarray(spans, dtype=np.float64).reshape(-1, 2)
    return intervals


def temporal_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair, `(len(first), len(second))` in [0, 1].

    Two instants (start = end) at one time have an empty union; their IoU is 0.
    """
    a, b = as_intervals(first)[:, None], as_intervals(second)[None]
    overlap = np.clip(np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]), 0.0, None)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap
    iou: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou
