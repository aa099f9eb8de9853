"""Guided attention, rows side by side, AVEL and DAM for events: the specification's worked numbers."""

from __future__ import annotations

import pytest
import torch
from event_clips import DIMS, LABELS, clips, rows_of
from torch.nn import functional as F  # noqa: N812

from vidloc.errors import OptionError
from vidloc.heads.audio_visual import GuidedAttention, MaskedBiLSTM, event_classes, paired_rows, row_loss, row_targets
from vidloc.heads.avel import Avel, AvelOptions, clip_scores, released_loss
from vidloc.heads.base import UNLABELLED, Batch
from vidloc.heads.dam_event import DamEvent, DamEventOptions, event_or_background


def avel(**options) -> Avel:
    return Avel(AvelOptions(**options), DIMS, LABELS).eval()


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 1_335_246), ({"supervision": "weak"}, 1_335_246), ({"fusion": "dmrn"}, 1_571_150)],
)
def test_parameters_are_those_of_the_release(options, count):
    head = avel(**options)
    assert head.num_parameters == count
    names = {name.removeprefix("attention.").rsplit(".", 1)[0] for name, _ in head.named_parameters()}
    common = {"affine_video", "affine_audio", "affine_v", "affine_g", "affine_h", "lstm_audio", "lstm_video", "L2"}
    assert names == common | ({"U_a.0", "U_a.2", "U_v.0", "U_v.2"} if "fusion" in options else {"L1"})


@pytest.fixture
def scene():
    torch.manual_seed(1)
    return torch.randn(2, 3, 8), torch.randn(2, 3, 49, 6)


def guided(variant) -> GuidedAttention:
    torch.manual_seed(2)
    return GuidedAttention(8, 6, positions=49, guided_by=variant)


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_without_its_last_layer_attention_is_the_mean(scene, variant):
    layer = guided(variant)
    torch.nn.init.zeros_(layer.affine_h.weight)
    torch.testing.assert_close(layer.weights_of(*scene), torch.full((2, 3, 49), 1 / 49))
    torch.testing.assert_close(layer(*scene), scene[1].mean(dim=2))


def test_without_the_picture_the_variants_differ(scene):
    """The release adds the sound along the positions, so that they get unlike weights; the paper does not."""
    audio, visual = scene
    released, paper = guided("released"), guided("paper")
    for layer in (released, paper):
        torch.nn.init.zeros_(layer.affine_v.weight)
    weights = released.weights_of(audio, visual)
    assert (weights.amax(dim=-1) / weights.amin(dim=-1)).min() > 1.01
    torch.testing.assert_close(weights, released.weights_of(audio, torch.rand_like(visual)))
    torch.testing.assert_close(paper.weights_of(audio, visual), torch.full((2, 3, 49), 1 / 49))


def test_order_of_positions_matters_in_the_release_only(scene):
    audio, visual = scene
    shuffled = visual[:, :, torch.randperm(49)]
    torch.testing.assert_close(guided("paper")(audio, visual), guided("paper")(audio, shuffled))
    assert (guided("released")(audio, visual) - guided("released")(audio, shuffled)).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_attention_equals_a_loop_over_positions(scene, variant):
    (audio, visual), layer = scene, guided(variant)
    a, v = audio[1, 2], visual[1, 2]
    g = layer.affine_g.weight @ torch.relu(layer.affine_audio(a))
    z = []
    for i in range(49):
        row = layer.affine_v.weight @ torch.relu(layer.affine_video(v[i]))
        row = row + (g[i] if variant == "released" else g)
        z.append((layer.affine_h.weight @ torch.tanh(row))[0])
    alpha = torch.softmax(torch.stack(z), dim=0)
    torch.testing.assert_close(layer(audio, visual)[1, 2], sum(alpha[i] * v[i] for i in range(49)))


@pytest.mark.parametrize(("bias", "expected"), [(0.0, 0.380797), (0.5, 0.683633)])
def test_residual_fusion(bias, expected):
    head = avel(fusion="dmrn")
    for block in (head.U_a, head.U_v):
        for layer in (block[0], block[2]):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        torch.nn.init.constant_(block[2].bias, bias)
    fused = head.fused(torch.ones(1, 256), torch.zeros(1, 256))
    torch.testing.assert_close(fused, torch.full((1, 256), expected), atol=1e-6, rtol=0)


def test_released_loss():
    perfect = F.one_hot(torch.tensor([3]), 29).float()
    cases = [(perfect, 3, 0.680048), (torch.full((1, 29), 1 / 29), 3, 0.709348), (perfect, 4, 0.714530)]
    for p, target, expected in [*cases, (torch.tensor([[0.7, 0.2, 0.1]]), 0, 0.648574)]:
        assert float(released_loss(p, torch.tensor([target]))) == pytest.approx(expected, abs=1e-6)
    scores = torch.log(torch.tensor([[[0.7, 0.2, 0.1]]]))
    loss = row_loss(scores, torch.tensor([[0]]), torch.tensor([[True]]))
    assert float(loss) == pytest.approx(0.356675, abs=1e-6)


@pytest.mark.parametrize(("pool", "expected"), [("max", 0.208795), ("mean", 0.041798)])
def test_weak_pooling(pool, expected):
    scores = torch.zeros(1, 10, 29)
    scores[0, 3, 5] = 2
    pooled = clip_scores(scores, torch.ones(1, 10, dtype=torch.bool), pool)
    assert float(torch.softmax(pooled, dim=-1)[0, 5]) == pytest.approx(expected, abs=1e-6)


