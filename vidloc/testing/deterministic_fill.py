"""Weights and pixels that anyone can make again without a file: a hash of the name and the index of each number.

Stands in for checkpoints where tests compare two programs, or a program with recorded numbers. Filled networks behave:
norms stay near one, and activations keep their size.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

_CELL_PX = 4  # frames are made of square cells of one value


def hashed(name: str, count: int) -> NDArray[np.uint32]:
    """`count` numbers that follow from a name: a multiplicative hash of the index, mixed as in MurmurHash3."""
    seed = np.uint32(zlib.crc32(name.encode()))
    x = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + seed
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return x


def fill(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """One entry of a state dict: the ending of its name tells which range suits it."""
    u = (hashed(name, math.prod(shape)).astype(np.float64) + 0.5) / 2**32
    if name.endswith("num_batches_tracked"):
        values = np.zeros_like(u)
    elif name.endswith("running_var"):
        values = 0.5 + u
    elif name.endswith("running_mean"):
        values = 0.2 * (2 * u - 1)
    elif name.endswith(".bias"):
        values = 0.1 * (2 * u - 1)
    elif len(shape) == 1:
        values = 0.75 + 0.5 * u
    else:
        values = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
    return values.astype(np.float32).reshape(shape)


def filled(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A plain dict with the names, shapes and dtypes of a state dict, and made-up numbers."""
    return {
        name: torch.from_numpy(np.atleast_1d(fill(name, tuple(old.shape)))).reshape(old.shape).to(old.dtype)
        for name, old in state.items()
    }


def frames(name: str, num_frames: int, height_px: int, width_px: int, channels: int = 3) -> NDArray[np.uint8]:
    """A clip of `(num_frames, height_px, width_px, channels)`; sides are multiples of four."""
    grid = (num_frames, height_px // _CELL_PX, width_px // _CELL_PX, channels)
    cells = (hashed(name, math.prod(grid)) >> np.uint32(24)).astype(np.uint8).reshape(grid)
    return cells.repeat(_CELL_PX, axis=1).repeat(_CELL_PX, axis=2)
