"""I3D-R50 against pytorchvideo's own network called plainly, and what precision and seeds change."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from vidloc.extract.pytorchvideo_nets import hub  # imported there, with its warning filtered

TOLERANCE = 1e-5  # of the maximum


@pytest.fixture(scope="module")
def encoder(build_encoder):
    return build_encoder("i3d_r50", weights="random:5", crop_px=224)


def features(encoder, *samples):
    return encoder.encode(samples).fields["features"]


def test_rows_equal_the_plain_network(encoder, clip):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plain = hub.i3d_r50().eval()
    assert sum(p.numel() for p in plain.parameters()) == 28_043_472
    assert len(plain.state_dict()) == 320
    plain.blocks[-1].proj = nn.Identity()
    sample = clip("i3d", 8, 256)
    pixels = ((torch.from_numpy(sample.data).float() / 255 - 0.45) / 0.225).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        expected = plain(pixels).numpy()
    row = features(encoder, sample)
    assert row.shape == (1, 2048)
    assert np.abs(row - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_batch_equals_its_members(encoder, clip):
    samples = [clip(name, 8, 224) for name in ("a", "b")]
    together = features(encoder, *samples)
    alone = np.concatenate([features(encoder, sample) for sample in samples])
    largest = np.abs(alone).max()
    assert np.abs(together - alone).max() <= TOLERANCE * largest
    assert np.abs(together[0] - together[1]).max() > 1e-3 * largest


def test_bfloat16_is_near_and_said(encoder, build_encoder, clip):
    faster = build_encoder("i3d_r50", weights="random:5", crop_px=224, precision="bfloat16")
    sample = clip("half", 8, 224)
    exact, rough = features(encoder, sample)[0], features(faster, sample)[0]
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.02 * np.abs(exact).max()
    assert faster.options.precision == "bfloat16"


def test_a_seed_names_one_network_and_moves_no_other_generator(encoder, build_encoder):
    before = torch.get_rng_state()
    again, other = (build_encoder("i3d_r50", weights=f"random:{seed}") for seed in (5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(encoder.network.parameters(), again.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(other.network.parameters()), next(encoder.network.parameters()))
    assert (again.weights_name, again.weights_sha256) == ("random:5", "random:5")


def test_input_and_stream(encoder):
    assert (encoder.input.num_frames, encoder.input.window_s) == (8, Fraction(64, 30))
    template = encoder.stream()
    assert template.kind == "clip"
    assert template.fields["features"].row_shape == (2048,)
    assert template.preprocessing["crop"] == "centre 224"
    assert encoder.preferred_batch() == 1
