"""Retrieval measures: the specification's cases, naive loops, and scikit-learn's nDCG."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from vidloc.datasets.epic_kitchens import EpicKitchens, EpicOptions
from vidloc.errors import OptionError
from vidloc.metrics.ranking import epic100_retrieval, ndcg, relevancy, retrieval_map

SIMILARITY = [[1, 0.7, 0.4, 0], [0.3, 0.9, 0.6, 0.1], [0.2, 0.5, 0.8, 0.4]]
RELEVANCY = [[1, 0.5, 0.25, 0], [0, 1, 0.4, 0], [0.5, 0.3, 1, 0]]


def test_first_specified_case():
    similarity, relevancies = [[0.9, 0.2, 0.5, 0.1]], [[1, 0.5, 0, 1]]
    # Ideal of the three best: 1 + 1 / log2(3) + 0.5 / 2.
    assert 1 + 1 / math.log2(3) + 0.25 == pytest.approx(1.880930, abs=1e-6)
    assert ndcg(similarity, relevancies) == pytest.approx(1.25 / 1.880930, abs=1e-6)
    assert ndcg(similarity, relevancies) == pytest.approx(0.664565, abs=1e-6)
    assert retrieval_map(similarity, relevancies) == pytest.approx(0.8125)
    assert retrieval_map(similarity, relevancies, graded=False) == pytest.approx(0.75)


def test_second_specified_case():
    assert ndcg(SIMILARITY, RELEVANCY) == pytest.approx(0.937179, abs=1e-6)
    assert retrieval_map(SIMILARITY, RELEVANCY) == 1.0


def naive_ndcg(row, gains):
    order = sorted(range(len(row)), key=lambda k: -row[k])
    k = sum(g > 0 for g in gains)
    dcg = sum(gains[order[r]] / math.log2(r + 2) for r in range(k))
    return dcg / sum(g / math.log2(r + 2) for r, g in enumerate(sorted(gains, reverse=True)[:k]))


def naive_map(row, gains):
    order = sorted(range(len(row)), key=lambda k: -row[k])
    ranked = [gains[k] for k in order]
    return np.mean([sum(ranked[: r + 1]) / (r + 1) for r in range(len(ranked)) if ranked[r] == 1])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_against_loops_and_sklearn(seed):
    random = np.random.default_rng(seed)
    similarity = random.permutation(40).reshape(5, 8) / 40
    relevancies = random.choice([0, 0.25, 0.5, 1], size=(5, 8), p=[0.4, 0.2, 0.2, 0.2])
    relevancies[:, 0] = 1
    pairs = list(zip(similarity, relevancies, strict=True))
    assert ndcg(similarity, relevancies) == pytest.approx(np.mean([naive_ndcg(*pair) for pair in pairs]))
    assert retrieval_map(similarity, relevancies) == pytest.approx(np.mean([naive_map(*pair) for pair in pairs]))
    k = [int((gains > 0).sum()) for gains in relevancies]
    expected = [ndcg_score([g], [s], k=n) for (s, g), n in zip(pairs, k, strict=True)]
    assert ndcg(similarity, relevancies) == pytest.approx(np.mean(expected))
    hits_only = np.mean([average_precision_score(g == 1, s) for s, g in pairs])
    assert retrieval_map(similarity, relevancies, graded=False) == pytest.approx(hits_only)
    both = epic100_retrieval(similarity, relevancies)
    assert both["text_to_video"]["map"] == pytest.approx(retrieval_map(similarity.T, relevancies.T), nan_ok=True)
    assert both["mean"]["ndcg"] == pytest.approx(
        (both["video_to_text"]["ndcg"] + both["text_to_video"]["ndcg"]) / 2, nan_ok=True
    )


def test_queries_without_a_relevant_item_are_left_out():
    assert ndcg([*SIMILARITY, [1, 2, 3, 4]], [*RELEVANCY, [0, 0, 0, 0]]) == pytest.approx(0.937179, abs=1e-6)
    assert retrieval_map([[1, 2]], [[1, 0.5]]) == retrieval_map([[1, 2], [1, 2]], [[1, 0.5], [0.5, 0]])
    assert math.isnan(ndcg([[1.0]], [[0.0]]))


def test_shapes_must_agree():
    with pytest.raises(OptionError, match=r"similarity \(1, 2\) and relevancy \(1, 3\)"):
        ndcg([[1, 2]], [[1, 0, 0]])


def test_relevancy_of_verbs_and_noun_sets():
    found = relevancy([0, 1], [{1, 2}, {3}], [0, 0, 1], [{1, 2}, {2, 4}, {3}])
    assert found == pytest.approx(np.array([[1.0, (1 + 1 / 3) / 2, 0.0], [0.0, 0.0, 1.0]]))


def test_relevancy_of_real_segments(tmp_path, shared):
    """The sets come from `all_noun_classes`; each segment is fully relevant to itself."""
    for name in ("verb_classes.csv", "noun_classes.csv", "validation.csv.gz"):
        (tmp_path / f"EPIC_100_{name}").symlink_to((shared / "data/epic100" / f"EPIC_100_{name}").resolve())
    annotations = EpicKitchens(EpicOptions(), name="epic100").read(tmp_path)
    segments = annotations.split("validation")[:200]
    verbs = [s.labels["verb"] for s in segments]
    nouns = [set(annotations.label_sets["noun"][s.id]) for s in segments]
    found = relevancy(verbs, nouns, verbs, nouns)
    assert (np.diag(found) == 1).all()
    for i in range(0, 200, 17):
        for j in range(0, 200, 13):
            expected = ((verbs[i] == verbs[j]) + len(nouns[i] & nouns[j]) / len(nouns[i] | nouns[j])) / 2
            assert found[i, j] == pytest.approx(expected)
