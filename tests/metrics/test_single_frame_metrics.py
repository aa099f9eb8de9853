"""Frame mAP, mAP@hit, classification mAP, and the ceilings of three corpora: worked cases and a naive loop."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.datasets.own_labels import TASK
from vidloc.errors import OptionError
from vidloc.metrics.localization import Detections, interpolated_ap, mean_average_precision
from vidloc.metrics.single_frames import (
    FRAME_THRESHOLDS,
    classification_map,
    frame_distance,
    frame_map,
    ranked_precision,
)
from vidloc.pipelines.labels import read_labels

THUMOS_IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def one_class(spans, scores=None, items=None):
    return Detections(items or ("v",) * len(spans), np.array(spans), np.zeros(len(spans), dtype=np.int64), scores)


def test_specified_segment_ap():
    truth = one_class([[0, 10], [20, 30]])
    made = one_class([[0, 10], [1, 11], [21, 29]], [0.9, 0.8, 0.7])
    found = mean_average_precision(made, truth, (0.5, 0.8, 0.81))
    assert found["map@0.5"] == found["map@0.8"] == pytest.approx(5 / 6)
    assert found["map@0.81"] == 0.5
    elsewhere = one_class([[0, 10], [1, 11], [21, 29], [0, 10]], [0.9, 0.8, 0.7, 0.95], ("v", "v", "v", "w"))
    assert mean_average_precision(elsewhere, truth, (0.5,))["map@0.5"] == 0.5


@pytest.mark.parametrize(
    ("time", "expected"), [(6.2, [1, 1, 1, 1]), (7.5, [0, 1, 1, 1]), (10, [0, 0, 0, 1]), (10.01, [0, 0, 0, 0])]
)
def test_specified_frame_ap_of_one_prediction(time, expected):
    found = frame_map(one_class([[time, time]], [0.9]), one_class([[0, 10]]))
    assert [found[f"map@{t:g}"] for t in FRAME_THRESHOLDS] == expected
    assert found["map@hit"] == expected[-1]


def test_a_second_prediction_falls_to_the_second_nearest_segment():
    found = frame_map(one_class([[6, 6], [6.5, 6.5]], [0.9, 0.8]), one_class([[0, 10], [4, 14]]))
    assert [found[f"map@{t:g}"] for t in FRAME_THRESHOLDS] == [0.5, 1, 1, 1]


def test_distance_to_a_segment_of_no_length():
    assert frame_distance([3, 4], [[3, 3]]).tolist() == [[0], [2]]


def naive_frame_ap(times, scores, items, truth, true_items, threshold):
    used, hits = set(), []
    for k in sorted(range(len(times)), key=lambda k: -scores[k]):
        reach = []
        for t, (start, end) in enumerate(truth):
            inside = true_items[t] == items[k] and start <= times[k] <= end
            distance = abs(times[k] - (start + end) / 2) / ((end - start) / 2) if inside else 2
            if t not in used and distance <= threshold:
                reach.append((distance, t))
        if reach:
            used.add(min(reach)[1])
        hits.append(bool(reach))
    return interpolated_ap(hits, len(truth))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_frame_ap_is_that_of_a_naive_loop(seed):
    random = np.random.default_rng(seed)
    starts = random.integers(0, 20, 8) / 2
    truth = np.stack([starts, starts + random.integers(1, 12, 8) / 2], axis=1)
    times, scores = random.integers(0, 60, 14) / 4, random.permutation(14) / 14
    items, true_items = (tuple("ab"[k] for k in random.integers(2, size=n)) for n in (14, 8))
    found = frame_map(one_class(np.stack([times, times], 1), scores, items), one_class(truth, items=true_items))
    for threshold in FRAME_THRESHOLDS:
        expected = naive_frame_ap(times, scores, items, truth, true_items, threshold)
        assert found[f"map@{threshold:g}"] == pytest.approx(expected)


def test_classification_ap():
    assert ranked_precision([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]) == pytest.approx(5 / 6)
    random = np.random.default_rng(0)
    scores, labels = random.random((30, 4)), random.random((30, 4)) < 0.3
    labels[:, 3] = False
    expected = np.mean([average_precision_score(labels[:, k], scores[:, k]) for k in range(3)])
    assert classification_map(scores, labels) == pytest.approx(expected)
    with pytest.raises(OptionError, match="alike, without NaN"):
        classification_map(scores, labels[:, :3])


def detections(segments, scores=None):
    spans = np.array([s.span for s in segments])
    labels = np.array([s.labels[TASK] for s in segments], dtype=np.int64)
    return Detections(tuple(s.item_id for s in segments), spans, labels, scores)


def as_predictions(segments):
    return detections(segments, np.linspace(1, 0.5, len(segments)))


@pytest.mark.parametrize("name", ["thumos14", "gtea", "beoid"])
def test_the_truth_as_its_own_prediction_is_perfect(shared, name):
    truth = read_labels(name, {"annotator": "1"}, shared / "data" / name)[1].split("test")
    found = mean_average_precision(as_predictions(truth), detections(truth), THUMOS_IOU)
    assert set(found.values()) == {1.0}
    middles = [s.model_copy(update={"span": Span(s.span.center_s, s.span.center_s)}) for s in truth]
    assert set(frame_map(as_predictions(middles), detections(truth)).values()) == {1.0}


def test_the_ceilings_of_thumos14(shared):
    """Two test videos and 77 segments are in one file of the truth and not in the other."""
    folder = shared / "data" / "thumos14"
    annotations = read_labels("thumos14", {"annotator": "1"}, folder)[1]
    truth, classes = annotations.split("test"), list(annotations.classes[TASK])
    skipped = ("video_test_0000270", "video_test_0001496")
    answered = [s for s in truth if s.item_id not in skipped]
    perfect = mean_average_precision(as_predictions(answered), detections(truth), THUMOS_IOU)
    assert perfect["map"] == pytest.approx(0.98871, abs=1e-5)
    videos = [name.decode() for name in np.load(folder / "videoname.npy")]
    spans, labels = (json.loads((folder / f"{part}.json").read_text()) for part in ("segments", "labels"))
    stated = [
        Segment(item_id=video, span=Span(*span), labels={TASK: classes.index(label)})
        for video, own, names in zip(videos, spans, labels, strict=True)
        if video.startswith("video_test_")
        for span, label in zip(own, names, strict=True)
    ]
    assert len(stated) == 3234
    found = mean_average_precision(as_predictions(stated), detections(truth), THUMOS_IOU)
    assert [found[f"map@{t}"] for t in (0.1, 0.5)] == pytest.approx([0.9604, 0.9604], abs=1e-4)
    assert [found[f"map@{t}"] for t in (0.6, 0.7)] == pytest.approx([0.9600, 0.9600], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "fps", "least", "expected"),
    [
        ("gtea", 15, 1, [1.00, 0.909, 0.651, 0.341]),
        ("beoid", 30, 1, [0.989, 0.984, 0.845, 0.501]),
        ("gtea", 15, 2, [0.761, 0.747, 0.571, 0.331]),
        ("beoid", 30, 2, [0.925, 0.923, 0.832, 0.495]),
    ],
)
def test_the_ceilings_of_the_grid_of_rows(shared, name, fps, least, expected):
    """Segments as a perfect classifier of rows would give them: snapped to the rows, neighbours joined."""
    pytest.importorskip("torch")
    from vidloc.core.timeline import TimeGrid
    from vidloc.heads.single_frame_labels import row_borders, segment_counts
    from vidloc.heads.single_frame_segments import runs_above

    annotations = read_labels(name, {"annotator": "1"}, shared / "data" / name)[1]
    truth = annotations.split("test")
    made = []
    for item in annotations.items_of("test"):
        num_rows = int(annotations.durations_s[item] * fps / 16)
        borders = row_borders(TimeGrid(f"16/{fps}", f"16/{fps}").spans(num_rows))
        own = [segment for segment in truth if segment.item_id == item]
        counts = segment_counts(own, borders, TASK, len(annotations.classes[TASK]))
        for k in range(counts.shape[1]):
            for start, stop in runs_above(counts[:, k].astype(float), 0.5):
                if stop - start >= least:
                    span = Span(borders[start], borders[stop])
                    made.append(Segment(item_id=item, span=span, labels={TASK: k}))
    random = np.random.default_rng(0)
    found = [
        mean_average_precision(detections(made, random.random(len(made))), detections(truth), (0.1, 0.3, 0.5, 0.7))
        for _ in range(10)
    ]
    for threshold, value in zip((0.1, 0.3, 0.5, 0.7), expected, strict=True):
        mean = np.mean([metrics[f"map@{threshold}"] for metrics in found])
        assert mean == pytest.approx(value, abs=0.03)
