"""S3D: separable Inception-v1 on Kinetics-400 (Xie et al., ECCV 2018), by torchvision; three ways to feed it.

The row is the pool before the classifier, averaged over its times: 1024 numbers (specs/encoders.md section 5.6).
Two public sets of weights fit the network, and each learned from other numbers:

- `variant=torchvision`: 128 frames at 15 fps, stretched to 256 x 256, mean and deviation by channel;
- `variant=kylemin` (72.1 % on Kinetics-400): values in [-1, 1]; 64 frames at 25 fps. Its author states no resizing;
  here the shorter side becomes 256;
- `variant=video_features`: kylemin's weights as that tool feeds them, in [0, 1], to extend sets of features made with
  it; its crop may lie one pixel from ours where the margin is odd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torchvision.models import video

from vidloc.core.records import Source
from vidloc.errors import WeightsError
from vidloc.extract.base import EncoderOptions, FrameSize
from vidloc.extract.clip_classifier import ClassifierOptions, ClipClassifier, State
from vidloc.extract.preparation import KINETICS_MEAN, KINETICS_STD, Preparation

Variant = Literal["torchvision", "kylemin", "video_features"]
_HALF = (0.5, 0.5, 0.5)
_PREPARATIONS: Mapping[Variant, Preparation] = {
    "torchvision": Preparation(
        128, Fraction(15), FrameSize(crop_px=224, stretch_px=(256, 256)), KINETICS_MEAN, KINETICS_STD
    ),
    "kylemin": Preparation(64, Fraction(25), FrameSize(256, 224), _HALF, _HALF),
    "video_features": Preparation(64, Fraction(25), FrameSize(224, 224), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_KYLEMIN_LAYERS = (
    (re.compile(r"\.conv_s\."), ".0.0."),
    (re.compile(r"\.bn_s\."), ".0.1."),
    (re.compile(r"\.conv_t\."), ".1.0."),
    (re.compile(r"\.bn_t\."), ".1.1."),
    (re.compile(r"\.conv\."), ".0."),
    (re.compile(r"\.bn\."), ".1."),
)


class S3DOptions(ClassifierOptions):
    """Options of S3D."""

    variant: Variant = Field(
        "torchvision", description="Whose weights, and what they are fed: torchvision, kylemin or video_features."
    )
    num_frames: int | None = Field(
        None, ge=14, description="Frames of a clip; none for the variant's own (torchvision: 128, others: 64)."
    )
    fps: Fraction | None = Field(
        None, gt=0, description="Frames per second of a clip; none for the variant's own (torchvision: 15, others: 25)."
    )


class S3D(ClipClassifier):
    """S3D features, 1024 numbers per clip."""

    Options = S3DOptions
    options: S3DOptions
    network: video.S3D
    num_features = 1024
    classifier = "classifier.1.weight"
    source = Source(
        paper="Xie, Sun, Huang, Tu, Murphy. Rethinking Spatiotemporal Feature Learning. ECCV 2018.",
        code="https://github.com/pytorch/vision",
        commit="release 0.26",
        licence="BSD-3-Clause (torchvision's code; no separate licence is stated for its weights); MIT (kylemin)",
    )
    tap = "average pool of 2 x 7 x 7, mean over times"

    @classmethod
    def published_name(cls, options: EncoderOptions, name: str) -> str:
        """Kylemin's weights, unless torchvision's are meant."""
        return "s3d_kylemin" if isinstance(options, S3DOptions) and options.variant != "torchvision" else name

    def build(self, num_classes: int) -> nn.Module:
        """See the base class."""
        network: nn.Module = video.s3d(num_classes=num_classes)
        return network

    def renamed(self, state: State) -> State:
        """Kylemin's names turned into torchvision's.

        Raises:
            WeightsError: they are kylemin's, but would be fed what torchvision's learned from.
        """
        if not any(name.startswith("base.") for name in state):
            return state
        if self.options.variant == "torchvision":
            raise WeightsError(
                "the checkpoint has the names of kylemin's S3D, which learned from values in [-1, 1] and not from "
                f"torchvision's normalisation. Add variant=kylemin: --encoder {self.name}:variant=kylemin,weights=FILE"
            )
        return {torchvision_name(name): tensor for name, tensor in state.items()}

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        pooled: torch.Tensor = self.network.avgpool(self.network.features(clips))
        return pooled

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        scores: torch.Tensor = self.network.classifier(pooled)
        return scores

    @property
    def preparation(self) -> Preparation:
        """The variant's, with the frames and the rate that were asked for."""
        return _PREPARATIONS[self.options.variant].at(self.options.num_frames, self.options.fps)


def torchvision_name(name: str) -> str:
    """Kylemin's name of a tensor turned into torchvision's."""
    name = re.sub(r"^base\.", "features.", name)
    name = re.sub(r"^fc\.0\.", "classifier.1.", name)
    name = name.replace(".branch0.0.", ".branch0.")
    for theirs, ours in _KYLEMIN_LAYERS:
        name = theirs.sub(ours, name)
    return name


ENCODER = S3D
