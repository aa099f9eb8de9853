"""CMRAN and CMBS: sizes of the released networks, formulas as loops, targets, losses and answers."""

from __future__ import annotations

import math

import pytest
import torch
from event_clips import DIMS, LABELS, clips
from torch.nn import functional as F  # noqa: N812

from vidloc.errors import OptionError
from vidloc.heads.audio_visual import ClipTargets, clip_targets, paired_rows
from vidloc.heads.base import UNLABELLED
from vidloc.heads.cmbs import Cmbs, CmbsOptions
from vidloc.heads.cmran import Cmran, CmranOptions, weighed_scores
from vidloc.heads.cross_modal import (
    ChannelSpatialAttention,
    CrossModalRelation,
    EncodedRows,
    FusedRows,
    relevance_loss,
    relevant_rows,
)

SMALL = {"width": 16, "feedforward": 8}
SMALL_DIMS = {"audio": 6, "visual": 8}
YES = torch.ones(1, 1, dtype=torch.bool)


def cmran(**options) -> Cmran:
    torch.manual_seed(3)
    return Cmran(CmranOptions(**SMALL, **options), SMALL_DIMS, LABELS).eval()


def cmbs(**options) -> Cmbs:
    torch.manual_seed(3)
    return Cmbs(CmbsOptions(**SMALL, **options), SMALL_DIMS, LABELS).eval()


def small_clips(*events, **options):
    return clips(*events, audio=6, visual=8, **options)


def unused_copies(*, encoder: torch.nn.Module, relation: CrossModalRelation) -> int:
    """Numbers of the layers that the releases keep beside the copies they use, for both modalities.

    Of the transformer they keep the layer that is copied twice. Of the relation they keep the layer that is copied
    once, and in each of both a self-attention that nothing calls.
    """
    layer = size(encoder.encoder.layers[0])
    copied = size(relation) - size(relation.project) + size(relation.attention)
    return 2 * (layer + copied + size(relation.attention))


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_cmran_has_the_size_of_the_release():
    head = Cmran(CmranOptions(), DIMS, LABELS)
    audio_gate = (512 * 64 + 64) + (64 * 128 + 128)  # two layers that guide the sound, which nothing calls
    copies = unused_copies(encoder=head.encoded_visual, relation=head.related_visual)
    assert head.num_parameters + copies + audio_gate == 15_863_262


def test_cmbs_has_the_size_of_the_release():
    head = Cmbs(CmbsOptions(), DIMS, LABELS)
    unused = (512 * 256 + 256) + 2 * (2 * 256)  # a bottleneck and two norms that nothing calls
    copies = unused_copies(encoder=head.encoded_visual, relation=head.related_visual)
    assert head.num_parameters + copies + unused == 13_544_537


def test_attention_equals_a_loop_over_positions():
    torch.manual_seed(0)
    layer, audio, visual = ChannelSpatialAttention(6, 8, hidden=5), torch.randn(2, 3, 6), torch.randn(2, 3, 9, 8)
    a, v = audio[1, 2], visual[1, 2]
    agreed = sum(F.relu(layer.channel_audio(a)) * F.relu(layer.channel_visual(v[i])) for i in range(9)) / 9
    gate = torch.sigmoid(layer.channel_gate(F.relu(layer.bottleneck(agreed))))
    gated = [v[i] * (1 + gate) for i in range(9)]
    scores = [
        torch.tanh(layer.spatial(F.relu(layer.spatial_visual(g)) * F.relu(layer.spatial_audio(a)))) for g in gated
    ]
    alpha = torch.softmax(torch.cat(scores), dim=0)
    torch.testing.assert_close(layer(audio, visual)[1, 2], sum(alpha[i] * gated[i] for i in range(9)))
    other = torch.randn_like(visual)
    assert (layer(audio, visual, judged=other) - layer(audio, visual)).abs().max() > 1e-3


def attention_by_loop(layer: torch.nn.MultiheadAttention, query, memory):
    """One head after the other, one query after the other."""
    width, heads = layer.embed_dim, layer.num_heads
    q, k, v = (
        rows @ weight.T + bias
        for rows, weight, bias in zip(
            (query, memory, memory), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
        )
    )
    parts = []
    for part in range(heads):
        own = slice(part * width // heads, (part + 1) * width // heads)
        rows = []
        for t in range(len(query)):
            weights = torch.softmax(k[:, own] @ q[t, own] / math.sqrt(width // heads), dim=0)
            rows.append(weights @ v[:, own])
        parts.append(torch.stack(rows))
    return layer.out_proj(torch.cat(parts, dim=-1))


def test_relations_look_at_the_others_rows_and_the_own():
    torch.manual_seed(0)
    layer = CrossModalRelation(5, width=8, heads=2, feedforward=7).eval()
    rows, others = torch.randn(1, 4, 5), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, True, False]])
    asked = layer.project(rows[0, :3])
    first = layer.first_norm(asked + attention_by_loop(layer.attention, asked, torch.cat([others[0, :3], asked])))
    torch.testing.assert_close(layer(rows, others, mask)[0, :3], layer.last_norm(first + layer.feedforward(first)))


