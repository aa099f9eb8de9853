"""Recognition of segments: top-k, mean class accuracy, precision and recall, and the metrics of EPIC-KITCHENS.

Everything is a pure function of arrays; all results are shares in [0, 1]. Scores may be logits or probabilities, since
only their order counts. Equal scores are ranked by class index, lowest first (the official code leaves it open).

EPIC-55 (Damen et al. 2018) reports, for verb, noun and action, top-1 and top-5 accuracy, and precision and recall per
class of the top-1 prediction, averaged over the many-shot classes that occur in the segments evaluated. EPIC-100 (Damen
et al. 2022) reports top-1 and top-5 over all segments, and top-1 over those of unseen participants and over those of
tail classes; an action is in the tail when its verb or its noun is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.errors import OptionError
from vidloc.metrics.actions import ActionRanking

Metrics = dict[str, Any]
Labels = NDArray[np.int64]


def ranked_classes(scores: ArrayLike, k: int) -> Labels:
    """The `k` best classes of each row, best first, `(rows, min(k, classes))`.

    Raises:
        OptionError: scores are not `(rows, classes)`, or one is not a number.
    """
    values = np.asarray(scores)
    if values.ndim != 2 or np.isnan(values).any():
        raise OptionError(f"scores must be (rows, classes) without NaN, got an array of shape {values.shape}.")
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def hits(ranked: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """For ranked class ids `(rows, k)`: whether the label is the id at each rank, `(rows, k)`."""
    right: NDArray[np.bool_] = np.equal(np.asarray(ranked), np.asarray(labels)[:, None])
    return right


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of rows whose label is among the `k` best classes; NaN without rows."""
    return _share(hits(ranked_classes(scores, k), labels).any(axis=1))


def mean_class_accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes that occur in `labels` of the share of their rows predicted right; NaN without rows."""
    truth = np.asarray(labels)
    right = np.asarray(predicted) == truth
    return _mean([right[truth == label].mean() for label in np.unique(truth)])


def precision_recall(predicted: ArrayLike, labels: ArrayLike, classes: Iterable[int]) -> tuple[float, float]:
    """Precision and recall per class, averaged over those of `classes` that occur in `labels`.

    A class that is never predicted has precision 0. NaN where none of the classes occurs.
    """
    guess, truth = np.asarray(predicted), np.asarray(labels)
    precisions, recalls = [], []
    for label in sorted(set(classes) & set(truth.tolist())):
        right = int(np.count_nonzero((guess == label) & (truth == label)))
        precisions.append(right / max(int(np.count_nonzero(guess == label)), 1))
        recalls.append(right / int(np.count_nonzero(truth == label)))
    return _mean(precisions), _mean(recalls)


def recognition(scores: Mapping[str, ArrayLike], labels: Mapping[str, ArrayLike]) -> Metrics:
    """Top-1, top-5 and mean class accuracy per task.

    Top-1 and mean class accuracy are both in use under the name accuracy (EGTEA), and differ a lot; always say which.
    """
    result: Metrics = {}
    for task, values in scores.items():
        ranked = ranked_classes(values, 5)
        right = hits(ranked, labels[task])
        result[task] = {
            "top1": _share(right[:, 0]),
            "top5": _share(right.any(axis=1)),
            "mean_class_accuracy": mean_class_accuracy(ranked[:, 0], labels[task]),
        }
    return result


def epic55(
    scores: Mapping[str, ArrayLike],
    actions: ActionRanking,
    labels: Mapping[str, ArrayLike],
    many_shot: Mapping[str, Set[Any]],
) -> Metrics:
    """Official metrics of EPIC-KITCHENS-55.

    Args:
        scores: `verb` and `noun`, `(segments, classes)`.
        actions: ranked (verb, noun) pairs, at least five per segment.
        labels: `verb` and `noun`, `(segments,)`.
        many_shot: class ids for `verb` and `noun`, pairs for `action`.
    """
    ranked, truth, groups = _as_ids(scores, actions, labels, many_shot)
    result: Metrics = {}
    for task, best in ranked.items():
        right = hits(best, truth[task])
        precision, recall = precision_recall(best[:, 0], truth[task], groups[task])
        result[task] = {
            "top1": _share(right[:, 0]),
            "top5": _share(right.any(axis=1)),
            "many_shot_precision": precision,
            "many_shot_recall": recall,
        }
    return result


def epic100(
    scores: Mapping[str, ArrayLike],
    actions: ActionRanking,
    labels: Mapping[str, ArrayLike],
    *,
    unseen: ArrayLike | None,
    tail: Mapping[str, Set[int]] | None,
) -> Metrics:
    """Official metrics of EPIC-KITCHENS-100: `overall`, `unseen` and `tail`.

    Args:
        scores, actions, labels: as in `epic55`.
        unseen: whether each segment's participant is absent from training, `(segments,)`; with none the block is left
            out, as officially, and so it is for `None`.
        tail: tail class ids for `verb` and `noun`; `None` leaves the block out.
    """
    ranked, truth, _ = _as_ids(scores, actions, labels, {})
    right = {task: hits(best, truth[task]) for task, best in ranked.items()}
    result: Metrics = {
        "overall": {t: {"top1": _share(r[:, 0]), "top5": _share(r.any(axis=1))} for t, r in right.items()}
    }
    if unseen is not None and np.any(unseen):
        rows = np.asarray(unseen, dtype=bool)
        result["unseen"] = {task: {"top1": _share(r[rows, 0])} for task, r in right.items()}
    if tail is not None:
        in_tail = {task: np.isin(truth[task], sorted(tail[task])) for task in ("verb", "noun")}
        in_tail["action"] = in_tail["verb"] | in_tail["noun"]
        result["tail"] = {task: {"top1": _share(r[in_tail[task], 0])} for task, r in right.items()}
    return result


def _as_ids(
    scores: Mapping[str, ArrayLike],
    actions: ActionRanking,
    labels: Mapping[str, ArrayLike],
    groups: Mapping[str, Set[Any]],
) -> tuple[dict[str, Labels], dict[str, Labels], dict[str, set[int]]]:
    """Ranked ids, labels and groups of the three tasks; a pair becomes one number."""
    num_nouns = np.asarray(scores["noun"]).shape[1]
    ranked = {task: ranked_classes(scores[task], 5) for task in ("verb", "noun")}
    ranked["action"] = actions.pairs[:, :5, 0] * num_nouns + actions.pairs[:, :5, 1]
    truth = {task: np.asarray(labels[task], dtype=np.int64) for task in ("verb", "noun")}
    truth["action"] = truth["verb"] * num_nouns + truth["noun"]
    ids = {task: set(groups.get(task, ())) for task in ("verb", "noun")}
    ids["action"] = {verb * num_nouns + noun for verb, noun in groups.get("action", ())}
    return ranked, truth, ids


def _share(right: Any) -> float:
    return float(np.mean(right)) if np.size(right) else float("nan")


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")
