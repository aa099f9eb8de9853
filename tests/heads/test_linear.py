"""The linear head: rows to classes, classes to segments, and the borders between them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, TimeGrid
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import RowBatch, Sample
from vidloc.heads.linear import Linear, LinearOptions, best_path, means_around, row_cells, row_classes
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

    def expect(self, role, items):
        pass

    def keys(self, role, item_id):
        return None

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
    head = Linear(
        LinearOptions(**{"context_s": 0, "change_cost": 0, **options}), {"visual": 3}, {"label": ("wave", "jump")}
    )
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


def test_context_is_a_mean_over_time_within_an_item():
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    centers = torch.tensor([1.0, 0.5, 9.0, 0.0, 1.1], dtype=torch.float64)
    near = [[0, 1, 4], [0, 1, 3], [2], [1, 3], [0, 4]]
    expected = torch.stack([features[places].mean(0) for places in near])
    torch.testing.assert_close(means_around(features, centers, 0.5), expected)
    torch.testing.assert_close(means_around(features, centers, 0.0), features)


def test_rows_are_described_by_themselves_and_their_surroundings():
    head, _ = fitted(context_s=1)
    rows = next(made_bank().batches(1)).rows["visual"]
    twice = RowBatch(
        None, rows.mask.repeat(2, 1), rows.spans.repeat(2, 1, 1), packed=torch.cat([rows.packed, rows.packed.flip(0)])
    )
    plain = head.standard(rows.packed)
    described = head._described(twice)
    torch.testing.assert_close(described[:20, :3], plain)
    torch.testing.assert_close(described[1, 3:], plain[0:3].mean(0))
    torch.testing.assert_close(described[19, 3:], plain[18:20].mean(0))  # the next item's first row has no part in it


def test_saved_numbers_predict_the_same():
    head, _ = fitted()
    other = Linear(head.options, {"visual": 3}, {"label": ("wave", "jump")})
    other.load_state_dict(head.state_dict())
    assert predict_all(other, made_bank(), batch=1) == predict_all(head, made_bank(), batch=1)


def test_a_class_without_training_rows_is_never_predicted():
    names = ("wave", "jump", "never")
    head = Linear(LinearOptions(context_s=0), {"visual": 3}, {"label": names})
    head.fit(FitData(made_bank()), Recorder())
    logits = head.logits(next(made_bank().batches(1)).rows["visual"])
    assert (logits[..., 2] == -torch.inf).all()
    assert logits[..., [0, 1, 3]].isfinite().all()


def test_two_classes_in_all_are_one_against_the_other():
    sample = Sample("v", Span(0, 20), (segment(4, 8, 0),))
    head = Linear(LinearOptions(context_s=0), {"visual": 3}, {"label": ("wave", "jump")})
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
    cells = row_cells(windows, scores, scores.argmax(axis=1))
    assert cells[0] == pytest.approx([0, 0.5 + 4 / 5])
    assert cells[1] == pytest.approx([0.5 + 4 / 5, 2.0])
    assert cells[2] == pytest.approx([2.0, 3.0])


def test_a_border_that_scores_cross_elsewhere_stays_between_the_centres():
    windows = np.array([[0.0, 1], [1, 2]])
    cells = row_cells(windows, np.array([[0.0, 1], [0, 3]]), np.array([0, 1]))
    assert cells.tolist() == [[0, 0.5], [0.5, 2]]
    cells = row_cells(windows, np.array([[3.0, 0], [1, 0]]), np.array([0, 1]))
    assert cells.tolist() == [[0, 1.5], [1.5, 2]]


def test_cells_share_the_time_out_without_gaps():
    random = np.random.default_rng(1)
    starts = np.sort(random.random(30) * 40)
    scores = random.random((30, 4))
    cells = row_cells(np.stack([starts, starts + 2], axis=1), scores, random.integers(0, 4, 30))
    assert (cells[1:, 0] == cells[:-1, 1]).all()
    assert (np.diff(cells, axis=1) >= 0).all()


@pytest.mark.parametrize("cost", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_is_the_best_of_all_paths(cost, seed):
    gains = np.log(np.random.default_rng(seed).dirichlet([0.5, 0.5, 0.5], size=6))
    rows = np.arange(6)
    worth = {
        path: gains[rows, path].sum() - cost * np.count_nonzero(np.diff(path))
        for path in itertools.product(range(3), repeat=6)
    }
    found = tuple(best_path(gains, cost).tolist())
    assert worth[found] == pytest.approx(max(worth.values()))


def test_a_path_of_no_rows_and_of_one():
    assert best_path(np.empty((0, 3)), 1.0).tolist() == []
    assert best_path(np.array([[0.0, 2, 1]]), 1.0).tolist() == [1]


def test_a_change_costs_the_same_at_every_stride():
    """One second of doubt within a class: the same segments from 4 rows a second as from 20, for each cost."""

    def found(cost, stride):
        head = Linear(LinearOptions(change_cost=cost), {"visual": 3}, {"label": ("wave", "jump")})
        starts = np.arange(0, 6, stride)
        sure = np.where(((starts >= 2) & (starts < 3))[:, None], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1])
        windows = np.stack([starts, starts + stride], axis=1)
        return [p.label for p in head._segments("v", sure, windows) if p.score > 0.5]

    for stride in (0.25, 0.05):
        assert found(0.5, stride) == ["wave", "jump", "wave"]
        assert found(0.75, stride) == ["wave"]
