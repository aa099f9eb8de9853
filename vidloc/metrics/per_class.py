"""The metrics of each class by itself, and which classes are taken for which: where a head is strong and where not.

The numbers follow the protocol of the corpus: average precision, recall and precision for detected segments, recall and
precision for given segments and for seconds of clips, exact matches for excerpts. All are shares in [0, 1] or counts,
and `None` where nothing was there to be counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.records import Prediction, Segment
from vidloc.metrics.audio_visual import BACKGROUND, DIRECTIONS, matching_metrics, named_seconds
from vidloc.metrics.localization import Detections, average_precision, matched
from vidloc.metrics.protocols import THRESHOLDS, align, detections, label_task

AT_IOU = 0.5


@dataclass(frozen=True, eq=False)
class ClassTable:
    """Numbers of the classes of one task.

    Attributes:
        classes: names of those that occur, in the truth or among the predictions, in the order of their ids.
        columns: the value of each class, by the number's name; counts are `int`, shares `float`.
        confusion: `(classes, classes)` how often the class of the row was taken for that of the column; `None` where
            predictions are not made for one true class each.
    """

    task: str
    classes: tuple[str, ...]
    columns: Mapping[str, tuple[float | None, ...]]
    confusion: NDArray[np.int64] | None = None


def class_tables(
    protocol: str,
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    *,
    classes: Mapping[str, Sequence[str]],
    durations_s: Mapping[str, float],
    task: str | None = None,
) -> list[ClassTable]:
    """A table for each task that was predicted; segments without a prediction are left out, but for `segments`.

    Args:
        protocol, classes, durations_s, task: as in `protocols.evaluate`, which refuses what is wrong.
    """
    if protocol == "segments":
        chosen = label_task(classes, task)
        return [_detected(predictions, segments, classes[chosen], chosen)]
    if protocol == "av-matching":
        chosen = label_task(classes, task)
        return [_matched(predictions, segments, classes[chosen], chosen, durations_s)]
    if protocol == "av-event":
        chosen = label_task(classes, task)
        names = classes[chosen] if BACKGROUND in classes[chosen] else (*classes[chosen], BACKGROUND)
        named, truth = named_seconds(
            predictions, segments, classes[chosen], task=chosen, durations_s=durations_s, allow_missing=True
        )
        return [named_table(chosen, np.concatenate(named), np.concatenate(truth), names, counted="seconds")]
    scored = {name: names for name, names in classes.items() if any(name in (p.scores or {}) for p in predictions)}
    aligned = align(predictions, segments, scored, allow_missing=True)
    found = []
    for name, scores in aligned.scores.items():
        labels = [segment.labels[name] for segment in aligned.segments]
        found.append(named_table(name, scores.argmax(axis=1), labels, classes[name], counted="segments"))
    return found


def named_table(task: str, predicted: ArrayLike, truth: ArrayLike, names: Sequence[str], *, counted: str) -> ClassTable:
    """Recall and precision of each class where one was named for each true one, and the confusion.

    Args:
        predicted, truth: `(n,)` class ids; a negative prediction named none.
        counted: what there are n of.
    """
    guess, labels = np.asarray(predicted, dtype=np.int64), np.asarray(truth, dtype=np.int64)
    pairs = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(pairs, (labels[guess >= 0], guess[guess >= 0]), 1)
    counts, named, right = np.bincount(labels, minlength=len(names)), pairs.sum(axis=0), pairs.diagonal()
    kept = np.flatnonzero((counts > 0) | (named > 0)).tolist()
    columns = {
        f"true {counted}": tuple(counts[kept].tolist()),
        f"predicted {counted}": tuple(named[kept].tolist()),
        "recall": _shares(right[kept], counts[kept]),
        "precision": _shares(right[kept], named[kept]),
    }
    return ClassTable(task, tuple(names[k] for k in kept), columns, pairs[np.ix_(kept, kept)])


def _detected(
    predictions: Sequence[Prediction], segments: Sequence[Segment], names: Sequence[str], task: str
) -> ClassTable:
    items = {segment.item_id for segment in segments} | {prediction.item_id for prediction in predictions}
    true_labels = np.array([segment.labels[task] for segment in segments], dtype=np.int64)
    truth = Detections(tuple(s.item_id for s in segments), np.array([s.span for s in segments]), true_labels)
    predicted = detections(predictions, names, items)
    precise = average_precision(predicted, truth, (*THRESHOLDS, AT_IOU))
    kept = sorted({*truth.labels.tolist(), *predicted.labels.tolist()})
    ranked = predicted.best_first()
    found = np.array([matched(ranked.of_class(k), truth.of_class(k), [AT_IOU]).sum() for k in kept], dtype=np.int64)
    counts = np.array([len(truth.of_class(k)) for k in kept], dtype=np.int64)
    claimed = np.array([len(predicted.of_class(k)) for k in kept], dtype=np.int64)
    columns = {
        "true segments": tuple(counts.tolist()),
        "predicted segments": tuple(claimed.tolist()),
        "AP": tuple(float(np.mean(precise[k][:-1])) if k in precise else None for k in kept),
        f"AP@{AT_IOU:g}": tuple(precise[k][-1] if k in precise else None for k in kept),
        f"recall@{AT_IOU:g}": _shares(found, counts),
        f"precision@{AT_IOU:g}": _shares(found, claimed),
    }
    return ClassTable(task, tuple(names[k] for k in kept), columns)


def _matched(
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    names: Sequence[str],
    task: str,
    durations_s: Mapping[str, float],
) -> ClassTable:
    answered = {prediction.query_id for prediction in predictions}
    by_class: dict[int, list[Segment]] = {}
    for segment in segments:
        if segment.id in answered and task in segment.labels:
            by_class.setdefault(segment.labels[task], []).append(segment)
    kept = sorted(by_class)
    found = []
    for label in kept:
        own = {segment.id for segment in by_class[label]}
        answers = [prediction for prediction in predictions if prediction.query_id in own]
        found.append(matching_metrics(answers, by_class[label], durations_s=durations_s))
    columns: dict[str, tuple[float | None, ...]] = {"clips": tuple(each["num_segments"] for each in found)}
    for direction in DIRECTIONS:
        columns[f"exact {direction}"] = tuple(each["accuracy"].get(direction) for each in found)
        columns[f"overlap {direction}"] = tuple(each["overlap"].get(direction) for each in found)
    return ClassTable(task, tuple(names[k] for k in kept), columns)


def _shares(right: NDArray[np.int64], of: NDArray[np.int64]) -> tuple[float | None, ...]:
    return tuple(float(r / n) if n else None for r, n in zip(right, of, strict=True))