def test_fusion_asks_with_the_products():
    torch.manual_seed(0)
    layer, video, audio = FusedRows(8, heads=4).eval(), torch.randn(1, 3, 8), torch.randn(1, 3, 8)
    product = video[0] * audio[0]
    expected = layer.norm(product + attention_by_loop(layer.attention, product, torch.cat([audio[0], video[0]])))
    torch.testing.assert_close(layer(video, audio, YES.expand(1, 3))[0], expected)


def test_encoded_rows_normalise_at_the_end_of_each_layer():
    torch.manual_seed(0)
    module, rows = EncodedRows(5, width=8, heads=2, feedforward=7).eval(), torch.randn(1, 4, 5)
    expected = module.project(rows[0])
    for layer in module.encoder.layers:
        expected = layer.norm1(expected + attention_by_loop(layer.self_attn, expected, expected))
        expected = layer.norm2(expected + layer.linear2(F.relu(layer.linear1(expected))))
    torch.testing.assert_close(module(rows, YES.expand(1, 4))[0], expected, atol=1e-5, rtol=1e-5)


def test_relevance_and_class_are_learnt_apart():
    batch = small_clips((6, 8), (0, 0), (0, 10), (2, 4), labels=[0, 1, 28, UNLABELLED])
    targets = clip_targets(batch, paired_rows(batch), "event", 28)
    assert targets.event.sum(dim=1).tolist() == [2, 0, 0, 0]  # a clip of background has no event, however long it is
    assert targets.mask.sum(dim=1).tolist() == [10, 10, 10, 0]
    assert targets.classes.tolist() == [0, 1, UNLABELLED, UNLABELLED]
    head = cmran()
    losses = head.loss(batch)
    relevance, scores = head.outputs(paired_rows(batch))
    torch.testing.assert_close(losses["class"], F.cross_entropy(scores[:2], torch.tensor([0, 1])))
    wanted = torch.zeros(3, 10).index_fill(1, torch.tensor([6, 7]), 1) * torch.tensor([[1.0], [0], [0]])
    torch.testing.assert_close(losses["relevance"], F.binary_cross_entropy(torch.sigmoid(relevance[:3]), wanted))
    torch.testing.assert_close(losses["total"], losses["class"] + losses["relevance"])


def test_nothing_known_is_no_loss():
    nothing = small_clips((2, 4), labels=[UNLABELLED])
    for head in (cmran(), cmran(supervision="weak"), cmran(supervision="weak", loss="released"), cmbs()):
        total = head.loss(nothing)["total"]
        assert float(total.detach()) == 0
        total.backward()


def test_answers_are_the_best_class_where_relevance_is_above_a_half():
    batch = small_clips((0, 4), time=4)
    relevance, scores = torch.tensor([[2.0, 0.0, -1.0, 0.1]]), F.one_hot(torch.tensor([5]), 28).float()
    names = LABELS["event"][:-1]
    found = relevant_rows(batch, paired_rows(batch), relevance, scores, names)
    assert [p.label for p in found] == ["class 5", None, None, "class 5"]  # exactly a half is background
    assert [p.score for p in found] == pytest.approx([0.880797, 0.5, 0.731059, 0.524979], abs=1e-6)
    weak = relevant_rows(batch, paired_rows(batch), relevance, F.one_hot(torch.tensor([28]), 29).float(), names)
    assert {p.label for p in weak} == {None}


def test_weak_scores_are_the_classes_weighed_by_the_most_relevant_second():
    relevance = torch.tensor([[0.0, math.log(3), 9.0]])
    mask = torch.tensor([[True, True, False]])
    scores = torch.tensor([[2.0, -4.0]])
    # sigmoid 0.5 and 0.75; of a negative class the least relevant second is the largest.
    torch.testing.assert_close(weighed_scores(relevance, scores, mask), torch.tensor([[1.5, -2.0]]))


