"""From flow in pixels to the numbers that a network learned from: each has its own clipping, scale and rounding.

All take float32 `(n, height, width, 2)`, horizontal and vertical, and clip to 20 pixels either way:

- `in_unit_range`: v / 20, in [-1, 1] (I3D; the TensorFlow original);
- `video_features_range`: rounded to q = 128 + 6.375 v, then 2 q / 255 - 1, so that no motion is 0.0039 and 20 pixels
  are 1.0078 (video_features, v-iashin, a2f61b7);
- `grey_levels`: what stands in TSN's flow pictures, 0..255 with no motion at 128 (`tsn_stack` lays out its channels).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidloc.extract.flow_algorithm import Flow

BOUND_PX = 20
_LEVELS_PER_PX = np.float32(255 / (2 * BOUND_PX))  # 6.375, exact in binary


def in_unit_range(flow: Flow) -> Flow:
    """Flow in [-1, 1]."""
    return _clipped(flow) / np.float32(BOUND_PX)


def video_features_range(flow: Flow) -> Flow:
    """Flow as video_features rounds it, in [-1, 1.0078]."""
    # Halves are rounded to even there as well as here. 256 occurs: the tool never casts to 8 bits.
    levels = np.round(_LEVELS_PER_PX * _clipped(flow) + np.float32(128))
    return np.float32(2) * levels / np.float32(255) - np.float32(1)


def grey_levels(flow: Flow) -> NDArray[np.uint8]:
    """Flow as the grey levels of TSN's flow pictures (dense_flow, bound 20): 255 (v + 20) / 40, rounded."""
    return np.round(_LEVELS_PER_PX * (_clipped(flow) + BOUND_PX)).astype(np.uint8)


def tsn_stack(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """TSN's input of one place in time: grey levels `(n, height, width, 2)` as `(2 n, height, width)`.

    Channels are x1, y1, x2, y2, ... of the n pairs in order. The network subtracts its own mean: 128 of BN-Inception,
    which takes levels as they are; 0.5 of networks that take levels over 255.
    """
    by_pair = levels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(by_pair.reshape(-1, *by_pair.shape[2:]))


def _clipped(flow: Flow) -> Flow:
    return np.clip(flow, -BOUND_PX, BOUND_PX)
