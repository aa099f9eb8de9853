"""From the scores of SF-Net to segments: classes kept by their best rows, and runs of rows above their mean score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import Prediction
from vidloc.core.timeline import Span
from vidloc.heads.single_frame_options import SFNetOptions

_CLASS_POOL = 12  # at the end a class of an item scores the mean of a twelfth of its rows


def segments_of(
    item_id: str,
    scores: NDArray[np.float64],
    action: NDArray[np.float64],
    borders: NDArray[np.float64],
    *,
    classes: Sequence[str],
    options: SFNetOptions,
    min_rows: int,
) -> Iterator[Prediction]:
    """Segments of one item, class by class in order of time.

    Args:
        scores: `(rows, classes)` logits without background.
        action: `(rows,)` logits of actionness.
        borders: `(rows + 1,)` seconds between rows.
        min_rows: least rows of a segment.
    """
    kept = max(len(scores) // _CLASS_POOL, 1)
    of_item = np.sort(scores, axis=0)[::-1][:kept].mean(axis=0)
    for k in np.flatnonzero((of_item > of_item.max() / options.class_divisor) & (of_item > 0)).tolist():
        rows = scores[:, k] + options.actionness_weight * action
        for start, stop in runs_above(rows, rows.mean() * options.mean_factor):
            if stop - start < min_rows:
                continue
            best = start + int(rows[start:stop].argmax())
            yield Prediction(
                item_id=item_id,
                span=Span(max(float(borders[start]), 0.0), float(borders[stop])),
                score=float(rows[best] + of_item[k]),
                label=classes[k],
                time_s=max(float(borders[best]), 0.0),
            )


def runs_above(values: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every longest run of values above a threshold."""
    above = np.concatenate([[False], values > threshold, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
