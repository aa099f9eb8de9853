"""Which samples of a split a report shows, and everything known of each of them over time."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from vidloc.core.lanes import Bar, Bars, Lane, Mark, Marks
from vidloc.core.records import Prediction
from vidloc.datasets.base import Annotations
from vidloc.heads.base import Head, Kept, Sample
from vidloc.pipelines.evaluate import headline
from vidloc.pipelines.samples import SplitSamples
from vidloc.pipelines.setting import Notice, Setting

Choice = Literal["worst", "at random", "best"]
_SEED = 0
_DIRECTIONS = {"a2v": "found in pictures (a2v)", "v2a": "found in sound (v2a)"}


@dataclass(frozen=True)
class Shown:
    """A sample of a report.

    Attributes:
        choice: why it is shown.
        score: the head's headline metric on it alone, `None` where it has no truth.
        lanes: what is drawn, from top to bottom.
        said: what it is and was taken for, where that is said of a segment as a whole.
    """

    sample: Sample
    choice: Choice
    score: float | None
    lanes: tuple[Lane, ...]
    said: str = ""


def shown_samples(
    setting: Setting,
    head: Head,
    found: SplitSamples,
    predictions: Sequence[Prediction] | None,
    kept: Kept,
    *,
    count: int,
    notice: Notice,
) -> list[Shown]:
    """The worst, the best and some other samples of a split, with their lanes.

    Args:
        predictions: of the whole split; `None` where there are none yet: samples are then drawn at random, and
            predicted here.
        kept: what the training kept for reports.
        count: most samples.
    """
    scores = _scores(found.samples, predictions, head, setting.annotations)
    chosen = _chosen(found.samples, scores, count, head.unit)
    samples = tuple(sample for sample, _ in chosen)
    bank = setting.bank(SplitSamples(samples, found.record), notice)
    answers, lanes = list(predictions or ()), dict[int, tuple[Lane, ...]]()
    head.eval()
    with torch.inference_mode():
        for batch in bank.batches(setting.options.batch):
            lanes |= {id(s): own for s, own in zip(batch.samples, head.lanes(batch, kept), strict=True)}
            answers += [] if predictions is not None else head.predict(batch)
    of_sample = _by_sample(answers, head.unit)
    result = []
    for sample, choice in chosen:
        answered = of_sample.get(_key(sample, head.unit), [])
        own = lanes[id(sample)]
        # Where a segment is given and named as a whole, there is nothing to see unless the head has something to show.
        drawn = (*_truth(sample, head), *_predicted(answered), *own) if own or head.task != "recognition" else ()
        score = scores.get(_key(sample, head.unit))
        result.append(Shown(sample, choice, score, drawn, _said(sample, answered, head)))
    return result


def _chosen(
    samples: Sequence[Sample], scores: Mapping[str, float], count: int, unit: str
) -> list[tuple[Sample, Choice]]:
    """A third worst, a third best, the others drawn from the rest with a fixed seed; all at random without scores."""
    ids = {id(sample): scores.get(_key(sample, unit)) for sample in samples}
    rated = sorted((s for s in samples if ids[id(s)] is not None), key=lambda s: (ids[id(s)] or 0.0, s.item_id, s.id))
    each = min(count // 3, len(rated) // 2)
    worst, best = rated[:each], rated[len(rated) - each :]
    taken = {id(sample) for sample in (*worst, *best)}
    rest = [sample for sample in samples if id(sample) not in taken]
    drawn = random.Random(_SEED).sample(rest, min(count - 2 * each, len(rest)))  # noqa: S311  (no secret)
    return [
        *((sample, "worst") for sample in worst),
        *((sample, "at random") for sample in drawn),
        *((sample, "best") for sample in reversed(best)),
    ]


def _scores(
    samples: Sequence[Sample], predictions: Sequence[Prediction] | None, head: Head, annotations: Annotations
) -> dict[str, float]:
    """The headline metric of each sample that has true labels; empty without predictions of the whole split."""
    if predictions is None:
        return {}
    of_sample = _by_sample(predictions, head.unit)
    found = {}
    for sample in samples:
        key = _key(sample, head.unit)
        segments = [segment for segment in sample.segments if segment.labels]
        if not segments or (head.task != "detection" and key not in of_sample):
            continue
        if head.task == "recognition":
            found[key] = _named_rightly(sample, of_sample[key][0])
        elif head.task != "crossmodal" or not _whole(sample, annotations):
            found[key] = headline(head.task, annotations, of_sample.get(key, []), segments, label_task=head.label_task)
    return found


def _named_rightly(sample: Sample, answer: Prediction) -> float:
    """Share of the tasks whose best class is the true one."""
    scores = answer.scores or {}
    tasks = [task for task in scores if task in sample.segments[0].labels]
    right = [_best(scores[task]) == sample.segments[0].labels[task] for task in tasks]
    return sum(right) / max(len(right), 1)


def _whole(sample: Sample, annotations: Annotations) -> bool:
    """Whether the event fills its clip, so that nothing is there to be found."""
    start, end = (round(second) for second in sample.segments[0].span)
    return end - start >= round(annotations.durations_s.get(sample.item_id, float("inf")))


def _truth(sample: Sample, head: Head) -> list[Lane]:
    lanes: list[Lane] = []
    if sample.segments:
        bars = tuple(Bar(s.span, _named(s.labels, head)) for s in sample.segments)
        lanes.append(Bars("ground truth", bars))
    if sample.points:
        lanes.append(Marks("single frames", tuple(Mark(p.time_s, _named(p.labels, head)) for p in sample.points)))
    return lanes


def _predicted(answers: Sequence[Prediction]) -> list[Lane]:
    """Bars of the answers in time; background has none, and of given segments the span tells nothing."""
    lanes: list[Lane] = []
    if any(answer.scores is not None for answer in answers):
        return lanes
    if any(answer.direction is not None for answer in answers):
        for direction, name in _DIRECTIONS.items():
            own = [answer for answer in answers if answer.direction == direction]
            lanes.append(Bars(name, tuple(Bar(answer.span, "", answer.score) for answer in own)))
        return lanes
    named = [answer for answer in answers if answer.label is not None]
    return [Bars("predictions", tuple(Bar(a.span, a.label or "", a.score) for a in named))]


def _said(sample: Sample, answers: Sequence[Prediction], head: Head) -> str:
    """True and predicted classes of a segment that was named as a whole."""
    if len(answers) != 1 or answers[0].scores is None:
        return ""
    best = {task: head.labels[task][_best(values)] for task, values in answers[0].scores.items()}
    true = _named(sample.segments[0].labels, head) if sample.segments else ""
    return f"predicted: {' '.join(best.values())}" + (f"; true: {true}" if true else "")


def _named(labels: Mapping[str, int], head: Head) -> str:
    tasks = [head.label_task] if head.label_task in labels else [task for task in head.labels if task in labels]
    return " ".join(head.labels[task][labels[task]] for task in tasks if labels[task] < len(head.labels[task]))


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda k: values[k])


def _by_sample(predictions: Sequence[Prediction], unit: str) -> dict[str, list[Prediction]]:
    found: defaultdict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        found[prediction.item_id if unit == "item" else prediction.query_id or ""].append(prediction)
    return found


def _key(sample: Sample, unit: str) -> str:
    return sample.item_id if unit == "item" else sample.id
