"""I3D's flow stream: what it is fed, in which numbers, and the layouts its checkpoints come in."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_i3d import hassony2_name

from vidloc.errors import OptionError, WeightsError
from vidloc.extract import flow as flow_module
from vidloc.extract.flow_algorithm import FlowAlgorithm
from vidloc.extract.flow_scaling import in_unit_range, video_features_range
from vidloc.extract.i3d_flow import I3DFlow
from vidloc.extract.inception_i3d import InceptionI3D, piergiaj_name
from vidloc.extract.published import PUBLISHED
from vidloc.testing.deterministic_fill import filled

# Nearly the smallest clips that pass: made-up frames come in steps of four pixels.
SMALL = {"num_frames": 10, "short_side_px": 196, "crop_px": 196}


class ByColour(FlowAlgorithm):
    """A flow that costs nothing and tells its channels and pictures apart: red, then green, of either picture."""

    def between(self, pairs):
        return [first[..., :2] / np.float32(4) - second[..., :2] / np.float32(6) for first, second in pairs]

    def described(self):
        return {"algorithm": "by colour"}


@pytest.fixture(scope="module")
def cheap_flow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_module, "TVL1", ByColour)
        yield


@pytest.fixture(scope="module")
def state():
    return filled(InceptionI3D(in_channels=2).state_dict())


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    """As piergiaj's was saved, by a PyTorch that had no norm counters."""
    path = tmp_path_factory.mktemp("weights") / "flow_imagenet.pt"
    torch.save({name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}, path)
    return path


@pytest.fixture(scope="module")
def encoder(cheap_flow, checkpoint, build_encoder):
    return build_encoder("i3d_flow", weights=checkpoint, **SMALL)


def parsed(**given):
    return I3DFlow.Options.parse({name: str(value) for name, value in given.items()}, where="encoder 'i3d_flow'")


def test_the_network_has_two_channels_and_the_published_size(build_encoder):
    encoder = build_encoder("i3d_flow", weights="random:0", **SMALL)
    assert encoder.network.Conv3d_1a_7x7.conv3d.weight.shape == (64, 2, 7, 7, 7)
    # Folding took the norms in: of each only the bias is left, in the convolution.
    norms = sum(m.num_features for m in InceptionI3D(in_channels=2).modules() if isinstance(m, torch.nn.BatchNorm3d))
    assert sum(p.numel() for p in encoder.network.parameters()) == 12_675_312 - norms


def test_input_is_whole_frames_and_one_more(build_encoder):
    wanted = build_encoder("i3d_flow", weights="random:0", flow="tvl1").input
    assert (wanted.num_frames, wanted.frames_after, wanted.window_s) == (16, 1, Fraction(16, 25))
    assert (wanted.size.short_side_px, wanted.size.crop_px, wanted.size.antialias) == (256, None, True)


def test_the_stream_says_how_flow_was_made(build_encoder):
    standard = build_encoder("i3d_flow", weights="random:0").stream()
    assert standard.fields["features"].row_shape == (1024,)
    made = standard.preprocessing
    assert (made["flow"]["algorithm"], made["normalisation"]) == ("tvl1", "clipped to 20 pixels, over 20")
    assert made["crop"] == "centre 224, of the flow of the resized frame"
    assert made["resize"] == "shorter side 256, bilinear, antialiased"
    small = build_encoder("i3d_flow", weights="random:0", flow="raft_small", flow_weights="random:0", flow_updates=1)
    raft = small.stream().preprocessing["flow"]
    assert (raft["algorithm"], raft["weights_sha256"], raft["updates"]) == ("raft_small", "random:0", 1)


@pytest.mark.parametrize(("variant", "scaled"), [("standard", in_unit_range), ("video_features", video_features_range)])
def test_rows_are_those_of_the_network_on_scaled_flow(
    variant, scaled, state, checkpoint, build_encoder, clip, cheap_flow
):
    encoder = build_encoder("i3d_flow", weights=checkpoint, variant=variant, flow="tvl1", **SMALL)
    sample = clip("flow", 11, 196)
    row = encoder.encode([sample]).fields["features"][0]
    network = InceptionI3D(in_channels=2, variant=variant).eval()
    network.load_state_dict(state)
    red_and_green = sample.data[..., :2].astype(np.float32)
    flow = red_and_green[:-1] / 4 - red_and_green[1:] / 6
    assert np.abs(flow).max() > 20  # there is something to clip
    np.testing.assert_allclose(encoder.as_seen(sample), flow, rtol=1e-6)
    with torch.inference_mode():
        clips = torch.from_numpy(scaled(flow)).permute(3, 0, 1, 2).unsqueeze(0)
        expected = network.pooled(clips).mean((2, 3, 4))[0].numpy()
    assert np.abs(row - expected).max() <= 2e-5 * np.abs(expected).max()
    assert ("rounded" in encoder.stream().preprocessing["normalisation"]) is (variant == "video_features")


