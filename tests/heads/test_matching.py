"""AVDLN and DAM for matching: the specification's worked numbers, and the gradients that must flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.avdln import Avdln, AvdlnOptions, contrastive, distance
from vidloc.heads.base import Batch, RowBatch, Sample
from vidloc.heads.dam import Dam, DamOptions, DualMatching, EventEmbedding, relevance_loss
from vidloc.heads.matching import diagonal_sums, window_sums

LABELS = {"event": ("bell", "dog")}
DIMS = {"audio": 6, "visual": 5}


def batch_of(sound, pictures, *events) -> Batch:
    time = sound.shape[1]
    starts = torch.arange(time, dtype=torch.float64)
    spans = torch.stack([starts, starts + 1], dim=1).expand(len(sound), time, 2)
    mask = torch.ones(len(sound), time, dtype=torch.bool)
    samples = tuple(
        Sample(f"v{k}", Span(*e), (Segment(item_id=f"v{k}", span=Span(*e), id=f"{k}"),)) for k, e in enumerate(events)
    )
    rows = {"audio": RowBatch(sound, mask, spans), "visual": RowBatch(pictures, mask, spans)}
    return Batch(samples, rows)


def random_batch(*events) -> Batch:
    torch.manual_seed(0)
    return batch_of(torch.randn(len(events), 10, 6), torch.randn(len(events), 10, 2, 2, 5), *events)


def test_equal_embeddings_keep_a_least_distance_and_a_finite_gradient():
    x = torch.ones(4, requires_grad=True)
    found = distance(x, torch.ones(4))
    assert float(found.detach()) == pytest.approx(3.16228e-4, rel=1e-5)
    found.backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("margin", "expected"), [(2.0, 0.25), (1.0, 0.125)])
def test_contrastive_loss(margin, expected):
    losses = contrastive(torch.tensor([0.5, 1.5]), torch.tensor([True, False]), margin=margin)
    assert float(losses.mean()) == expected


def toy() -> np.ndarray:
    """Distances of picture i and sound j; nan where the decoding must not look."""
    table = np.full((5, 5), np.nan)
    table[:, 1] = [1, 0.5, 0.25, 0.75, 0.75]
    table[:, 2] = [0.5, 0.25, 0.5, 0.125, 1]
    table[1, [0, 3, 4]] = [0.75, 1, 1]
    table[2, [0, 3, 4]] = [1, 1, 0.25]
    return table


def test_windows_are_compared_row_by_row():
    table = toy()
    a2v, v2a = diagonal_sums(table, 1, 2), diagonal_sums(table.T, 1, 2)
    assert a2v.tolist() == [1.25, 1.0, 0.375, 1.75]
    assert v2a.tolist() == [1.0, 1.0, 1.25, 1.25]
    assert ((-a2v).argmax(), (-v2a).argmax()) == (2, 0)  # the first of two equal ones
    table[3, 2] = 1
    assert diagonal_sums(table, 1, 2).tolist() == [1.25, 1.0, 1.25, 1.75]
    assert (-diagonal_sums(table, 1, 2)).argmax() == 1


def test_window_sums():
    sums = window_sums(np.array([0.1, 0.2, 0.9, 0.8, 0.3]), 2)
    assert sums == pytest.approx([0.3, 1.1, 1.7, 1.1])
    assert sums.argmax() == 2
    assert window_sums(np.ones(5), 5).argmax() == 0


def test_diagonal_sums_equal_a_loop():
    table = np.random.default_rng(0).random((10, 10))
    for first in range(10):
        for length in range(1, 11 - first):
            expected = [sum(table[t + i, first + i] for i in range(length)) for t in range(11 - length)]
            assert diagonal_sums(table, first, length) == pytest.approx(expected)


@pytest.mark.parametrize(
    "make", [lambda: Avdln(AvdlnOptions(), DIMS, LABELS), lambda: Dam(DamOptions(width=8), DIMS, LABELS)]
)
def test_both_directions_are_answered_with_windows_of_the_events_length(make):
    torch.manual_seed(0)
    with torch.inference_mode():
        found = make().eval().predict(random_batch((2, 5), (0, 10), (3.1, 3.2)))
    assert [(p.query_id, p.direction) for p in found] == [(k, d) for d in ("a2v", "v2a") for k in ("0", "1", "2")]
    lengths = {p.query_id: p.span.duration_s for p in found}
    assert lengths == {"0": 3, "1": 10, "2": 1}  # an event between two rows' centres has the nearest row
    assert all(tuple(p.span) == (0, 10) for p in found if p.query_id == "1")


def test_avdln_finds_what_its_distances_say():
    """Sound and picture of second t are the t-th code; the picture's event is moved by three seconds."""
    head = Avdln(AvdlnOptions(picture="vector"), {"audio": 10, "visual": 10}, LABELS)
    head.audio, head.visual = torch.nn.Identity(), torch.nn.Identity()
    codes = torch.eye(10).unsqueeze(0)
    found = head.predict(batch_of(codes, codes.roll(3, dims=1), (2, 5)))
    assert [(p.direction, tuple(p.span)) for p in found] == [("a2v", (5, 8)), ("v2a", (0, 3))]
    # v2a: the pictures of 2 to 5 s are codes 9, 0, 1, which lie nowhere in a row; ties go to the earliest start.


