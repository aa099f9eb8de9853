"""RAFT optical flow (Teed and Deng, ECCV 2020): torchvision's networks and weights, on the encoder's device.

torchvision's weights `C_T_SKHT_V1` of the large network are those that the authors released for Sintel, which
video_features uses; `vidloc weights fetch` calls them `raft_large_sintel`. Frames are padded to multiples of 8 by
repeating their edges, half in front, as the authors do for Sintel, and the flow is cut back.

Whatever the precision of the encoder, flow is computed in float32: a flow that is rounded afterwards would differ by
whole steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch.nn import functional
from torchvision.models import optical_flow

from vidloc.extract import weights as checkpoints
from vidloc.extract.base import arithmetic, placed
from vidloc.extract.flow_algorithm import Flow, FlowAlgorithm, Pair

_NETWORKS: Mapping[str, Callable[..., Any]] = {
    "raft_large": optical_flow.raft_large,
    "raft_small": optical_flow.raft_small,
}
_MULTIPLE_PX = 8
# Pairs per call on a GPU. Always as many, the last call filled up: kernels are chosen by the size of a batch, and a
# pair's flow would depend on it.
_GROUP_ON_GPU = 8
_LICENCE = "BSD-3-Clause (code of the authors and of torchvision); no separate licence is stated for the weights"
# The option of encoders that says which weights; 'weights' is that of their own network.
_OPTION = "flow_weights"


class Raft(FlowAlgorithm):
    """Flow of RGB frames by RAFT.

    Args:
        name: `raft_large` or `raft_small`.
        weights: path, `random:SEED`, or empty for the published checkpoint.
        published: name of that.
        num_updates: how often the flow is refined.
        device: where the network runs.

    Raises:
        WeightsError: the checkpoint is missing or does not fit.
    """

    def __init__(self, name: str, *, weights: str, published: str, num_updates: int, device: torch.device) -> None:
        checkpoint = checkpoints.resolve(weights, published, option=_OPTION)
        with checkpoints.seeded(checkpoint.seed or 0):
            network = _NETWORKS[name]()
        if checkpoint.path is not None:
            checkpoints.load_into(network, checkpoints.read_state(checkpoint.path), where=str(checkpoint.path))
        self.network = placed(network, device, torch.contiguous_format)
        self._name, self._checkpoint, self._num_updates, self._device = name, checkpoint, num_updates, device
        self._group = _GROUP_ON_GPU if device.type == "cuda" else 1

    @staticmethod
    def check_weights(weights: str, published: str) -> None:
        """Make sure that the checkpoint is at hand, by a look at the disk.

        Raises:
            WeightsError: it is missing; the message has the line that gets it.
        """
        checkpoints.check_available(published, weights, option=_OPTION)

    def between(self, pairs: Sequence[Pair]) -> list[Flow]:
        """See the base class."""
        found: list[Flow] = []
        for start in range(0, len(pairs), self._group):
            group = pairs[start : start + self._group]
            filled = [*group, *[group[-1]] * (self._group - len(group))]
            found += self._flows(filled)[: len(group)]
        return found

    def described(self) -> Mapping[str, JsonValue]:
        """See the base class."""
        return {
            "algorithm": self._name,
            "implementation": "torchvision",
            "weights": self._checkpoint.name,
            "weights_sha256": self._checkpoint.sha256,
            "licence": _LICENCE,
            "updates": self._num_updates,
            "frames": f"RGB in [-1, 1], edges repeated to multiples of {_MULTIPLE_PX} pixels, float32",
        }

    def _flows(self, pairs: Sequence[Pair]) -> list[Flow]:
        firsts, seconds = (self._prepared([pair[side] for pair in pairs]) for side in (0, 1))
        height, width = pairs[0][0].shape[:2]
        left, _, top, _ = _padding(height, width)
        with arithmetic(self._device, "float32"):
            flows = self.network(firsts, seconds, num_flow_updates=self._num_updates)[-1]
        flows = flows[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1)
        return [np.ascontiguousarray(flow) for flow in flows.cpu().numpy()]

    def _prepared(self, pictures: Sequence[Any]) -> torch.Tensor:
        images = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2)
        scaled = images.to(torch.float32).div_(127.5).sub_(1.0)
        return functional.pad(scaled, _padding(*scaled.shape[2:]), mode="replicate")


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels before and behind, of columns, then of rows."""
    columns, rows = -width % _MULTIPLE_PX, -height % _MULTIPLE_PX
    return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
