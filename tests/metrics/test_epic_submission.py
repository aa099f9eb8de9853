"""Submission files of both editions: written and read back, complete or refused."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from vidloc.core.records import Prediction
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.metrics.actions import action_prior, rank_actions
from vidloc.metrics.epic_submission import read_epic_submission, write_epic55_submission, write_epic100_submission

SLS = (2, 3, 3)


def made_predictions(ids, num_verbs, num_nouns, seed=0):
    random = np.random.default_rng(seed)
    return [
        Prediction(
            item_id="P01_01",
            span=Span(0, 1),
            score=1.0,
            query_id=query,
            scores={
                "verb": tuple(random.normal(0, 5, num_verbs)),
                "noun": tuple(random.normal(0, 5, num_nouns).astype(np.float32).tolist()),
            },
        )
        for query in ids
    ]


def content(path, name):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(name))


def test_epic55_round_trip(tmp_path):
    path, ids = tmp_path / "sub.zip", ([str(k) for k in range(300)], ["300", "301"])
    seen, unseen = (made_predictions(i, 125, 352) for i in ids)
    write_epic55_submission(path, seen[::-1], unseen, ids_seen=ids[0], ids_unseen=ids[1])
    found = read_epic_submission(path, "epic55")
    assert list(found) == ["seen.json", "unseen.json"]
    for name, predictions in (("seen.json", seen), ("unseen.json", unseen)):
        part = found[name]
        assert part.header == {"version": "0.1", "challenge": "action_recognition"}
        assert list(part.scores) == [p.query_id for p in predictions]
        assert part.actions == {}
        for prediction in predictions:
            for task in ("verb", "noun"):
                assert part.scores[prediction.query_id][task] == pytest.approx(prediction.scores[task], abs=1e-6)
    raw = content(path, "unseen.json")["results"]["300"]
    assert sorted(raw) == ["noun", "verb"]
    assert sum(map(len, raw.values())) == 477
    assert list(raw["noun"]) == [str(c) for c in range(352)]


def test_epic100_round_trip_with_a_prior(tmp_path):
    path, ids = tmp_path / "sub.zip", [f"P01_101_{k}" for k in range(5)]
    predictions = made_predictions(ids, 97, 300)
    prior = action_prior(np.random.default_rng(1).integers(1, 9, size=(97, 300)), "joint")
    write_epic100_submission(path, predictions, ids=ids, sls=SLS, prior=prior)
    part = read_epic_submission(path, "epic100")["test.json"]
    header = {"version": "0.2", "challenge": "action_recognition", "sls_pt": 2, "sls_tl": 3, "sls_td": 3}
    assert part.header == header
    ranking = rank_actions(*([p.scores[t] for p in predictions] for t in ("verb", "noun")), prior=prior)
    for k, query in enumerate(ids):
        # Small products of probabilities keep their digits, so the order survives the file.
        assert list(part.actions[query]) == [tuple(pair) for pair in ranking.pairs[k].tolist()]
        assert list(part.actions[query].values()) == pytest.approx(ranking.scores[k].tolist(), rel=1e-8)
    raw = content(path, "test.json")["results"][ids[0]]
    assert (len(raw["verb"]) + len(raw["noun"]), len(raw["action"])) == (397, 100)


def test_incomplete_or_foreign_predictions_are_refused(tmp_path):
    path, ids = tmp_path / "sub.zip", ["a", "b", "c"]
    predictions = made_predictions(ids, 97, 300)

    def write(given, **options):
        write_epic100_submission(path, given, ids=ids, sls=SLS, **options)

    with pytest.raises(OptionError, match=r"exactly the 3 segments .*: 1 are missing and 0 .* 'b' missing"):
        write([predictions[0], predictions[2]])
    with pytest.raises(OptionError, match="0 are missing and 1 do not belong to it, such as 'z' too many"):
        write([*predictions, *made_predictions(["z"], 97, 300)])
    with pytest.raises(OptionError, match="segment 'a' has two predictions"):
        write([*predictions, predictions[0]])
    with pytest.raises(OptionError, match="segment 'a' needs 97 finite verb scores for epic100, found 125"):
        write(made_predictions(ids, 125, 352))
    with pytest.raises(OptionError, match="a cut of 9 leaves fewer than the 100 actions"):
        write(predictions, prior=np.ones((97, 300)), cut=9)
    with pytest.raises(OptionError, match="the prior has shape"):
        write(predictions, prior=np.ones((2, 2)))
    with pytest.raises(OptionError, match="three whole numbers from 0 to 5"):
        write_epic100_submission(path, predictions, ids=ids, sls=(0, 6, 0))
    with pytest.raises(OptionError, match="cannot be written to"):
        write_epic100_submission(tmp_path / "no" / "sub.zip", predictions, ids=ids, sls=SLS)
    assert list(tmp_path.iterdir()) == []  # nothing half-written is left


def rewritten(tmp_path, change):
    path, ids = tmp_path / "sub.zip", ["a"]
    write_epic100_submission(path, made_predictions(ids, 97, 300), ids=ids, sls=SLS, prior=np.ones((97, 300)))
    value = content(path, "test.json")
    change(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("test.json", json.dumps(value))
    return path


def set_at(*keys, to):
    def change(value):
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("version", to="0.1"), "expected version 0.2"),
        (set_at("sls_td", to=7), r"sls_td must be whole numbers from 0 to 5, found \[2, 3, 7\]"),
        (set_at("results", "a", "verb", "97", to=1.0), "verb must give a finite score .* '0' to '96'"),
        (set_at("results", "a", "noun", "3", to="1"), "segment 'a': noun must give a finite score"),
        (set_at("results", "a", "noun", "3", to=float("nan")), "segment 'a': noun must give a finite score"),
        (set_at("results", "a", "action", "0,999", to=1.0), "action must hold exactly 100"),
        (set_at("results", "a", "action", to={f"97,{n}": 1.0 for n in range(100)}), "action '97,0' is not 'VERB,NOUN'"),
    ],
)
def test_readers_refuse_what_the_format_does_not_allow(tmp_path, change, message):
    with pytest.raises(OptionError, match=message):
        read_epic_submission(rewritten(tmp_path, change), "epic100")


def test_files_that_are_no_submission(tmp_path):
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(OptionError, match=r"x\.zip is not a submission"):
        read_epic_submission(tmp_path / "x.zip", "epic55")
    path = rewritten(tmp_path, lambda value: None)
    with pytest.raises(OptionError, match=r"holds \['test\.json'\], expected \['seen\.json', 'unseen\.json'\]"):
        read_epic_submission(path, "epic55")
