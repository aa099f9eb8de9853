"""I3D: Inception-v1 inflated over time, RGB (Carreira and Zisserman, CVPR 2017); checkpoints of both public ports load.

16 frames at 25 fps unless told otherwise. The row is the network's last pool, averaged over its positions: 1024
numbers. It is not the mean of the last block's map, since the pool over two frames gives the first and the last less
weight. At a crop of 224 pixels there is one position per eight frames, at 256 four.

`variant=video_features` repeats the arithmetic of that tool, to extend sets of features made with it; its crop may
lie one pixel from ours where the margin is odd.

The weights fine-tuned on Charades (157 classes) are fetched as `i3d_charades` and given by path.
"""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator

from vidloc.core.records import Source
from vidloc.extract.base import EncoderOptions, FrameSize
from vidloc.extract.clip_classifier import ClassifierOptions, ClipClassifier, State
from vidloc.extract.inception import NUM_FEATURES
from vidloc.extract.inception_i3d import SMALLEST, InceptionI3D, Variant, piergiaj_name
from vidloc.extract.preparation import ClipPreparation, CroppedOptions, Preparation

_MIN_FRAMES, _MIN_SIDE_PX = SMALLEST["standard"]
_PUBLISHED = {"standard": "i3d", "video_features": "i3d_hassony2"}


class I3DOptions(ClassifierOptions, CroppedOptions):
    """Options of I3D."""

    variant: Variant = Field(
        "standard",
        description="standard: as the TensorFlow original; video_features: as that tool computes, 1 to 8 % off.",
    )
    num_frames: int = Field(16, ge=_MIN_FRAMES, description="Frames of a clip; 16 and 64 are usual.")
    fps: Fraction = Field(
        Fraction(25), gt=0, description="Frames per second of a clip; the published weights learned at 25."
    )
    short_side_px: int = Field(
        256, ge=_MIN_SIDE_PX, description="Length that the shorter side of a frame is resized to."
    )
    crop_px: int = Field(
        224, ge=_MIN_SIDE_PX, description="Side of the square cut from the centre; at 256, four positions are averaged."
    )

    @model_validator(mode="after")
    def _passes_the_network(self) -> Self:
        frames, side = SMALLEST[self.variant]
        if self.num_frames < frames or self.crop_px < side:
            raise ValueError(
                f"with variant={self.variant}, num_frames is at least {frames} and crop_px at least {side}, "
                f"got {self.num_frames} and {self.crop_px}"
            )
        return self


class I3D(ClipClassifier):
    """I3D features of RGB clips, 1024 numbers each.

    Class attributes:
        in_channels: of its clips.
    """

    Options: ClassVar[type[EncoderOptions]] = I3DOptions
    options: I3DOptions
    in_channels: ClassVar[int] = 3
    network: InceptionI3D
    num_features = NUM_FEATURES
    classifier = "logits.conv3d.weight"
    source = Source(
        paper="Carreira, Zisserman. Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset. CVPR 2017.",
        code="https://github.com/piergiaj/pytorch-i3d",
        commit="05783d11f9632b25fe3d50395a9c9bb51f848d6d",
        licence="Apache-2.0 (DeepMind, piergiaj); MIT (hassony2)",
    )
    tap = "average pool of 2 x 7 x 7, mean over positions"

    @classmethod
    def published_name(cls, options: EncoderOptions, name: str) -> str:
        """The port that the variant goes with."""
        return _PUBLISHED[options.variant] if isinstance(options, I3DOptions) else name

    def build(self, num_classes: int) -> InceptionI3D:
        """See the base class."""
        return InceptionI3D(in_channels=self.in_channels, num_classes=num_classes, variant=self.options.variant)

    def renamed(self, state: State) -> State:
        """Names of either port."""
        return {piergiaj_name(name): tensor for name, tensor in state.items()}

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        return self.network.pooled(clips)

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        return self.network.classified(pooled)

    @property
    def preparation(self) -> ClipPreparation:
        """Values in [-1, 1], resized as Pillow would."""
        size = FrameSize(self.options.short_side_px, self.options.crop_px, antialias=True)
        half = (0.5, 0.5, 0.5)
        return Preparation(self.options.num_frames, self.options.fps, size, mean=half, std=half)


ENCODER = I3D
