"""TV-L1 optical flow (Zach, Pock and Bischof, DAGM 2007), by OpenCV's contributed modules, on the CPU.

Frames are made grey by OpenCV's weights (0.299 R + 0.587 G + 0.114 B, rounded) after they were resized. All
parameters are OpenCV's defaults; they are recorded one by one, since other programs have others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import JsonValue

from vidloc.errors import OptionError
from vidloc.extract.flow_algorithm import Flow, FlowAlgorithm, Pair
from vidloc.extract.pictures import Picture

_PARAMETERS = (
    *("Tau", "Lambda", "Theta", "Gamma", "Epsilon", "ScaleStep"),
    *("ScalesNumber", "WarpingsNumber", "OuterIterations", "InnerIterations", "MedianFiltering", "UseInitialFlow"),
)


class TVL1(FlowAlgorithm):
    """Flow of grey frames by OpenCV's `DualTVL1OpticalFlow`.

    Raises:
        OptionError: OpenCV is not installed, or without its contributed modules.
    """

    def __init__(self) -> None:
        self._cv2 = opencv_contrib()
        self._solver = self._cv2.optflow.DualTVL1OpticalFlow_create()

    def between(self, pairs: Sequence[Pair]) -> list[Flow]:
        """See the base class."""
        return [self._solver.calc(self._grey(first), self._grey(second), None) for first, second in pairs]

    def described(self) -> Mapping[str, JsonValue]:
        """See the base class."""
        return {
            "algorithm": "tvl1",
            "implementation": "OpenCV, DualTVL1OpticalFlow",
            "parameters": {name: getattr(self._solver, f"get{name}")() for name in _PARAMETERS},
            "frames": "grey by OpenCV, after the resize",
        }

    def _grey(self, picture: Picture) -> Any:
        return self._cv2.cvtColor(np.ascontiguousarray(picture), self._cv2.COLOR_RGB2GRAY)


def opencv_contrib() -> Any:
    """The module `cv2`, imported only where TV-L1 is asked for: it is large, and not every installation has it.

    Raises:
        OptionError: it is not installed, or without its contributed modules.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise OptionError(
            "flow=tvl1 needs the package 'opencv-contrib-python-headless', which is not installed. "
            "pip install 'vidloc[flow]', or take flow=raft_large"
        ) from error
    if not hasattr(cv2, "optflow"):
        raise OptionError(
            f"flow=tvl1 needs OpenCV's contributed modules, which the OpenCV {cv2.__version__} installed here lacks. "
            "Uninstall it, then: pip install 'vidloc[flow]'"
        )
    return cv2
