"""Seconds named and windows found: the specification's cases, the real splits of AVE, and naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidloc.core.records import Prediction, Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError, UnknownNameError
from vidloc.metrics.audio_visual import event_metrics, exact_match, matching_metrics, second_accuracy
from vidloc.metrics.baselines import chance, most_frequent
from vidloc.metrics.protocols import evaluate, recognition_metrics
from vidloc.pipelines.labels import read_labels

NAMES = ("bell", "dog", "horn", "background")
DURATIONS = {"v": 4.0}


def segment(start, end, label=1, name="7"):
    return Segment(item_id="v", span=Span(start, end), labels={"event": label}, id=name)


def second(start, label, *, score=1.0, length=1.0, name="7"):
    return Prediction(item_id="v", span=Span(start, start + length), score=score, label=label, query_id=name)


def window(start, direction, *, length=2, name="7"):
    return Prediction(item_id="v", span=Span(start, start + length), score=1, query_id=name, direction=direction)


def named(predictions, segments=(), **options):
    segments = segments or [segment(1, 3)]
    return event_metrics(predictions, segments, NAMES, task="event", durations_s=DURATIONS, **options)


def test_worked_case_of_two_clips():
    truth = [[28] * 2 + [4] * 4 + [28] * 4, [7] * 10]
    predicted = [[28] * 3 + [4] * 4 + [28] * 3, [7] * 5 + [9] * 5]
    found = second_accuracy(predicted, truth, background=28)
    assert found["accuracy"] == pytest.approx(0.65)
    assert found["partial_accuracy"] == pytest.approx(0.8)
    assert found["event_accuracy"] == pytest.approx((3 + 5) / 14)
    assert found["background_accuracy"] == pytest.approx(5 / 6)
    assert found["mean_class_recall"] == pytest.approx((3 / 4 + 5 / 10 + 5 / 6) / 3)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_equals_a_naive_loop(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, size=int(random.integers(1, 6)))
    truth = [random.integers(4, size=n) for n in lengths]
    predicted = [
        np.where(random.random(n) < 0.5, t, random.integers(-1, 4, size=n)) for n, t in zip(lengths, truth, strict=True)
    ]
    found = second_accuracy(predicted, truth, background=3)
    right = total = partial_right = partial_total = 0
    by_class: dict[int, list[bool]] = {}
    for ours, theirs in zip(predicted, truth, strict=True):
        for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
            right, total = right + (a == b), total + 1
            by_class.setdefault(b, []).append(a == b)
            if 3 in theirs:
                partial_right, partial_total = partial_right + (a == b), partial_total + 1
    assert found["accuracy"] == pytest.approx(right / total)
    assert found["mean_class_recall"] == pytest.approx(np.mean([np.mean(hits) for hits in by_class.values()]))
    if partial_total:
        assert found["partial_accuracy"] == pytest.approx(partial_right / partial_total)
    else:
        assert math.isnan(found["partial_accuracy"])


def test_other_numbers_of_seconds_are_refused():
    with pytest.raises(ValueError, match="another number of seconds"):
        second_accuracy([[0, 1]], [[0, 1, 1]], background=2)


def test_windows_are_right_only_where_they_start_alike():
    assert exact_match([2, 3, 0], [2, 4, 8], [5, 4, 2]) == {"accuracy": pytest.approx(1 / 3), "overlap": 8 / 11}


def test_a_second_is_named_by_what_covers_its_middle():
    found = named(
        [second(0, None), second(1, "dog", length=2), second(1.6, "horn", score=2, length=1), second(3, "background")]
    )
    # Second 2 is named by the surer of two; second 0 has no label and second 3 says background.
    assert (found["accuracy"], found["event_accuracy"], found["background_accuracy"]) == (0.75, 0.5, 1.0)
    assert found["recall"] == {"dog": 0.5, "background": 1.0}


def test_seconds_that_nothing_names_are_wrong_and_counted():
    found = named([second(0, None), second(1, "dog")])
    assert (found["accuracy"], found["num_seconds"], found["num_seconds_without_prediction"]) == (0.5, 4, 2)


def test_a_clip_without_its_event_is_all_background():
    found = named([second(0, None, length=4)], [segment(0, 0)])
    assert (found["accuracy"], found["partial_accuracy"]) == (1.0, 1.0)
    assert math.isnan(found["event_accuracy"])


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([second(0, "cat")], "has the label 'cat', which is no class"),
        ([second(0, None, name="8")], "answers '8', which is none of the 1 clips"),
        ([], "1 of 1 clips have no prediction, such as 7"),
    ],
)
def test_predictions_that_do_not_belong_are_refused(predictions, message):
    with pytest.raises(OptionError, match=message):
        named(predictions)


def test_an_item_of_unknown_duration_is_refused():
    with pytest.raises(OptionError, match="the duration of item 'v' is not known"):
        event_metrics([second(0, None)], [segment(1, 3)], NAMES, task="event", durations_s={})


def test_matching_counts_each_direction_and_leaves_out_full_clips():
    segments = [segment(1, 3), segment(0, 2, name="8"), segment(0, 4, name="9")]
    predictions = [window(1, "a2v"), window(2, "v2a"), window(0, "a2v", name="8"), window(0, "v2a", name="8")]
    predictions += [window(0, way, length=4, name="9") for way in ("a2v", "v2a")]
    found = matching_metrics(predictions, segments, durations_s=DURATIONS)
    assert found["accuracy"] == {"a2v": 1.0, "v2a": 0.5, "mean": 0.75}
    assert found["overlap"] == {"a2v": 1.0, "v2a": 0.75, "mean": 0.875}
    assert (found["num_segments"], found["num_full_length"]) == (2, 1)


def test_matching_of_one_direction_has_no_mean():
    found = matching_metrics([window(1, "v2a")], [segment(1, 3)], durations_s=DURATIONS)
    assert found["accuracy"] == {"v2a": 1.0}


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([window(0, "a2v"), window(1, "a2v")], "clip '7' has 2 predictions of direction a2v"),
        ([window(0, None)], "does not say which way it looked"),
        (
            [window(0, "a2v"), window(0, "v2a", name="8"), window(0, "a2v", name="8")],
            "'7' has no prediction of direction v2a",
        ),
    ],
)
def test_incomplete_matches_are_refused(predictions, message):
    segments = [segment(1, 3), segment(0, 2, name="8")]
    with pytest.raises(OptionError, match=message):
        matching_metrics(predictions, segments, durations_s=DURATIONS, allow_missing=True)


def test_recognition_does_not_speak_for_events():
    with pytest.raises(UnknownNameError, match="no evaluation protocol 'av-event'"):
        recognition_metrics("av-event", {}, None, [], {})


def ave(shared, protocol):
    return read_labels("ave", {"protocol": protocol}, shared / "data" / "ave")[1]


def test_constant_answers_on_the_real_test_split(shared):
    annotations = ave(shared, "event")
    test, known = annotations.split("test"), {"classes": annotations.classes, "durations_s": annotations.durations_s}
    train = annotations.split("train")
    constant = most_frequent("av-event", test, train_segments=train, **known)
    assert constant["accuracy"] == 715 / 4020  # always background
    assert (constant["background_accuracy"], constant["event_accuracy"]) == (1.0, 0.0)
    names = annotations.classes["event"]
    oracle = [
        Prediction(item_id=s.item_id, span=Span(0, 10), score=1, label=names[s.labels["event"]], query_id=s.id)
        for s in test
    ]
    assert evaluate("av-event", oracle, test, **known)["accuracy"] == 3305 / 4020
    assert chance("av-event", test, train_segments=train, **known)["accuracy"] == pytest.approx(1 / 29)


def test_random_starts_on_the_real_test_split(shared):
    annotations = ave(shared, "matching")
    test, known = annotations.split("test"), {"classes": annotations.classes, "durations_s": annotations.durations_s}
    guess = chance("av-matching", test, train_segments=(), **known)
    assert guess["accuracy"]["mean"] == pytest.approx(0.20774, abs=5e-6)
    random = np.random.default_rng(0)
    draws = []
    for _ in range(60):
        starts = [int(random.integers(11 - round(s.span.duration_s))) for s in test]
        predictions = [
            Prediction(item_id=s.item_id, span=Span(t, t + s.span.duration_s), score=1, query_id=s.id, direction="a2v")
            for s, t in zip(test, starts, strict=True)
        ]
        found = evaluate("av-matching", predictions, test, **known)
        draws.append((found["accuracy"]["a2v"], found["overlap"]["a2v"]))
    assert np.mean(draws, axis=0) == pytest.approx((guess["accuracy"]["a2v"], guess["overlap"]["a2v"]), abs=0.01)
    constant = most_frequent("av-matching", test, train_segments=annotations.split("train"), **known)
    assert 0 < constant["accuracy"]["mean"] < 1
