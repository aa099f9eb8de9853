"""PSP: size of the released network, propagation as a loop, its losses in worked numbers, and the weak form."""

from __future__ import annotations

import math

import pytest
import torch
from event_clips import DIMS, LABELS, clips
from torch.nn import functional as F  # noqa: N812

from vidloc.errors import OptionError
from vidloc.heads.audio_visual import ClipTargets, clip_targets, paired_rows
from vidloc.heads.base import UNLABELLED
from vidloc.heads.psp import Propagation, Psp, PspOptions, clip_loss, pair_loss, positive_links
from vidloc.heads.training import FitData

SMALL_DIMS = {"audio": 6, "visual": 8}


def psp(**options) -> Psp:
    torch.manual_seed(3)
    return Psp(PspOptions(**options), SMALL_DIMS, LABELS).eval()


def small_clips(*events, **options):
    return clips(*events, audio=6, visual=8, **options)


def test_size_is_that_of_the_release():
    unused = (
        (512 * 128 + 128)  # a linear layer of pictures
        + 2 * (256 * 64 + 64 * 28)  # classes of each modality
        + (256 * 64 + 64) + (64 * 2 + 2)  # a second classifier, of two classes
    )  # fmt: skip
    assert Psp(PspOptions(), DIMS, LABELS).num_parameters + unused == 1_667_251


def loop(module: Propagation, audio, visual, tau):
    """Propagation of one clip, a pair of rows after the other."""
    count, width = visual.shape
    v1, v2, a1, a2 = (
        [F.relu(layer(row)) for row in rows]
        for layer, rows in ((module.v1, visual), (module.v2, visual), (module.a1, audio), (module.a2, audio))
    )
    beta = [[F.relu(v2[i] @ a1[j] / math.sqrt(width)) for j in range(count)] for i in range(count)]

    def shares(links):
        total = sum(links)
        kept = [link / total if link / total > tau else torch.tensor(0.0) for link in links]
        return kept if module.weak else [link / sum(kept) for link in kept]

    pictures, sounds = [], []
    for i in range(count):
        to_picture, to_sound = shares(beta[i]), shares([beta[j][i] for j in range(count)])
        pictures.append(visual[i] + sum(to_picture[j] * a2[j] for j in range(count)))
        sounds.append(audio[i] + sum(to_sound[j] * v1[j] for j in range(count)))
    if not module.weak:
        pictures = [F.relu(module.visual_out(row)) for row in pictures]
        sounds = [F.relu(module.audio_out(row)) for row in sounds]
    return module.norm(torch.stack(sounds)), module.norm(torch.stack(pictures))


@pytest.mark.parametrize("weak", [False, True])
def test_propagation_equals_a_loop_over_pairs(weak):
    torch.manual_seed(0)
    module = Propagation(8, tau=0.1, weak=weak, dropout=0.1).eval()
    audio, visual = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    mask = torch.tensor([[True] * 5 + [False]])
    found = module(audio, visual, mask)
    expected = loop(module, audio[0, :5], visual[0, :5], 0.1 * 10 / 5)  # five rows: a share is worth twice as much
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[0, :5], theirs)


def test_links_up_to_tau_are_cut():
    links = torch.tensor([[[2.0, 1.0, 5.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0]]])
    found = positive_links(links, torch.tensor([[[0.25]]]))
    expected = torch.tensor([[[0, 0, 0.625], [0, 0, 0], [0, 0, 0.5]]])  # a quarter exactly is cut
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(positive_links(links, torch.tensor([[[0.0]]]))[0, 0], torch.tensor([0.25, 0.125, 0.625]))


@pytest.mark.parametrize(("options", "tau"), [({}, 0.099), ({"supervision": "weak"}, 0.095), ({"tau": 0.2}, 0.2)])
def test_tau_follows_the_supervision(options, tau):
    assert psp(**options).propagation.tau == tau


def test_pair_loss_in_worked_numbers():
    one = torch.tensor([[[1.0, 0], [1.0, 0], [1.0, 0], [1.0, 0]]])
    other = torch.tensor([[[1.0, 0], [1.0, math.sqrt(3)], [-1.0, 0], [1.0, 0]]])
    targets = ClipTargets(
        torch.tensor([[True, True, False, False]]), torch.tensor([[True, True, True, False]]), torch.tensor([0])
    )
    # Cosines 1, 1/2, -1 are shares 2/3, 1/3, 0; the event's rows have a half each.
    assert float(pair_loss(one, other, targets)) == pytest.approx(((1 / 6) ** 2 + (1 / 6) ** 2) / 3, abs=1e-6)
    nothing = ClipTargets(targets.event & False, targets.mask, torch.tensor([0]))
    assert float(pair_loss(one, other, nothing)) == pytest.approx((4 / 9 + 1 / 9) / 3, abs=1e-6)


