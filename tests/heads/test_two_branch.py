"""The two-branch baseline: consensus of logits, groups of parameters, initial weights."""

from __future__ import annotations

import pytest
import torch

from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.base import UNLABELLED, Batch, RowBatch, Sample
from vidloc.heads.two_branch import TwoBranch, TwoBranchOptions

LABELS = {"verb": ("a", "b"), "noun": ("p", "q")}


def identity_head() -> TwoBranch:
    head = TwoBranch(TwoBranchOptions(), {"verb": 2, "noun": 2}, LABELS).eval()
    with torch.no_grad():
        for layer in head.classifiers.values():
            layer.weight.copy_(torch.eye(2))
    return head


def made_batch(rows, labels=(0, 1)) -> Batch:
    features = torch.tensor([rows], dtype=torch.float32)
    count = features.shape[1]
    part = RowBatch(features, torch.ones(1, count, dtype=torch.bool), torch.zeros(1, count, 2, dtype=torch.float64))
    targets = {task: torch.tensor([label]) for task, label in zip(("verb", "noun"), labels, strict=True)}
    return Batch((Sample("v", Span(0, 1)),), {"verb": part, "noun": part}, {}, targets)


@pytest.mark.parametrize(
    ("rows", "consensus", "winner"),
    [([(4, 0), (0, 1), (0, 1)], (4 / 3, 2 / 3), 0), ([(4, 0), (0, 2), (0, 3)], (4 / 3, 5 / 3), 1)],
)
def test_consensus_is_the_mean_of_logits_not_of_probabilities(rows, consensus, winner):
    logits = identity_head().logits(made_batch(rows))["verb"][0]
    torch.testing.assert_close(logits, torch.tensor(consensus))
    assert int(logits.argmax()) == winner


def test_padding_does_not_enter_the_consensus():
    head, batch = identity_head(), made_batch([(4, 0), (0, 2)])
    rows = batch.rows["verb"]
    padded = RowBatch(
        torch.cat([rows.features, torch.full((1, 3, 2), 7.0)], dim=1),
        torch.tensor([[True, True, False, False, False]]),
        torch.zeros(1, 5, 2, dtype=torch.float64),
    )
    longer = Batch(batch.samples, {"verb": padded, "noun": padded}, {}, batch.labels)
    torch.testing.assert_close(head.logits(longer)["verb"], head.logits(batch)["verb"])


def test_segments_of_one_batch_keep_their_own_rows():
    head, random = identity_head(), torch.Generator().manual_seed(0)
    lengths = [3, 1, 40, 2]
    segments = [torch.randn(length, 2, generator=random) for length in lengths]
    mask = torch.arange(40) < torch.tensor(lengths).unsqueeze(1)
    rows = RowBatch(None, mask, torch.zeros(4, 40, 2, dtype=torch.float64), packed=torch.cat(segments))
    logits = head.logits(Batch((Sample("v", Span(0, 1)),) * 4, {"verb": rows, "noun": rows}))["noun"]
    torch.testing.assert_close(logits, torch.stack([head.classifiers["noun"](rows).mean(0) for rows in segments]))


def test_loss_is_the_mean_of_both_and_leaves_withheld_labels_out():
    head = identity_head()
    losses = head.loss(made_batch([(4, 0)]))
    torch.testing.assert_close(losses["total"], (losses["verb"] + losses["noun"]) / 2)
    half = head.loss(made_batch([(4, 0)], labels=(0, UNLABELLED)))
    assert half["noun"] == 0
    torch.testing.assert_close(half["verb"], losses["verb"])


def test_biases_learn_at_twice_the_rate_and_do_not_decay():
    weights, biases = TwoBranch(TwoBranchOptions(lr=0.3), {"verb": 2, "noun": 2}, LABELS).parameter_groups()
    assert "lr" not in weights
    assert biases["lr"] == 0.6
    assert biases["weight_decay"] == 0
    assert {p.ndim for p in weights["params"]} == {2}
    assert {p.ndim for p in biases["params"]} == {1}


def test_initial_weights_are_small():
    head = TwoBranch(TwoBranchOptions(), {"verb": 400, "noun": 400}, {"verb": "ab" * 50, "noun": "cd" * 50})
    assert float(head.classifiers["verb"].weight.detach().std()) == pytest.approx(0.001, rel=0.05)
    assert (head.classifiers["noun"].bias == 0).all()


def test_annotations_without_verbs_are_refused():
    with pytest.raises(OptionError, match=r"two_branch needs classes for verb and noun, but .* none for verb"):
        TwoBranch(TwoBranchOptions(), {"verb": 1, "noun": 1}, {"noun": ("a",)})


NUMBERED = {**LABELS, "action": ("a p", "b q", "a q")}


def test_the_action_is_scored_from_the_rows_of_both_roles():
    torch.manual_seed(0)
    head = TwoBranch(TwoBranchOptions(action=True), {"verb": 2, "noun": 3}, NUMBERED).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    masks = torch.tensor([[True, True, False]]), torch.tensor([[True]])
    rows = {
        task: RowBatch(torch.randn(1, mask.shape[1], width), mask, torch.zeros(1, mask.shape[1], 2).double())
        for task, mask, width in zip(("verb", "noun"), masks, (2, 3), strict=True)
    }
    targets = {"verb": torch.tensor([1]), "noun": torch.tensor([0]), "action": torch.tensor([2])}
    batch = Batch((Sample("v", Span(0, 1)),), rows, {}, targets)
    verb, noun = head.action["verb"], head.action["noun"]
    by_hand = verb.weight @ rows["verb"].features[0, :2].mean(dim=0) + noun.weight @ rows["noun"].features[0, 0]
    torch.testing.assert_close(head.logits(batch)["action"][0], by_hand + verb.bias)
    assert noun.bias is None
    losses = head.loss(batch)
    torch.testing.assert_close(losses["action"], -torch.log_softmax(by_hand + verb.bias, dim=0)[2])
    torch.testing.assert_close(losses["total"], (losses["verb"] + losses["noun"] + losses["action"]) / 3)
    assert set(head.predict(batch)[0].scores) == {"verb", "noun", "action"}


def test_actions_are_learnt_only_where_they_are_asked_for_and_numbered():
    plain = TwoBranch(TwoBranchOptions(), {"verb": 2, "noun": 2}, NUMBERED)
    assert set(plain.state_dict()) == set(TwoBranch(TwoBranchOptions(), {"verb": 2, "noun": 2}, LABELS).state_dict())
    with pytest.raises(OptionError, match=r"with --action needs classes of a task 'action', .* have verb, noun"):
        TwoBranch(TwoBranchOptions(action=True), {"verb": 2, "noun": 2}, LABELS)