def test_weak_cmran_sees_no_times_and_fuses_with_two_heads():
    head = cmran(supervision="weak")
    assert (head.fused.attention.num_heads, cmran().fused.attention.num_heads) == (2, 4)
    assert head.classifier.out_features == 29
    one, other = small_clips((6, 8), (0, 3)), small_clips((0, 10), (2, 4))
    torch.testing.assert_close(head.loss(one)["total"], head.loss(other)["total"])
    released = cmran(supervision="weak", loss="released").loss(one)["total"]
    pair = paired_rows(one)
    clip = torch.softmax(weighed_scores(*head.outputs(pair), pair.mask), dim=-1)
    wanted = F.one_hot(torch.tensor([0, 1]), 29).float()
    squashed = torch.sigmoid(clip)
    expected = -(wanted * squashed.log() + (1 - wanted) * (1 - squashed).log()).mean()
    torch.testing.assert_close(released, expected)


def test_gates_of_each_modality_weigh_the_other():
    batch = small_clips((6, 8), (0, 10))
    pair, head = paired_rows(batch), cmbs()
    before = head.outputs(pair)
    torch.nn.init.constant_(head.gate_audio.bias, -50.0)
    shut = head.outputs(pair)
    assert bool((shut.gates < 1e-12).all())
    assert not torch.allclose(shut.relevance, before.relevance)
    without = cmbs(alpha=0.0)
    torch.nn.init.constant_(without.gate_audio.bias, -50.0)
    torch.testing.assert_close(without.outputs(pair).relevance, cmbs(alpha=0.0).outputs(pair).relevance)


def test_activations_are_means_of_the_top_seconds_and_join_the_class():
    head = cmbs(gamma=2.0, top=2)
    values = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert float(head._activation(values, values - 1, mask)) == 3.5  # (5 + 3) / 2 and (4 + 2) / 2
    assert float(head._activation(values, values, mask & (torch.arange(4) == 0))) == 1  # one row is all there is
    pair = paired_rows(small_clips((6, 8)))
    judged, plain = head.outputs(pair), cmbs(gamma=0.0, top=2).outputs(pair)
    torch.testing.assert_close(judged.scores - plain.scores, 2 * judged.activation)


def test_losses_of_cmbs_add_up_and_the_release_squashes_the_gates_twice():
    batch = small_clips((6, 8), (0, 3))
    head = cmbs()
    losses = head.loss(batch)
    parts = [value for name, value in losses.items() if name != "total"]
    torch.testing.assert_close(losses["total"], sum(parts))
    pair = paired_rows(batch)
    gates, event = head.outputs(pair).gates, pair.inside(batch.samples).float()
    torch.testing.assert_close(losses["gates"], F.binary_cross_entropy(gates, event))
    released = cmbs(gate_loss="released").loss(batch)["gates"]
    torch.testing.assert_close(released, F.binary_cross_entropy_with_logits(gates, event))


def test_the_pictures_own_attention_weighs_that_of_the_sound():
    audio, visual = torch.randn(2, 3, 6), torch.rand(2, 3, 49, 8)
    plain, weighed = (cmbs(beta=beta).seen(audio, visual) for beta in (0.0, 0.4))
    ratio = weighed / plain
    assert ratio[plain.abs() > 1e-4].min() > 1
    assert ratio[plain.abs() > 1e-4].max() < 1.4
    _, own = cmbs().self_attention(cmbs().adapt(visual))
    torch.testing.assert_close(weighed, plain * (1 + 0.4 * torch.sigmoid(own)))


def test_self_attention_equals_a_loop_over_positions():
    layer, maps = cmbs().self_attention, torch.randn(1, 1, 5, 8)
    rows = maps[0, 0]
    among = []
    for i in range(5):
        weights = torch.softmax(torch.stack([layer.query(rows[i]) @ layer.key(rows[j]) for j in range(5)]), dim=0)
        among.append(layer.norm(rows[i] + sum(weights[j] * layer.value(rows[j]) for j in range(5))))
    found, own = layer(maps)
    torch.testing.assert_close(found[0, 0], torch.stack(among))
    guide = F.relu(layer.guide(sum(among) / 5))
    alpha = torch.softmax(
        torch.cat([torch.tanh(layer.spatial(F.relu(layer.products(row)) * guide)) for row in among]), 0
    )
    torch.testing.assert_close(own[0, 0], sum(alpha[i] * among[i] for i in range(5)))


def test_relevance_loss_leaves_out_what_is_not_known():
    event, mask = torch.tensor([[True, False, True]]), torch.tensor([[True, True, False]])
    targets = ClipTargets(event, mask, torch.tensor([0]))
    logits = torch.logit(torch.tensor([[0.8, 0.3, 0.5]]))
    assert float(relevance_loss(logits, targets)) == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)


@pytest.mark.parametrize("head", [Cmran, Cmbs])
def test_heads_divide_the_width(head):
    with pytest.raises(OptionError, match="width 10 is not divisible by heads 4; choose --width and --heads"):
        head(head.Options(width=10), SMALL_DIMS, LABELS)