def test_clip_loss_in_worked_numbers():
    scores = torch.log(torch.tensor([[[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [9.0, 1.0, 5.0]]]))
    mask = torch.tensor([[True, True, False]])
    named = clip_loss(scores, torch.tensor([[1.0, 0, 0]]), mask)
    assert float(named) == pytest.approx(-(math.log(0.7) + math.log(0.8) + math.log(0.9)) / 3)
    shares = clip_loss(scores, torch.tensor([[0.6, 0, 0.4]]), mask)
    cross = 0.6 * math.log(0.7) + 0.4 * math.log(0.3) + math.log(0.8) + 0.4 * math.log(0.1) + 0.6 * math.log(0.9)
    assert float(shares) == pytest.approx(-cross / 3)


def test_full_loss_is_of_rows_and_pairs():
    batch = small_clips((6, 8), (0, 10), (2, 4), labels=[3, 28, UNLABELLED])
    losses = psp().loss(batch)
    torch.testing.assert_close(losses["total"], losses["class"] + 100 * losses["pair"])
    scores = psp().outputs(paired_rows(batch))[0]
    wanted = torch.tensor([28] * 6 + [3, 3, 28, 28] + [28] * 10)
    torch.testing.assert_close(losses["class"], F.cross_entropy(scores[:2].flatten(0, 1), wanted))


def clip_labels(head: Psp, batch):
    return head._clip_labels(batch, clip_targets(batch, paired_rows(batch), "event", 28))


def test_weak_training_sees_times_only_as_shares():
    one, other = small_clips((6, 8), (0, 3)), small_clips((0, 10), (2, 4))
    head, told = psp(supervision="weak"), psp(supervision="weak", clip_label="shares")
    torch.testing.assert_close(head.loss(one)["total"], head.loss(other)["total"])
    assert not torch.allclose(told.loss(one)["total"], told.loss(other)["total"], atol=1e-4)
    moved = small_clips((1, 3), (5, 8))  # of the same lengths
    torch.testing.assert_close(told.loss(one)["total"], told.loss(moved)["total"])
    mixed = clip_labels(told, one)
    assert mixed[0, [0, 28]].tolist() == pytest.approx([0.2, 0.8])
    background = small_clips((0, 10), labels=[28])
    assert float(clip_labels(told, background)[0, 28]) == 1


def test_weak_scores_are_weighed_between_a_half_and_one():
    head, pair = psp(supervision="weak"), paired_rows(small_clips((6, 8)))
    weighed = head.outputs(pair)[0]
    torch.nn.init.zeros_(head.weighting.weight)
    halved = head.outputs(pair)[0]
    ratio = weighed / (2 * halved)
    assert ratio.min() >= 0.5 - 1e-5
    assert ratio.max() < 1
    assert not hasattr(head.propagation, "visual_out")
    assert {name for name, _ in head.named_parameters() if name.startswith("to_")} == {
        "to_visual.weight",
        "to_visual.bias",
    }


def test_clips_whose_class_is_withheld_count_nothing():
    for options in ({}, {"supervision": "weak"}, {"supervision": "weak", "clip_label": "shares"}):
        head = psp(**options)
        batch = small_clips((6, 8), (2, 4), labels=[3, UNLABELLED])
        before = head.loss(batch)["total"]
        batch.rows["audio"].features[1] += 1
        torch.testing.assert_close(head.loss(batch)["total"], before)
        assert float(head.loss(small_clips((6, 8), labels=[UNLABELLED]))["total"].detach()) == 0


def test_without_propagation_no_modality_hears_of_the_other():
    head, batch = psp(propagation=False), small_clips((6, 8))
    assert not hasattr(head, "propagation")
    pair = paired_rows(batch)
    _, sounds, _ = head.outputs(pair)
    pair.visual.add_(1)
    torch.testing.assert_close(head.outputs(pair)[1], sounds)
    moved = psp()
    _, sounds, _ = moved.outputs(pair)
    pair.visual.mul_(5)
    assert (moved.outputs(pair)[1] - sounds).abs().max() > 1e-4


def test_shares_that_spans_do_not_tell_are_refused():
    class Data:
        samples = small_clips((0, 10), (0, 10)).samples

    with pytest.raises(OptionError, match=r"all training events span 0 to 10 s, .* Learn them from --protocol event"):
        psp(supervision="weak", clip_label="shares").prepare(FitData(Data()))
    with pytest.raises(OptionError, match="--clip-label is of --supervision weak"):
        psp(clip_label="shares")
