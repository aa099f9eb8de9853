"""I3D's stream of optical flow (Carreira and Zisserman, CVPR 2017): the network of `i3d` on two channels of motion.

The row is 1024 numbers, taken where `i3d` takes them. A clip of n frames has n flows, the last of them from the last
frame to the one at the midpoint of the cell behind the window; at the end of a video that is the last frame again, and
there is no motion. Flow is computed on the resized frame and then cropped. With `flow=released` it is read from the
corpus's flow pictures, one pair of them per cell, and is as many pixels long as these say.

What the weights learned from is TV-L1, clipped to 20 pixels and divided by 20 (`flow=tvl1`). With
`variant=video_features` it is as in that tool: RAFT with the weights for Sintel unless told otherwise, and rounded, so
that no motion is 0.0039; see `vidloc.extract.flow_scaling`. TV-L1 takes about 1.5 s for a pair of frames of
340 x 256 pixels on one core (and far longer where nothing moves but noise); RAFT wants a GPU.

The weights fine-tuned on Charades (157 classes) are fetched as `i3d_flow_charades` and given by path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, JsonValue, model_validator

from vidloc.extract.base import ClipInput, EncoderOptions, FrameSize, Sample
from vidloc.extract.flow import FlowName, FlowOptions, Motion, check_motion, motion_for
from vidloc.extract.flow_algorithm import Flow
from vidloc.extract.flow_scaling import BOUND_PX, in_unit_range, video_features_range
from vidloc.extract.i3d import I3D, I3DOptions
from vidloc.extract.inception_i3d import Variant
from vidloc.extract.preparation import ClipPreparation, resize_described

_PUBLISHED: Mapping[Variant, str] = {"standard": "i3d_flow", "video_features": "i3d_flow_hassony2"}


@dataclass(frozen=True)
class _Scaling:
    scaled: Callable[[Flow], Flow]
    in_words: str


_SCALINGS: Mapping[Variant, _Scaling] = {
    "standard": _Scaling(in_unit_range, f"clipped to {BOUND_PX} pixels, over {BOUND_PX}"),
    "video_features": _Scaling(
        video_features_range, f"clipped to {BOUND_PX} pixels, rounded to q = 128 + 6.375 v, then 2 q / 255 - 1"
    ),
}


class I3DFlowOptions(I3DOptions, FlowOptions):
    """Options of I3D's flow stream."""

    flow: FlowName = Field(
        "tvl1",
        description="Algorithm: tvl1 (OpenCV, on the CPU; what the weights learned from), RAFT (torchvision's, on "
        "the encoder's device), which is the default of variant=video_features, or released: the corpus's own flow "
        "pictures, such as EPIC-KITCHENS's.",
    )

    @model_validator(mode="before")
    @classmethod
    def _flow_of_the_variant(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("variant") == "video_features":
            return {"flow": "raft_large", **given}
        return given


@dataclass(frozen=True)
class _FlowPreparation:
    """Flows of a clip's frames, in the numbers of a variant."""

    num_frames: int
    fps: Fraction
    size: FrameSize
    crop_px: int
    flow: Motion
    scaling: _Scaling

    @property
    def input(self) -> ClipInput:
        """What flow is made of."""
        return self.flow.input(self.num_frames, self.num_frames / self.fps, self.size)

    def clips(self, samples: Sequence[Sample], device: torch.device) -> torch.Tensor:
        """Samples as `(batch, 2, num_frames, height, width)` float32, in the layout channels-last."""
        flows = np.stack([self.scaling.scaled(self.flow.of(sample.data)) for sample in samples])
        return torch.from_numpy(flows).to(device).permute(0, 4, 1, 2, 3)

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""
        return {
            "colour": "optical flow in pixels: horizontal, vertical",
            "flow": dict(self.flow.described()),
            "normalisation": self.scaling.in_words,
            "resize": resize_described(self.size),
            "crop": f"centre {self.crop_px}, of the flow of the resized frame",
            "fps": str(self.fps),
        }


class I3DFlow(I3D):
    """I3D features of optical flow, 1024 numbers per clip."""

    Options: ClassVar[type[EncoderOptions]] = I3DFlowOptions
    options: I3DFlowOptions
    in_channels = 2

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        side, crop_px = self.options.short_side_px, self.options.crop_px
        self._preparation = _FlowPreparation(
            self.options.num_frames,
            self.options.fps,
            FrameSize(side, antialias=True),
            crop_px,
            motion_for(self.options, device=device, crop_px=crop_px, published=_published_flow(self.options)),
            _SCALINGS[self.options.variant],
        )

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        super().check_weights(options, name=name)
        if isinstance(options, I3DFlowOptions):
            check_motion(options, published=_published_flow(options))

    @classmethod
    def published_name(cls, options: EncoderOptions, name: str) -> str:
        """The port that the variant goes with."""
        return _PUBLISHED[options.variant] if isinstance(options, I3DFlowOptions) else name

    def as_seen(self, sample: Sample) -> Flow:
        """The flows of the crop, in pixels per frame."""
        return self._preparation.flow.of(sample.data)

    @property
    def preparation(self) -> ClipPreparation:
        """Flow in the numbers of the variant, frames resized as Pillow would."""
        return self._preparation


def _published_flow(options: I3DFlowOptions) -> str:
    for_sintel = options.variant == "video_features" and options.flow == "raft_large"
    return "raft_large_sintel" if for_sintel else options.flow


ENCODER = I3DFlow
