"""The made-up weights and pixels equal recorded numbers."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from vidloc.testing.deterministic_fill import fill, filled, frames, hashed

FIRST_WEIGHT = "Conv3d_1a_7x7.conv3d.weight"


def test_weights_of_the_first_i3d_layer():
    values = fill(FIRST_WEIGHT, (64, 3, 7, 7, 7))
    assert zlib.crc32(FIRST_WEIGHT.encode()) == 3514946637
    assert values.reshape(-1)[:4] == pytest.approx([-0.00497906, -0.04201302, 0.07067249, -0.06110089], abs=5e-9)
    assert values.astype(np.float64).sum() == pytest.approx(-24.24819422, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "shape", "start", "total"),
    [
        ("spec_i3d", (16, 224, 224), [20, 182, 237, 248, 35, 90, 44, 47], 19_199_635),
        ("spec_s3d", (16, 64, 64), [228, 148, 241, 14, 24, 132, 231, 86], 1_564_697),
    ],
)
def test_frames_are_cells_of_the_recorded_values(name, shape, start, total):
    clip = frames(name, *shape)
    assert clip.shape == (*shape, 3)
    cells = clip[:, ::4, ::4]
    assert cells.reshape(-1)[:8].tolist() == start
    assert cells.sum(dtype=np.int64) == total
    assert np.array_equal(cells.repeat(4, axis=1).repeat(4, axis=2), clip)


def test_a_state_keeps_names_shapes_and_types():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = filled(network.state_dict())
    assert type(state) is dict
    network.load_state_dict(state)
    assert network[1].num_batches_tracked == 0
    assert ((network[1].running_var > 0.5) & (network[1].running_var < 1.5)).all()
    assert (network[1].running_mean.abs() < 0.2).all()
    assert ((network[1].weight > 0.75) & (network[1].weight < 1.25)).all()
    assert (network[0].bias.abs() < 0.1).all()
    assert network[0].weight.abs().max() < (6 / 27) ** 0.5
    assert torch.equal(state["0.bias"], filled(network.state_dict())["0.bias"])


def test_names_differ():
    assert not np.array_equal(hashed("a", 8), hashed("b", 8))
