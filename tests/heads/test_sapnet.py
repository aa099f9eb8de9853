"""The acceptance checks of SAP, by number, and what its options do."""

from __future__ import annotations

import pytest
import torch

from vidloc.core.records import Segment
from vidloc.core.timeline import Span
from vidloc.errors import OptionError
from vidloc.heads.base import Batch, RegionBatch, RowBatch, Sample
from vidloc.heads.sampling import FramesAround, SegmentRows
from vidloc.heads.sapnet import Branch, SAPNet, SAPNetOptions

ALL_VARIANTS = SAPNetOptions.model_fields["variant"].annotation.__args__
ATTENDED = ("full", "no_gating", "no_cross_stream", "no_csg")


def tiny_branch(variant: str) -> Branch:
    branch = Branch(SAPNetOptions(variant=variant, attention_width=2), own=2, other=2, objects=2, num_classes=3)
    with torch.no_grad():
        for name, parameter in branch.named_parameters():
            if not name.startswith("classifier"):
                parameter.copy_(torch.eye(2) if parameter.ndim == 2 else torch.zeros(2))
    return branch.eval()


def tiny_output(variant: str):
    own, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    objects = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    return tiny_branch(variant)(own, other, objects, torch.ones(1, 2, dtype=torch.bool))


def close(tensor: torch.Tensor, expected) -> None:
    torch.testing.assert_close(tensor, torch.tensor([expected], dtype=torch.float32), atol=1e-6, rtol=0)


def made_batch(*, verb=6, noun=5, objects=4, slots=7, size=3, seed=0) -> Batch:
    random = torch.Generator().manual_seed(seed)

    def rows(width: int) -> RowBatch:
        features = torch.randn(size, 1, width, generator=random)
        return RowBatch(features, torch.ones(size, 1, dtype=torch.bool), torch.zeros(size, 1, 2, dtype=torch.float64))

    mask = torch.rand(size, slots, generator=random) > 0.3
    mask[:, 0] = True
    regions = RegionBatch(
        torch.randn(size, slots, objects, generator=random).masked_fill(~mask.unsqueeze(-1), 0),
        mask,
        torch.zeros(size, slots, 4),
        torch.zeros(size, slots),
        torch.zeros(size, slots, dtype=torch.int64),
    )
    samples = tuple(
        Sample(
            "v", Span(k, k + 1), (Segment(item_id="v", span=Span(k, k + 1), labels={"verb": 0, "noun": 1}, id=str(k)),)
        )
        for k in range(size)
    )
    labels = {"verb": torch.tensor([0, 2, 1][:size]), "noun": torch.tensor([1, 0, 3][:size])}
    return Batch(samples, {"verb": rows(verb), "noun": rows(noun)}, {"objects": regions}, labels)


def made_head(variant: str = "full", **options) -> SAPNet:
    torch.manual_seed(3)
    labels = {"verb": ("a", "b", "c"), "noun": ("p", "q", "r", "s")}
    dims = {"verb": 6, "noun": 5, "objects": 4}
    return SAPNet(SAPNetOptions(variant=variant, **options), dims, labels).eval()


def with_objects(batch: Batch, features: torch.Tensor, mask: torch.Tensor) -> Batch:
    size, slots = mask.shape
    regions = RegionBatch(
        features, mask, torch.zeros(size, slots, 4), torch.zeros(size, slots), torch.zeros(size, slots).long()
    )
    return Batch(batch.samples, batch.rows, {"objects": regions}, batch.labels)


def test_check_1_the_tiny_case_by_hand():
    out = tiny_output("full")
    close(out.aligned, [[2, 0], [1, 1]])
    close(out.gated, [[1, 0], [0.5, 0.880797]])
    close(out.attention, [0.146591, 0.853409])
    close(out.attended, [0.573295, 0.751680])


@pytest.mark.parametrize(
    ("variant", "attention", "attended"),
    [
        ("no_cross_stream", [0.675038, 0.324962], [1.224551, 0.162481]),
        ("no_csg", [0.119203, 0.880797], [1.119203, 0.880797]),
        ("no_arm", None, [0.75, 0.440399]),
        ("no_csg_arm", None, [1.5, 0.5]),
        ("no_gating", [0.119203, 0.880797], [1.119203, 2.880797]),
    ],
)
def test_check_2_the_ablations_on_the_tiny_case(variant, attention, attended):
    out = tiny_output(variant)
    close(out.attended, attended)
    if attention is None:
        assert out.attention is None
    else:
        close(out.attention, attention)


def test_check_2_no_gating_adds_what_the_gate_would_scale():
    close(tiny_output("no_gating").gated, [[2, 2], [1, 3]])


