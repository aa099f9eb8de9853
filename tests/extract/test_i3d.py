"""I3D against the worked values of specs/encoders.md section 12, and the layouts its checkpoints come in."""

from __future__ import annotations

import re
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from vidloc.errors import OptionError, WeightsError
from vidloc.extract import weights
from vidloc.extract.i3d import I3D
from vidloc.extract.inception_i3d import SMALLEST, InceptionI3D, piergiaj_name
from vidloc.testing.deterministic_fill import filled

TOLERANCE = 2e-5  # of the maximum, as the spec states it
MEANS = {
    "Conv3d_1a_7x7": 0.315764,
    "MaxPool3d_2a": 0.985527,
    "Conv3d_2c_3x3": 0.651118,
    "MaxPool3d_3a": 1.299166,
    "Mixed_3c": 1.226276,
    "MaxPool3d_4a": 2.154374,
    "Mixed_4f": 2.605000,
    "MaxPool3d_5a": 3.992679,
    "Mixed_5c": 3.251844,
}


@pytest.fixture(scope="module")
def state():
    return filled(InceptionI3D().state_dict())


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    """As both ports were saved, by a PyTorch that had no norm counters."""
    path = tmp_path_factory.mktemp("weights") / "rgb_imagenet.pt"
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert (len(state), len(old)) == (344, 287)
    torch.save(old, path)
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint, build_encoder):
    return build_encoder("i3d", weights=checkpoint, scores=True)


@pytest.fixture(scope="module")
def small(checkpoint, build_encoder):
    """Nearly the smallest clips that pass: made-up frames come in steps of four pixels, the limit is 193."""
    return build_encoder("i3d", weights=checkpoint, num_frames=9, crop_px=196)


@pytest.fixture(scope="module")
def worked(encoder, clip):
    """One clip encoded, and the mean of each stage on the way."""
    means = {}
    hooks = [
        encoder.network.get_submodule(name).register_forward_hook(
            lambda module, inputs, maps, name=name: means.update({name: maps.mean().item()})
        )
        for name in MEANS
    ]
    rows = encoder.encode([clip("spec_i3d", 16, 224)])
    for hook in hooks:
        hook.remove()
    return rows.fields, means


def test_networks_have_the_published_sizes():
    for channels, parameters in ((3, 12_697_264), (2, 12_675_312)):
        assert sum(p.numel() for p in InceptionI3D(in_channels=channels).parameters()) == parameters


def test_the_fill_is_that_of_the_spec(state, clip):
    name = "Conv3d_1a_7x7.conv3d.weight"
    first = state[name].flatten()[:4]
    assert zlib.crc32(name.encode()) == 3514946637
    assert torch.allclose(first, torch.tensor([-0.00497906, -0.04201302, 0.07067249, -0.06110089]), atol=1e-8)
    assert state[name].double().sum().item() == pytest.approx(-24.24819422, abs=1e-6)
    cells = clip("spec_i3d", 16, 224).data[:, ::4, ::4].reshape(-1)
    assert cells[:8].tolist() == [20, 182, 237, 248, 35, 90, 44, 47]
    assert cells.astype(int).sum() == 19_199_635


def test_stage_means(worked):
    assert worked[1] == pytest.approx(MEANS, abs=1e-6 * max(MEANS.values()) * 2)


def test_features_and_scores(worked):
    features, scores = (worked[0][name][0] for name in ("features", "scores"))
    peak = 40.385422
    assert features[:4] == pytest.approx([0.77627402, 4.30841923, 0, 9.56548500], abs=TOLERANCE * peak)
    assert features.mean() == pytest.approx(3.25184421, abs=TOLERANCE)
    assert np.linalg.norm(features) == pytest.approx(180.873647, rel=TOLERANCE)
    assert (features.argmax(), features.max()) == (921, pytest.approx(peak, rel=TOLERANCE))
    assert scores[:2] == pytest.approx([-4.85343885, 7.82477760], abs=TOLERANCE * 30)
    assert (np.linalg.norm(scores), scores.argmax()) == (pytest.approx(158.435211, rel=TOLERANCE), 343)


def test_the_variant_has_the_other_eps(checkpoint, build_encoder, clip, worked):
    variant = build_encoder("i3d", weights=checkpoint, variant="video_features")
    row = variant.encode([clip("spec_i3d", 16, 224)]).fields["features"][0]
    assert row.mean() == pytest.approx(3.28498105, abs=TOLERANCE)
    assert row.mean() - worked[0]["features"][0].mean() > 1000 * TOLERANCE