def test_targets_are_the_class_inside_the_event():
    batch = clips((6, 8), (0, 0), (2, 4), labels=[0, 1, UNLABELLED])
    inside = paired_rows(batch).inside(batch.samples)
    targets = row_targets(inside, batch.labels["event"], 28)
    assert targets[0].tolist() == [28] * 6 + [0, 0] + [28, 28]
    assert targets[1].tolist() == [28] * 10
    assert targets[2].tolist() == [UNLABELLED] * 10


def test_the_weak_loss_sees_no_times():
    head = avel(supervision="weak")
    one, other = clips((6, 8), (0, 3)), clips((0, 10), (2, 4))
    torch.testing.assert_close(head.loss(one)["total"], head.loss(other)["total"])
    full = avel()
    assert not torch.allclose(full.loss(one)["total"], full.loss(other)["total"], atol=1e-3)


def test_streams_of_one_modality_need_one_stream_only():
    assert set(Avel.needs_for(AvelOptions(fusion="audio"))) == {"audio"}
    assert set(Avel.needs_for(AvelOptions(fusion="visual", attention="none"))) == {"visual"}
    assert set(Avel.needs_for(AvelOptions(fusion="visual"))) == {"audio", "visual"}
    head, batch = avel(fusion="audio"), clips((2, 4))
    alone = Batch(batch.samples, {"audio": batch.rows["audio"]}, labels=batch.labels)
    assert len(head.predict(alone)) == 10
    assert torch.isfinite(head.loss(alone)["total"])


def test_predictions_are_a_row_each_and_background_has_no_label():
    head, batch = avel(), clips((6, 8))
    torch.nn.init.zeros_(head.L2.weight)
    head.L2.bias.data = torch.zeros(29).index_fill(0, torch.tensor([28]), 5.0)
    found = head.predict(batch)
    assert [tuple(p.span) for p in found] == [(t, t + 1) for t in range(10)]
    assert {(p.label, p.query_id) for p in found} == {(None, "0")}
    head.L2.bias.data[4] = 9
    assert {p.label for p in head.predict(batch)} == {"class 4"}


def test_bilstm_over_padded_rows_is_that_of_each_clip_alone():
    torch.manual_seed(0)
    layer, rows = MaskedBiLSTM(5, 3), torch.randn(2, 6, 5)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    states = layer.over(rows, mask)
    torch.testing.assert_close(states[0], layer(rows[:1])[0][0])
    torch.testing.assert_close(states[1, :4], layer(rows[1:, :4])[0][0])
    assert (states[1, 4:] == 0).all()


def test_streams_at_other_times_are_refused():
    batch = clips((2, 4), audio=8, visual=8)
    visual = batch.rows["visual"].features
    late = Batch(batch.samples, {"audio": batch.rows["audio"], "visual": rows_of(visual, first_s=0.5)})
    with pytest.raises(OptionError, match="item 'v0' lie at different times"):
        paired_rows(late)
    short = Batch(batch.samples, {"audio": batch.rows["audio"], "visual": rows_of(visual, counts=[7])})
    with pytest.raises(OptionError, match="'v0' has 10 rows of sound and 7 of pictures"):
        paired_rows(short)
    nearly = Batch(batch.samples, {"audio": batch.rows["audio"], "visual": rows_of(visual, counts=[9])})
    assert int(paired_rows(nearly).mask.sum()) == 9


def test_maps_of_another_size_are_refused():
    with pytest.raises(
        OptionError, match=r"the maps have 16 positions, and the head was made for 49\. Give --positions 16"
    ):
        avel().loss(clips((2, 4), side=4))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"verb": ("a",), "noun": ("b",)}, "one task, and the annotations have: verb, noun"),
        ({"event": ("background", "a")}, "expects classes with 'background' as the last"),
    ],
)
def test_other_classes_are_refused(labels, message):
    with pytest.raises(OptionError, match=message):
        event_classes("avel", labels)


def test_dam_names_an_event_where_its_relevance_is_a_half():
    p = (torch.tensor([[0.9, 0.2, 0.6, 0.1]]) + torch.tensor([[0.7, 0.4, 0.3, 0.2]])) / 2
    torch.testing.assert_close(p, torch.tensor([[0.8, 0.3, 0.45, 0.15]]))
    scores = F.one_hot(torch.tensor([5]), 28).float()
    assert event_or_background(p, scores).tolist() == [[5, 28, 28, 28]]
    assert event_or_background(torch.tensor([[0.5]]), scores).tolist() == [[5]]


def dam_event(**options) -> DamEvent:
    torch.manual_seed(3)
    return DamEvent(DamEventOptions(width=16, **options), DIMS, LABELS)


def test_lambda_weighs_class_and_relevance():
    batch = clips((6, 8), (0, 10))
    losses = dam_event(class_weight=0.9).loss(batch)
    torch.testing.assert_close(losses["total"], 0.9 * losses["class"] + 0.1 * losses["relevance"])


def test_a_clip_without_event_keeps_its_class_and_background_has_none():
    head = dam_event()
    empty, background = clips((0, 0), labels=[3]), clips((0, 10), labels=[28])
    with torch.inference_mode():
        losses, other = head.loss(background), head.loss(empty)
    assert (float(losses["class"]), float(other["class"]) > 0) == (0, True)
    torch.testing.assert_close(losses["relevance"], other["relevance"])
