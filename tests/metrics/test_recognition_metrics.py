"""Top-k, class means, actions and priors: the specification's cases, naive loops, and scikit-learn where it agrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.metrics.actions import action_prior, pair_counts, rank_actions, softmax
from vidloc.metrics.recognition import (
    epic55,
    epic100,
    mean_class_accuracy,
    precision_recall,
    ranked_classes,
    recognition,
    top_k_accuracy,
)

VERB = np.array([[0.1, 0.9], [0.6, 0.4], [0.1, 0.9], [0.9, 0.1]])
NOUN = np.array([[0.1, 0.2, 0.7], [0.2, 0.7, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])


def test_top_k_of_ranks():
    ranks = np.array([[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]])
    scores = np.zeros((4, 4))
    np.put_along_axis(scores, ranks, [[3.0, 2.0, 1.0]], axis=1)
    assert [top_k_accuracy(scores, [1, 3, 2, 1], k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_specified_epic55_case():
    found = epic55(
        {"verb": VERB, "noun": NOUN},
        rank_actions(VERB, NOUN),
        {"verb": [0, 0, 1, 1], "noun": [0, 0, 1, 2]},
        {"verb": {0, 1}, "noun": {0, 1}, "action": {(0, 0), (1, 1)}},
    )
    assert {task: found[task]["top1"] for task in found} == {"verb": 0.5, "noun": 0.5, "action": 0.25}
    assert found["action"]["top5"] == 0.75
    pairs = {t: (found[t]["many_shot_precision"], found[t]["many_shot_recall"]) for t in found}
    assert pairs == {"verb": (0.5, 0.5), "noun": (0.25, 0.5), "action": (0.5, 0.5)}


def test_mean_class_accuracy_case():
    labels = [0] * 8 + [1] * 2
    predicted = [*labels[:-1], 0]
    assert np.mean(np.equal(predicted, labels)) == 0.9
    assert mean_class_accuracy(predicted, labels) == 0.75


def test_a_class_never_predicted_has_precision_zero():
    assert precision_recall([0, 0], [0, 1], [0, 1, 7]) == (0.25, 0.5)
    assert np.isnan(precision_recall([0, 0], [0, 1], [7])).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 40))
def test_against_sklearn_and_loops(seed, num_classes, num_rows):
    random = np.random.default_rng(seed)
    scores, labels = random.random((num_rows, num_classes)), random.integers(num_classes, size=num_rows)
    for k in range(1, num_classes):
        expected = np.mean([(row > row[label]).sum() < k for row, label in zip(scores, labels, strict=True)])
        assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)
    predicted = scores.argmax(axis=1)
    present = np.unique(labels)
    assert mean_class_accuracy(predicted, labels) == pytest.approx(
        sk.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    )
    precision, recall = precision_recall(predicted, labels, range(num_classes))
    assert precision == pytest.approx(
        sk.precision_score(labels, predicted, labels=present, average="macro", zero_division=0)
    )
    assert recall == pytest.approx(mean_class_accuracy(predicted, labels))
    found = recognition({"label": scores}, {"label": labels})["label"]
    assert found["top1"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found["mean_class_accuracy"] == pytest.approx(recall)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(OptionError, match="without NaN"):
        ranked_classes([[0.0, np.nan]], 1)
    with pytest.raises(OptionError, match=r"got an array of shape \(2,\)"):
        top_k_accuracy([0.0, 1.0], [0], 1)


def test_equal_scores_are_ranked_by_class():
    assert ranked_classes([[1.0, 2.0, 2.0, 0.0, 1.0]], 5).tolist() == [[1, 2, 0, 4, 3]]


# --- actions and the prior -------------------------------------------------------------------------------------------


def logits(*probabilities):
    return np.log(np.array([probabilities]))


def ranked(verb, noun, prior=None, **options):
    found = rank_actions(verb, noun, prior=prior, **options)
    return [tuple(pair) for pair in found.pairs[0].tolist()], found.scores[0]


def table(verb, noun, prior=None):
    pairs, scores = ranked(verb, noun, prior)
    result = np.zeros((verb.shape[1], noun.shape[1]))
    for (v, n), score in zip(pairs, scores, strict=True):
        result[v, n] = score
    return result


SMALL = logits(0.6, 0.4), logits(0.5, 0.3, 0.2)


def test_check_5_1_joint_prior():
    counts = [[8, 0, 2], [1, 6, 3]]
    pairs, scores = ranked(*SMALL)
    assert pairs[:2] == [(0, 0), (1, 0)]
    assert scores[:2] == pytest.approx([0.30, 0.20])
    joint = action_prior(counts, "joint")
    assert table(*SMALL, joint) == pytest.approx(np.array([[0.12, 0, 0.012], [0.01, 0.036, 0.012]]))
    pairs, _ = ranked(*SMALL, joint)
    assert (pairs[:2], set(pairs[2:4]), pairs[4:]) == ([(0, 0), (1, 1)], {(0, 2), (1, 2)}, [(1, 0), (0, 1)])


def test_check_5_2_only_proportions_count():
    counts = np.array([[8, 0, 2], [1, 5, 3]])
    assert ranked(*SMALL, action_prior(counts, "joint"))[0] == ranked(*SMALL, action_prior(counts * 37, "joint"))[0]


def test_check_5_3_unseen_pairs_come_last():
    random = np.random.default_rng(0)
    counts = random.integers(0, 2, size=(6, 7))
    found = rank_actions(random.normal(size=(50, 6)), random.normal(size=(50, 7)), prior=action_prior(counts, "joint"))
    seen = counts[found.pairs[..., 0], found.pairs[..., 1]] > 0
    assert (np.diff(seen.astype(int), axis=1) <= 0).all()
    assert 0 < counts.sum() < counts.size


def test_check_5_4_conditional_prior():
    counts = [[40, 0, 10], [1, 6, 3]]
    scores = logits(0.3, 0.7), logits(0.5, 0.3, 0.2)
    joint, conditional = (action_prior(counts, kind) for kind in ("joint", "noun_given_verb"))
    assert table(*scores, joint) == pytest.approx(np.array([[0.1, 0, 0.01], [0.005833, 0.021, 0.007]]), abs=1e-6)
    expected = np.array([[0.119999, 0, 0.012], [0.034998, 0.125992, 0.041997]])
    assert table(*scores, conditional) == pytest.approx(expected, abs=1e-6)
    assert (ranked(*scores, joint)[0][0], ranked(*scores, conditional)[0][0]) == ((0, 0), (1, 1))


def test_prior_of_the_participant_split(shared):
    counts = np.zeros((125, 352))
    for verb, noun, count in np.loadtxt(shared / "data/epic55/action_counts_train25.csv", delimiter=",", skiprows=1):
        counts[int(verb), int(noun)] = count
    assert [counts[pair] for pair in ((2, 8), (2, 9), (3, 8), (0, 4))] == [474, 387, 279, 327]
    assert (counts[2].sum(), counts.sum()) == (2_329, 23_191)
    joint, conditional = (action_prior(counts, kind) for kind in ("joint", "noun_given_verb"))
    assert joint[2, 8] == pytest.approx(0.020439, abs=5e-7)
    for pair, value in (((2, 8), 0.203501), ((3, 8), 0.177229), ((0, 4), 0.069028)):
        assert conditional[pair] == pytest.approx(value, abs=5e-7)
    once = conditional[counts.sum(axis=1) == 1].max(axis=1)
    assert once == pytest.approx(0.81, abs=0.005)


def naive_ranking(verb, noun, prior, cut):
    p_verb, p_noun = softmax(verb), softmax(noun)
    verbs = sorted(range(len(verb)), key=lambda v: -verb[v])[:cut]
    nouns = sorted(range(len(noun)), key=lambda n: -noun[n])[:cut]
    products = {(v, n): p_verb[v] * p_noun[n] * (1 if prior is None else prior[v, n]) for v in verbs for n in nouns}
    return sorted(products, key=lambda pair: -products[pair])


@pytest.mark.parametrize("cut", [None, 3, 100])
@pytest.mark.parametrize("with_prior", [False, True])
def test_ranking_against_a_loop(cut, with_prior):
    random = np.random.default_rng(1)
    verb, noun = random.normal(size=(30, 5)), random.normal(size=(30, 8))
    prior = random.random((5, 8)) if with_prior else None
    found = rank_actions(verb, noun, prior=prior, cut=cut, keep=7)
    for k in range(30):
        assert [tuple(p) for p in found.pairs[k].tolist()] == naive_ranking(verb[k], noun[k], prior, cut)[:7]


def test_the_cut_comes_before_the_prior():
    """A noun below the 100 best can never form an action, however much the prior favours it."""
    noun = np.linspace(0, -1, 150)[None]
    prior = np.full((1, 150), 1e-6)
    prior[0, 120] = 1.0
    verb = np.zeros((1, 1))
    assert (0, 120) not in ranked(verb, noun, prior)[0]
    assert ranked(verb, noun, prior, cut=None)[0][0] == (0, 120)


def test_softmax_is_per_segment():
    """One segment's scores far below another's do not underflow, unlike in the official code."""
    low = np.array([[0.0, 1.0, 2.0]])
    both = np.concatenate([low - 2000.0, low + 2000.0])
    found = rank_actions(both, both)
    assert (found.pairs[0] == found.pairs[1]).all()
    assert found.scores[0] == pytest.approx(found.scores[1])
    assert found.scores[0].min() > 0


def test_blocks_do_not_change_the_ranking():
    random = np.random.default_rng(2)
    verb, noun = random.normal(size=(900, 97)), random.normal(size=(900, 300))
    whole, part = rank_actions(verb, noun, keep=5), rank_actions(verb[850:], noun[850:], keep=5)
    assert (whole.pairs[850:] == part.pairs).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match=r"the prior has shape \(3, 2\), but there are 2 verbs and 3 nouns"):
        rank_actions(*SMALL, prior=np.ones((3, 2)))
    with pytest.raises(OptionError, match=r"got shapes \(1, 2\) and \(2, 3\)"):
        rank_actions(SMALL[0], np.ones((2, 3)))
    with pytest.raises(OptionError, match="needs counts"):
        action_prior(np.zeros((2, 3)), "joint")
    assert action_prior([[1]], "none") is None


def test_pair_counts():
    segments = [
        Segment(item_id="a", span=Span(0, 1), labels={"verb": v, "noun": n}) for v, n in ((0, 1), (1, 2), (0, 1))
    ]
    assert pair_counts(segments, 2, 3).tolist() == [[0, 2, 0], [0, 0, 1]]


def test_epic100_blocks_against_a_loop():
    random = np.random.default_rng(3)
    count = 400
    scores = {"verb": random.normal(size=(count, 6)), "noun": random.normal(size=(count, 9))}
    labels = {"verb": random.integers(6, size=count), "noun": random.integers(9, size=count)}
    for task, values in scores.items():  # often right, so that shares differ from zero
        values[np.arange(count), labels[task]] += 1.5
    unseen = random.random(count) < 0.2
    tail = {"verb": {4, 5}, "noun": {1, 7, 8}}
    actions = rank_actions(scores["verb"], scores["noun"])
    found = epic100(scores, actions, labels, unseen=unseen, tail=tail)

    ranks = {t: [list(np.argsort(-row)) for row in scores[t]] for t in scores}
    ranks["action"] = [naive_ranking(v, n, None, 100) for v, n in zip(scores["verb"], scores["noun"], strict=True)]
    truth = {**labels, "action": list(zip(labels["verb"], labels["noun"], strict=True))}
    in_tail = {t: [label in tail[t] for label in labels[t]] for t in labels}
    in_tail["action"] = [v or n for v, n in zip(in_tail["verb"], in_tail["noun"], strict=True)]
    for task in ("verb", "noun", "action"):
        place = [r.index(t) for r, t in zip(ranks[task], truth[task], strict=True)]
        first = np.array(place) == 0
        assert found["overall"][task] == pytest.approx({"top1": first.mean(), "top5": np.mean(np.array(place) < 5)})
        assert found["unseen"][task] == pytest.approx({"top1": first[unseen].mean()})
        assert found["tail"][task] == pytest.approx({"top1": first[in_tail[task]].mean()})
    assert set(epic100(scores, actions, labels, unseen=np.zeros(count, bool), tail=None)) == {"overall"}
