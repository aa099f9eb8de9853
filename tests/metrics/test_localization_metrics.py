"""Overlap, suppression, detection AP, recall and frame accuracy: the specification's cases and naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from vidloc.core.intervals import temporal_iou
from vidloc.errors import OptionError
from vidloc.metrics.localization import (
    BACKGROUND,
    EPIC_THRESHOLDS,
    Detections,
    average_precision,
    epic100_detection,
    frame_accuracy,
    frame_times,
    interpolated_ap,
    labels_at,
    mean_average_precision,
    recall_precision,
)

seeds = st.integers(0, 2**32 - 1)


def random_detections(random, count, *, scored, num_items=3, num_classes=3):
    starts = random.integers(0, 20, size=count) / 2  # halves, so that overlaps meet thresholds exactly now and then
    spans = np.stack([starts, starts + random.integers(1, 12, size=count) / 2], axis=1)
    items = tuple(f"v{k}" for k in random.integers(num_items, size=count))
    scores = random.permutation(count) / max(count, 1) if scored else None
    return Detections(items, spans, random.integers(num_classes, size=count), scores)


def naive_iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return overlap / ((a[1] - a[0]) + (b[1] - b[0]) - overlap)


def naive_hits(predicted, truth, label, threshold):
    """Best first; the unmatched truth of the video and class with the highest IoU at or above the threshold."""
    used, result = set(), []
    for k in sorted(range(len(predicted)), key=lambda k: -predicted.scores[k]):
        if label is not None and predicted.labels[k] != label:
            continue
        best, best_iou = None, threshold
        for t in range(len(truth)):
            if truth.items[t] != predicted.items[k] or (label is not None and truth.labels[t] != label) or t in used:
                continue
            iou = naive_iou(predicted.spans[k], truth.spans[t])
            if iou >= best_iou and (best is None or iou > best_iou):
                best, best_iou = t, iou
        if best is not None:
            used.add(best)
        result.append(best is not None)
    return result


def naive_ap(hits, num_truth):
    recalls, precisions = [0.0], [0.0]
    for k in range(len(hits)):
        recalls.append(sum(hits[: k + 1]) / num_truth)
        precisions.append(sum(hits[: k + 1]) / (k + 1))
    return sum((recalls[k] - recalls[k - 1]) * max(precisions[k:]) for k in range(1, len(recalls)))


def test_specified_ious():
    assert temporal_iou([1, 4], [[0, 2], [2, 5], [6, 7]]).tolist() == [[0.25, 0.5, 0.0]]
    assert temporal_iou([[1, 1]], [[1, 1]]).tolist() == [[0.0]]
    assert temporal_iou([], [[0, 1]]).shape == (0, 1)


def test_specified_ap():
    assert interpolated_ap([True, False, True], 3) == pytest.approx(1 / 3 + 2 / 9)
    assert interpolated_ap([], 3) == 0.0


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_iou_against_a_loop(seed):
    random = np.random.default_rng(seed)
    a, b = (random_detections(random, n, scored=False).spans for n in (5, 7))
    expected = [[naive_iou(x, y) for y in b] for x in a]
    assert temporal_iou(a, b) == pytest.approx(np.array(expected))
    assert temporal_iou(a, b) == pytest.approx(temporal_iou(b, a).T)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(0, 25), st.integers(1, 15))
def test_average_precision_against_a_loop(seed, num_predicted, num_truth):
    random = np.random.default_rng(seed)
    predicted = random_detections(random, num_predicted, scored=True, num_classes=4)
    truth = random_detections(random, num_truth, scored=False)
    found = average_precision(predicted, truth, EPIC_THRESHOLDS)
    assert sorted(found) == sorted(set(truth.labels.tolist()))
    expected = {
        label: [
            naive_ap(naive_hits(predicted, truth, label, t), (truth.labels == label).sum()) for t in EPIC_THRESHOLDS
        ]
        for label in found
    }
    for label, values in found.items():
        assert values == pytest.approx(expected[label])
    result = mean_average_precision(predicted, truth)
    means = np.mean(list(expected.values()), axis=0)
    assert [result[f"map@{t:g}"] for t in EPIC_THRESHOLDS] == pytest.approx(means.tolist())
    assert result["map"] == pytest.approx(means.mean())
    for threshold in (0.3, 0.5):
        by_class = sum(sum(naive_hits(predicted, truth, label, threshold)) for label in range(4))
        recall, precision = recall_precision(predicted, truth, threshold)
        assert (recall, precision) == pytest.approx((by_class / num_truth, by_class / max(num_predicted, 1)))
        agnostic = sum(naive_hits(predicted, truth, None, threshold))
        recall, precision = recall_precision(predicted, truth, threshold, with_class=False)
        assert (recall, precision) == pytest.approx((agnostic / num_truth, agnostic / max(num_predicted, 1)))


def test_a_taken_segment_leaves_the_next_best():
    truth = Detections(("v", "v"), np.array([[0, 10], [2, 12]]), np.array([0, 0]))
    predicted = Detections(("v", "v", "v"), np.array([[0, 10]] * 3), np.array([0, 0, 0]), np.array([0.9, 0.8, 0.7]))
    assert recall_precision(predicted, truth, 0.5) == (1.0, pytest.approx(2 / 3))
    assert mean_average_precision(predicted, truth, (0.5,))["map"] == 1.0


def test_classes_without_predictions_count_zero_and_foreign_ones_are_dropped():
    truth = Detections(("v", "v"), np.array([[0, 1], [2, 3]]), np.array([0, 1]))
    predicted = Detections(("v", "v"), np.array([[0, 1], [2, 3]]), np.array([0, 5]), np.array([0.1, 0.9]))
    assert mean_average_precision(predicted, truth)["map"] == 0.5


def test_epic100_detection_judges_each_task_by_itself():
    """A segment submitted with two nouns is two verb predictions, the second of which is a false positive."""
    spans, scores = np.array([[0, 4], [0, 4]]), np.array([0.9, 0.8])
    truth = {
        t: Detections(("v",), spans[:1], np.array([label])) for t, label in (("verb", 2), ("noun", 7), ("action", 607))
    }
    predicted = {
        "verb": Detections(("v", "v"), spans, np.array([2, 2]), scores),
        "noun": Detections(("v", "v"), spans, np.array([3, 7]), scores),
        "action": Detections(("v", "v"), spans, np.array([603, 607]), scores),
    }
    found = epic100_detection(predicted, truth)
    assert {task: found[task]["map"] for task in found} == {"verb": 1.0, "noun": 1.0, "action": 1.0}
    assert recall_precision(predicted["verb"], truth["verb"], 0.5) == (1.0, 0.5)


def test_detections_that_do_not_fit_together_are_refused():
    with pytest.raises(OptionError, match="differ in length"):
        Detections(("v",), np.zeros((2, 2)), np.zeros(1))
    with pytest.raises(OptionError, match="not NaN"):
        Detections(("v",), np.array([[0, 1]]), np.zeros(1), np.array([np.nan]))
    with pytest.raises(OptionError, match="need scores"):
        Detections(("v",), np.array([[0, 1]]), np.zeros(1)).best_first()


def test_frames_of_a_video():
    assert frame_times(1.0, 0.25).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert len(frame_times(0.0, 0.1)) == 1
    times = frame_times(4.0, 1.0)
    spans, labels = [[0, 3], [1, 2]], [5, 6]
    assert labels_at(times, spans, labels).tolist() == [5, 6, 5, BACKGROUND]
    assert labels_at(times, spans, labels, scores=[0.9, 0.1]).tolist() == [5, 5, 5, BACKGROUND]
    assert labels_at(times, [], []).tolist() == [BACKGROUND] * 4


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_frame_accuracy_against_sklearn(seed):
    random = np.random.default_rng(seed)
    guess = [random.integers(-1, 3, size=n) for n in (5, 9)]
    truth = [random.integers(-1, 3, size=n) for n in (5, 9)]
    found = frame_accuracy(guess, truth)
    joined_guess, joined = np.concatenate(guess), np.concatenate(truth)
    assert found["all"] == pytest.approx(accuracy_score(joined, joined_guess))
    assert found["background_share"] == pytest.approx((joined == BACKGROUND).mean())
    if (joined != BACKGROUND).any():
        kept = joined != BACKGROUND
        assert found["foreground"] == pytest.approx(accuracy_score(joined[kept], joined_guess[kept]))
