"""The common loop: schedule, resume to the last bit, choice of the epoch, and what it refuses."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from vidloc.core.records import Prediction, Segment, Source
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, TimeGrid
from vidloc.errors import OptionError, VidlocError
from vidloc.heads.bank import Bank
from vidloc.heads.base import Head, Sample, SegmentOptions, StreamNeed
from vidloc.heads.sampling import SegmentRows
from vidloc.heads.training import Checkpoint, FitData, fit, learning_rate, pick_device, predict_all, seeded

NUM_SAMPLES = 24


class Reader:
    def expect(self, role, items):
        pass

    def keys(self, role, item_id):
        return None

    def timeline(self, role, item_id):
        return TimeGrid(1, 1), NUM_SAMPLES

    def rows(self, role, item_id):
        return Rows.dense(features=np.random.default_rng(0).normal(size=(NUM_SAMPLES, 3)).astype(np.float32))


class Dropped(Head):
    """A linear layer under dropout, so that a resume must get the random numbers right too."""

    task = "recognition"
    needs: ClassVar = {"visual": StreamNeed(("clip",))}
    Options = SegmentOptions
    source = Source()

    def __init__(self, options, dims, labels):
        super().__init__(options, dims, labels)
        self.layer = nn.Linear(dims["visual"], 2)
        self.prepared = 0

    def prepare(self, data):
        self.prepared += 1

    def loss(self, batch):
        features = nn.functional.dropout(batch.rows["visual"].features[:, 0], 0.5, self.training)
        return {"total": nn.functional.cross_entropy(self.layer(features), batch.labels["label"])}

    def predict(self, batch):
        scores = self.layer(batch.rows["visual"].features[:, 0]).tolist()
        return [
            Prediction(item_id=s.item_id, span=s.span, score=max(row), query_id=s.id, scores={"label": tuple(row)})
            for s, row in zip(batch.samples, scores, strict=True)
        ]


class Recorder:
    """Keeps checkpoints in memory; `stop_after` stands for a kill."""

    def __init__(self, stop_after=0, state=None):
        self.state, self.stop_after = state, stop_after
        self.logs, self.chosen, self.best_weights = {}, None, {}

    def resume(self):
        return self.state

    def log(self, epoch, values):
        self.logs[epoch] = dict(values)

    def checkpoint(self, state):
        self.state = Checkpoint(**copy.deepcopy(vars(state)))
        if state.best_epoch == state.epoch:
            self.best_weights = self.state.weights
        if state.epoch == self.stop_after:
            raise KeyboardInterrupt

    def best(self):
        return self.best_weights

    def chose(self, epoch, reason):
        self.chosen = (epoch, reason)


def made_bank() -> Bank:
    samples = []
    for k in range(NUM_SAMPLES):
        span = Span(k, k + 1)
        samples.append(Sample("v", span, (Segment(item_id="v", span=span, labels={"label": k % 2}, id=str(k)),)))
    return Bank(samples, {"visual": SegmentRows()}, Reader(), tasks=("label",))


def made_head(**options) -> Dropped:
    options = SegmentOptions(**{"epochs": 6, "batch": 5, "lr": 0.1, **options})
    with seeded(options.seed, device=torch.device("cpu")):
        return Dropped(options, {"visual": 3}, {"label": ("a", "b")})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_stopped_training_goes_on_as_if_it_had_not(optimizer):
    whole, plain = made_head(optimizer=optimizer), Recorder()
    fit(whole, FitData(made_bank()), plain)
    stopped = Recorder(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        fit(made_head(optimizer=optimizer), FitData(made_bank()), stopped)
    resumed, later = made_head(optimizer=optimizer), Recorder(state=stopped.state)
    torch.manual_seed(12345)  # what else the process did must not matter
    fit(resumed, FitData(made_bank()), later)
    assert sorted(later.logs) == [4, 5, 6]
    assert {**stopped.logs, **later.logs} == plain.logs
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert resumed.prepared == 0


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    def trained(seed):
        head = made_head(seed=seed)
        fit(head, FitData(made_bank()), Recorder())
        return head.layer.weight.detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(made_head(), FitData(made_bank()), Recorder())
    assert torch.equal(torch.rand(3), expected)


def test_the_rate_drops_at_shares_of_the_epochs():
    options = SegmentOptions(lr=1.0, epochs=20, lr_drops="0.6,0.85")
    rates = [learning_rate(options, epoch) for epoch in range(20)]
    assert rates == pytest.approx([1.0] * 12 + [0.1] * 5 + [0.01] * 3)
    assert learning_rate(SegmentOptions(lr=1.0, epochs=1), 0) == 1.0
    recorder = Recorder()
    fit(made_head(lr_drops=(0.5,)), FitData(made_bank()), recorder)
    assert [values["lr"] for values in recorder.logs.values()] == pytest.approx([0.1] * 3 + [0.01] * 3)


def test_groups_keep_their_multiple_of_the_rate():
    class Doubled(Dropped):
        def parameter_groups(self):
            return [{"params": [self.layer.weight]}, {"params": [self.layer.bias], "lr": 2 * self.options.lr}]

    options = SegmentOptions(epochs=2, lr_drops="0.5", lr=0.1)
    head, recorder = Doubled(options, {"visual": 3}, {"label": ("a", "b")}), Recorder()
    fit(head, FitData(made_bank()), recorder)
    assert [group["lr"] for group in recorder.state.optimizer["param_groups"]] == pytest.approx([0.01, 0.02])


def test_the_last_epoch_is_kept_unless_told_otherwise():
    recorder = Recorder()
    fit(made_head(), FitData(made_bank()), recorder)
    assert recorder.chosen == (6, "the last epoch; no split was looked at to choose it")


def test_the_best_epoch_is_kept_when_asked_and_said():
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.2, 0.1])
    recorder, head = Recorder(), made_head(select="best", select_split="validation")
    fit(head, FitData(made_bank(), made_bank(), lambda _: next(scores)), recorder)
    assert recorder.chosen[0] == 2
    assert (
        "best of 6 epochs on split 'validation' (score 0.7000), which is therefore not held out" in recorder.chosen[1]
    )
    reference = Recorder(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        fit(made_head(), FitData(made_bank()), reference)
    assert torch.equal(head.layer.weight, reference.state.weights["layer.weight"])


def test_best_without_a_split_is_refused():
    with pytest.raises(OptionError, match="--select best needs the split to look at"):
        fit(made_head(select="best"), FitData(made_bank()), Recorder())


def test_a_loss_that_is_not_finite_ends_the_training():
    with pytest.raises(VidlocError, match=r"not finite after epoch \d.*lower --lr or --clip-norm"):
        fit(made_head(lr=1e30, epochs=5), FitData(made_bank()), Recorder())


def test_gradients_are_clipped():
    head = made_head(lr=1.0, clip_norm=1e-6, epochs=1, batch=NUM_SAMPLES, momentum=0, weight_decay=0)
    before = head.layer.weight.detach().clone()
    fit(head, FitData(made_bank()), Recorder())
    assert 0 < float((head.layer.weight - before).detach().norm()) <= 1.01e-6


def test_predictions_do_not_depend_on_the_batch():
    head = made_head()
    one, many = predict_all(head, made_bank(), batch=1), predict_all(head, made_bank(), batch=24)
    for a, b in zip(one, many, strict=True):
        assert a.query_id == b.query_id
        assert a.scores["label"] == pytest.approx(b.scores["label"], abs=1e-6)
    assert head.training


def test_devices():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(OptionError, match="device 'toaster' is not one of auto, cpu"):
        pick_device("toaster")
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(OptionError, match="torch finds no GPU here"):
            pick_device("cuda")
