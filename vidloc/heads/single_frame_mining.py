"""Growing single-frame labels along time by what the model says of the rows beside them (SF-Net's frame mining).

From every labelled row, the anchor, a walk goes row by row to either side, `radius` rows at most, and stops before a
row that carries labels. Let L be the anchor's classes. Two rules decide whether a row takes over L:

`paper`     the row's best class is one of L, and its mean score over L is at least `ratio` times the anchor's; the
            first row that fails ends the walk.
`release`   the best classes of three rows, the one beside the anchor, this one and the next, are equal (whether or
            not they are in L), and the score is as above; a row that fails is left out and the walk goes on. A row
            without a next one is never reached.

Labels of annotators are never revised. NumPy only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidloc.heads.single_frame_labels import Counts

Rule = Literal["paper", "release"]


def grown(scores: NDArray[np.float64], counts: Counts, *, radius: int, ratio: float, rule: Rule) -> Counts:
    """Labels with those that were mined beside them, as counts.

    Args:
        scores: `(rows, classes)` of the model, without background.
        counts: `(rows, classes)` labels of annotators.
    """
    result = counts.copy()
    best = scores.argmax(axis=1)
    for anchor in np.flatnonzero(counts.any(axis=1)).tolist():
        own = counts[anchor]
        means = scores @ own / own.sum()
        for direction in (-1, 1):
            for row in _reachable(result, anchor, direction, radius, rule):
                agrees = own[best[row]] > 0 if rule == "paper" else _three_agree(best, anchor, row, direction)
                if agrees and means[row] >= ratio * means[anchor]:
                    result[row] = own
                elif rule == "paper":
                    break
    return result


def _reachable(result: Counts, anchor: int, direction: int, radius: int, rule: Rule) -> list[int]:
    """Rows from an anchor to one side, up to the first that is labelled or out of reach."""
    margin = 1 if rule == "release" else 0
    rows = []
    for step in range(1, radius + 1):
        row = anchor + step * direction
        if not (0 <= row + margin * direction < len(result) and 0 <= row < len(result)) or result[row].any():
            break
        rows.append(row)
    return rows


def _three_agree(best: NDArray[np.int64], anchor: int, row: int, direction: int) -> bool:
    return bool(best[anchor + direction] == best[row] == best[row + direction])
