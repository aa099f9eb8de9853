"""SF-Net: the network, its inference in worked numbers, switches, and training with growth and restart."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from vidloc.core.records import Point, Segment
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span, TimeGrid
from vidloc.errors import OptionError
from vidloc.heads.bank import Bank
from vidloc.heads.base import Batch, RowBatch, Sample
from vidloc.heads.sampling import AllRows
from vidloc.heads.sfnet import SFNet
from vidloc.heads.single_frame_clips import Clips
from vidloc.heads.single_frame_labels import row_borders
from vidloc.heads.single_frame_options import RELEASED, SFNetOptions
from vidloc.heads.training import FitData, predict_all, seeded
from vidloc.testing.deterministic_fill import filled
from vidloc.testing.head_checks import MemoryRecorder

CPU = torch.device("cpu")
STRIDE_S = Fraction(16, 25)
LABELS = {"label": ("wave", "jump")}


def made(dims=None, labels=LABELS, **options) -> SFNet:
    with seeded(0, device=CPU):
        return SFNet(SFNetOptions(device="cpu", **options), dims or {"rgb": 6, "flow": 8}, labels)


def clip(num_rows, *, padding=0, widths=(6, 8), seed=0):
    random = torch.Generator().manual_seed(seed)
    features = {}
    for name, width in zip(("rgb", "flow"), widths, strict=True):
        rows = torch.randn(1, num_rows, width, generator=random)
        features[name] = torch.nn.functional.pad(rows, (0, 0, 0, padding))
    return features, torch.arange(num_rows + padding).unsqueeze(0) < num_rows


def test_parameters_are_those_of_the_release():
    for classes, expected in ((20, 16_830_552), (7, 16_803_876), (34, 16_859_280)):
        names = {"label": tuple(str(k) for k in range(classes))}
        assert made({"rgb": 1024, "flow": 1024}, names).num_parameters == expected


def test_fusion_at_the_start():
    head = made().eval()
    outputs = head(*clip(9))
    torch.testing.assert_close(outputs.classes["fused"], outputs.classes["rgb"] + outputs.classes["flow"])
    assert not outputs.actionness["fused"].any()
    assert outputs.actionness["rgb"].any()


def test_streams_do_not_mix():
    head = made().eval()
    features, mask = clip(9)
    before = head(features, mask)
    after = head({**features, "rgb": features["rgb"] + 1}, mask)
    assert torch.equal(before.classes["flow"], after.classes["flow"])
    assert torch.equal(before.actionness["flow"], after.actionness["flow"])
    assert not torch.equal(before.classes["rgb"], after.classes["rgb"])
    assert not torch.equal(before.actionness["rgb"], after.actionness["rgb"])


def test_the_old_wiring_feeds_flow_to_both_actionness_branches():
    head = made({"rgb": 6, "flow": 6}, rgb_actionness_input="flow").eval()
    features, mask = clip(9, widths=(6, 6))
    before, after = (head({**features, "rgb": features["rgb"] + step}, mask) for step in (0, 1))
    assert torch.equal(before.actionness["rgb"], after.actionness["rgb"])
    with pytest.raises(OptionError, match="needs both streams, of one width"):
        made(rgb_actionness_input="flow")
    with pytest.raises(OptionError, match="needs both streams, of one width"):
        made({"rgb": 6}, inputs="rgb", rgb_actionness_input="flow")


def test_classes_have_no_context_and_actionness_sees_two_rows_to_either_side():
    head = made().eval()
    features, mask = clip(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    before, after = head(features, mask), head({k: v[:, order] for k, v in features.items()}, mask)
    torch.testing.assert_close(before.classes["fused"][:, order], after.classes["fused"])
    assert not torch.allclose(before.actionness["rgb"][:, order], after.actionness["rgb"])
    changed = {k: v.clone() for k, v in features.items()}
    changed["rgb"][0, 6] += 1
    moved = (head(changed, mask).actionness["rgb"] - before.actionness["rgb"])[0].abs() > 1e-7
    assert set(moved.nonzero().flatten().tolist()) <= {4, 5, 6, 7, 8}


@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_touches_the_last_row_in_the_released_form_alone(mask_padding):
    head = made(mask_padding=mask_padding).eval()
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "act_layer" in name and name.endswith("bias"):
                parameter.fill_(0.5)
    plain, padded = head(*clip(12)), head(*clip(12, padding=18))
    torch.testing.assert_close(plain.classes["fused"], padded.classes["fused"][:, :12])
    difference = (plain.actionness["rgb"] - padded.actionness["rgb"][:, :12])[0].abs() > 1e-6
    assert difference.nonzero().flatten().tolist() == ([] if mask_padding else [11])


@torch.no_grad()
def test_total_loss_of_equal_logits_in_three_outputs():
    head = made(actionness_log="bounded").eval()
    for name, parameter in head.named_parameters():
        if name.startswith(("rgb_classifier", "flow_classifier", "rgb_action", "flow_action")):
            parameter.zero_()
    features, mask = clip(8)
    targets = torch.zeros(1, 8, 2)
    targets[0, 2, 0] = 1
    losses = head.clip_losses(Clips(features, mask, targets))
    assert float(losses["total"]) == pytest.approx(11.843175, abs=1e-4)
    by_classes = made(background_weight="classes", variant="SFB").eval()
    for name in ("rgb_classifier", "flow_classifier"):
        for parameter in by_classes.get_submodule(name).parameters():
            parameter.zero_()
    losses = by_classes.clip_losses(Clips(features, mask, targets))
    assert float(losses["frame"]) == pytest.approx(3 * 1.098612 * (1 + 1 / 2), abs=1e-4)
    assert "actionness" not in losses


@torch.no_grad()
def test_a_small_actionness_loss_is_left_out_when_asked():
    features, mask = clip(8)
    targets = torch.zeros(1, 8, 2)
    targets[0, 2, 0] = 1
    clips = Clips(features, mask, targets)
    assert float(made(actionness_floor=1e6).eval().clip_losses(clips)["actionness"]) == 0
    assert float(made().eval().clip_losses(clips)["actionness"]) > 1


def test_without_background_there_are_as_many_outputs_as_classes():
    head = made(variant="SF").eval()
    assert head(*clip(5)).classes["fused"].shape == (1, 5, 2)
    assert not head(*clip(5)).actionness


def test_checkpoints_of_the_release_load_by_name():
    head = made()
    weights = filled(head.state_dict())
    names = [f"{s}_cls_layer.{k}.0.{p}" for s in ("flow", "rgb") for k in (0, 1) for p in ("weight", "bias")]
    names += [f"{s}_act_layer.layer.{k}.0.{p}" for s in ("flow", "rgb") for k in (0, 1) for p in ("weight", "bias")]
    names += [f"{s}_{p}.{q}" for s in ("flow", "rgb") for p in ("classifier", "action") for q in ("weight", "bias")]
    names += ["mul_r", "mul_f", "act_r", "act_f"]
    assert set(names) == set(head.state_dict())
    assert {k: tuple(v.shape) for k, v in head.state_dict().items() if k.startswith(("mul", "act"))} == {
        "mul_r": (3,),
        "mul_f": (3,),
        "act_r": (1,),
        "act_f": (1,),
    }
    head.load_state_dict(weights)
    outputs = head.eval()(*clip(5))
    x = clip(5)[0]["flow"]
    for k in (0, 1):
        x = torch.relu(x @ weights[f"flow_cls_layer.{k}.0.weight"].T + weights[f"flow_cls_layer.{k}.0.bias"])
    x = x @ weights["flow_classifier.weight"].T + weights["flow_classifier.bias"]
    torch.testing.assert_close(outputs.classes["flow"], x)
    fused = weights["mul_r"] * outputs.classes["rgb"] + weights["mul_f"] * outputs.classes["flow"]
    torch.testing.assert_close(outputs.classes["fused"], fused)
    fused = weights["act_r"] * outputs.actionness["rgb"] + weights["act_f"] * outputs.actionness["flow"]
    torch.testing.assert_close(outputs.actionness["fused"], fused)


def worked(second, **options):
    head = made(paper_stride_s=0.64, **options)
    scores = np.array([[0, 0, 3, 4, 3, 0, 0, 0, 2, 0, 0, 0], [second] * 12], dtype=np.float64).T
    action = np.full(12, -1.0)
    action[2:5], action[8] = 1, 0.5
    found = head.segments("v", scores, action, row_borders(TimeGrid(STRIDE_S, STRIDE_S).spans(12)))
    return [(p.label, *(round(float(t), 6) for t in p.span), round(p.time_s, 6), round(p.score, 6)) for p in found]


def test_inference_in_worked_numbers():
    assert worked(2.6) == [("wave", 1.28, 3.2, 1.92, 10)]
    assert [(t, score) for *_, t, score in worked(2.6, output="frames")] == [(1.92, 10), (5.12, 7)]
    assert worked(2.7)[1] == ("jump", 1.28, 3.2, 1.28, 7.4)
    assert [(t, score) for *_, t, score in worked(2.7, output="frames")[2:]] == [(1.28, 7.4), (5.12, 6.4)]
    head = made()
    assert head.segments("v", np.full((12, 2), -1.0), np.zeros(12), row_borders(TimeGrid(1, 1).spans(12))) == []


def test_as_released_sets_what_is_not_given():
    released = SFNetOptions(as_released=True, expansion="paper")
    assert released.expansion == "paper"
    assert {k: getattr(released, k) for k in RELEASED if k != "expansion"} == {
        k: v for k, v in RELEASED.items() if k != "expansion"
    }
    assert SFNetOptions.model_validate(released.model_dump(mode="json")) == released
    sound = SFNetOptions()
    assert all(getattr(sound, name) != value for name, value in RELEASED.items())


CODES = 2 * np.random.default_rng(7).normal(size=(3, 6))


class Reader:
    """Items of 40 rows of 0.64 s: class 0 in rows 5 to 14, class 1 in rows 22 to 31."""

    shift = 0.0

    def timeline(self, role, item_id):
        start = self.shift if role == "flow" else 0
        return TimeGrid(STRIDE_S, STRIDE_S, start), 40

    def expect(self, role, items):
        pass

    def keys(self, role, item_id):
        return None

    def rows(self, role, item_id):
        classes = np.full(40, 2)
        classes[5:15], classes[22:32] = 0, 1
        noise = np.random.default_rng(int(item_id)).normal(size=(40, 6))
        return Rows.dense(features=(CODES[classes] + 0.5 * noise).astype(np.float32))


def bank(num_items=4, reader=None, roles=("rgb",), *, points=True):
    samples = []
    for k in range(num_items):
        spans = [(Span(5 * 0.64, 15 * 0.64), 0), (Span(22 * 0.64, 32 * 0.64), 1)]
        segments = tuple(Segment(item_id=str(k), span=span, labels={"label": c}, id=f"{k}{c}") for span, c in spans)
        marked = tuple(Point(item_id=str(k), time_s=s.span.center_s, labels=s.labels) for s in segments)
        samples.append(Sample(str(k), Span(0, 25.6), segments, marked if points else ()))
    return Bank(samples, dict.fromkeys(roles, AllRows()), reader or Reader())


def trained(recorder=None, **options):
    head = made({"rgb": 6}, inputs="rgb", **{"epochs": 4, "steps": 15, "lr": 0.01, "dropout": 0.2, **options})
    head.fit(FitData(bank()), recorder or MemoryRecorder())
    return head


def test_labels_grow_once_and_training_begins_anew():
    recorder = MemoryRecorder()
    trained(recorder)
    grew = ["mined_rows" in values for values in recorder.values]
    assert grew == [False, True, False, False]
    assert recorder.values[1]["mined_rows"] > 10
    assert recorder.values[1]["mined_precision"] > 0.9
    assert recorder.values[1]["loss"] > recorder.values[0]["loss"] / 3  # fresh weights know nothing again
    without = MemoryRecorder()
    trained(without, variant="SFBA")
    assert not any("mined_rows" in values for values in without.values)


class Stopped(MemoryRecorder):
    def checkpoint(self, state):
        super().checkpoint(state)
        if len(self.states) == 2:
            raise KeyboardInterrupt


class Resumed(MemoryRecorder):
    def __init__(self, state):
        super().__init__()
        self.state = state

    def resume(self):
        return self.state


@pytest.mark.parametrize("expand_at", [0.25, 0.5])  # before the stop, and right at it
def test_a_run_that_is_taken_up_ends_with_the_same_numbers(expand_at):
    whole = trained(expand_at=expand_at, steps=4)
    stopped = Stopped()
    with pytest.raises(KeyboardInterrupt):
        trained(stopped, expand_at=expand_at, steps=4)
    resumed = trained(Resumed(stopped.states[-1]), expand_at=expand_at, steps=4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_planted_segments_are_found():
    found = predict_all(trained(epochs=4, steps=25), bank(6), batch=4)
    for item in "012345":
        own = {p.label: p.span for p in sorted(found, key=lambda p: p.score) if p.item_id == item}
        assert own["wave"] == pytest.approx((3.2, 9.6), abs=1.3)
        assert own["jump"] == pytest.approx((14.08, 20.48), abs=1.3)


def test_classes_of_whole_items_are_scored():
    head = trained()
    batch = next(bank().batches(4))
    scores = head.video_scores(batch)
    assert scores.shape == (4, 2)
    one_class = RowBatch(
        batch.rows["rgb"].features[:, :15], batch.rows["rgb"].mask[:, :15], batch.rows["rgb"].spans[:, :15]
    )
    assert head.video_scores(Batch(batch.samples, {"rgb": one_class})).argmax(dim=1).tolist() == [0, 0, 0, 0]


def test_the_conversion_is_said_and_can_be_refused():
    said = []
    head = made({"rgb": 6}, inputs="rgb", paper_stride_s=1.28, epochs=1, steps=1)
    head.fit(FitData(bank(), notice=said.append), MemoryRecorder())
    assert "rows are 0.64 s apart, and the numbers of rows are meant for 1.28 s; converted are radius 3 to 6" in said[0]
    head = made({"rgb": 6}, inputs="rgb", paper_stride_s=1.28, row_counts="refuse")
    with pytest.raises(OptionError, match="Use --row-counts convert or keep"):
        head.fit(FitData(bank()), MemoryRecorder())


def test_supervision_that_is_not_there_is_refused():
    head = made({"rgb": 6}, inputs="rgb")
    with pytest.raises(OptionError, match=r"no row is labelled \(--supervision points\)"):
        head.fit(FitData(bank(points=False)), MemoryRecorder())


@pytest.mark.parametrize("supervision", ["full", "random", "center", "annotator_like"])
def test_supervision_from_segments(supervision):
    head = made({"rgb": 6}, inputs="rgb", supervision=supervision)
    human, _ = head._supervision(FitData(bank(points=False)))
    for counts in human.values():
        assert counts.sum(axis=0).tolist() == ([10, 10] if supervision == "full" else [1, 1])
        assert not counts[[*range(5), *range(15, 22), *range(32, 40)]].any()


def test_streams_of_different_times_are_refused():
    reader = Reader()
    reader.shift = 0.1
    head = made({"rgb": 6, "flow": 6})
    with pytest.raises(OptionError, match="rows at different times"):
        predict_all(head, bank(reader=reader, roles=("rgb", "flow")), batch=2)


def test_one_stream_of_rgb_and_flow_side_by_side():
    head = made({"joined": 6}, inputs="joined").eval()
    assert list(SFNet.needs_for(head.options)) == ["joined"]
    batch = next(bank(roles=("joined",)).batches(4))
    features, _, _ = head.inputs(batch)
    assert torch.equal(features["flow"], batch.rows["joined"].features[..., 3:])
    assert predict_all(head, bank(roles=("joined",)), batch=4) is not None
    with pytest.raises(OptionError, match="even width"):
        made({"joined": 7}, inputs="joined")