def test_a_batch_equals_its_members(encoder, build_encoder, checkpoint, clip):
    samples = [clip(name, 11, 196) for name in ("a", "b")]
    together = encoder.encode(samples).fields["features"]
    fresh = build_encoder("i3d_flow", weights=checkpoint, **SMALL)  # without their flow in its memory
    alone = np.concatenate([fresh.encode([sample]).fields["features"] for sample in reversed(samples)])[::-1]
    largest = np.abs(alone).max()
    assert np.abs(together - alone).max() <= 1e-6 * largest
    assert np.abs(together[0] - together[1]).max() > 1e-3 * largest


def test_both_ports_load_into_one_network(state, encoder, build_encoder, tmp_path):
    theirs = {hassony2_name(name): tensor for name, tensor in state.items()}
    assert {"conv3d_1a_7x7.conv3d.weight", "mixed_5c.branch_3.1.batch3d.bias"} <= theirs.keys()
    assert {piergiaj_name(name) for name in theirs} == state.keys()
    path = tmp_path / "model_flow.pth"
    torch.save(theirs, path)
    other = build_encoder("i3d_flow", weights=path, **SMALL)
    pairs = zip(encoder.network.parameters(), other.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_rgb_checkpoint_is_refused_by_its_first_layer(build_encoder, tmp_path):
    path = tmp_path / "rgb_imagenet.pt"
    torch.save(filled(InceptionI3D().state_dict()), path)
    with pytest.raises(WeightsError, match=r"size mismatch for Conv3d_1a_7x7\.conv3d\.weight: .*\[64, 3, 7, 7, 7\]"):
        build_encoder("i3d_flow", weights=path)


def test_published_files_are_those_of_both_ports():
    files = {name: PUBLISHED[name].file_name for name in ("i3d_flow", "i3d_flow_hassony2", "i3d_flow_charades")}
    assert list(files.values()) == ["flow_imagenet.pt", "model_flow.pth", "flow_charades.pt"]
    assert PUBLISHED["i3d_flow"].git_blob == "ef0e7c282a102f76b14b52643574b80acba4e475"


def test_the_variant_brings_its_weights_and_its_algorithm(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDLOC_CACHE", str(tmp_path))
    assert parsed().flow == "tvl1"
    assert parsed(variant="video_features").flow == "raft_large"
    assert parsed(variant="video_features", flow="tvl1").flow == "tvl1"
    assert "flow_weights" not in parsed(flow="raft_small", flow_weights="random:0").model_dump()
    for given, missing in (
        ({}, "i3d_flow"),
        ({"variant": "video_features"}, "i3d_flow_hassony2"),
        ({"weights": "random:0", "variant": "video_features"}, "raft_large_sintel"),
        ({"weights": "random:0", "flow": "raft_large"}, "raft_large"),
        ({"weights": "random:0", "variant": "video_features", "flow": "raft_small"}, "raft_small"),
    ):
        with pytest.raises(WeightsError, match=f"vidloc weights fetch {missing}\n"):
            I3DFlow.check_weights(parsed(**given), name="i3d_flow")
    I3DFlow.check_weights(parsed(weights="random:0"), name="i3d_flow")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flow": "farneback"}, "'tvl1', 'raft_large', 'raft_small' or 'released'"),
        ({"flow": "raft_large", "flow_updates": "0"}, "greater than or equal to 1"),
        ({"flow_weights": "random:0"}, "add flow=raft_large"),
        ({"num_frames": "8"}, "greater than or equal to 9"),
        ({"variant": "video_features", "num_frames": "9"}, "num_frames is at least 10"),
    ],
)
def test_options_out_of_range_are_refused(given, message):
    with pytest.raises(OptionError, match=message):
        parsed(**given)
