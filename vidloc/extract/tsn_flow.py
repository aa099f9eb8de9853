"""Networks of temporal segment networks on optical flow (Wang et al., ECCV 2016): five pairs of frames, ten channels.

- `tsn_flow_bninception`: BN-Inception, 1024 numbers, of grey levels minus 128; by default of the whole frame;
- `tsn_flow_r50`: ResNet-50, 2048 numbers, of levels over 255, minus 0.5, over 0.226; by default of the middle square.

They are those of `tsn.py` but for their first layer: names of checkpoints, classifiers and options are the same. The
row is made from five neighbouring pairs of frames around its centre, `fps` of them a second; EPIC-KITCHENS-55 released
its flow at 30. What the published weights learned from is TV-L1, clipped to 20 pixels and kept as 256 grey levels;
those of EPIC-KITCHENS from its released flow pictures, whose levels `flow=released` feeds as they are (with `fps=50`
for neighbouring pairs of the videos of 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, JsonValue

from vidloc.extract.base import ClipInput, EncoderOptions, FrameSize, Sample
from vidloc.extract.flow import FlowOptions, Motion, OpticalFlow, check_motion, motion_for
from vidloc.extract.flow_algorithm import Flow
from vidloc.extract.flow_scaling import BOUND_PX, tsn_stack
from vidloc.extract.preparation import ClipPreparation, by_channel, resize_described
from vidloc.extract.tsn import MEMBERS, TSN, Member, TSNOptions

NAMES = ("tsn_flow_bninception", "tsn_flow_r50")

NUM_PAIRS = 5

_MEMBERS: Mapping[str, Member] = {
    "tsn_flow_bninception": replace(MEMBERS["tsn_rgb_bninception"], mean=(128.0,), std=(1.0,)),
    # The deviation is the mean of ImageNet's.
    "tsn_flow_r50": replace(MEMBERS["tsn_rgb_r50"], mean=(0.5,), std=(0.226,)),
}


class TSNFlowOptions(TSNOptions, FlowOptions):
    """Options of TSN's networks on flow."""

    fps: Fraction = Field(
        Fraction(30), gt=0, description="Frames per second between which flow is taken; EPIC-KITCHENS-55 released 30."
    )


@dataclass(frozen=True)
class _FlowStackPreparation:
    """Five flows on top of each other, in the numbers of a network."""

    fps: Fraction
    size: FrameSize
    crop_px: int | None
    flow: Motion
    member: Member

    @property
    def input(self) -> ClipInput:
        """What flow is made of."""
        return self.flow.input(NUM_PAIRS, NUM_PAIRS / self.fps, self.size)

    def clips(self, samples: Sequence[Sample], device: torch.device) -> torch.Tensor:
        """Stacks `(batch, 10, height, width)` float32: horizontal and vertical of each pair in turn."""
        stacks = np.stack([tsn_stack(self.flow.levels(sample.data)) for sample in samples])
        levels = torch.from_numpy(stacks).to(device).to(torch.float32)
        numbers = levels if self.member.levels else levels / 255.0
        return (numbers - self.member.mean[0]) / self.member.std[0]

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""
        clipped = f", clipped to {BOUND_PX} pixels," if isinstance(self.flow, OpticalFlow) else ""
        return {
            "colour": f"optical flow of {NUM_PAIRS} pairs{clipped} as grey levels in "
            + ("0..255" if self.member.levels else "[0, 1]"),
            "flow": dict(self.flow.described()),
            "normalisation": f"minus {by_channel(self.member.mean)}, over {by_channel(self.member.std)}",
            "resize": resize_described(self.size),
            "crop": "none" if self.crop_px is None else f"centre {self.crop_px}, of the flow of the resized frame",
            "fps": str(self.fps),
        }


class TSNFlow(TSN):
    """Features of stacks of optical flow by a network that learned with temporal segments."""

    Options: ClassVar[type[EncoderOptions]] = TSNFlowOptions
    options: TSNFlowOptions
    members = _MEMBERS
    in_channels = 2 * NUM_PAIRS

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        whole = replace(self.size, crop_px=None)
        flow = motion_for(self.options, device=device, crop_px=self.size.crop_px)
        self._preparation = _FlowStackPreparation(self.options.fps, whole, self.size.crop_px, flow, self.member)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        super().check_weights(options, name=name)
        if isinstance(options, TSNFlowOptions):
            check_motion(options)

    def as_seen(self, sample: Sample) -> Flow:
        """The five flows, in pixels per frame."""
        return self._preparation.flow.of(sample.data)

    @property
    def preparation(self) -> ClipPreparation:
        """Flow around the row's centre."""
        return self._preparation

    def preferred_batch(self) -> int:
        """Stacks per call."""
        return 16 if self.device.type == "cuda" else 1


ENCODER = TSNFlow
