"""Optical flow that a corpus has released as pictures, in place of flow computed from its frames.

EPIC-KITCHENS has: TV-L1, by furnari-flow with stride 2, dilation 3, bound 25 and size 256, says the README of its
videos of 2018; of those of 2020 we found stated only that the stride is 1. A level q stands for
q / 255 x 2 bound - bound pixels, so that 127.5 is no motion, and written flow is off by up to bound / 255.

The last flow of a video of 2018 ends one or two frames before its frames do, so that a row centred there has none.

Pixels are those of the released pictures: they are not rescaled where the picture is resized, nor to the time between
the frames of another rate. Networks that learned from such pictures are fed the levels as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from vidloc.extract.base import FlowInput, FrameSize
from vidloc.extract.flow_algorithm import Flow

BOUND_PX = 25.0

_MOST = np.float32(255)


class ReleasedFlow:
    """Flow of clips from released pictures.

    Args:
        bound_px: motion that level 255 stands for.
        crop_px: side of the square that is asked for; `None` keeps the whole.
    """

    def __init__(self, bound_px: float, *, crop_px: int | None = None) -> None:
        self._bound_px = np.float32(bound_px)
        self._crop_px = crop_px

    def input(self, num_flows: int, window_s: Fraction, size: FrameSize) -> FlowInput:
        """See `OpticalFlow`: as many pairs of pictures."""
        return FlowInput(num_flows, window_s, replace(size, crop_px=self._crop_px))

    def of(self, levels: NDArray[np.uint8]) -> Flow:
        """Flows in pixels from levels, both `(n, height, width, 2)`."""
        return levels.astype(np.float32) * (2 * self._bound_px / _MOST) - self._bound_px

    def levels(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The levels as they are."""
        return levels

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""
        return {
            "algorithm": "released",
            "bound_px": float(self._bound_px),
            "frames": "pairs of grey pictures as released, resized like any picture; levels are not rescaled",
        }