@pytest.mark.parametrize(
    ("variant", "relation"), [*((v, "none") for v in ALL_VARIANTS), *((v, "self") for v in ATTENDED)]
)
def test_check_3_order_of_slots_does_not_matter(variant, relation):
    head, batch = made_head(variant, relation=relation), made_batch()
    regions = batch.regions["objects"]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    mixed = with_objects(batch, regions.features[:, order], regions.mask[:, order])
    for task in ("verb", "noun"):
        plain, permuted = head.branches(batch)[task], head.branches(mixed)[task]
        torch.testing.assert_close(permuted.logits, plain.logits, atol=1e-6, rtol=0)
        if plain.attention is not None:
            torch.testing.assert_close(permuted.attention, plain.attention[:, order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_check_4_masked_slots_change_nothing_whatever_they_hold(variant):
    head, batch = made_head(variant), made_batch()
    regions = batch.regions["objects"]
    rubbish = torch.full((3, 4, 4), float("nan"))
    longer = with_objects(
        batch,
        torch.cat([regions.features, rubbish], dim=1),
        torch.cat([regions.mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1),
    )
    for task, plain in head.branches(batch).items():
        torch.testing.assert_close(head.branches(longer)[task].logits, plain.logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_check_4_no_detection_at_all_is_one_zero_object(variant):
    head, batch = made_head(variant, relation="none"), made_batch()
    empty = with_objects(batch, torch.full((3, 7, 4), 9.0), torch.zeros(3, 7, dtype=torch.bool))
    zero = with_objects(batch, torch.zeros(3, 1, 4), torch.ones(3, 1, dtype=torch.bool))
    for task, out in head.branches(empty).items():
        assert out.logits.isfinite().all()
        torch.testing.assert_close(out.logits, head.branches(zero)[task].logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", ATTENDED)
def test_check_5_attention_sums_to_one_and_is_zero_where_masked(variant):
    batch = made_batch()
    for out in made_head(variant).branches(batch).values():
        torch.testing.assert_close(out.attention.sum(1), torch.ones(3), atol=1e-6, rtol=0)
        assert (out.attention[~batch.regions["objects"].mask] == 0).all()


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_check_6_swapping_streams_and_weights_swaps_the_outputs(variant):
    head, batch = made_head(variant), made_batch()
    swapped = SAPNet(
        head.options, {"verb": 5, "noun": 6, "objects": 4}, {"verb": head.labels["noun"], "noun": head.labels["verb"]}
    ).eval()
    swapped.verb, swapped.noun = head.noun, head.verb
    rows = {"verb": batch.rows["noun"], "noun": batch.rows["verb"]}
    out = swapped.branches(Batch(batch.samples, rows, batch.regions, batch.labels))
    assert torch.equal(out["verb"].logits, head.branches(batch)["noun"].logits)
    assert torch.equal(out["noun"].logits, head.branches(batch)["verb"].logits)


@pytest.mark.parametrize(
    ("variant", "reaches"), [("full", True), ("no_cross_stream", False), ("no_csg_arm", False), ("cnn_baseline", False)]
)
def test_check_7_which_variants_let_the_verb_stream_reach_the_noun(variant, reaches):
    head, batch = made_head(variant), made_batch()
    batch.rows["verb"].features.requires_grad_()
    head.loss(batch)["noun"].backward()
    gradient = batch.rows["verb"].features.grad
    assert (gradient is not None and bool((gradient != 0).any())) is reaches


def test_check_8_a_zero_gate_halves_the_mean():
    arm, plain = tiny_branch("no_arm"), tiny_branch("no_csg_arm")
    torch.nn.init.zeros_(arm.gate.weight)
    inputs = (torch.randn(2, 2), torch.randn(2, 2), torch.randn(2, 4, 2), torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(arm(*inputs).attended, plain(*inputs).attended / 2)


def test_check_9_parameters_of_one_branch():
    branch = Branch(SAPNetOptions(), own=2048, other=2048, objects=2048, num_classes=352)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in branch.named_children()}
    assert counts["align_clip"] + counts["align_object"] == 8_390_656
    assert counts["gate"] == 4_196_352
    assert counts["query"] + counts["key"] == 2_097_152
    assert counts["classifier"] == 721_248
    assert sum(counts.values()) == 15_405_408


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_every_parameter_of_every_variant_is_trained(variant):
    head = made_head(variant, relation="self" if variant in ATTENDED else "none")
    head.loss(made_batch())["total"].backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not (p.grad != 0).any()] == []


def test_relations_are_as_defined():
    branch = Branch(SAPNetOptions(relation="self", variant="no_csg"), own=4, other=4, objects=3, num_classes=2).eval()
    own, other, objects = torch.randn(1, 4), torch.randn(1, 4), torch.randn(1, 5, 3)
    mask = torch.tensor([[True, True, False, True, True]])
    out = branch(own, other, objects, mask)
    kept = out.aligned[0, mask[0]]
    query, key = kept @ branch.relation_query.weight.T, kept @ branch.relation_key.weight.T
    related = kept + torch.softmax(query @ key.T / 1**0.5, dim=1) @ kept
    torch.testing.assert_close(out.gated[0, mask[0]], related)


def test_ablations_ask_only_for_the_streams_they_read():
    def roles(variant: str) -> list[str]:
        return sorted(SAPNet.sampling(SAPNetOptions(variant=variant)))

    assert roles("cnn_baseline") == roles("noun_plus_verb") == ["noun", "verb"]
    assert roles("avg_pooling") == roles("max_pooling") == ["objects"]
    assert roles("full") == ["noun", "objects", "verb"]


def test_sampling_follows_the_options():
    sampling = SAPNet.sampling(SAPNetOptions(rows="overlap", pool="max", object_window_s=4, objects_per_frame=3))
    assert sampling["verb"] == SegmentRows("overlap", "max")
    assert sampling["objects"] == FramesAround(4, 2, 3)
    assert sampling["objects"].num_slots == 24
    assert SAPNet.sampling(SAPNetOptions())["objects"].num_slots == 60


def test_relations_without_attention_are_refused():
    with pytest.raises(OptionError, match="relation=self acts on what attention reads, and variant 'no_arm'"):
        made_head("no_arm", relation="self")


def test_annotations_without_nouns_are_refused():
    with pytest.raises(OptionError, match=r"sapnet needs classes for verb and noun.*none for noun"):
        SAPNet(SAPNetOptions(), {"verb": 1, "noun": 1, "objects": 1}, {"verb": ("a",)})


def test_predictions_answer_their_segments():
    head, batch = made_head(), made_batch()
    predictions = head.predict(batch)
    assert [p.query_id for p in predictions] == ["0", "1", "2"]
    logits = head.branches(batch)["noun"].logits
    torch.testing.assert_close(torch.tensor([p.scores["noun"] for p in predictions]), logits, atol=1e-6, rtol=0)
