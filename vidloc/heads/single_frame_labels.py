"""From single frames or segments to labels of rows: which row a time belongs to, and what a segment labels.

The labels of an item are counts `(rows, classes)`: how often a class was named at a row. Several names at one row share
its target, `counts / counts.sum()`, so one row of two classes has the target 0.5 and 0.5 (Ma et al., ECCV 2020).

A row answers for the time from halfway to the row before to halfway to the next one, its cell; where windows do not
overlap, that is its window, and a time t of non-overlapping rows belongs to row floor(t / stride), as published. NumPy
only.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidloc.core.lanes import Bar
from vidloc.core.records import Point, Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError

Supervision = Literal["points", "full", "random", "center", "annotator_like"]
Counts = NDArray[np.int64]

_DECILES = (0.12, 0.16, 0.19, 0.16, 0.12, 0.11, 0.06, 0.03, 0.02, 0.03)  # where annotators pause in an action
_SLACK = 1e-9  # rows; a time on a border must not fall before it by rounding


def row_borders(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(rows + 1,)` seconds at which the cells of rows begin and end; those of the first and last are symmetric.

    Args:
        windows: `(rows, 2)` seconds, at least one row.

    Raises:
        OptionError: the rows are not in order of time.
    """
    centers = windows.mean(axis=1)
    if len(centers) == 1:
        return np.array(windows[0], dtype=np.float64)
    gaps = np.diff(centers)
    if gaps.min() <= 0:
        raise OptionError(
            "single frames need rows in order of time; this stream has rows that go back. Choose another."
        )
    first, last = centers[0] - gaps[0] / 2, centers[-1] + gaps[-1] / 2
    return np.concatenate([[first], centers[:-1] + gaps / 2, [last]])


def row_stride(borders: NDArray[np.float64]) -> float:
    """Median length of a cell, in seconds."""
    return float(np.median(np.diff(borders)))


def point_counts(points: Iterable[Point], borders: NDArray[np.float64], task: str, num_classes: int) -> Counts:
    """Counts `(rows, classes)` of single frames; those before the first or after the last row count nowhere."""
    counts = np.zeros((len(borders) - 1, num_classes), dtype=np.int64)
    for point in points:
        place = _position(borders, point.time_s)
        inside = borders[0] - _SLACK <= point.time_s and place + _SLACK < len(counts)
        if inside and task in point.labels:
            counts[math.floor(place + _SLACK), point.labels[task]] += 1
    return counts


def segment_counts(segments: Iterable[Segment], borders: NDArray[np.float64], task: str, num_classes: int) -> Counts:
    """Counts `(rows, classes)`, 0 or 1, of all rows of every segment: full supervision, and the truth in reports."""
    counts = np.zeros((len(borders) - 1, num_classes), dtype=np.int64)
    for segment in segments:
        if task in segment.labels:
            start, end = _ends(segment, borders)
            counts[math.floor(start) : math.floor(end), segment.labels[task]] = 1
    return counts


def simulated_counts(
    segments: Sequence[Segment],
    borders: NDArray[np.float64],
    task: str,
    num_classes: int,
    *,
    where: Supervision,
    random: np.random.Generator,
) -> Counts:
    """Counts of one row for each segment: its middle one, one drawn evenly, or one drawn as annotators choose.

    Args:
        where: `center`, `random`, or `annotator_like`, which draws a tenth of the segment by the shares of the
            published simulation, and a time in it evenly.
    """
    counts = np.zeros((len(borders) - 1, num_classes), dtype=np.int64)
    for segment in segments:
        if task not in segment.labels:
            continue
        start, end = _ends(segment, borders)
        row = _drawn_row(start, end, where, random)
        if row is not None and row < len(counts):
            counts[row, segment.labels[task]] += 1
    return counts


def label_table(human: Counts, final: Counts) -> NDArray[np.int64]:
    """`(labels, 3)` row, class, and whether it was grown: the labels that training ended with, in order of rows.

    Args:
        human: counts of annotators.
        final: the same with those that were grown beside them.
    """
    rows, classes = np.nonzero(final)
    return np.stack([rows, classes, human[rows, classes] == 0], axis=1).astype(np.int64)


def label_bars(
    table: NDArray[np.int64], borders: NDArray[np.float64], names: Sequence[str], *, grown: bool
) -> tuple[Bar, ...]:
    """Runs of neighbouring rows with one label, of annotators or grown, from a `label_table`.

    Raises:
        OptionError: a row that the item no longer has.
    """
    chosen = table[table[:, 2] == int(grown)]
    if len(chosen) and chosen[:, 0].max() >= len(borders) - 1:
        raise OptionError(
            f"row {chosen[:, 0].max()} was labelled in training, and there are {len(borders) - 1} rows now. Give the "
            "store that the run was trained on: --store PATH."
        )
    found = []
    for label in np.unique(chosen[:, 1]).tolist():
        rows = chosen[chosen[:, 1] == label, 0]
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        found += [
            Bar(Span(max(float(borders[run[0]]), 0.0), float(borders[run[-1] + 1])), names[label]) for run in runs
        ]
    return tuple(sorted(found, key=lambda bar: bar.span))


def item_random(seed: int, item_id: str) -> np.random.Generator:
    """Random numbers of one item, whichever other items there are and in whatever order."""
    return np.random.default_rng([seed, zlib.crc32(item_id.encode("utf-8"))])


def _drawn_row(start: float, end: float, where: Supervision, random: np.random.Generator) -> int | None:
    if where == "center":
        return math.floor((start + end) / 2)
    if where == "random":
        first, stop = math.ceil(start - 2 * _SLACK), math.floor(end)
        return int(random.integers(first, stop)) if stop > first else None
    tenth = int(random.choice(len(_DECILES), p=_DECILES))
    return math.floor(start + (tenth + random.random()) / len(_DECILES) * (end - start))


def _ends(segment: Segment, borders: NDArray[np.float64]) -> tuple[float, float]:
    """Start and end as positions among the rows; a segment shorter than a row is made longer by one."""
    start, end = (_position(borders, seconds) + _SLACK for seconds in segment.span)
    return (start, end + 1) if end - start < 1 - _SLACK else (start, end)


def _position(borders: NDArray[np.float64], seconds: float) -> float:
    """Rows before a time, with the fraction of its own row that has passed; clipped to the rows."""
    return float(np.interp(seconds, borders, np.arange(len(borders))))