def test_phi_of_one_second_is_its_value_and_the_order_plays_no_part():
    torch.manual_seed(0)
    layer, rows = EventEmbedding(8, heads=2), torch.randn(2, 6, 8)
    one = torch.zeros(2, 6, dtype=torch.bool)
    one[:, 3] = True
    torch.testing.assert_close(layer(rows, one), layer.value(rows[:, 3]))
    event = torch.zeros(2, 6, dtype=torch.bool)
    event[:, 1:5] = True
    order = torch.tensor([0, 3, 1, 4, 2, 5])
    torch.testing.assert_close(layer(rows, event), layer(rows[:, order], event))
    changed = rows.clone()
    changed[:, 0] += 100  # beside the event
    torch.testing.assert_close(layer(rows, event), layer(changed, event))


def test_self_attention_equals_the_formula():
    torch.manual_seed(0)
    layer, rows = EventEmbedding(8), torch.randn(1, 4, 8)
    event = torch.tensor([[True, True, False, True]])
    kept = rows[0, [0, 1, 3]]
    weights = torch.softmax(layer.query(kept) @ layer.key(kept).T / 8**0.5, dim=-1)
    torch.testing.assert_close(layer(rows, event)[0], (weights @ layer.value(kept)).mean(dim=0))


def test_relevance_loss():
    p = torch.tensor([[0.8, 0.3, 0.45, 0.15]])
    event = torch.tensor([[True, True, False, False]])
    loss = relevance_loss(p, event, torch.ones(1, 4, dtype=torch.bool))
    assert float(loss) == pytest.approx(0.546868, abs=1e-6)
    certain = relevance_loss(torch.tensor([[0.0]]), event[:, :1], torch.tensor([[True]]))
    assert float(certain) == pytest.approx(16.118, abs=1e-2)  # -ln 1e-7


def test_the_relevance_loss_reaches_both_projections_and_both_attentions():
    torch.manual_seed(0)
    head = Dam(DamOptions(width=8), DIMS, LABELS)
    head.loss(random_batch((2, 5), (0, 4)))["total"].backward()
    for name in (
        "to_audio",
        "to_visual",
        "audio_event.query",
        "audio_event.value",
        "visual_event.key",
        "visual_event.value",
    ):
        assert head.matching.get_submodule(name).weight.grad.abs().max() > 0


def test_dam_matches_the_event_of_one_modality_with_the_moments_of_the_other():
    torch.manual_seed(0)
    module = DualMatching(6, 5, width=8, heads=1)
    audio, visual = torch.randn(1, 4, 6), torch.randn(1, 4, 5)
    event = torch.tensor([[False, True, True, False]])
    sound, picture = module(audio, visual, event)
    phi = module.audio_event(module.to_audio(audio), event)[0]
    expected = [torch.sigmoid(phi @ module.to_visual(visual)[0, t]) for t in range(4)]
    torch.testing.assert_close(picture[0], torch.stack(expected))
    # The pictures are judged by the excerpt of sound alone: other pictures of the event change only the sounds' side.
    moved = visual.clone()
    moved[:, 1] += 1
    again = module(audio, moved, event)
    torch.testing.assert_close(again[1][0, [0, 2, 3]], picture[0, [0, 2, 3]])
    assert (again[0] - sound).abs().max() > 1e-6


def test_heads_divide_the_width():
    with pytest.raises(OptionError, match="width 8 is not divisible by heads 3"):
        Dam(DamOptions(width=8, heads=3), DIMS, LABELS)


def test_vectors_of_pictures_are_a_choice():
    assert Avdln.needs_for(AvdlnOptions(picture="vector"))["visual"].rank == 1
    assert Dam.needs_for(DamOptions())["visual"].rank == 3
    torch.manual_seed(0)
    head, batch = Avdln(AvdlnOptions(picture="vector"), DIMS, LABELS), random_batch((2, 5))
    mean = RowBatch(
        batch.rows["visual"].features.mean(dim=(2, 3)), batch.rows["visual"].mask, batch.rows["visual"].spans
    )
    vectors = Batch(batch.samples, {**batch.rows, "visual": mean})
    torch.testing.assert_close(head.loss(batch)["total"], head.loss(vectors)["total"])
