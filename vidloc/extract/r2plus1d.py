"""R(2+1)D: convolutions over space and time taken apart (Tran et al., CVPR 2018), by torchvision, 512 numbers per clip.

- `r2plus1d_18`: 18 layers, Kinetics-400; 16 frames at 15 fps, as its publisher evaluates it.
- `r2plus1d_34_clip32`, `r2plus1d_34_clip8`: 34 layers, 65 million Instagram videos, then Kinetics-400 (Ghadiyaram et
  al., CVPR 2019; ported from Caffe2 by `moabitcoin/ig65m-pytorch`). 32 or 8 frames; no rate is published, and 30 fps
  stands for consecutive frames of most videos.

The row is the input of the last layer (specs/encoders.md section 5.5). Frames are stretched to 128 x 171, whatever
their aspect, since that is what the networks learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from pydantic import Field
from torch import nn
from torchvision.models.video import r2plus1d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from vidloc.core.records import Source
from vidloc.extract.base import EncoderOptions, FrameSize
from vidloc.extract.clip_classifier import ClassifierOptions
from vidloc.extract.preparation import KINETICS_MEAN, KINETICS_STD, Preparation
from vidloc.extract.video_resnet import VideoResNetEncoder

NAMES = ("r2plus1d_18", "r2plus1d_34_clip32", "r2plus1d_34_clip8")

_SIZE = FrameSize(crop_px=112, stretch_px=(128, 171))
_CAFFE2_EPS = 1e-3
# Maps between the two halves of the second convolution of a stage's first block; torchvision's rule gives 230, 460
# and 921 there, since it counts the block's input maps instead of the convolution's.
_CAFFE2_MIDDLE = {"layer2": (128, 288), "layer3": (256, 576), "layer4": (512, 1152)}


@dataclass(frozen=True)
class _Member:
    num_frames: int
    fps: Fraction
    source: Source


_IG65M_SOURCE = Source(
    paper="Ghadiyaram, Feiszli, Tran, Yan, Wang, Mahajan. Large-scale weakly-supervised pre-training for video action "
    "recognition. CVPR 2019; Tran et al. A Closer Look at Spatiotemporal Convolutions. CVPR 2018.",
    code="https://github.com/moabitcoin/ig65m-pytorch",
    commit="release v1.0.0",
    licence="MIT (port)",
)
_MEMBERS: Mapping[str, _Member] = {
    "r2plus1d_18": _Member(
        16,
        Fraction(15),
        Source(
            paper="Tran, Wang, Torresani, Ray, LeCun, Paluri. A Closer Look at Spatiotemporal Convolutions for Action "
            "Recognition. CVPR 2018.",
            code="https://github.com/pytorch/vision",
            commit="release 0.26",
            licence="BSD-3-Clause (code); no separate licence is stated for the published weights",
        ),
    ),
    "r2plus1d_34_clip32": _Member(32, Fraction(30), _IG65M_SOURCE),
    "r2plus1d_34_clip8": _Member(8, Fraction(30), _IG65M_SOURCE),
}


class R2Plus1DOptions(ClassifierOptions):
    """Options of R(2+1)D."""

    num_frames: int | None = Field(
        None, ge=1, description="Frames of a clip; none for as many as the published weights learned from: 16, 32, 8."
    )
    fps: Fraction | None = Field(
        None, gt=0, description="Frames per second of a clip; none for 15 (18 layers) or 30 (34 layers)."
    )


class R2Plus1D(VideoResNetEncoder):
    """R(2+1)D features, 512 numbers per clip."""

    Options = R2Plus1DOptions
    options: R2Plus1DOptions
    num_features = 512

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        self.source = _MEMBERS[name].source

    def build(self, num_classes: int) -> VideoResNet:
        """See the base class."""
        if self.name == "r2plus1d_18":
            network: VideoResNet = r2plus1d_18(num_classes=num_classes)
            return network
        return ig65m_34(num_classes)

    @property
    def preparation(self) -> Preparation:
        """Stretched frames, as many as the member's weights learned from unless told otherwise."""
        member = _MEMBERS[self.name]
        published = Preparation(member.num_frames, member.fps, _SIZE, KINETICS_MEAN, KINETICS_STD)
        return published.at(self.options.num_frames, self.options.fps)


def ig65m_34(num_classes: int) -> VideoResNet:
    """The 34-layer network of the IG-65M weights: torchvision's, changed where Caffe2's differs."""
    network = VideoResNet(
        block=BasicBlock,
        conv_makers=[Conv2Plus1D] * 4,
        layers=[3, 4, 6, 3],
        stem=R2Plus1dStem,
        num_classes=num_classes,
    )
    for stage, (width, middle) in _CAFFE2_MIDDLE.items():
        first = network.get_submodule(f"{stage}.0")
        first.conv2[0] = Conv2Plus1D(width, width, middle)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = _CAFFE2_EPS
    return network


ENCODER = R2Plus1D
