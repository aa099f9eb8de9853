"""What Inception-v1 networks over time have in common: widths of their mixed blocks, their pools and paddings.

Two rules of padding are about. TensorFlow's SAME adds what the actual size of an axis needs; several ports add, once
and for all, what a size would need that the stride divides (`static`). Both put the smaller half in front.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

Triple = tuple[int, int, int]
Widths = tuple[int, int, int, int, int, int]

NUM_FEATURES = 1024

# Of each mixed block: maps in; 1x1; 1x1 and 3x3 of the second and of the third branch; 1x1 after the pool.
MIXED: Mapping[str, tuple[int, Widths]] = {
    "3b": (192, (64, 96, 128, 16, 32, 32)),
    "3c": (256, (128, 128, 192, 32, 96, 64)),
    "4b": (480, (192, 96, 208, 16, 48, 64)),
    "4c": (512, (160, 112, 224, 24, 64, 64)),
    "4d": (512, (128, 128, 256, 24, 64, 64)),
    "4e": (512, (112, 144, 288, 32, 64, 64)),
    "4f": (528, (256, 160, 320, 32, 128, 128)),
    "5b": (832, (256, 160, 320, 32, 128, 128)),
    "5c": (832, (384, 192, 384, 48, 128, 128)),
}
# Kernel and stride of the pools between them.
POOLS: Mapping[str, tuple[Triple, Triple]] = {
    "2a": ((1, 3, 3), (1, 2, 2)),
    "3a": ((1, 3, 3), (1, 2, 2)),
    "4a": ((3, 3, 3), (2, 2, 2)),
    "5a": ((2, 2, 2), (2, 2, 2)),
}


class MaxPool(nn.Module):
    """Max pool of maps that are not negative: around them, it does not matter whether zeros or nothing is added."""

    def __init__(self, kernel: Triple, stride: Triple, *, static: bool) -> None:
        super().__init__()
        self._kernel, self._stride, self._static = kernel, stride, static

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pooled maps."""
        maps, padding = padded(maps, self._kernel, self._stride, static=self._static)
        # The ceiling is for static paddings, as the ports have it; SAME leaves no remainder.
        return functional.max_pool3d(maps, self._kernel, self._stride, padding, ceil_mode=True)


def padded(maps: torch.Tensor, kernel: Triple, stride: Triple, *, static: bool) -> tuple[torch.Tensor, Triple]:
    """Maps `(batch, channels, times, rows, columns)` with zeros around them, and the padding left to the layer itself.

    Equal paddings in front and behind cost nothing there; only unequal ones cost a copy.
    """
    sizes = maps.shape[2:]
    totals = [_total_padding(n, k, s, static=static) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return maps, (totals[0] // 2, totals[1] // 2, totals[2] // 2)
    # The last axis comes first here.
    sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return functional.pad(maps, sides), (0, 0, 0)


def _total_padding(size: int, kernel: int, stride: int, *, static: bool) -> int:
    needed = kernel - stride if static else (-(-size // stride) - 1) * stride + kernel - size
    return max(needed, 0)