def tensorflow_same(maps, kernel, stride):
    """Zeros added around each axis, as TensorFlow's documentation states the rule: by the remainder of the size."""
    sides = []
    for size in reversed(maps.shape[2:]):
        rest = size % stride
        total = max(kernel - (rest or stride), 0)
        sides += [total // 2, total - total // 2]
    return functional.pad(maps, sides)


@pytest.mark.parametrize("shape", [(10, 33, 34), (21, 16, 35), (16, 32, 32)])
def test_sizes_that_no_stride_divides_are_padded_as_tensorflow_does(shape):
    network = InceptionI3D().eval()
    maps = torch.rand(1, 3, *shape)
    unit, pool = network.Conv3d_1a_7x7, network.MaxPool3d_4a
    with torch.inference_mode():
        expected = functional.relu(
            unit.bn(functional.conv3d(tensorflow_same(maps, 7, 2), unit.conv3d.weight, stride=2))
        )
        assert torch.allclose(unit(maps), expected, atol=1e-6)
        assert expected.shape[2:] == tuple(-(-n // 2) for n in shape)
        assert torch.equal(pool(maps), functional.max_pool3d(tensorflow_same(maps, 3, 2), 3, 2))


def test_the_variant_pads_as_if_strides_divided_all_sizes():
    maps = torch.rand(1, 3, 21, 32, 32)
    standard, variant = (InceptionI3D(variant=v).eval() for v in ("standard", "video_features"))
    assert standard.Conv3d_1a_7x7(maps).shape[2:] == (11, 16, 16)
    assert variant.Conv3d_1a_7x7(maps).shape[2:] == (10, 16, 16)
    # That tool's pools round sizes up, so that the last of five frames is seen.
    assert variant.MaxPool3d_5a(torch.rand(1, 3, 5, 4, 4)).shape[2:] == (3, 2, 2)


@pytest.mark.parametrize(
    ("frames", "side", "positions"),
    [(9, 224, (1, 1, 1)), (16, 193, (1, 1, 1)), (24, 224, (2, 1, 1)), (64, 256, (7, 2, 2))],
)
def test_positions_follow_from_the_size_of_a_clip(frames, side, positions):
    with torch.device("meta"):
        pooled = InceptionI3D().pooled(torch.empty(1, 3, frames, side, side))
    assert pooled.shape == (1, 1024, *positions)


@pytest.mark.parametrize("variant", SMALLEST)
def test_the_smallest_clips_pass_and_smaller_ones_do_not(variant):
    frames, side = SMALLEST[variant]
    with torch.device("meta"):
        network = InceptionI3D(variant=variant)
        assert network.pooled(torch.empty(1, 3, frames, side, side)).shape == (1, 1024, 1, 1, 1)
        for shape in ((frames - 1, side, side), (frames, side - 1, side)):
            with pytest.raises(RuntimeError, match="smaller than kernel size"):
                network.pooled(torch.empty(1, 3, *shape))


def test_the_classifier_sees_every_position():
    network = InceptionI3D(num_classes=7)
    pooled = torch.rand(2, 1024, 3, 2, 2)
    of_mean = network.logits.conv3d(pooled.mean((2, 3, 4), keepdim=True)).flatten(1)
    assert torch.allclose(network.classified(pooled).mean((2, 3, 4)), of_mean, atol=1e-5)


def test_a_batch_equals_its_members(small, clip):
    samples = [clip(name, 9, 196) for name in ("a", "b")]
    together = small.encode(samples).fields["features"]
    alone = np.concatenate([small.encode([sample]).fields["features"] for sample in samples])
    largest = np.abs(alone).max()
    assert np.abs(together - alone).max() <= 1e-6 * largest
    assert np.abs(together[0] - together[1]).max() > 1e-3 * largest


def hassony2_name(name: str) -> str:
    """The other port's name of a tensor, by the list of specs/encoders.md section 4."""
    branches = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1"}
    branches |= {"b2a": "branch_2.0", "b2b": "branch_2.1", "b3b": "branch_3.1"}
    if name.startswith("logits."):
        return name.replace("logits.", "conv3d_0c_1x1.")
    name = re.sub(r"\.(b\d[ab]?)\.", lambda match: f".{branches[match[1]]}.", name).replace(".bn.", ".batch3d.")
    return name[0].lower() + name[1:]


def test_both_ports_load_into_one_network(state, checkpoint, encoder, build_encoder, tmp_path):
    theirs = {hassony2_name(name): tensor for name, tensor in state.items()}
    assert {"mixed_3b.branch_1.1.batch3d.weight", "conv3d_1a_7x7.conv3d.weight"} <= theirs.keys()
    assert {piergiaj_name(name) for name in theirs} == state.keys() == {piergiaj_name(name) for name in state}
    path = tmp_path / "model_rgb.pth"
    torch.save(theirs, path)
    other = build_encoder("i3d", weights=path)
    pairs = zip(encoder.network.parameters(), other.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert other.weights_sha256 != encoder.weights_sha256


def test_both_layouts_with_and_without_counters_load_strictly(state):
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    for content in (state, old):
        weights.load_into(InceptionI3D(), content, where="rgb_imagenet.pt")
    with pytest.raises(WeightsError, match=r"missing: Mixed_4f\.b2b\.conv3d\.weight"):
        weights.load_into(
            InceptionI3D(), {n: t for n, t in old.items() if n != "Mixed_4f.b2b.conv3d.weight"}, where="rgb_imagenet.pt"
        )


def test_a_flow_checkpoint_is_refused_by_its_first_layer(build_encoder, tmp_path):
    path = tmp_path / "flow_imagenet.pt"
    torch.save(filled(InceptionI3D(in_channels=2).state_dict()), path)
    with pytest.raises(WeightsError, match=r"size mismatch for Conv3d_1a_7x7\.conv3d\.weight: .*\[64, 2, 7, 7, 7\]"):
        build_encoder("i3d", weights=path)


def test_the_number_of_classes_is_that_of_the_checkpoint(state, build_encoder, tmp_path):
    charades = dict(state)
    charades["logits.conv3d.weight"] = torch.zeros(157, 1024, 1, 1, 1)
    charades["logits.conv3d.bias"] = torch.zeros(157)
    path, names, wrong = (tmp_path / name for name in ("rgb_charades.pt", "classes.txt", "wrong.txt"))
    torch.save(charades, path)
    names.write_text("".join(f"c{k:03}\n" for k in range(157)))
    wrong.write_text("one\ntwo\n")
    template = build_encoder("i3d", weights=path, scores=True, classes=names).stream()
    assert template.fields["scores"].row_shape == (157,)
    assert (template.vocabulary[0], template.vocabulary[-1]) == ("c000", "c156")
    with pytest.raises(OptionError, match=r"wrong\.txt names 2 classes, the weights have 157"):
        build_encoder("i3d", weights=path, scores=True, classes=wrong)


def test_class_names_are_checked_before_any_work(tmp_path):
    def checked(**options):
        I3D.check_weights(I3D.Options.parse({"weights": "random:0"} | options, where="encoder 'i3d'"), name="i3d")

    gap = tmp_path / "gap.txt"
    gap.write_text("run\n\nwalk\n")
    with pytest.raises(OptionError, match=r"gap\.txt, line 2 is empty"):
        checked(scores=True, classes=str(gap))
    with pytest.raises(OptionError, match=r"none\.txt' cannot be read"):
        checked(scores=True, classes=str(tmp_path / "none.txt"))
    with pytest.raises(OptionError, match="add scores=true"):
        checked(classes=str(gap))


def test_input_and_stream(encoder, small):
    wanted = encoder.input
    assert (wanted.num_frames, wanted.window_s) == (16, Fraction(16, 25))
    assert (wanted.size.short_side_px, wanted.size.crop_px, wanted.size.antialias) == (256, 224, True)
    template = encoder.stream()
    assert {name: spec.row_shape for name, spec in template.fields.items()} == {"features": (1024,), "scores": (400,)}
    assert template.vocabulary == ()  # the weights are not the published ones
    assert template.preprocessing["normalisation"] == "minus 0.5, over 0.5"
    assert template.preprocessing["resize"] == "shorter side 256, bilinear, antialiased"
    assert small.stream().fields.keys() == {"features"}
    assert not [m for m in encoder.network.modules() if isinstance(m, nn.BatchNorm3d)]


def test_pixels_are_in_minus_one_to_one(encoder, clip):
    sample = clip("pixels", 16, 8)
    clips = encoder.preparation.clips([sample], torch.device("cpu"))
    expected = np.moveaxis(sample.data, -1, 0)[None].astype(np.float64) / 127.5 - 1
    assert np.abs(clips.numpy() - expected).max() < 1e-6


def test_published_weights_go_with_the_variant(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
    for options, name in (({}, "i3d"), ({"variant": "video_features"}, "i3d_hassony2")):
        with pytest.raises(WeightsError, match=f"vidloc weights fetch {name}\n"):
            I3D.check_weights(I3D.Options.parse(options, where="i3d"), name="i3d")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": "8"}, "'num_frames': Input should be greater than or equal to 9"),
        ({"crop_px": "192"}, "greater than or equal to 193"),
        ({"short_side_px": "200"}, "crop_px 224 does not fit into short_side_px 200"),
        ({"fps": "0"}, "greater than 0"),
        ({"variant": "tf"}, "'standard' or 'video_features'"),
        ({"variant": "video_features", "num_frames": "9"}, "num_frames is at least 10 .*, got 9 and 224"),
        ({"variant": "video_features", "crop_px": "193"}, "crop_px at least 194, got 16 and 193"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        I3D.Options.parse(options, where="encoder 'i3d'")
