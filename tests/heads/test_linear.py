"""The linear head: rows to classes, classes to segments, and the borders between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, TimeGrid
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import Sample
from vidloc.heads.linear import Linear, LinearOptions, row_cells, row_classes, smoothed
from vidloc.heads.sampling import AllRows
from vidloc.heads.training import FitData, predict_all

CODES = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]])


class Recorder:
    def __init__(self):
        self.reason = ""

    def log(self, epoch, values):
        self.values = values

    def chose(self, epoch, reason):
        self.reason = reason


class OneItem:
    """Twenty rows: background, class 0 from 4 s to 8 s, background, class 1 from 12 s to 16 s, background."""

    def timeline(self, role, item_id):
        return TimeGrid(1, 1), 20

    def rows(self, role, item_id):
        classes = np.full(20, 2)
        classes[4:8], classes[12:16] = 0, 1
        noise = 0.05 * np.random.default_rng(0).normal(size=(20, 3))
        return Rows.dense(features=(CODES[classes] + noise).astype(np.float32))


def segment(start, end, label):
    return Segment(item_id="v", span=Span(start, end), labels={"label": label}, id=f"{start}")


def made_bank() -> Bank:
    sample = Sample("v", Span(0, 20), (segment(4, 8, 0), segment(12, 16, 1)))
    return Bank([sample], {"visual": AllRows()}, OneItem())


def fitted(**options) -> tuple[Linear, Recorder]:
    head = Linear(LinearOptions(**{"context": 0, "smooth_s": 0, **options}), {"visual": 3}, {"label": ("wave", "jump")})
    recorder = Recorder()
    head.fit(FitData(made_bank()), recorder)
    return head, recorder


def test_planted_segments_are_found_exactly():
    head, recorder = fitted()
    found = [p for p in predict_all(head, made_bank(), batch=1) if p.score > 0.5]
    assert [p.label for p in found] == ["wave", "jump"]
    for prediction, (start, end) in zip(found, [(4, 8), (12, 16)], strict=True):
        assert prediction.span == pytest.approx((start, end), abs=0.2)
    assert recorder.values["row_accuracy"] == 1
    assert "no epochs; solved in" in recorder.reason


def test_a_solver_that_is_stopped_is_said():
    assert "stopped unfinished after 1" in fitted(max_iter=1)[1].reason


def test_thinned_rows_are_said():
    assert "drawn at random from 20" in fitted(max_rows=15)[1].reason


def test_short_segments_are_dropped():
    head, _ = fitted(min_duration_s=5)
    assert predict_all(head, made_bank(), batch=1) == []


def test_further_classes_follow_with_lower_scores():
    head, _ = fitted(also_above=1e-4)
    found = predict_all(head, made_bank(), batch=1)
    first = [p for p in found if p.span == found[0].span]
    assert [p.label for p in first] == ["wave", "jump"]
    assert first[0].score > first[1].score


def test_context_repeats_the_rows_at_the_ends():
    head, _ = fitted(context=1)
    batch = next(made_bank().batches(1))
    described = head._described(batch.rows["visual"])[0]
    plain = head.standard(batch.rows["visual"].features)[0]
    expected = torch.cat([plain[[0, *range(19)]], plain, plain[[*range(1, 20), 19]]], dim=1)
    torch.testing.assert_close(described, expected)


def test_saved_numbers_predict_the_same():
    head, _ = fitted()
    other = Linear(head.options, {"visual": 3}, {"label": ("wave", "jump")})
    other.load_state_dict(head.state_dict())
    assert predict_all(other, made_bank(), batch=1) == predict_all(head, made_bank(), batch=1)


def test_a_class_without_training_rows_is_never_predicted():
    names = ("wave", "jump", "never")
    head = Linear(LinearOptions(context=0), {"visual": 3}, {"label": names})
    head.fit(FitData(made_bank()), Recorder())
    logits = head.logits(next(made_bank().batches(1)).rows["visual"])
    assert (logits[..., 2] == -torch.inf).all()
    assert logits[..., [0, 1, 3]].isfinite().all()


def test_two_classes_in_all_are_one_against_the_other():
    sample = Sample("v", Span(0, 20), (segment(4, 8, 0),))
    head = Linear(LinearOptions(context=0), {"visual": 3}, {"label": ("wave", "jump")})
    bank = Bank([sample], {"visual": AllRows()}, OneItem())
    head.fit(FitData(bank), Recorder())
    assert [p.label for p in predict_all(head, bank, batch=1)] == ["wave"]


def test_one_class_alone_is_refused():
    head = Linear(LinearOptions(), {"visual": 3}, {"label": ("wave", "jump")})
    bank = Bank([Sample("v", Span(0, 20))], {"visual": AllRows()}, OneItem())
    with pytest.raises(OptionError, match="all training rows are 'background'"):
        head.fit(FitData(bank), Recorder())


def test_several_tasks_need_a_choice():
    labels = {"verb": ("a",), "noun": ("b",)}
    with pytest.raises(OptionError, match=r"there are several tasks\. Choose --label of: verb, noun"):
        Linear(LinearOptions(), {"visual": 3}, labels)
    with pytest.raises(OptionError, match="there is no task 'adverb'"):
        Linear(LinearOptions(label="adverb"), {"visual": 3}, labels)
    assert Linear(LinearOptions(label="noun"), {"visual": 3}, labels).label_task == "noun"


def test_rows_take_the_class_of_the_shortest_segment_that_holds_their_centre():
    segments = [segment(2, 4, 1), segment(0, 10, 0)]
    classes = row_classes(np.array([0.0, 2.0, 3.9, 4.0, 10.0]), segments, "label", 9)
    assert classes.tolist() == [0, 1, 1, 0, 9]


def test_borders_lie_where_scores_cross():
    windows = np.array([[0.0, 1], [1, 2], [2, 3]])
    scores = np.array([[4.0, 0], [1, 2], [0, 2]])
    cells = row_cells(windows, scores)
    assert cells[0] == pytest.approx([0, 0.5 + 4 / 5])
    assert cells[1] == pytest.approx([0.5 + 4 / 5, 2.0])
    assert cells[2] == pytest.approx([2.0, 3.0])


def test_cells_share_the_time_out_without_gaps():
    random = np.random.default_rng(1)
    starts = np.sort(random.random(30) * 40)
    cells = row_cells(np.stack([starts, starts + 2], axis=1), random.random((30, 4)))
    assert (cells[1:, 0] == cells[:-1, 1]).all()
    assert (np.diff(cells, axis=1) >= 0).all()


def test_smoothing_is_a_mean_over_time_and_not_over_rows():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    centers = np.array([0.0, 0.5, 1.0, 9.0])
    logs = np.log(probabilities)
    expected = [logs[:2].mean(0), logs[:3].mean(0), logs[1:3].mean(0), logs[3]]
    np.testing.assert_allclose(smoothed(probabilities, centers, 1.0), expected)
    np.testing.assert_allclose(smoothed(probabilities, centers, 0.0), logs)
