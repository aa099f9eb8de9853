"""Hara's 3D ResNets against their definition written out, on checkpoints under their authors' names."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional

from vidloc.errors import WeightsError
from vidloc.extract.hara_resnet import build
from vidloc.testing.deterministic_fill import fill

TOLERANCE = 1e-5  # of the maximum
DEPTHS = {"hara_r34": (3, 4, 6, 3), "hara_r50": (3, 4, 6, 3), "hara_resnext101": (3, 4, 23, 3)}
# Of the second, and the last, convolution of a block of the first stage; each later stage is twice as wide.
WIDTHS = {"hara_r34": (64, 64), "hara_r50": (64, 256), "hara_resnext101": (128, 256)}


def published(name, num_classes=400):
    """A checkpoint as its authors name and shape it, with made-up numbers; PyTorch 0.3 had no counters."""
    shapes = {}

    def unit(conv, norm, *shape):
        shapes[f"{conv}.weight"] = shape
        shapes.update({f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")})

    unit("conv1", "bn1", 64, 3, 7, 7, 7)
    before = 64
    for stage, depth in enumerate(DEPTHS[name]):
        inner, outer = (width * 2**stage for width in WIDTHS[name])
        for k in range(depth):
            block = f"layer{stage + 1}.{k}"
            if name == "hara_r34":
                unit(f"{block}.conv1", f"{block}.bn1", inner, before, 3, 3, 3)
                unit(f"{block}.conv2", f"{block}.bn2", inner, inner, 3, 3, 3)
            else:
                unit(f"{block}.conv1", f"{block}.bn1", inner, before, 1, 1, 1)
                groups = 32 if name == "hara_resnext101" else 1
                unit(f"{block}.conv2", f"{block}.bn2", inner, inner // groups, 3, 3, 3)
                unit(f"{block}.conv3", f"{block}.bn3", outer, inner, 1, 1, 1)
                if k == 0:
                    unit(f"{block}.downsample.0", f"{block}.downsample.1", outer, before, 1, 1, 1)
            before = outer
    shapes |= {"fc.weight": (num_classes, before), "fc.bias": (num_classes,)}
    return {key: torch.from_numpy(fill(key, shape)) for key, shape in shapes.items()}


def plainly(name, state, clips):
    """Features and scores by the definition, from the names alone."""

    def unit(conv, norm, x, **how):
        x = functional.conv3d(x, state[f"{conv}.weight"], **how)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, eps=1e-5)

    x = functional.relu(unit("conv1", "bn1", clips, stride=(1, 2, 2), padding=3))
    x = functional.max_pool3d(x, 3, stride=2, padding=1)
    for stage, depth in enumerate(DEPTHS[name]):
        for k in range(depth):
            block, stride = f"layer{stage + 1}.{k}", 2 if stage and not k else 1
            if name == "hara_r34":
                inner = functional.relu(unit(f"{block}.conv1", f"{block}.bn1", x, stride=stride, padding=1))
                inner = unit(f"{block}.conv2", f"{block}.bn2", inner, padding=1)
                # No weights: every second place, zeros for the channels that came.
                shortcut = torch.zeros_like(inner)
                shortcut[:, : x.shape[1]] = x[:, :, ::stride, ::stride, ::stride]
            else:
                inner = functional.relu(unit(f"{block}.conv1", f"{block}.bn1", x))
                groups = 32 if name == "hara_resnext101" else 1
                middle = unit(f"{block}.conv2", f"{block}.bn2", inner, stride=stride, padding=1, groups=groups)
                inner = unit(f"{block}.conv3", f"{block}.bn3", functional.relu(middle))
                shortcut = x
                if k == 0:
                    shortcut = unit(f"{block}.downsample.0", f"{block}.downsample.1", x, stride=stride)
            x = functional.relu(inner + shortcut)
    features = x.mean((2, 3, 4))
    return features.numpy(), functional.linear(features, state["fc.weight"], state["fc.bias"]).numpy()


def close(ours, theirs):
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize(("name", "variant"), list(zip(DEPTHS, ("hara2018", "hara2020", "howto100m"), strict=True)))
def test_rows_equal_the_definition_written_out(name, variant, build_encoder, clip, tmp_path):
    state = published(name)
    torch.save({"arch": name, "state_dict": {f"module.{key}": v for key, v in state.items()}}, tmp_path / "w.pth")
    encoder = build_encoder(name, weights=tmp_path / "w.pth", variant=variant, scores=True)
    sample = clip("a", 16, 48)
    scale, mean, std = {
        "hara2018": (1, (114.7748, 107.7354, 99.4750), (1, 1, 1)),
        "howto100m": (1, (110.6, 103.2, 96.3), (1, 1, 1)),
        "hara2020": (1 / 255, (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
    }[variant]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (mean, std))
    levels = (torch.from_numpy(sample.data).permute(3, 0, 1, 2)[None] * scale - mean) / std
    rows = encoder.encode([sample]).fields
    with torch.inference_mode():
        features, scores = plainly(name, state, levels)
    assert close(rows["features"], features)
    assert close(rows["scores"], scores)
    assert np.ptp(features) > 0.1 * np.abs(features).max()


@pytest.mark.parametrize("name", DEPTHS)
def test_a_published_layout_fits_to_the_last_name(name, build_encoder):
    encoder_class = type(build_encoder("hara_r34", weights="random:0"))
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in build(name, 400).state_dict().items()}
    renamed = encoder_class.renamed(encoder_class.__new__(encoder_class), published(name))
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    assert {key: tensor.shape for key, tensor in renamed.items()} == {
        key: shape for key, shape in wanted.items() if key not in counters
    }


def test_the_other_depth_is_refused(build_encoder, tmp_path):
    torch.save(published("hara_r34"), tmp_path / "resnet-34-kinetics.pth")
    with pytest.raises(WeightsError, match="does not fit VideoResNet"):
        build_encoder("hara_r50", weights=tmp_path / "resnet-34-kinetics.pth")


def test_inputs_are_those_of_the_variants(build_encoder):
    encoder = build_encoder("hara_r34", weights="random:0", variant="hara2020", fps=24)
    assert (encoder.input.num_frames, encoder.input.window_s) == (16, Fraction(16, 24))
    size = encoder.input.size
    assert (size.short_side_px, size.crop_px, size.antialias) == (112, 112, True)
    facts = encoder.stream().preprocessing
    assert facts["normalisation"] == "minus 0.4345, 0.4051, 0.3775, over 0.2768, 0.2713, 0.2737"
