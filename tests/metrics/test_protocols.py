"""The entry that pipelines use: which metrics a protocol means, what is refused, and what guessing scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vidloc.core.records import Prediction, Segment
from vidloc.core.timeline import Span
from vidloc.datasets.epic_kitchens import EpicKitchens, EpicOptions
from vidloc.datasets.segments import Segments, SegmentsOptions
from vidloc.errors import OptionError, UnknownNameError
from vidloc.metrics.actions import known_actions, pair_counts, softmax
from vidloc.metrics.baselines import chance, most_frequent
from vidloc.metrics.protocols import evaluate
from vidloc.metrics.recognition import recognition

VERBS, NOUNS = ("open", "close", "wash"), ("door", "tap", "pan", "lid")
CLASSES = {"verb": VERBS, "noun": NOUNS}
GROUPS = {
    "many_shot_verb": frozenset({0, 1}),
    "many_shot_noun": frozenset({0}),
    "many_shot_action": frozenset({(0, 0)}),
    "tail_verb": frozenset({2}),
    "tail_noun": frozenset({3}),
    "unseen_participants": frozenset({"P09"}),
}
PAIRS = ((0, 0), (1, 1), (0, 0), (2, 3), (0, 2))


def made_segments(pairs=PAIRS):
    return [
        Segment(
            item_id=f"P0{k % 2}",
            span=Span(k, k + 1),
            labels={"verb": v, "noun": n},
            id=f"s{k}",
            group="P09" if k == 3 else "P01",
        )
        for k, (v, n) in enumerate(pairs)
    ]


def made_predictions(segments, right=lambda k: True):
    random = np.random.default_rng(0)
    found = []
    for k, segment in enumerate(segments):
        scores = {}
        for task, names in CLASSES.items():
            row = random.normal(size=len(names))
            if right(k):
                row[segment.labels[task]] += 10
            scores[task] = tuple(row)
        found.append(
            Prediction(item_id=segment.item_id, span=segment.span, score=1.0, query_id=segment.id, scores=scores)
        )
    return found


def test_epic55_reports_every_official_number():
    segments = made_segments()
    found = evaluate("epic55", made_predictions(segments)[::-1], segments, classes=CLASSES, groups=GROUPS)
    assert (found["num_segments"], found["num_missing"]) == (5, 0)
    perfect = {"top1": 1.0, "top5": 1.0, "many_shot_precision": 1.0, "many_shot_recall": 1.0}
    assert {task: found[task] for task in ("verb", "noun", "action")} == dict.fromkeys(
        ("verb", "noun", "action"), perfect
    )


def test_epic100_reports_its_blocks():
    segments = made_segments()
    found = evaluate("epic100", made_predictions(segments, lambda k: k != 3), segments, classes=CLASSES, groups=GROUPS)
    assert found["overall"]["action"]["top1"] == pytest.approx(0.8)
    assert found["unseen"]["action"] == {"top1": 0.0}
    assert set(found) == {"num_segments", "num_missing", "overall", "unseen", "tail"}
    without = evaluate("epic100", made_predictions(segments), segments, classes=CLASSES)
    assert set(without) == {"num_segments", "num_missing", "overall"}


def test_what_is_not_defined_is_left_out():
    segments = made_segments(((2, 3), (2, 3)))
    found = evaluate("epic55", made_predictions(segments), segments, classes=CLASSES, groups=GROUPS)
    assert set(found["verb"]) == {"top1", "top5"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_plain_recognition_takes_every_task():
    segments = made_segments()
    predictions = made_predictions(segments, lambda k: k < 2)
    found = evaluate("", predictions, segments, classes=CLASSES)
    scores = {t: [p.scores[t] for p in predictions] for t in CLASSES}
    expected = recognition(scores, {t: [s.labels[t] for s in segments] for t in CLASSES})
    assert found == {"num_segments": 5, "num_missing": 0, **expected}
    assert evaluate("recognition", predictions, segments, classes=CLASSES) == found


def test_a_prior_moves_actions_only():
    segments = made_segments()
    predictions = made_predictions(segments, lambda k: False)
    plain = evaluate("epic55", predictions, segments, classes=CLASSES)
    counts = pair_counts(made_segments(((0, 0),) * 9), 3, 4)
    with_prior = evaluate("epic55", predictions, segments, classes=CLASSES, prior="joint", prior_counts=counts)
    assert with_prior["verb"] == plain["verb"]
    assert with_prior["action"]["top1"] == pytest.approx(0.4)
    with pytest.raises(OptionError, match="the prior 'joint' needs counts of training pairs"):
        evaluate("epic55", predictions, segments, classes=CLASSES, prior="joint")


def test_segments_without_prediction_are_an_error_unless_allowed():
    segments = made_segments()
    predictions = made_predictions(segments)[:3]
    with pytest.raises(OptionError, match="2 of 5 segments have no prediction, such as s3, s4"):
        evaluate("epic55", predictions, segments, classes=CLASSES)
    found = evaluate("epic55", predictions, segments, classes=CLASSES, allow_missing=True)
    assert (found["num_segments"], found["num_missing"]) == (3, 2)
    with pytest.raises(OptionError, match="5 of 5 segments have no prediction"):
        evaluate("epic55", [], segments, classes=CLASSES, allow_missing=True)


def test_predictions_that_do_not_belong_are_refused():
    segments = made_segments()
    predictions = made_predictions(segments)
    with pytest.raises(OptionError, match="answers 's4', which is none of the 4 segments"):
        evaluate("epic55", predictions, segments[:4], classes=CLASSES)
    with pytest.raises(OptionError, match="segment 's0' has two predictions"):
        evaluate("epic55", [*predictions, predictions[0]], segments, classes=CLASSES)
    wrong = predictions[0].model_copy(update={"scores": {"verb": (1.0,), "noun": (0.0,) * 4}})
    with pytest.raises(OptionError, match="of 's0' needs 3 verb scores, one per class, found 1"):
        evaluate("epic55", [wrong, *predictions[1:]], segments, classes=CLASSES)
    withheld = [s.model_copy(update={"labels": {}}) for s in segments]
    with pytest.raises(OptionError, match=r"segment 's0' has no verb label.* \(vidloc submit\)"):
        evaluate("epic55", predictions, withheld, classes=CLASSES)
    with pytest.raises(UnknownNameError, match=r"no evaluation protocol 'epic5'\. Did you mean epic55"):
        evaluate("epic5", predictions, segments, classes=CLASSES)
    one_task = [p.model_copy(update={"scores": {"verb": p.scores["verb"]}}) for p in predictions]
    with pytest.raises(OptionError, match="protocol epic55 needs classes for verb and noun, got: verb"):
        evaluate("epic55", one_task, segments, classes={"verb": VERBS})


NUMBERED = {**CLASSES, "action": ("open door", "close tap", "wash lid", "open pan")}
PARTS = {"action_parts": frozenset({(0, 0, 0), (1, 1, 1), (2, 2, 3), (3, 0, 2)})}
NUMBER_OF = {(verb, noun): action for action, verb, noun in PARTS["action_parts"]}


def numbered_segments():
    return [
        s.model_copy(update={"labels": {**s.labels, "action": NUMBER_OF[s.labels["verb"], s.labels["noun"]]}})
        for s in made_segments()
    ]


def test_numbered_actions_are_scored_by_verb_and_noun():
    segments = numbered_segments()
    predictions = made_predictions(segments, right=lambda k: False)
    found = evaluate("egtea", predictions, segments, classes=NUMBERED, groups=PARTS)
    right = []
    for prediction, segment in zip(predictions, segments, strict=True):
        chances = {task: softmax(prediction.scores[task]) for task in CLASSES}
        products = {a: chances["verb"][v] * chances["noun"][n] for (v, n), a in NUMBER_OF.items()}
        right.append(max(products, key=products.get) == segment.labels["action"])
    assert found["action"]["top1"] == np.mean(right)
    per_class = [
        np.mean([r for r, s in zip(right, segments, strict=True) if s.labels["action"] == a]) for a in range(4)
    ]
    assert found["action"]["mean_class_accuracy"] == pytest.approx(np.mean(per_class))
    assert list(found) == ["num_segments", "num_missing", "verb", "noun", "action"]
    assert {t: found[t] for t in CLASSES} == {
        t: evaluate("recognition", predictions, segments, classes=CLASSES)[t] for t in CLASSES
    }


def test_a_heads_own_action_scores_come_first():
    segments = numbered_segments()
    best = [tuple(float(k == s.labels["action"]) for k in range(4)) for s in segments]
    mixed = [
        p.model_copy(update={"scores": {**p.scores, "action": row}})
        for p, row in zip(made_predictions(segments, right=lambda k: False), best, strict=True)
    ]
    found = evaluate("egtea", mixed, segments, classes=NUMBERED, groups=PARTS)
    assert found["action"]["top1"] == found["action"]["mean_class_accuracy"] == 1.0
    assert found["verb"]["top1"] < 1
    alone = [p.model_copy(update={"scores": {"action": p.scores["action"]}}) for p in mixed]
    assert set(evaluate("egtea", alone, segments, classes=NUMBERED)) == {"num_segments", "num_missing", "action"}
    with pytest.raises(OptionError, match="of 's0' needs 4 action scores, one per class, found none"):
        evaluate("egtea", [*made_predictions(segments)[:1], *mixed[1:]], segments, classes=NUMBERED, groups=PARTS)


def test_actions_without_parts_are_refused():
    segments = numbered_segments()
    with pytest.raises(OptionError, match=r"needs .* groups\['action_parts'\] .* and the parts of 0 actions"):
        evaluate("egtea", made_predictions(segments), segments, classes=NUMBERED)
    with pytest.raises(OptionError, match="protocol egtea needs classes for verb, noun and action"):
        evaluate("egtea", made_predictions(segments), segments, classes=CLASSES, groups=PARTS)
    for parts in ([(0, 0, 0), (2, 1, 1)], [(0, 0, 0), (1, 3, 1)], [(0, 0, -1)]):
        with pytest.raises(OptionError, match="the parts of actions must be"):
            known_actions(np.zeros((2, 3)), np.zeros((2, 4)), parts)


def test_known_actions_do_not_underflow():
    scores = known_actions([[0.0, -2000.0, -3000.0]], [[0.0, -2000.0]], [(0, 1, 1), (1, 2, 1), (2, 0, 0)])
    np.testing.assert_allclose(scores, [[-4000.0, -5000.0, 0.0]])


# --- detection -------------------------------------------------------------------------------------------------------

LABELS = {"label": ("nod", "wave")}
TRUTH = [
    Segment(item_id="a", span=Span(1, 2), labels={"label": 0}, id="a#0"),
    Segment(item_id="a", span=Span(4, 6), labels={"label": 1}, id="a#1"),
    Segment(item_id="b", span=Span(0, 2), labels={"label": 1}, id="b#0"),
]
LENGTHS = {"a": 10.0, "b": 4.0, "c": 6.0}


def detected(item, start, end, label, score=0.5):
    return Prediction(item_id=item, span=Span(start, end), score=score, label=label)


def test_detection_numbers_by_hand():
    predictions = [detected("a", 1, 2, "nod"), detected("a", 4, 5, "wave"), detected("c", 0, 3, "nod", 0.9)]
    found = evaluate("segments", predictions, TRUTH, classes=LABELS, items=("a", "b", "c"), durations_s=LENGTHS)
    counts = ("num_segments", "num_items", "num_items_without_prediction", "num_items_of_guessed_duration")
    assert [found[name] for name in counts] == [3, 3, 1, 0]
    assert found["recall"]["0.5"] == pytest.approx(2 / 3)
    assert found["recall"]["0.6"] == pytest.approx(1 / 3)
    assert found["precision"]["0.5"] == pytest.approx(2 / 3)
    # nod: a false positive first, then the hit; wave: one of two found.
    assert found["detection"]["map@0.5"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    # Wrong: 1 s missed in a, 2 s in b, 3 s too many in c.
    assert found["frame_accuracy"]["all"] == pytest.approx(14 / 20)
    assert found["frame_accuracy"]["foreground"] == pytest.approx(2 / 5)
    assert found["frame_accuracy"]["background_share"] == pytest.approx(15 / 20)


def test_right_place_with_wrong_class_counts_only_without_class():
    found = evaluate("segments", [detected("a", 1, 2, "wave")], TRUTH, classes=LABELS, durations_s=LENGTHS)
    assert found["recall"]["0.5"] == 0.0
    assert found["recall_any_class"]["0.5"] == pytest.approx(1 / 3)


def test_items_of_unknown_duration_end_with_their_last_segment_and_are_counted():
    found = evaluate("segments", [detected("b", 0, 3, "wave")], TRUTH, classes=LABELS, durations_s={"a": 10.0})
    assert found["num_items_of_guessed_duration"] == 1
    assert found["frame_accuracy"]["all"] == pytest.approx((7 + 2) / 13)


def test_detection_refuses_what_does_not_belong():
    with pytest.raises(OptionError, match="of item 'z', which is not in the split evaluated"):
        evaluate("segments", [detected("z", 0, 1, "nod")], TRUTH, classes=LABELS, items=("a", "b"))
    assert evaluate("segments", [detected("z", 0, 1, "nod")], TRUTH, classes=LABELS)["num_items"] == 3
    with pytest.raises(OptionError, match="has the label 'jump', which is no class"):
        evaluate("segments", [detected("a", 0, 1, "jump")], TRUTH, classes=LABELS)
    with pytest.raises(OptionError, match="choose one of verb, noun, got none"):
        evaluate("segments", [], TRUTH, classes=CLASSES)


# --- guessing --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def epic55(shared):
    return EpicKitchens(EpicOptions(), name="epic55").read(shared / "data" / "epic55")


def test_constant_guess_on_the_participant_split(epic55):
    found = most_frequent(
        "epic55",
        epic55.split("validation"),
        classes=epic55.classes,
        groups=epic55.groups,
        train_segments=epic55.split("train"),
    )
    shares = [100 * found[task]["top1"] for task in ("verb", "noun", "action")]
    assert shares == pytest.approx([22.0, 4.1, 3.1], abs=0.05)
    assert found["verb"]["many_shot_recall"] == pytest.approx(1 / 26)


def test_chance_is_one_over_the_number_of_classes():
    segments = made_segments(PAIRS * 2)
    found = chance("epic55", segments, classes=CLASSES, groups=GROUPS, train_segments=segments)
    assert found["verb"]["top1"] == pytest.approx(1 / 3, abs=0.02)
    assert found["noun"]["top1"] == pytest.approx(1 / 4, abs=0.02)
    assert found["action"]["top1"] == pytest.approx(1 / 12, abs=0.02)
    assert found == chance("epic55", segments, classes=CLASSES, groups=GROUPS, train_segments=segments)


@pytest.mark.parametrize("protocol", ["epic55", "epic100", "egtea", "recognition"])
def test_guesses_have_the_keys_of_a_trained_head(protocol):
    segments = numbered_segments()
    settings = {"classes": NUMBERED if protocol == "egtea" else CLASSES, "groups": GROUPS | PARTS}
    trained = evaluate(protocol, made_predictions(segments), segments, **settings)
    for guess in (chance, most_frequent):
        found = guess(protocol, segments, train_segments=segments, **settings)
        assert list(found) == list(trained)
        blocks = {name: list(block) for name, block in trained.items() if isinstance(block, dict)}
        assert {name: list(found[name]) for name in blocks} == blocks


def test_guesses_on_real_untrimmed_videos(shared):
    labels = shared / "data" / "videos_asl" / "untrimmed_labels.json"
    found = Segments(SegmentsOptions(), name="segments").read(labels)
    settings = {"classes": found.classes, "items": found.items_of("test"), "durations_s": found.durations_s}
    train, test = found.split("train"), found.split("test")
    constant = most_frequent("segments", test, train_segments=train, **settings)
    assert constant["frame_accuracy"]["all"] == pytest.approx(0.505, abs=0.001)
    assert constant["detection"]["map"] == 0.0
    random = chance("segments", test, train_segments=train, **settings)
    assert 0.2 < random["frame_accuracy"]["all"] < 0.45
    assert 0 < random["recall"]["0.5"] < 0.05
    names = found.classes["label"]
    perfect = [detected(s.item_id, *s.span, names[s.labels["label"]]) for s in test]
    exact = evaluate("segments", perfect, test, **settings)
    assert exact["frame_accuracy"] == {
        "all": 1.0,
        "foreground": 1.0,
        "background_share": pytest.approx(0.505, abs=0.001),
    }
    assert exact["detection"]["map"] == exact["precision"]["0.7"] == 1.0


def test_where_a_class_fills_most_frames_it_is_the_constant_guess():
    train = [Segment(item_id="t", span=Span(0, 9), labels={"label": 1}, id="t#0")]
    found = most_frequent("segments", TRUTH, classes=LABELS, train_segments=train, durations_s=LENGTHS | {"t": 10.0})
    assert found["frame_accuracy"]["all"] == pytest.approx(4 / 14)
    assert found["num_items_without_prediction"] == 0


def test_guessing_needs_something_to_go_by():
    with pytest.raises(OptionError, match="needs training segments"):
        most_frequent("epic55", made_segments(), classes=CLASSES, train_segments=[])
    with pytest.raises(OptionError, match="need training segments"):
        chance("segments", TRUTH, classes=LABELS, train_segments=[])
    with pytest.raises(OptionError, match="no segments to guess"):
        chance("epic55", [], classes=CLASSES, train_segments=[])
