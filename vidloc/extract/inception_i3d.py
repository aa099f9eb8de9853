"""The network Inception-v1 I3D (Carreira and Zisserman, CVPR 2017), for RGB and for optical flow.

Paddings follow TensorFlow's SAME rule, from the actual size of
each axis, and norms with eps 1e-3. Compared by its worked values, which hold for both public ports
(`piergiaj/pytorch-i3d` 05783d1, whose names it takes, and `hassony2/kinetics_i3d_pytorch` 786fbae).

The variant `video_features` computes as that tool does (v-iashin, a2f61b7): eps 1e-5, and paddings as if every size
were a multiple of the stride, which moves features by 1 to 8 percent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from vidloc.extract.inception import MIXED, NUM_FEATURES, POOLS, MaxPool, Triple, Widths, padded

Variant = Literal["standard", "video_features"]

# Frames and pixels of the smallest clips: what is left of smaller ones cannot pass the last pool of 2 x 7 x 7.
SMALLEST: Mapping[Variant, tuple[int, int]] = {"standard": (9, 193), "video_features": (10, 194)}
_EPS: Mapping[Variant, float] = {"standard": 1e-3, "video_features": 1e-5}

# Pools have no tensors, so that only the names of the other stages are those of the checkpoints.
_STAGES = (
    *("Conv3d_1a_7x7", "MaxPool3d_2a", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a"),
    *("Mixed_3b", "Mixed_3c", "MaxPool3d_4a"),
    *("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a"),
    *("Mixed_5b", "Mixed_5c"),
)
_HASSONY2_BRANCHES = {
    "branch_0": "b0",
    "branch_1.0": "b1a",
    "branch_1.1": "b1b",
    "branch_2.0": "b2a",
    "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}
_HASSONY2_BRANCH = re.compile(r"\b(branch_\d(?:\.\d)?)(?=\.(?:conv3d|batch3d)\.)")


class InceptionI3D(nn.Module):
    """Inception-v1 inflated over time: 1024 maps, and a classifier on them.

    Args:
        in_channels: 3 for RGB, 2 for optical flow (horizontal, vertical).
        num_classes: of the classifier.
        variant: how sizes are padded and norms computed.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 400, variant: Variant = "standard") -> None:
        super().__init__()
        convolutions: Mapping[str, tuple[int, int, Triple, Triple]] = {
            "Conv3d_1a_7x7": (in_channels, 64, (7, 7, 7), (2, 2, 2)),
            "Conv3d_2b_1x1": (64, 64, (1, 1, 1), (1, 1, 1)),
            "Conv3d_2c_3x3": (64, 192, (3, 3, 3), (1, 1, 1)),
        }
        for name in _STAGES:
            kind, _, number = name.partition("_")
            if kind == "Conv3d":
                self.add_module(name, _Unit(*convolutions[name], variant))
            elif kind == "Mixed":
                self.add_module(name, _Mixed(*MIXED[number], variant))
            else:
                self.add_module(name, MaxPool(*POOLS[number], static=variant == "video_features"))
        self.avg_pool = nn.AvgPool3d((2, 7, 7), stride=1)
        self.logits = nn.Sequential()
        self.logits.add_module("conv3d", nn.Conv3d(NUM_FEATURES, num_classes, 1))

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """Maps `(batch, 1024, times, rows, columns)` of clips `(batch, in_channels, frames, height, width)`.

        Clips smaller than `SMALLEST` have none. There are ceil(frames / 8) - 1 times, and ceil(side / 32) - 6 rows and
        columns (of the standard network).
        """
        maps = clips
        for name in _STAGES:
            maps = self.get_submodule(name)(maps)
        pooled: torch.Tensor = self.avg_pool(maps)
        return pooled

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """Scores `(batch, num_classes, ...)` of each position, before the softmax."""
        scores: torch.Tensor = self.logits(pooled)
        return scores


def piergiaj_name(name: str) -> str:
    """A tensor's name in the layout of hassony2 and video_features turned into piergiaj's; others stay."""
    if name.startswith("conv3d_0c_1x1."):
        return "logits." + name.removeprefix("conv3d_0c_1x1.")
    if not name.startswith(("conv3d_", "mixed_")):
        return name
    name = _HASSONY2_BRANCH.sub(lambda match: _HASSONY2_BRANCHES.get(match[1], match[1]), name)
    return name[0].upper() + name[1:].replace(".batch3d.", ".bn.")


class _Unit(nn.Module):
    # Convolution, norm, ReLU.
    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple, variant: Variant) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=_EPS[variant])
        self._kernel, self._stride, self._static = kernel, stride, variant == "video_features"

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps, padding = padded(maps, self._kernel, self._stride, static=self._static)
        conv = self.conv3d
        out = functional.conv3d(maps, conv.weight, conv.bias, self._stride, padding)
        return functional.relu_(self.bn(out))


class _Mixed(nn.Module):
    def __init__(self, in_channels: int, widths: Widths, variant: Variant) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        a, b1, b2, c1, c2, d = widths
        self.b0 = _Unit(in_channels, a, one, one, variant)
        self.b1a = _Unit(in_channels, b1, one, one, variant)
        self.b1b = _Unit(b1, b2, three, one, variant)
        self.b2a = _Unit(in_channels, c1, one, one, variant)
        self.b2b = _Unit(c1, c2, three, one, variant)
        self.b3a = MaxPool(three, one, static=variant == "video_features")
        self.b3b = _Unit(in_channels, d, one, one, variant)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        branches = (self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(self.b3a(maps)))
        return torch.cat(branches, dim=1)
