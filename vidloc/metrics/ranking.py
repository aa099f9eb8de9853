"""Retrieval: nDCG and mAP as in EPIC-KITCHENS-100 multi-instance retrieval (Damen et al. 2022).

Rows of a similarity matrix are queries, columns items. Relevancy of a video and a caption is the mean of verb match
(0 or 1) and the IoU of their sets of noun classes.

nDCG of a query is cut at k, the number of items with relevancy above 0: gain is the relevancy, discount
log2(rank + 1). mAP calls an item relevant when its relevancy is exactly 1, but, as the released code does, sums graded
relevancies into the precision: at a hit of rank r, precision is the sum of the relevancies of ranks 1 to r, over r. (By
the textbook it would count hits only; `graded=False` does.) Queries without any relevant item are left out.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.errors import OptionError


def relevancy(
    video_verbs: ArrayLike,
    video_nouns: Sequence[Set[int]],
    caption_verbs: ArrayLike,
    caption_nouns: Sequence[Set[int]],
) -> NDArray[np.float64]:
    """Relevancy of every video and caption, `(videos, captions)` in [0, 1]; noun sets may not be empty."""
    size = 1 + max((noun for nouns in (*video_nouns, *caption_nouns) for noun in nouns), default=0)
    first, second = _membership(video_nouns, size), _membership(caption_nouns, size)
    common = first @ second.T
    union = first.sum(axis=1)[:, None] + second.sum(axis=1)[None] - common
    same_verb = np.equal(np.asarray(video_verbs)[:, None], np.asarray(caption_verbs)[None])
    result: NDArray[np.float64] = (same_verb + common / union) / 2
    return result


def ndcg(similarity: ArrayLike, relevancies: ArrayLike) -> float:
    """Mean nDCG over queries; NaN where no query has a relevant item."""
    scores, relevant = _checked(similarity, relevancies)
    discount = 1 / np.log2(np.arange(2, scores.shape[1] + 2))
    values = []
    for row, gains in zip(scores, relevant, strict=True):
        k = np.count_nonzero(gains > 0)
        if k == 0:
            continue
        ranked = gains[np.argsort(-row, kind="stable")][:k]
        ideal = np.sort(gains)[::-1][:k]
        values.append((ranked * discount[:k]).sum() / (ideal * discount[:k]).sum())
    return float(np.mean(values)) if values else float("nan")


def retrieval_map(similarity: ArrayLike, relevancies: ArrayLike, *, graded: bool = True) -> float:
    """Mean average precision over queries; NaN where no query has an item of relevancy 1.

    Args:
        graded: whether precision sums graded relevancies, as the released code does, or counts hits.
    """
    scores, relevant = _checked(similarity, relevancies)
    ranks = np.arange(1, scores.shape[1] + 1)
    values = []
    for row, gains in zip(scores, relevant, strict=True):
        ranked = gains[np.argsort(-row, kind="stable")]
        hits = ranked == 1
        if hits.any():
            precision = np.cumsum(ranked if graded else hits) / ranks
            values.append(precision[hits].mean())
    return float(np.mean(values)) if values else float("nan")


def epic100_retrieval(similarity: ArrayLike, relevancies: ArrayLike) -> dict[str, Any]:
    """Both measures, in both directions and their means, for similarities `(videos, captions)`."""
    scores, relevant = _checked(similarity, relevancies)
    directions = {"video_to_text": (scores, relevant), "text_to_video": (scores.T, relevant.T)}
    result: dict[str, Any] = {
        name: {"ndcg": ndcg(*pair), "map": retrieval_map(*pair)} for name, pair in directions.items()
    }
    result["mean"] = {m: float(np.mean([result[name][m] for name in directions])) for m in ("ndcg", "map")}
    return result


def _membership(sets: Sequence[Set[int]], size: int) -> NDArray[np.float64]:
    table = np.zeros((len(sets), size))
    for row, members in enumerate(sets):
        table[row, list(members)] = 1
    return table


def _checked(similarity: ArrayLike, relevancies: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores, relevant = np.asarray(similarity, dtype=np.float64), np.asarray(relevancies, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != relevant.shape or np.isnan(scores).any():
        raise OptionError(
            f"similarity {scores.shape} and relevancy {relevant.shape} must be (queries, items) alike and without NaN."
        )
    return scores, relevant
