"""Audio-visual events: are seconds named rightly, and are excerpts found exactly in the other modality.

Tian et al., ECCV 2018, on AVE. Event localization counts the seconds whose class is right, over all clips and with
background as a class like any other; weakly supervised heads are measured alike. Matching counts the clips whose
predicted window is the true one; its length is given, so a window is right where its start is.

A second is named by the prediction whose span holds its middle, by the surest where several do; without a label, or
with the class `background`, it is background. A second that no prediction names is wrong. All values are shares in
[0, 1] or counts, NaN where nothing was there to be counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidloc.core.records import Prediction, Segment
from vidloc.errors import OptionError

BACKGROUND = "background"
UNNAMED = -1
DIRECTIONS = ("a2v", "v2a")

Metrics = dict[str, Any]
Labels = NDArray[np.int64]


def second_accuracy(predicted: Sequence[ArrayLike], truth: Sequence[ArrayLike], *, background: int) -> Metrics:
    """Shares of seconds named rightly.

    Args:
        predicted, truth: class of every second, `(seconds,)` by clip; `UNNAMED` is never right.
        background: the class of seconds without an event.

    Returns:
        `accuracy` over all seconds, over those of events and of background, over all of the clips that are not one
        event throughout (`partial_accuracy`), and the mean of the classes' recalls.

    Raises:
        ValueError: a clip has other seconds in `predicted` than in `truth`.
    """
    pairs = [
        (np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)) for a, b in zip(predicted, truth, strict=True)
    ]
    if any(a.shape != b.shape for a, b in pairs):
        raise ValueError("a clip has another number of seconds in the predictions than in the truth")
    right = np.concatenate([a == b for a, b in pairs]) if pairs else np.empty(0, dtype=bool)
    labels = np.concatenate([b for _, b in pairs]) if pairs else np.empty(0, dtype=np.int64)
    partial = np.concatenate([np.full(len(b), bool((b == background).any())) for _, b in pairs] or [labels == 0])
    recalls = [_share(right[labels == label]) for label in np.unique(labels)]
    return {
        "accuracy": _share(right),
        "event_accuracy": _share(right[labels != background]),
        "background_accuracy": _share(right[labels == background]),
        "partial_accuracy": _share(right[partial]),
        "mean_class_recall": float(np.mean(recalls)) if recalls else float("nan"),
    }


def exact_match(predicted: ArrayLike, truth: ArrayLike, lengths: ArrayLike) -> Metrics:
    """Share of windows found exactly, and of the seconds of true windows that predicted ones cover.

    Args:
        predicted, truth: `(clips,)` first second of each window.
        lengths: `(clips,)` seconds of each window.
    """
    starts, wanted, long = (np.asarray(values, dtype=np.int64) for values in (predicted, truth, lengths))
    covered = np.clip(long - np.abs(starts - wanted), 0, None)
    overlap = float(covered.sum() / long.sum()) if long.sum() else float("nan")
    return {"accuracy": _share(starts == wanted), "overlap": overlap}


def event_metrics(
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    names: Sequence[str],
    *,
    task: str,
    durations_s: Mapping[str, float],
    allow_missing: bool = False,
) -> Metrics:
    """Metrics of event localization; a segment is the event of its clip, its prediction one per row of the clip.

    Args:
        names: classes; the last is background where it is called that, else background comes after the last.
        durations_s: duration by item; a clip has as many seconds as it lasts, rounded.
        allow_missing: leave out the clips without any prediction, and count them.

    Raises:
        OptionError: a prediction of no clip or of an unknown class, clips without predictions, labels or duration.
    """
    named, truth = named_seconds(
        predictions, segments, names, task=task, durations_s=durations_s, allow_missing=allow_missing
    )
    background = _background(names)
    unnamed = sum(int((labels == UNNAMED).sum()) for labels in named)
    return {
        "num_segments": len(named),
        "num_missing": len(segments) - len(named),
        "num_seconds": sum(map(len, truth)),
        "num_seconds_without_prediction": unnamed,
        **second_accuracy(named, truth, background=background),
        "recall": _recalls(named, truth, names, background),
    }


def named_seconds(
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    names: Sequence[str],
    *,
    task: str,
    durations_s: Mapping[str, float],
    allow_missing: bool = False,
) -> tuple[list[Labels], list[Labels]]:
    """Predicted and true class of every second, `(seconds,)` by clip; the arguments are those of `event_metrics`."""
    answers = _by_clip(predictions, segments, allow_missing=allow_missing)
    kept = [segment for segment in segments if segment.id in answers]
    counts = [_num_seconds(segment, durations_s) for segment in kept]
    background = _background(names)
    truth = [_true_seconds(s, _label(s, task), n, background) for s, n in zip(kept, counts, strict=True)]
    index = {name: k for k, name in enumerate(names)}
    named = [_named_seconds(answers[s.id], n, index, background) for s, n in zip(kept, counts, strict=True)]
    return named, truth


def matching_metrics(
    predictions: Sequence[Prediction],
    segments: Sequence[Segment],
    *,
    durations_s: Mapping[str, float],
    allow_missing: bool = False,
) -> Metrics:
    """Metrics of matching: `a2v` searches the pictures for the sound of the segment, `v2a` the other way round.

    Clips that are one event from end to end leave nothing to be found; they are left out and counted.

    Raises:
        OptionError: a prediction of no clip or without direction, two of one direction, or clips without predictions.
    """
    partial = [s for s in segments if _length(s) < _num_seconds(s, durations_s)]
    answers = _by_clip(predictions, segments, allow_missing=allow_missing)
    result: Metrics = {
        "num_segments": sum(segment.id in answers for segment in partial),
        "num_missing": sum(segment.id not in answers for segment in segments),
        "num_full_length": len(segments) - len(partial),
        "accuracy": {},
        "overlap": {},
    }
    for direction in DIRECTIONS:
        starts = {clip: start for clip, own in answers.items() if (start := _start(own, direction)) is not None}
        kept = [segment for segment in partial if segment.id in starts]
        lacking = [s.id for s in partial if s.id in answers and s.id not in starts]
        if lacking and kept:
            raise OptionError(f"clip {lacking[0]!r} has no prediction of direction {direction}, which others have.")
        if kept:
            match = exact_match(
                [starts[s.id] for s in kept], [round(s.span.start_s) for s in kept], [*map(_length, kept)]
            )
            for name, value in match.items():
                result[name][direction] = value
    for name in ("accuracy", "overlap"):
        if set(result[name]) == set(DIRECTIONS):
            result[name]["mean"] = float(np.mean([result[name][direction] for direction in DIRECTIONS]))
    return result


def random_event_metrics(
    segments: Sequence[Segment], names: Sequence[str], *, task: str, durations_s: Mapping[str, float]
) -> Metrics:
    """What naming every second at random scores on average: one in as many as there are classes."""
    share = 1 / (_background(names) + 1)
    present = {_label(segment, task) for segment in segments} | {_background(names)}
    kinds = ("accuracy", "event_accuracy", "background_accuracy", "partial_accuracy", "mean_class_recall")
    return {
        "num_segments": len(segments),
        "num_missing": 0,
        "num_seconds": sum(_num_seconds(segment, durations_s) for segment in segments),
        "num_seconds_without_prediction": 0,
        **dict.fromkeys(kinds, share),
        "recall": {_name(names, label): share for label in sorted(present)},
    }


def constant_event_metrics(
    segments: Sequence[Segment],
    train_segments: Sequence[Segment],
    names: Sequence[str],
    *,
    task: str,
    durations_s: Mapping[str, float],
) -> Metrics:
    """What always naming the class of most training seconds scores."""
    background, counts = _background(names), Counter[int]()
    for segment in train_segments:
        count = _num_seconds(segment, durations_s)
        counts.update(_true_seconds(segment, _label(segment, task), count, background).tolist())
    guess = counts.most_common(1)[0][0]
    label = None if guess == background else names[guess]
    predictions = [
        Prediction(item_id=s.item_id, span=(0.0, durations_s[s.item_id]), score=1.0, label=label, query_id=s.id)
        for s in segments
    ]
    return event_metrics(predictions, segments, names, task=task, durations_s=durations_s)


def random_matching_metrics(segments: Sequence[Segment], *, durations_s: Mapping[str, float]) -> Metrics:
    """What a start drawn at random from those that fit scores on average."""
    partial = [(s, _num_seconds(s, durations_s)) for s in segments if _length(s) < _num_seconds(s, durations_s)]
    drawn = []
    for segment, count in partial:
        starts = np.arange(count - _length(segment) + 1)
        covered = np.clip(_length(segment) - np.abs(starts - round(segment.span.start_s)), 0, None)
        drawn.append((1 / len(starts), float(covered.mean())))
    shares, seconds = np.array(drawn).reshape(-1, 2).T
    total = sum(_length(segment) for segment, _ in partial)
    overlap = float(seconds.sum() / total) if total else float("nan")
    return _both_ways(segments, partial, _share(shares), overlap)


def constant_matching_metrics(
    segments: Sequence[Segment], train_segments: Sequence[Segment], *, durations_s: Mapping[str, float]
) -> Metrics:
    """What the most frequent start of training that fits scores; 0 where none does."""
    counts = Counter(round(s.span.start_s) for s in train_segments if _length(s) < _num_seconds(s, durations_s))
    partial = [(s, _num_seconds(s, durations_s)) for s in segments if _length(s) < _num_seconds(s, durations_s)]
    guesses = []
    for segment, count in partial:
        fitting = [(n, -start) for start, n in counts.items() if start <= count - _length(segment)]
        guesses.append(-max(fitting)[1] if fitting else 0)
    match = exact_match(guesses, [round(s.span.start_s) for s, _ in partial], [_length(s) for s, _ in partial])
    return _both_ways(segments, partial, match["accuracy"], match["overlap"])


def _both_ways(segments: Sequence[Segment], partial: Sequence[Any], accuracy: float, overlap: float) -> Metrics:
    ways = (*DIRECTIONS, "mean")
    return {
        "num_segments": len(partial),
        "num_missing": 0,
        "num_full_length": len(segments) - len(partial),
        "accuracy": dict.fromkeys(ways, accuracy),
        "overlap": dict.fromkeys(ways, overlap),
    }


def _by_clip(
    predictions: Sequence[Prediction], segments: Sequence[Segment], *, allow_missing: bool
) -> dict[str, list[Prediction]]:
    known = {segment.id for segment in segments}
    answers: defaultdict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        query = prediction.query_id or ""
        if query not in known:
            raise OptionError(
                f"a prediction answers {query or 'no annotation'!r}, which is none of the {len(known)} clips "
                "evaluated. Were they made for another split or protocol?"
            )
        answers[query].append(prediction)
    missing = [segment.id for segment in segments if segment.id not in answers]
    if not answers or (missing and not allow_missing):
        raise OptionError(
            f"{len(missing)} of {len(segments)} clips have no prediction, such as {', '.join(missing[:3]) or 'none'}. "
            "Add them to the file (vidloc predict makes one that accounts for clips without rows)."
        )
    return dict(answers)


def _num_seconds(segment: Segment, durations_s: Mapping[str, float]) -> int:
    if segment.item_id not in durations_s:
        raise OptionError(
            f"the duration of item {segment.item_id!r} is not known, so its seconds cannot be counted. "
            "Use a dataset that states durations, such as --dataset ave."
        )
    return round(durations_s[segment.item_id])


def _length(segment: Segment) -> int:
    return round(segment.span.end_s) - round(segment.span.start_s)


def _background(names: Sequence[str]) -> int:
    return len(names) - 1 if names and names[-1] == BACKGROUND else len(names)


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else BACKGROUND


def _label(segment: Segment, task: str) -> int:
    if task not in segment.labels:
        raise OptionError(f"clip {segment.id!r} has no {task} label, so there is nothing to compare with.")
    return segment.labels[task]


def _true_seconds(segment: Segment, label: int, count: int, background: int) -> Labels:
    middles = np.arange(count) + 0.5
    inside = (middles >= segment.span.start_s) & (middles < segment.span.end_s)
    return np.where(inside, label, background).astype(np.int64)


def _named_seconds(predictions: Sequence[Prediction], count: int, index: Mapping[str, int], background: int) -> Labels:
    labels = np.full(count, UNNAMED, dtype=np.int64)
    middles = np.arange(count) + 0.5
    for prediction in sorted(predictions, key=lambda p: p.score):
        if prediction.label not in (None, BACKGROUND, *index):
            raise OptionError(
                f"a prediction of clip {prediction.query_id!r} has the label {prediction.label!r}, which is no class "
                "of the annotations. Were they made with other classes?"
            )
        inside = (middles >= prediction.span.start_s) & (middles < prediction.span.end_s)
        labels[inside] = index.get(prediction.label or BACKGROUND, background)
    return labels


def _recalls(
    named: Sequence[Labels], truth: Sequence[Labels], names: Sequence[str], background: int
) -> dict[str, float]:
    predicted, labels = np.concatenate(named), np.concatenate(truth)
    return {
        _name(names, label): _share(predicted[labels == label] == label)
        for label in range(background + 1)
        if (labels == label).any()
    }


def _start(predictions: Sequence[Prediction], direction: str) -> int | None:
    found = [prediction for prediction in predictions if prediction.direction == direction]
    if len(found) > 1:
        raise OptionError(
            f"clip {found[0].query_id!r} has {len(found)} predictions of direction {direction}; give one."
        )
    if without := next((p for p in predictions if p.direction is None), None):
        raise OptionError(
            f"a prediction of clip {without.query_id!r} does not say which way it looked: "
            f"give it a direction, {' or '.join(DIRECTIONS)}."
        )
    return round(found[0].span.start_s) if found else None


def _share(right: Any) -> float:
    return float(np.mean(right)) if np.size(right) else float("nan")
