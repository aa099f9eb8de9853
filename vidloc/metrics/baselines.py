"""What guessing scores: chance, and always the most frequent class; printed beside every trained head.

Both return the metrics of `protocols.evaluate`, so that a table can set them side by side.

- In the audio-visual protocols both are computed: the mean over all guesses, and the constant class or start.
- `chance` draws scores (or segments) at random and averages over enough draws that the mean is steady.
- `most_frequent` gives every segment the classes in order of their training counts, and the pairs of the action task in
  order of theirs. In detection it gives every frame the class most frames of the training items with segments have,
  background included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import Prediction, Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.metrics.actions import ActionRanking, pair_counts, rank_actions
from vidloc.metrics.audio_visual import (
    constant_event_metrics,
    constant_matching_metrics,
    random_event_metrics,
    random_matching_metrics,
)
from vidloc.metrics.localization import BACKGROUND, Metrics, frame_times, labels_at
from vidloc.metrics.protocols import (
    AUDIO_VISUAL_PROTOCOLS,
    STEP_S,
    Classes,
    Groups,
    defined,
    evaluate,
    item_durations,
    label_task,
    recognition_metrics,
)

_STEADY_DRAWS = 10_000  # random segments behind a mean: its standard error is then at most 0.5 percent
_TOP = 5


def chance(
    protocol: str,
    segments: Sequence[Segment],
    *,
    classes: Classes,
    train_segments: Sequence[Segment],
    groups: Groups | None = None,
    items: Iterable[str] | None = None,
    durations_s: Mapping[str, float] | None = None,
    task: str | None = None,
    seed: int = 0,
) -> Metrics:
    """Metrics of random guessing.

    In detection an item gets as many segments as a training item has on average, as long as training segments are, at
    random places, of random class and score.

    Args:
        protocol, classes, groups, items, durations_s, task: as for `protocols.evaluate`.
        train_segments: what the number and lengths of random segments are taken from, in detection.

    Raises:
        OptionError: no segments, or in detection no training segments.
    """
    if not segments:
        raise OptionError("there are no segments to guess.")
    if protocol in AUDIO_VISUAL_PROTOCOLS:
        if protocol == "av-matching":
            return defined(random_matching_metrics(segments, durations_s=durations_s or {}))
        chosen = label_task(classes, task)
        return defined(random_event_metrics(segments, classes[chosen], task=chosen, durations_s=durations_s or {}))
    random = np.random.default_rng(seed)
    draws = -(-_STEADY_DRAWS // len(segments))
    if protocol == "segments":
        # A detection draw is dear and its numbers are near zero; a tenth of the draws tells as much.
        names, known = classes[label_task(classes, task)], durations_s or {}
        wanted = sorted({segment.item_id for segment in segments} | set(items or ()))
        guesses = (
            _random_detections(segments, train_segments, names, wanted, known, random) for _ in range(-(-draws // 10))
        )
        return _mean(
            [
                evaluate(protocol, g, segments, classes=classes, items=wanted, durations_s=durations_s, task=task)
                for g in guesses
            ]
        )
    results = []
    for _ in range(draws):
        scores = {t: random.random((len(segments), len(names))) for t, names in classes.items()}
        pairs = rank_actions(scores["verb"], scores["noun"], keep=_TOP) if _is_epic(protocol) else None
        results.append(recognition_metrics(protocol, scores, pairs, segments, groups or {}))
    return {"num_segments": len(segments), "num_missing": 0, **_mean(results)}


def most_frequent(
    protocol: str,
    segments: Sequence[Segment],
    *,
    classes: Classes,
    train_segments: Sequence[Segment],
    groups: Groups | None = None,
    items: Iterable[str] | None = None,
    durations_s: Mapping[str, float] | None = None,
    task: str | None = None,
) -> Metrics:
    """Metrics of the constant guess that knows the training labels; arguments as for `chance`.

    Raises:
        OptionError: no training segments.
    """
    if not train_segments:
        raise OptionError("the most frequent class needs training segments.")
    if protocol in AUDIO_VISUAL_PROTOCOLS:
        return _constant_audio_visual(protocol, segments, train_segments, classes, task, durations_s or {})
    if protocol == "segments":
        chosen = label_task(classes, task)
        guess = _most_frequent_frame(train_segments, chosen, durations_s or {})
        wanted = {s.item_id for s in segments} | set(items or ())
        durations, _ = item_durations(wanted, durations_s or {}, ((s.item_id, s.span.end_s) for s in segments))
        predictions = [
            Prediction(item_id=item, span=Span(0.0, end), score=1.0, label=classes[chosen][guess])
            for item, end in durations.items()
            if guess != BACKGROUND
        ]
        return evaluate(
            protocol, predictions, segments, classes=classes, items=wanted, durations_s=durations_s, task=task
        )
    scores = {
        t: _constant(Counter(s.labels[t] for s in train_segments), names, segments) for t, names in classes.items()
    }
    actions = _constant_actions(train_segments, classes, len(segments)) if _is_epic(protocol) else None
    metrics = recognition_metrics(protocol, scores, actions, segments, groups or {})
    return {"num_segments": len(segments), "num_missing": 0, **metrics}


def _constant_audio_visual(
    protocol: str,
    segments: Sequence[Segment],
    train_segments: Sequence[Segment],
    classes: Classes,
    task: str | None,
    durations_s: Mapping[str, float],
) -> Metrics:
    if protocol == "av-matching":
        return defined(constant_matching_metrics(segments, train_segments, durations_s=durations_s))
    chosen = label_task(classes, task)
    return defined(
        constant_event_metrics(segments, train_segments, classes[chosen], task=chosen, durations_s=durations_s)
    )


def _is_epic(protocol: str) -> bool:
    return protocol.startswith("epic")


def _constant(counts: Counter[int], names: Sequence[str], segments: Sequence[Segment]) -> NDArray[np.float64]:
    row = np.array([counts[label] for label in range(len(names))], dtype=np.float64)
    return np.broadcast_to(row, (len(segments), len(names)))


def _constant_actions(train_segments: Sequence[Segment], classes: Classes, count: int) -> ActionRanking:
    counts = pair_counts(train_segments, len(classes["verb"]), len(classes["noun"]))
    best = np.argsort(-counts.ravel(), kind="stable")[:_TOP]
    pairs = np.stack(np.divmod(best, counts.shape[1]), axis=-1)
    scores = counts.ravel()[best].astype(np.float64)
    return ActionRanking(np.broadcast_to(pairs, (count, *pairs.shape)), np.broadcast_to(scores, (count, len(scores))))


def _most_frequent_frame(train_segments: Sequence[Segment], task: str, durations_s: Mapping[str, float]) -> int:
    by_item: dict[str, list[Segment]] = {}
    for segment in train_segments:
        by_item.setdefault(segment.item_id, []).append(segment)
    durations, _ = item_durations(by_item, durations_s, ((s.item_id, s.span.end_s) for s in train_segments))
    frames: Counter[int] = Counter()
    for item, own in by_item.items():
        times = frame_times(durations[item], STEP_S)
        frames.update(labels_at(times, [s.span for s in own], [s.labels[task] for s in own]).tolist())
    return frames.most_common(1)[0][0]


def _random_detections(
    segments: Sequence[Segment],
    train_segments: Sequence[Segment],
    names: Sequence[str],
    items: Sequence[str],
    durations_s: Mapping[str, float],
    random: np.random.Generator,
) -> list[Prediction]:
    if not train_segments:
        raise OptionError("random segments need training segments to take their number and lengths from.")
    per_item = max(round(len(train_segments) / len({s.item_id for s in train_segments})), 1)
    lengths = np.array([s.span.duration_s for s in train_segments])
    durations, _ = item_durations(items, durations_s, ((s.item_id, s.span.end_s) for s in segments))
    found = []
    for item, duration in durations.items():
        for length, place, label, score in zip(
            np.minimum(random.choice(lengths, per_item), duration),
            random.random(per_item),
            random.integers(len(names), size=per_item),
            random.random(per_item),
            strict=True,
        ):
            start = float(place * (duration - length))
            span = Span(start, start + float(length))
            found.append(Prediction(item_id=item, span=span, score=float(score), label=names[int(label)]))
    return found


def _mean(results: Sequence[Metrics]) -> Metrics:
    """Mean of equal-keyed metrics, entry by entry."""
    return {
        name: _mean([r[name] for r in results])
        if isinstance(value, dict)
        else type(value)(np.mean([r[name] for r in results]))
        for name, value in results[0].items()
    }
