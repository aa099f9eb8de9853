"""The official metrics of a corpus, from predictions and annotated segments; the one entry that pipelines use.

- `epic55`, `epic100`: the official metrics of EPIC-KITCHENS, from verb and noun scores of given segments;
- `egtea`: `recognition` of verb, noun and action, for EGTEA Gaze+, whose results are of 106 actions: top-1 in some
  papers, mean class accuracy in others. A head without action scores is given those of `actions.known_actions`;
- `recognition`: top-1, top-5 and mean class accuracy of every task, from scores of given segments;
- `av-event`, `av-matching`: seconds of clips named, and excerpts of one modality found in the other
  (`metrics.audio_visual`);
- `segments`: detection in whole items: mean AP, recall and precision at temporal IoU, and frame accuracy.

All values are shares in [0, 1] or counts. A number that is not defined on the segments at hand (no many-shot class
occurs, say) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.records import Prediction, Segment
from vidloc.errors import OptionError, UnknownNameError, did_you_mean
from vidloc.metrics.actions import OFFICIAL_CUT, ActionRanking, PriorKind, action_prior, known_actions, rank_actions
from vidloc.metrics.audio_visual import event_metrics, matching_metrics
from vidloc.metrics.localization import (
    Detections,
    Metrics,
    frame_accuracy,
    frame_times,
    labels_at,
    mean_average_precision,
    recall_precision,
)
from vidloc.metrics.recognition import epic55, epic100, recognition

RECOGNITION_PROTOCOLS = ("epic55", "epic100", "egtea", "recognition")
AUDIO_VISUAL_PROTOCOLS = ("av-event", "av-matching")
PROTOCOLS = (*RECOGNITION_PROTOCOLS, *AUDIO_VISUAL_PROTOCOLS, "segments")
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
STEP_S = 0.1
_PAIR_TASKS = ("verb", "noun")
_ACTION_PARTS = "action_parts"
_TOP = 5

Groups = Mapping[str, frozenset[Any]]
Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, eq=False)
class AlignedScores:
    """Scores in the order of the segments they answer.

    Attributes:
        segments: those that have a prediction.
        scores: `(segments, classes)` by task.
        missing: ids of the segments left out.
    """

    segments: tuple[Segment, ...]
    scores: Mapping[str, NDArray[np.float64]]
    missing: tuple[str, ...]


def evaluate(
    protocol: str,
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    *,
    classes: Classes,
    groups: Groups | None = None,
    prior: PriorKind = "none",
    prior_counts: ArrayLike | None = None,
    cut: int | None = OFFICIAL_CUT,
    allow_missing: bool = False,
    items: Iterable[str] | None = None,
    durations_s: Mapping[str, float] | None = None,
    task: str | None = None,
) -> Metrics:
    """Score predictions against annotated segments.

    Args:
        protocol: one of `PROTOCOLS`; empty means `recognition`.
        classes: class names by task.
        groups: the corpus's named sets of classes and participants.
        prior: how training counts of (verb, noun) pairs weigh actions, with `prior_counts` `(verbs, nouns)`.
        cut: best verbs and nouns of a segment that may form actions; `None` for all (see `metrics.actions`).
        allow_missing: evaluate the segments that have predictions, if some have none; their number is reported.
        items: all items of the split, for `segments`; those without any true segment count as well, and predictions of
            other items are refused. `None` takes the items that have a segment, true or predicted.
        durations_s: duration by item, for the audio-visual protocols and `segments`, where an item without one is taken
            to end with its last segment, true or predicted, and such items are counted.
        task: task of the labels, for `segments`; may be left out where there is only one.

    Returns:
        Metrics by name, with `num_segments` and, for recognition, `num_missing`.

    Raises:
        UnknownNameError: no such protocol.
        OptionError: predictions that do not belong to the segments, segments without predictions or labels.
    """
    if protocol == "segments":
        chosen = label_task(classes, task)
        return _detection(predictions, segments, classes[chosen], chosen, items, durations_s or {})
    if protocol in AUDIO_VISUAL_PROTOCOLS:
        if protocol == "av-matching":
            return defined(
                matching_metrics(predictions, segments, durations_s=durations_s or {}, allow_missing=allow_missing)
            )
        chosen = label_task(classes, task)
        return defined(
            event_metrics(
                predictions,
                segments,
                classes[chosen],
                task=chosen,
                durations_s=durations_s or {},
                allow_missing=allow_missing,
            )
        )
    tasks = _tasks(protocol, predictions, classes)
    aligned = align(predictions, segments, {t: classes[t] for t in tasks if t in classes}, allow_missing=allow_missing)
    actions = None
    if set(_PAIR_TASKS) <= set(aligned.scores) and protocol.startswith("epic"):
        mu = action_prior(_given(prior_counts, prior), prior)
        actions = rank_actions(aligned.scores["verb"], aligned.scores["noun"], prior=mu, cut=cut, keep=_TOP)
    scores = aligned.scores
    if composes_actions(protocol, predictions):
        scores = {**scores, "action": _composed(protocol, scores, classes, groups or {})}
    result = recognition_metrics(protocol, scores, actions, aligned.segments, groups or {})
    return {"num_segments": len(aligned.segments), "num_missing": len(aligned.missing), **result}


def composes_actions(protocol: str, predictions: Sequence[Prediction]) -> bool:
    """Whether a protocol of numbered actions has to score them by verb and noun, as no prediction scores actions."""
    return protocol == "egtea" and not any("action" in (prediction.scores or {}) for prediction in predictions)


def recognition_metrics(
    protocol: str,
    scores: Mapping[str, NDArray[np.float64]],
    actions: ActionRanking | None,
    segments: Sequence[Segment],
    groups: Groups,
) -> Metrics:
    """The metrics of a recognition protocol from scores in the order of the segments.

    Args:
        actions: ranked pairs, needed by the EPIC protocols.

    Raises:
        UnknownNameError: no such protocol.
        OptionError: a segment's labels are withheld, or verb or noun are missing.
    """
    if protocol not in (*RECOGNITION_PROTOCOLS, ""):
        raise UnknownNameError(f"there is no evaluation protocol {protocol!r}. {did_you_mean(protocol, PROTOCOLS)}")
    labels = {task: _labels(segments, task) for task in scores}
    if not protocol.startswith("epic"):
        return defined(recognition(scores, labels))
    if actions is None:
        raise OptionError(f"protocol {protocol} needs classes for verb and noun, got: {', '.join(scores) or 'none'}.")
    if protocol == "epic55":
        many_shot = {task: groups.get(f"many_shot_{task}", frozenset()) for task in (*_PAIR_TASKS, "action")}
        return defined(epic55(scores, actions, labels, many_shot))
    tail = {task: groups[f"tail_{task}"] for task in _PAIR_TASKS if f"tail_{task}" in groups}
    unseen = groups.get("unseen_participants", frozenset())
    return defined(
        epic100(
            scores,
            actions,
            labels,
            unseen=[segment.group in unseen for segment in segments],
            tail=tail if len(tail) == len(_PAIR_TASKS) else None,
        )
    )


def align(
    predictions: Sequence[Prediction], segments: Sequence[Segment], classes: Classes, *, allow_missing: bool = False
) -> AlignedScores:
    """Bring predictions into the order of the segments they answer (`query_id` names a segment's `id`).

    Raises:
        OptionError: a prediction of no segment or without scores, two of one segment, or segments without any.
    """
    answers: dict[str, Prediction] = {}
    known = {segment.id for segment in segments}
    for prediction in predictions:
        query = prediction.query_id or ""
        if query not in known:
            raise OptionError(
                f"a prediction answers {query or 'no annotation'!r}, which is none of the {len(known)} segments "
                "evaluated. Were they made for another split or corpus?"
            )
        if query in answers:
            raise OptionError(f"segment {query!r} has two predictions; give one for each.")
        answers[query] = prediction
    missing = tuple(segment.id for segment in segments if segment.id not in answers)
    if not answers or (missing and not allow_missing):
        raise OptionError(
            f"{len(missing)} of {len(segments)} segments have no prediction, such as "
            f"{', '.join(missing[:3]) or 'none'}. Add them to the file (vidloc predict makes one that accounts for "
            "segments without rows), or in Python leave them out and count them with allow_missing=True."
        )
    kept = tuple(segment for segment in segments if segment.id in answers)
    scores = {
        task: np.array([_task_scores(answers[segment.id], task, len(names)) for segment in kept])
        for task, names in classes.items()
    }
    return AlignedScores(kept, scores, missing)


def label_task(classes: Classes, task: str | None) -> str:
    """The task whose labels are detected.

    Raises:
        OptionError: several tasks and none chosen, or one that does not exist.
    """
    if task is None and len(classes) == 1:
        return next(iter(classes))
    if task is None or task not in classes:
        raise OptionError(f"detection looks at one task; choose one of {', '.join(classes)}, got {task or 'none'}.")
    return task


def item_durations(
    items: Iterable[str], durations_s: Mapping[str, float], spans: Iterable[tuple[str, float]]
) -> tuple[dict[str, float], int]:
    """Duration of each item, and how many had to be guessed from the last end among `spans` (item, end)."""
    ends: dict[str, float] = {}
    for item, end in spans:
        ends[item] = max(ends.get(item, 0.0), end)
    wanted = list(items)
    return (
        {item: durations_s.get(item, ends.get(item, 0.0)) for item in wanted},
        sum(item not in durations_s for item in wanted),
    )


def detections(predictions: Sequence[Prediction], names: Sequence[str], items: set[str]) -> Detections:
    """Predicted segments as arrays, their classes as places in `names`.

    Raises:
        OptionError: a prediction of another class or item.
    """
    index = {name: k for k, name in enumerate(names)}
    for prediction in predictions:
        if prediction.label not in index:
            raise OptionError(
                f"a prediction of item {prediction.item_id!r} has the label {prediction.label!r}, which is no class of "
                "the annotations. Were they made with other classes?"
            )
        if prediction.item_id not in items:
            raise OptionError(
                f"there is a prediction of item {prediction.item_id!r}, which is not in the split evaluated."
            )
    return Detections(
        tuple(p.item_id for p in predictions),
        np.array([p.span for p in predictions]),
        np.array([index[str(p.label)] for p in predictions], dtype=np.int64),
        np.array([p.score for p in predictions]),
    )


def _tasks(protocol: str, predictions: Sequence[Prediction], classes: Classes) -> tuple[str, ...]:
    """Tasks that are to be scored by the predictions themselves."""
    if protocol.startswith("epic") or composes_actions(protocol, predictions):
        return _PAIR_TASKS
    if protocol == "egtea":  # a head of one output, the action, is complete as well
        return tuple(task for task in classes if any(task in (p.scores or {}) for p in predictions))
    return tuple(classes)


def _composed(
    protocol: str, scores: Mapping[str, NDArray[np.float64]], classes: Classes, groups: Groups
) -> NDArray[np.float64]:
    """Scores of the classes of `action` from those of verb and noun."""
    parts, num_actions = groups.get(_ACTION_PARTS, frozenset()), len(classes.get("action", ()))
    if not set(_PAIR_TASKS) <= set(scores) or not num_actions or len(parts) != num_actions:
        raise OptionError(
            f"protocol {protocol} needs classes for verb, noun and action, and groups[{_ACTION_PARTS!r}] with the verb "
            f"and noun of each action; got: {', '.join(classes) or 'none'}, and the parts of {len(parts)} actions."
        )
    return known_actions(scores["verb"], scores["noun"], parts)


def _detection(
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    names: Sequence[str],
    task: str,
    items: Iterable[str] | None,
    durations_s: Mapping[str, float],
) -> Metrics:
    truth = Detections(
        tuple(s.item_id for s in segments), np.array([s.span for s in segments]), _labels(segments, task)
    )
    everything = sorted({*truth.items, *((p.item_id for p in predictions) if items is None else items)})
    predicted = detections(predictions, names, set(everything))
    maps = mean_average_precision(predicted, truth, THRESHOLDS)
    rates = {t: recall_precision(predicted, truth, t) for t in THRESHOLDS}
    agnostic = {t: recall_precision(predicted, truth, t, with_class=False) for t in THRESHOLDS}
    ends = [(i, float(end)) for d in (truth, predicted) for i, end in zip(d.items, d.spans[:, 1], strict=True)]
    durations, num_guessed = item_durations(everything, durations_s, ends)
    result: Metrics = {
        "num_segments": len(truth),
        "num_items": len(everything),
        "num_items_without_prediction": len(set(everything) - set(predicted.items)),
        "num_items_of_guessed_duration": num_guessed,
        "frame_accuracy": _frames(predicted, truth, durations),
        "detection": maps,
        "recall": {f"{t:g}": recall for t, (recall, _) in rates.items()},
        "precision": {f"{t:g}": precision for t, (_, precision) in rates.items()},
        "recall_any_class": {f"{t:g}": recall for t, (recall, _) in agnostic.items()},
    }
    return defined(result)


def _frames(predicted: Detections, truth: Detections, durations_s: Mapping[str, float]) -> Metrics:
    def frames(detections: Detections) -> list[NDArray[np.int64]]:
        rows_of, none = detections.of_item(), np.empty(0, dtype=np.int64)
        found = []
        for item, duration in durations_s.items():
            rows = rows_of.get(item, none)
            scores = None if detections.scores is None else detections.scores[rows]
            times = frame_times(duration, STEP_S)
            found.append(labels_at(times, detections.spans[rows], detections.labels[rows], scores))
        return found

    return frame_accuracy(frames(predicted), frames(truth))


def _labels(segments: Sequence[Segment], task: str) -> NDArray[np.int64]:
    withheld = next((segment for segment in segments if task not in segment.labels), None)
    if withheld is not None:
        raise OptionError(
            f"segment {withheld.id!r} has no {task} label, so there is nothing to compare with. Where a benchmark "
            "withholds its labels, write a submission file instead (vidloc submit)."
        )
    return np.array([segment.labels[task] for segment in segments], dtype=np.int64)


def _task_scores(prediction: Prediction, task: str, num_classes: int) -> tuple[float, ...]:
    scores = (prediction.scores or {}).get(task)
    if scores is None or len(scores) != num_classes:
        found = "none" if scores is None else str(len(scores))
        raise OptionError(
            f"the prediction of {prediction.query_id!r} needs {num_classes} {task} scores, one per class, "
            f"found {found}."
        )
    return scores


def _given(counts: ArrayLike | None, prior: PriorKind) -> ArrayLike:
    if counts is None and prior != "none":
        raise OptionError(f"the prior {prior!r} needs counts of training pairs (prior_counts).")
    return () if counts is None else counts


def defined(metrics: Metrics) -> Metrics:
    """Without the numbers that are not defined (NaN)."""
    result: Metrics = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            result[name] = defined(value)
        elif not (isinstance(value, float) and math.isnan(value)):
            result[name] = value
    return result
