"""Which frames a clip network is fed and as what numbers: the conditions under which its weights were learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, Self

import torch
from pydantic import JsonValue, model_validator

from vidloc.extract.base import ClipInput, EncoderOptions, FrameInput, FrameSize, Sample, stacked

# Of values in [0, 1] in Kinetics-400, as torchvision's video networks were trained.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class CroppedOptions(EncoderOptions):
    """Options of networks fed a square from the middle of a resized frame; each gives the two its own bounds."""

    short_side_px: int
    crop_px: int

    @model_validator(mode="after")
    def _crop_inside(self) -> Self:
        if self.crop_px > self.short_side_px:
            raise ValueError(f"crop_px {self.crop_px} does not fit into short_side_px {self.short_side_px}")
        return self


class ClipPreparation(Protocol):
    """What a clip network is fed: `Preparation` for pictures, others for what is made of them."""

    @property
    def input(self) -> ClipInput | FrameInput:
        """What the pipeline is asked for."""

    def clips(self, samples: Sequence[Sample], device: torch.device) -> torch.Tensor:
        """Samples as `(batch, channels, num_frames, height, width)` float32; of single frames, without `num_frames`."""

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""


@dataclass(frozen=True)
class Preparation:
    """A clip's frames and their numbers.

    Attributes:
        num_frames: frames of a clip.
        fps: frames per second; a clip spans `num_frames / fps` seconds.
        size: resizing and cropping.
        mean: subtracted from values in [0, 1], by channel (red, green, blue).
        std: what they are then divided by.
    """

    num_frames: int
    fps: Fraction
    size: FrameSize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def at(self, num_frames: int | None, fps: Fraction | None) -> Preparation:
        """The same with another number of frames or another rate, where they are not `None`."""
        return replace(self, num_frames=num_frames or self.num_frames, fps=fps or self.fps)

    @property
    def input(self) -> ClipInput:
        """What the pipeline is asked for."""
        return ClipInput(self.num_frames, self.num_frames / self.fps, self.size)

    def clips(self, samples: Sequence[Sample], device: torch.device) -> torch.Tensor:
        """Samples as `(batch, 3, num_frames, height, width)` float32, in the layout channels-last."""
        # (batch, frames, height, width, 3) seen as (batch, 3, frames, ...) is channels-last already.
        frames = stacked(samples, device).permute(0, 4, 1, 2, 3)
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1, 1) for values in (self.mean, self.std))
        return frames.to(torch.float32).div_(255.0).sub_(mean).div_(std)

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""
        return {
            "colour": "RGB in [0, 1]",
            "normalisation": f"minus {by_channel(self.mean)}, over {by_channel(self.std)}",
            "resize": resize_described(self.size),
            "crop": f"centre {self.size.crop_px}",
            "fps": str(self.fps),
        }


def resize_described(size: FrameSize) -> str:
    """How frames are resized, for a stream's provenance."""
    if size.stretch_px is not None:
        target = f"to {size.stretch_px[0]} x {size.stretch_px[1]} (height x width), aspect not kept"
    else:
        target = f"shorter side {size.short_side_px}"
    return f"{target}, bilinear, {'antialiased' if size.antialias else 'no antialiasing'}"


def by_channel(values: tuple[float, ...]) -> str:
    """One number, or one per channel."""
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{value:g}" for value in values)
