"""3D ResNets of Hara et al. (CVPR 2018), on torchvision's: 16 frames of 112 pixels, kernels over time in every block.

- `hara_r34`: 512 numbers; shortcuts without weights (the weights of 2018);
- `hara_r50`: 2048 numbers;
- `hara_resnext101`: 2048 numbers, convolutions in 32 groups; the 3D stream of HowTo100M's features.

The row is the mean over the last map, the input of the last layer. Not to be mistaken for torchvision's R3D and the
networks of `resnet3d.py`, whose first convolution has other kernels and other pools.

Frames are resized by their shorter side, and only a mean is taken off levels in 0..255, each user's own (`variant`):

- `hara2018`: that of ActivityNet, as the authors' training and their program for features have it;
- `howto100m`: that of Kinetics, as HowTo100M's extractor has it, whose weights are the same;
- `hara2020`: levels in [0, 1], mean and deviation of Kinetics, for the weights of 2020 (`hara_r50`).

Stages are those of `VideoResNet` with the authors' stem and, for ResNeXt, blocks of groups; names of their checkpoints
map one to one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv3DSimple, VideoResNet

from vidloc.core.records import Source
from vidloc.extract.base import EncoderOptions, FrameSize
from vidloc.extract.clip_classifier import ClassifierOptions, State
from vidloc.extract.preparation import Preparation
from vidloc.extract.video_resnet import VideoResNetEncoder

NAMES = ("hara_r34", "hara_r50", "hara_resnext101")

Variant = Literal["hara2018", "howto100m", "hara2020"]

_SIZE = FrameSize(112, 112, antialias=True)
_NUM_FRAMES = 16
_GROUPS = 32
_STEM_NAME = re.compile(r"(conv|bn)1\.")
_BLOCK_NAME = re.compile(r"(layer\d\.\d+)\.(conv|bn)(\d)\.")
_PLACES = {"conv": 0, "bn": 1}  # of a convolution and its norm in torchvision's sequences


def _levels(*mean: float) -> Preparation:
    # Levels less a mean: in [0, 1] as elsewhere, and then times 255.
    red, green, blue = (value / 255 for value in mean)
    return Preparation(_NUM_FRAMES, Fraction(30), _SIZE, (red, green, blue), (1 / 255, 1 / 255, 1 / 255))


_PREPARATIONS: Mapping[Variant, Preparation] = {
    "hara2018": _levels(114.7748, 107.7354, 99.4750),
    "howto100m": _levels(110.6, 103.2, 96.3),
    "hara2020": Preparation(_NUM_FRAMES, Fraction(30), _SIZE, (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
}


class _Stem(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, stride=2, padding=1),
        )


class ResNeXtBlock(Bottleneck):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's bottleneck, its middle twice as wide and in groups (Xie et al., CVPR 2017)."""

    def __init__(
        self,
        inplanes: int,
        planes: int,
        conv_builder: Callable[..., nn.Module],
        stride: int = 1,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__(inplanes, planes, conv_builder, stride, downsample)
        middle = 2 * planes
        self.conv1[0], self.conv1[1] = nn.Conv3d(inplanes, middle, 1, bias=False), nn.BatchNorm3d(middle)
        self.conv2[0] = nn.Conv3d(middle, middle, 3, stride, padding=1, groups=_GROUPS, bias=False)
        self.conv2[1] = nn.BatchNorm3d(middle)
        self.conv3[0] = nn.Conv3d(middle, planes * self.expansion, 1, bias=False)


class PaddedShortcut(nn.Module):
    """Every second place in time, height and width, and zeros for channels that are new (type A of He et al. 2016)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps `(batch, num_channels, times / 2, height / 2, width / 2)`."""
        kept = maps[:, :, ::2, ::2, ::2]
        return functional.pad(kept, (*[0] * 7, self.num_channels - kept.shape[1]))


@dataclass(frozen=True)
class _Member:
    block: type[Any]
    layers: tuple[int, int, int, int]
    num_features: int
    padded_shortcuts: bool = False


_MEMBERS: Mapping[str, _Member] = {
    "hara_r34": _Member(BasicBlock, (3, 4, 6, 3), 512, padded_shortcuts=True),
    "hara_r50": _Member(Bottleneck, (3, 4, 6, 3), 2048),
    "hara_resnext101": _Member(ResNeXtBlock, (3, 4, 23, 3), 2048),
}


class HaraOptions(ClassifierOptions):
    """Options of Hara's 3D ResNets."""

    variant: Variant = Field(
        "hara2018",
        description="What is taken off the levels of frames: ActivityNet's mean (hara2018), that of Kinetics "
        "(howto100m), or as the weights of 2020 learned (hara2020).",
    )
    fps: Fraction = Field(
        Fraction(30),
        gt=0,
        description="Frames per second of a clip; the networks learned from consecutive frames of videos of any rate.",
    )


class HaraResNet(VideoResNetEncoder):
    """Features of 16 frames."""

    Options = HaraOptions
    options: HaraOptions
    published_classes = ()  # the order of theirs is in a file beside the weights
    source = Source(
        paper="Hara, Kataoka, Satoh. Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet? CVPR "
        "2018.",
        code="https://github.com/kenshohara/3D-ResNets-PyTorch",
        licence="MIT (code); no separate licence is stated for the weights",
        differs="batch norms are folded into convolutions",
    )

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        self.num_features = _MEMBERS[name].num_features
        super().__init__(options, name=name, device=device)

    def build(self, num_classes: int) -> VideoResNet:
        """See the base class."""
        return build(self.name, num_classes)

    def renamed(self, state: State) -> State:
        """The names of torchvision, from the authors'."""
        return {_torchvisions(name): tensor for name, tensor in state.items()}

    @property
    def preparation(self) -> Preparation:
        """Consecutive frames, less the variant's mean."""
        return _PREPARATIONS[self.options.variant].at(None, self.options.fps)


def build(name: str, num_classes: int) -> VideoResNet:
    """A member's network, untrained."""
    member = _MEMBERS[name]
    network = VideoResNet(
        block=member.block,
        conv_makers=[Conv3DSimple] * 4,
        layers=list(member.layers),
        stem=_Stem,
        num_classes=num_classes,
    )
    if member.padded_shortcuts:
        for stage, width in (("layer2", 128), ("layer3", 256), ("layer4", 512)):
            network.get_submodule(stage)[0].downsample = PaddedShortcut(width)
    return network


def _torchvisions(name: str) -> str:
    if found := _STEM_NAME.match(name):
        return f"stem.{_PLACES[found[1]]}.{name[found.end() :]}"
    if found := _BLOCK_NAME.match(name):
        return f"{found[1]}.conv{found[3]}.{_PLACES[found[2]]}.{name[found.end() :]}"
    return name


ENCODER = HaraResNet
