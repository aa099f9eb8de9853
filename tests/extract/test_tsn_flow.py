"""TSN's networks on flow: what their first layer is fed, and that the rest is the same network."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torchvision import models

from vidloc.errors import OptionError, WeightsError
from vidloc.extract.base import ClipInput, FrameSize, Sample
from vidloc.extract.bn_inception import BNInception
from vidloc.extract.flow import FlowOptions, OpticalFlow
from vidloc.extract.tsn_flow import TSNFlowOptions
from vidloc.testing.deterministic_fill import filled, frames

TOLERANCE = 1e-5  # of the maximum
FLOW = {"flow": "raft_small", "flow_weights": "random:0", "flow_updates": 1}
SMALL = {"frame": "crop", "short_side_px": 128, "crop_px": 64, **FLOW}


def close(ours, theirs):
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.fixture(scope="module")
def sample():
    return Sample((Fraction(0), Fraction(1, 6)), frames("flow", 6, 128, 160), np.arange(6) / 30, (160, 128))


@pytest.fixture(scope="module")
def levels(sample):
    """Grey levels of the flow, written out: ten channels, the middle 64 x 64 places."""
    flow = OpticalFlow(FlowOptions(**FLOW), device=torch.device("cpu")).of(sample.data)
    middle = flow[:, 32:96, 48:112].clip(-20, 20)
    channels = [middle[pair, :, :, axis] for pair in range(5) for axis in range(2)]
    # 255 (v + 20) / 40; in float32, since a level rounded the other way would be seen in the rows.
    return torch.from_numpy(np.stack([np.round(np.float32(6.375) * (c + np.float32(20))) for c in channels]))[None]


@pytest.fixture
def save(tmp_path):
    def save(state):
        torch.save({"state_dict": state}, tmp_path / "TSN-flow.pth.tar")
        return tmp_path / "TSN-flow.pth.tar"

    return save


def test_bn_inception_takes_levels_minus_128(sample, levels, save, build_encoder):
    network = BNInception(10).eval()
    network.load_state_dict(filled(network.state_dict()))
    path = save({f"module.base_model.{name}": tensor for name, tensor in network.state_dict().items()})
    encoder = build_encoder("tsn_flow_bninception", weights=path, **SMALL)
    with torch.inference_mode():
        expected = network(levels - 128).numpy()
    assert close(encoder.encode([sample]).fields["features"], expected)
    whole = OpticalFlow(FlowOptions(**FLOW), device=torch.device("cpu")).of(sample.data)
    assert np.array_equal(encoder.as_seen(sample), whole[:, 32:96, 48:112])
    described = encoder.stream().preprocessing
    assert (described["normalisation"], described["fps"]) == ("minus 128, over 1", "30")
    assert described["crop"] == "centre 64, of the flow of the resized frame"


def test_resnet_takes_levels_over_255_and_its_classifier_gives_scores(sample, levels, save, build_encoder):
    network = models.resnet50(num_classes=3)
    network.conv1 = torch.nn.Conv2d(10, 64, 7, stride=2, padding=3, bias=False)
    state = filled(network.state_dict())
    network.load_state_dict({name: t * 0.2 if name.endswith("bn3.weight") else t for name, t in state.items()})
    network.eval()
    theirs = {f"base_model.{name}": t for name, t in network.state_dict().items() if not name.startswith("fc.")}
    theirs |= {f"new_fc.{kind}": getattr(network.fc, kind).detach() for kind in ("weight", "bias")}
    encoder = build_encoder("tsn_flow_r50", weights=save(theirs), scores=True, **SMALL)
    with torch.inference_mode():
        expected = network((levels / 255 - 0.5) / 0.226).numpy()
    assert close(encoder.encode([sample]).fields["scores"], expected)


def test_weights_of_pictures_are_refused_by_their_first_layer(save, build_encoder):
    path = save(filled(BNInception(3).state_dict()))
    with pytest.raises(WeightsError, match=r"size mismatch for base_model\.conv1_7x7_s2\.weight: .*\[64, 3, 7, 7\]"):
        build_encoder("tsn_flow_bninception", weights=path, **SMALL)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tsn_flow_bninception", FrameSize(stretch_px=(256, 454), antialias=True)),
        ("tsn_flow_r50", FrameSize(256, antialias=True)),
    ],
)
def test_five_pairs_need_six_whole_frames(build_encoder, name, size):
    encoder = build_encoder(name, weights="random:0", **FLOW)
    assert encoder.input == ClipInput(5, Fraction(5, 30), size, frames_after=1)


def test_options_of_both_sides_are_checked():
    with pytest.raises(OptionError, match="crop_px 224 does not fit into short_side_px 128"):
        TSNFlowOptions.parse({"short_side_px": "128"}, where="encoder 'tsn_flow_r50'")
    with pytest.raises(OptionError, match="flow_weights is given but flow is tvl1"):
        TSNFlowOptions.parse({"flow_weights": "random:0"}, where="encoder 'tsn_flow_r50'")
