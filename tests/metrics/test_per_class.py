"""Numbers of each class: worked cases, and means that are the metrics of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from vidloc.core.records import Prediction, Segment
from vidloc.core.timeline import Span
from vidloc.metrics.per_class import class_tables, named_table
from vidloc.metrics.protocols import evaluate

CLASSES = {"label": ("run", "jump", "sit")}


def column(table, name):
    return dict(zip(table.classes, table.columns[name], strict=True))


def test_recall_precision_and_confusion_of_named_things():
    table = named_table("label", [0, 1, 1, -1, 1], [0, 0, 1, 1, 1], CLASSES["label"], counted="segments")
    assert table.classes == ("run", "jump")
    assert column(table, "true segments") == {"run": 2, "jump": 3}
    assert column(table, "predicted segments") == {"run": 1, "jump": 3}
    assert column(table, "recall") == {"run": 0.5, "jump": pytest.approx(2 / 3)}
    assert column(table, "precision") == {"run": 1.0, "jump": pytest.approx(2 / 3)}
    np.testing.assert_array_equal(table.confusion, [[1, 1], [0, 2]])


def test_what_is_never_predicted_has_no_precision():
    table = named_table("label", [2], [0], CLASSES["label"], counted="segments")
    assert column(table, "recall") == {"run": 0.0, "sit": None}
    assert column(table, "precision") == {"run": None, "sit": 0.0}


def made(random, num_items=6):
    segments, predictions = [], []
    for k in range(num_items):
        for start in (0.0, 10.0, 20.0):
            label, end = int(random.integers(3)), start + float(random.uniform(2, 8))
            item = f"v{k}"
            segments.append(Segment(item_id=item, span=Span(start, end), labels={"label": label}, id=f"{item}_{start}"))
            shift, score = random.uniform(-1, 1), float(random.random())
            guess = CLASSES["label"][label if random.random() < 0.7 else 0]
            span = Span(max(start + shift, 0.0), end + shift)
            predictions.append(Prediction(item_id=item, span=span, score=score, label=guess))
    return segments, predictions


@pytest.mark.parametrize("seed", range(5))
def test_means_over_classes_are_the_detection_metrics(seed):
    segments, predictions = made(np.random.default_rng(seed))
    [table] = class_tables("segments", predictions, segments, classes=CLASSES, durations_s={})
    metrics = evaluate("segments", predictions, segments, classes=CLASSES)
    assert table.confusion is None
    of_truth = [value for value in table.columns["AP"] if value is not None]
    assert np.mean(of_truth) == pytest.approx(metrics["detection"]["map"])
    at_half = [value for value in table.columns["AP@0.5"] if value is not None]
    assert np.mean(at_half) == pytest.approx(metrics["detection"]["map@0.5"])
    counts = np.array(table.columns["true segments"])
    found = np.array([value or 0.0 for value in table.columns["recall@0.5"]]) * counts
    assert found.sum() / counts.sum() == pytest.approx(metrics["recall"]["0.5"])


def test_seconds_of_clips_count_background_as_a_class():
    segment = Segment(item_id="a", span=Span(1, 3), labels={"label": 1}, id="a")
    predictions = [
        Prediction(item_id="a", span=Span(k, k + 1), score=1.0, label=label, query_id="a")
        for k, label in enumerate([None, "jump", "run", "run"])
    ]
    [table] = class_tables("av-event", predictions, [segment], classes=CLASSES, durations_s={"a": 4.0})
    assert column(table, "recall") == {"run": None, "jump": 0.5, "background": 0.5}
    assert column(table, "precision") == {"run": 0.0, "jump": 1.0, "background": 1.0}


def test_excerpts_are_counted_by_the_class_of_their_event():
    segments = [Segment(item_id=str(k), span=Span(2, 4), labels={"label": k % 2}, id=str(k)) for k in range(4)]
    predictions = [
        Prediction(item_id=s.id, span=Span(start, start + 2), score=1.0, query_id=s.id, direction=direction)
        for s, right in zip(segments, (True, True, False, True), strict=True)
        for direction, start in (("a2v", 2 if right else 5), ("v2a", 3))
    ]
    durations = {s.item_id: 10.0 for s in segments}
    [table] = class_tables("av-matching", predictions, segments, classes=CLASSES, durations_s=durations)
    assert column(table, "exact a2v") == {"run": 0.5, "jump": 1.0}
    assert column(table, "exact v2a") == {"run": 0.0, "jump": 0.0}
    assert column(table, "overlap v2a") == {"run": 0.5, "jump": 0.5}
