"""What heads that match sound with pictures share: the query's rows, the search for its place, and the answers.

The excerpt of one modality that holds the event is given, as is its length; its place in the other modality is looked
for. The excerpt may begin at any row where it still fits; of equally good starts the first is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidloc.core.lanes import Curves, Lane
from vidloc.core.records import Prediction
from vidloc.core.timeline import Span
from vidloc.heads.audio_visual import PairedRows
from vidloc.heads.base import Batch

DIRECTIONS: tuple[Literal["a2v"], Literal["v2a"]] = ("a2v", "v2a")


def diagonal_sums(values: NDArray[np.float64], first: int, length: int) -> NDArray[np.float64]:
    """Sums of `values[t + i, first + i]` over i < length, for every start t that fits.

    Args:
        values: `(searched, queried)` one number for every pair of rows.
        first, length: where the query lies, in rows.
    """
    starts = np.arange(len(values) - length + 1)
    steps = np.arange(length)
    return np.asarray(values[starts[:, None] + steps, first + steps].sum(axis=1))


def window_sums(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Sums of `length` neighbouring values, for every start that fits."""
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, length).sum(axis=1))


def answers(batch: Batch, pair: PairedRows, gains: Mapping[str, Sequence[NDArray[np.float64]]]) -> list[Prediction]:
    """The best place of every sample's event, one prediction for each direction.

    Args:
        gains: by direction, for every sample, how good each start is; the score is the best one.
    """
    cells = pair.cells()
    found = []
    for direction in DIRECTIONS:
        for sample, spans, gain in zip(batch.samples, cells, gains[direction], strict=True):
            start = int(gain.argmax())
            span = Span(spans[start].start_s, spans[start + len(spans) - len(gain)].end_s)
            found.append(
                Prediction(
                    item_id=sample.item_id,
                    span=span,
                    score=float(gain[start]),
                    query_id=sample.id,
                    direction=direction,
                )
            )
    return found


def match_lanes(pair: PairedRows, gains: Mapping[str, Sequence[NDArray[np.float64]]]) -> list[tuple[Lane, ...]]:
    """For each sample, how well the excerpt fits over the second that it would begin at, in both directions.

    Args:
        gains: as in `answers`; those of a sample have as many starts in either direction.
    """
    names = {"a2v": "sound sought in pictures (a2v)", "v2a": "pictures sought in sound (v2a)"}
    found: list[tuple[Lane, ...]] = []
    for k, spans in enumerate(pair.cells()):
        own = {names[direction]: gains[direction][k] for direction in DIRECTIONS}
        starts = np.array([span.start_s for span in spans[: len(gains["a2v"][k])]])
        found.append((Curves("match, by start", starts, own),))
    return found


def query_rows(inside: Tensor) -> list[tuple[int, int]]:
    """First row and number of rows of each sample's event, from `(batch, time)` bool with at least one row each."""
    first = inside.int().argmax(dim=1).tolist()
    return list(zip(first, inside.sum(dim=1).tolist(), strict=True))
