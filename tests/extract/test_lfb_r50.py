"""The clip network of long-term feature banks: its blocks written out, its sizes, and Caffe2's blobs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.base import Sample
from vidloc.extract.lfb_r50 import Bottleneck, LFBNetwork, LFBOptions, NonLocal, folded, region_features
from vidloc.testing.deterministic_fill import fill, filled, frames

TOLERANCE = 1e-5  # of the maximum
SMALL = {"num_frames": 8, "short_side_px": 64, "crop_px": 64}


def close(ours, theirs):
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.fixture(scope="module")
def blobs():
    """A checkpoint as Caffe2 names and shapes it: convolutions without bias, scale and shift apart."""
    with torch.device("meta"):
        network = LFBNetwork(125, dilation=1)
    made = {}
    for name, tensor in network.state_dict().items():
        module, kind = name.rsplit(".", 1)
        layer = module.replace(".", "_")
        has_bias = layer == "pred" or layer.startswith("nonlocal")
        if kind == "weight":
            made[f"{layer}_w"] = tuple(tensor.shape)
        elif has_bias:
            made[f"{layer}_b"] = tuple(tensor.shape)
        if kind == "bias" and (not has_bias or layer.endswith("_out")):
            norm = "res_conv1" if layer == "conv1" else layer.removesuffix("_out")
            made |= {f"{norm}_bn_s": tuple(tensor.shape), f"{norm}_bn_b": tuple(tensor.shape)}
    # The last norm of a block halves what it adds, so that sixteen blocks in a row keep its size.
    return {
        name: torch.from_numpy(fill(name, shape)) * (0.3 if "branch2c_bn_s" in name else 1)
        for name, shape in made.items()
    }


@pytest.fixture(scope="module")
def checkpoint(blobs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "epic_verb_baseline.safetensors"
    safetensors.torch.save_file(blobs, path)
    return path


def test_the_network_has_the_blobs_of_the_release(blobs):
    # 53 convolutions with scale and shift; five non-local blocks of four convolutions with bias, and one norm each.
    assert len(blobs) == 53 * 3 + 5 * (4 * 2 + 2) + 2
    for name in (
        "conv1_w",
        "res_conv1_bn_s",
        "res2_0_branch1_bn_b",
        "res4_5_branch2c_w",
        "nonlocal_conv3_1_theta_b",
        "nonlocal_conv4_5_bn_s",
        "pred_w",
    ):
        assert name in blobs
    assert tuple(blobs["res3_2_branch2a_w"].shape) == (128, 512, 3, 1, 1)
    assert tuple(blobs["res3_1_branch2a_w"].shape) == (128, 512, 1, 1, 1)
    assert tuple(blobs["nonlocal_conv4_3_phi_w"].shape) == (512, 1024, 1, 1, 1)


@pytest.mark.parametrize("dilation", [1, 2])
def test_stages_have_the_sizes_of_the_table(dilation):
    network, seen = LFBNetwork(None, dilation=dilation).to("meta"), {}
    for name in ("conv1", "res2_2", "res3_3", "res4_5", "res5_2"):
        network.get_submodule(name).register_forward_hook(
            lambda module, fed, made, name=name: seen.update({name: tuple(made.shape[1:])})
        )
    network.maps(torch.empty(1, 3, 32, 224, 224, device="meta"))
    assert seen == {
        "conv1": (64, 32, 112, 112),
        "res2_2": (256, 32, 56, 56),
        "res3_3": (512, 16, 28, 28),
        "res4_5": (1024, 16, 14, 14),
        "res5_2": (2048, 16, 14, 14),
    }


def test_a_non_local_block_equals_its_equation_place_by_place():
    block = NonLocal(6).eval()
    block.load_state_dict({name: 3 * tensor for name, tensor in filled(block.state_dict()).items()})
    maps = torch.rand(1, 6, 2, 4, 2, generator=torch.Generator().manual_seed(0)) * 4 - 2
    weights = {name: tensor.double().squeeze().numpy() for name, tensor in block.state_dict().items()}
    x = maps[0].double().numpy()

    def layer(name, vector):
        return weights[f"{name}.weight"] @ vector + weights[f"{name}.bias"]

    pools = [
        x[:, t, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].max(axis=(1, 2))
        for t in range(2)
        for r in range(2)
        for c in range(1)
    ]
    expected = np.empty_like(x)
    for t, r, c in np.ndindex(x.shape[1:]):
        theta = layer("theta", x[:, t, r, c])
        likeness = np.exp([theta @ layer("phi", pool) / np.sqrt(3) for pool in pools])
        told = sum(share * layer("g", pool) for share, pool in zip(likeness / likeness.sum(), pools, strict=True))
        expected[:, t, r, c] = x[:, t, r, c] + layer("out", told)
    with torch.inference_mode():
        ours = block(maps)[0].numpy()
    assert close(ours, expected)
    assert not close(x, expected)


def test_groups_of_four_times_do_not_see_each_other_in_the_second_stage_and_all_do_in_the_third(blobs):
    network = LFBNetwork(None, dilation=1).eval()
    network.load_state_dict(folded({name: t for name, t in blobs.items() if not name.startswith("pred")}))
    seen = {}
    for name in ("nonlocal_conv3_1", "nonlocal_conv4_1"):
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, fed, name=name: seen.update({name: tuple(fed[0].shape)})
        )
    with torch.inference_mode():
        network.maps(torch.zeros(1, 3, 16, 32, 32))
    assert seen == {"nonlocal_conv3_1": (2, 512, 4, 4, 4), "nonlocal_conv4_1": (1, 1024, 8, 2, 2)}


def test_scale_and_shift_come_after_the_convolution(blobs):
    """One block of the released form, its norms applied as it does, against the folded one."""
    block = Bottleneck(64, 256, over_time=True, stride=1, dilation=1).eval()
    own = {name.removeprefix("res2_0."): t for name, t in folded(blobs).items() if name.startswith("res2_0.")}
    block.load_state_dict(own)
    maps = torch.rand(1, 64, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def affine(x, layer, padding):
        x = functional.conv3d(x, blobs[f"res2_0_{layer}_w"], padding=padding)
        scale, shift = (blobs[f"res2_0_{layer}_bn_{kind}"].view(1, -1, 1, 1, 1) for kind in "sb")
        return x * scale + shift

    inner = functional.relu(affine(maps, "branch2a", (1, 0, 0)))
    inner = functional.relu(affine(inner, "branch2b", (0, 1, 1)))
    expected = functional.relu(affine(inner, "branch2c", 0) + affine(maps, "branch1", 0))
    with torch.inference_mode():
        assert close(block(maps).numpy(), expected.numpy())


def test_norms_that_are_not_frozen_yet_are_frozen(blobs):
    names = ("conv1_w", "res_conv1_bn_s", "res_conv1_bn_b")
    mean, variance = torch.from_numpy(fill("a.running_mean", (64,))), torch.from_numpy(fill("a.running_var", (64,)))
    stem = {name: blobs[name] for name in names}
    ours = folded(stem | {"res_conv1_bn_rm": mean, "res_conv1_bn_riv": variance})
    x = torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = functional.batch_norm(
        functional.conv3d(x, stem["conv1_w"], padding=(2, 3, 3)),
        mean,
        variance,
        stem["res_conv1_bn_s"],
        stem["res_conv1_bn_b"],
        eps=1.0000001e-5,
    )
    got = functional.conv3d(x, ours["conv1.weight"], ours["conv1.bias"], padding=(2, 3, 3))
    assert ours.keys() == {"conv1.weight", "conv1.bias"}
    assert close(got.numpy(), expected.numpy())


def test_rows_are_the_mean_of_the_last_map_and_scores_are_linear_in_them(blobs, checkpoint, build_encoder, clip):
    encoder = build_encoder("lfb_r50", weights=checkpoint, scores=True, **SMALL)
    sample = clip("lfb", 8, 64)
    rows = encoder.encode([sample]).fields
    with torch.inference_mode():
        pixels = ((torch.from_numpy(sample.data).float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)[None]
        maps = encoder.network.maps(pixels)
    assert maps.shape == (1, 2048, 4, 4, 4)
    assert close(rows["features"], maps.mean((2, 3, 4)).numpy())
    assert close(rows["scores"], rows["features"] @ blobs["pred_w"].numpy().T + blobs["pred_b"].numpy())
    assert rows["scores"].shape == (1, 125)


def test_operators_of_the_whole_model_are_left_aside(blobs, checkpoint, build_encoder, tmp_path):
    whole = dict(blobs)
    whole |= {"pred_w": torch.zeros(125, 2560), "lfb_1x1_w": torch.zeros(512, 2048, 1, 1, 1)}
    whole |= {
        "lfb_nl0_theta_b": torch.zeros(512),
        "res5_2_branch2c_bn_pooled_fbonl_reduc_w": torch.zeros(512, 2048, 1, 1, 1),
    }
    path = tmp_path / "epic_verb_lfb_nl.safetensors"
    safetensors.torch.save_file(whole, path)
    pairs = [list(build_encoder("lfb_r50", weights=p, **SMALL).network.parameters()) for p in (path, checkpoint)]
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


class TestRegions:
    def test_a_box_is_the_largest_number_of_its_places_in_the_mean_over_time(self):
        """On a map whose numbers grow with column and row, by what aligning does to a plane: it reads the plane."""
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
        plane = torch.stack([columns, 10 * rows])
        maps = torch.stack([plane - 1, plane + 1], dim=1)[None]  # two times whose mean is the plane
        box = torch.tensor([[1 / 6, 1 / 4, 4 / 6, 3 / 4]])
        vector = region_features(maps, [box], (128, 192))[0]
        # In the map the box goes from column 2 to 8 and from row 2 to 6. A seventh of that is less than a cell, so that
        # each place is read once, in its middle; the last one's lies half a place before the end.
        assert vector.tolist() == pytest.approx([8 - 6 / 14, 10 * (6 - 4 / 14)], abs=1e-4)

    def test_rows_of_given_boxes(self, checkpoint, build_encoder, tmp_path):
        path = tmp_path / "persons.csv"
        path.write_text(
            "item_id,time_s,x1,y1,x2,y2,score,label\na,0.5,0.25,0,0.75,1,0.9,1\na,0.5,0,0,1,1,0.95,1\nb,0.5,0,0,0.5,0.5,1,1\n"
        )
        encoder = build_encoder("lfb_r50", weights=checkpoint, boxes=path, **SMALL)
        samples = [
            Sample(
                (Fraction(0), Fraction(1)), frames(item, 8, 64, width), np.arange(8) / 8, (2 * width, 128), item_id=item
            )
            for item, width in (("a", 96), ("b", 64))
        ]
        far = replace(samples[0], span=(Fraction(5), Fraction(6)))
        rows = encoder.encode([*samples, far])
        assert rows.counts["regions"].tolist() == [2, 1, 0]
        assert rows.fields["boxes"].tolist() == [[0, 0, 1, 1], [0.25, 0, 0.75, 1], [0, 0, 0.5, 0.5]]
        assert rows.fields["image_size"].tolist() == [[192, 128], [128, 128], [192, 128]]
        with torch.inference_mode():
            pixels = ((torch.from_numpy(samples[0].data).float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)[None]
            maps = encoder.network.maps(pixels)
            alone = region_features(maps, [torch.from_numpy(rows.entries("boxes")[0])], (64, 96)).numpy()
        assert close(rows.entries("features")[0], alone)
        template = encoder.stream()
        assert (template.kind, template.fields["features"].row_shape) == ("objects", ("regions", 2048))
        assert encoder.input.size.crop_px is None

    def test_scores_are_of_whole_clips(self):
        with pytest.raises(OptionError, match="leave one out"):
            LFBOptions.parse({"boxes": "b.csv", "scores": "true"}, where="encoder 'lfb_r50'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"res3_0_branch2b_bn_s": None},
            r"layer 'res3_0_branch2b' has the blobs res3_0_branch2b_bn_b, res3_0_branch2b_w; expected are",
        ),
        ({"res3_0_branch2b_w": None, "res3_0_branch2b_bn_s": None, "res3_0_branch2b_bn_b": None}, r"missing: res3_0\."),
        ({"res6_0_branch2a_w": torch.zeros(2)}, r"not known to the network: res6_0\.branch2a\.weight"),
    ],
)
def test_other_checkpoints_are_refused_by_name(blobs, build_encoder, tmp_path, change, message):
    changed = {name: tensor for name, tensor in (blobs | change).items() if tensor is not None}
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(changed, path)
    with pytest.raises(WeightsError, match=message):
        build_encoder("lfb_r50", weights=path, **SMALL)


def test_input_is_that_of_the_paper(build_encoder, checkpoint):
    encoder = build_encoder("lfb_r50", weights=checkpoint)
    assert (encoder.input.num_frames, encoder.input.window_s) == (32, Fraction(64, 30))
    assert (encoder.input.size.short_side_px, encoder.input.size.crop_px) == (256, 256)
