"""BN-Inception: Inception with batch norms (Ioffe and Szegedy, ICML 2015), in the form released for Caffe.

Temporal segment networks (Wang et al., ECCV 2016) and RULSTM's features are made with it. Its layers and their names
are those of the ports to PyTorch (`pretrainedmodels`, tsn-pytorch); it takes blue, green, red in 0..255 minus a mean.
Without the classifier there are 10,270,240 parameters. Five stages halve the picture: 224 pixels become 7 positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional

NUM_FEATURES = 1024
# Maps of the two strided blocks must have even sides, else their branches differ in size.
STRIDE_PX = 32

PoolKind = Literal["average", "max"]


class _Block(NamedTuple):
    # Maps made by each branch: 1x1; 1x1 and 3x3; 1x1 and twice 3x3; pool and 1x1. Blocks without the first and the last
    # halve the picture and hand on what they pool.
    plain: int
    reduce: int
    single: int
    double_reduce: int
    double: int
    pool: PoolKind
    projected: int

    @property
    def stride(self) -> int:
        return 1 if self.plain else 2


_BLOCKS: Mapping[str, _Block] = {
    "3a": _Block(64, 64, 64, 64, 96, "average", 32),
    "3b": _Block(64, 64, 96, 64, 96, "average", 64),
    "3c": _Block(0, 128, 160, 64, 96, "max", 0),
    "4a": _Block(224, 64, 96, 96, 128, "average", 128),
    "4b": _Block(192, 96, 128, 96, 128, "average", 128),
    "4c": _Block(160, 128, 160, 128, 160, "average", 128),
    "4d": _Block(96, 128, 192, 160, 192, "average", 128),
    "4e": _Block(0, 128, 192, 192, 256, "max", 0),
    "5a": _Block(352, 192, 320, 160, 224, "average", 128),
    "5b": _Block(352, 192, 320, 192, 224, "max", 128),
}


class BNInception(nn.Module):
    """The network up to its global average.

    Args:
        in_channels: 3 of pictures, 10 of five pairs of flow.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", in_channels, 64, kernel=7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, kernel=1)
        self._add("conv2_3x3", 64, 192, kernel=3)
        width = 192
        for name, block in _BLOCKS.items():
            width = self._add_block(f"inception_{name}", width, block)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(batch, 1024)` of pictures `(batch, in_channels, height, width)`: multiples of 32, or 256 x 454."""
        return self.maps(pictures).mean((2, 3))

    def maps(self, pictures: torch.Tensor) -> torch.Tensor:
        """The last maps `(batch, 1024, height / 32, width / 32)`."""
        maps = _halved(self._unit("conv1_7x7_s2", pictures))
        maps = _halved(self._unit("conv2_3x3", self._unit("conv2_3x3_reduce", maps)))
        for name in _BLOCKS:
            maps = self.mixed(name, maps)
        return maps

    def mixed(self, name: str, maps: torch.Tensor) -> torch.Tensor:
        """The maps of the branches of one block (`3a` to `5b`), one after another."""
        block = _BLOCKS[name]

        def unit(branch: str, seen: torch.Tensor) -> torch.Tensor:
            return self._unit(f"inception_{name}_{branch}", seen)

        branches = [unit("1x1", maps)] if block.plain else []
        branches.append(unit("3x3", unit("3x3_reduce", maps)))
        branches.append(unit("double_3x3_2", unit("double_3x3_1", unit("double_3x3_reduce", maps))))
        if not block.projected:
            branches.append(_halved(maps))
        elif block.pool == "average":
            branches.append(unit("pool_proj", functional.avg_pool2d(maps, 3, 1, padding=1)))
        else:
            branches.append(unit("pool_proj", functional.max_pool2d(maps, 3, 1, padding=1)))
        return torch.cat(branches, dim=1)

    def _unit(self, name: str, maps: torch.Tensor) -> torch.Tensor:
        convolved = self.get_submodule(name)(maps)
        return functional.relu(self.get_submodule(f"{name}_bn")(convolved), inplace=True)

    def _add(self, name: str, width: int, made: int, *, kernel: int, stride: int = 1) -> int:
        self.add_module(name, nn.Conv2d(width, made, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(made))
        return made

    def _add_block(self, name: str, width: int, block: _Block) -> int:
        total = self._add(f"{name}_1x1", width, block.plain, kernel=1) if block.plain else 0
        self._add(f"{name}_3x3_reduce", width, block.reduce, kernel=1)
        total += self._add(f"{name}_3x3", block.reduce, block.single, kernel=3, stride=block.stride)
        self._add(f"{name}_double_3x3_reduce", width, block.double_reduce, kernel=1)
        self._add(f"{name}_double_3x3_1", block.double_reduce, block.double, kernel=3)
        total += self._add(f"{name}_double_3x3_2", block.double, block.double, kernel=3, stride=block.stride)
        projected = self._add(f"{name}_pool_proj", width, block.projected, kernel=1) if block.projected else width
        return total + projected


def _halved(maps: torch.Tensor) -> torch.Tensor:
    return functional.max_pool2d(maps, 3, 2, ceil_mode=True)
