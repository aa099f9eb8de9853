"""What finds the optical flow between two frames; `vidloc.extract.flow` chooses one and feeds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from vidloc.extract.pictures import Picture

Flow = NDArray[np.float32]
Pair = tuple[Picture, Picture]


class FlowAlgorithm(ABC):
    """Base of the algorithms. The flow of a pair does not depend on which pairs are asked for with it."""

    @abstractmethod
    def between(self, pairs: Sequence[Pair]) -> list[Flow]:
        """Flow `(height, width, 2)` from each pair's first picture to its second, in pixels: horizontal, vertical.

        Args:
            pairs: uint8 `(height, width, 3)` RGB, all of one size.
        """

    @abstractmethod
    def described(self) -> Mapping[str, JsonValue]:
        """The algorithm, and all that its numbers depend on."""
