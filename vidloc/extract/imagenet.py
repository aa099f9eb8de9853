"""ImageNet frame networks of torchvision: VGG (Simonyan and Zisserman, 2015) and ResNet (He et al., 2016).

The row is one frame's, that of the row's centre, or the mean of `num_frames` spread over `window_s`:

- `tap=pooled`: mean over the positions of the last map: 512 numbers of a VGG, 512 or 2048 of a ResNet;
- `tap=pool5` (VGG), `tap=layer4` (ResNet): that map itself, height, width, channel: 7 x 7 x 512 or 7 x 7 x 2048;
- `tap=fc7` (VGG): the 4096 numbers before the classifier, after ReLU.

With `before_norm=true` a ResNet's maps come twice: `features` as above, and `before_norm`, what the last convolution
gives plus the block's shortcut, without its norm and ReLU. Ego-RNN and LSTA (`resnet34:tap=layer4,before_norm=true`)
attend by the first and read the second; `scores=true` adds what tells them the class.

`variant` says what the weights learned from. Those of torchvision take RGB by mean and deviation; those that the VGG
group released for Caffe (and Keras uses) take blue, green, red in 0..255 minus a mean, and give other features. The
same options as published sets of features were made with:

- AVE: `vgg19:variant=caffe,tap=pool5,frame=stretch,num_frames=16,window_s=1`; its script took frames at the beginnings
  of sixteenths of a second, here they are those of their middles;
- HowTo100M: `resnet152:frame=whole`, then normalised to length 1 by the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.resnet import Bottleneck

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError
from vidloc.extract import weights
from vidloc.extract.base import (
    ClipInput,
    Encoder,
    EncoderOptions,
    FrameInput,
    FrameSize,
    Sample,
    StreamTemplate,
    arithmetic,
    placed,
    stacked,
)
from vidloc.extract.class_names import IMAGENET_1000, check_number, score_names
from vidloc.extract.folding import fold_batch_norms

NAMES = ("resnet34", "resnet50", "resnet152", "vgg16", "vgg19")

Tap = Literal["pooled", "pool5", "layer4", "fc7"]
Variant = Literal["torchvision", "caffe"]
Framing = Literal["crop", "whole", "stretch"]
State = Mapping[str, torch.Tensor]

_STRIDE_PX = 32  # of the last map, in both families
_FC7 = 4096
_MAPS: tuple[Tap, ...] = ("pool5", "layer4")
# torchvision: of RGB in [0, 1]; Caffe: of blue, green, red in 0..255.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)
_LICENCES: Mapping[Variant, str] = {
    "torchvision": "no separate licence is stated for the published weights",
    "caffe": "CC BY 4.0 (weights of the VGG group)",
}
# In the release for Caffe a dropout came first, so that its linear layers have other numbers.
_CAFFE_LAYERS = {"classifier.1.": "classifier.0.", "classifier.4.": "classifier.3."}


@dataclass(frozen=True)
class _Family:
    taps: tuple[Tap, ...]
    classifier: str  # weight with one row per class
    paper: str


_VGG = _Family(
    ("pooled", "pool5", "fc7"),
    "classifier.6.weight",
    "Simonyan and Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015.",
)
_RESNET = _Family(
    ("pooled", "layer4"), "fc.weight", "He, Zhang, Ren, Sun. Deep Residual Learning for Image Recognition. CVPR 2016."
)


@dataclass(frozen=True)
class _Member:
    family: _Family
    build: Callable[..., Any]
    num_maps: int


_MEMBERS: Mapping[str, _Member] = {
    "resnet34": _Member(_RESNET, models.resnet34, 512),
    "resnet50": _Member(_RESNET, models.resnet50, 2048),
    "resnet152": _Member(_RESNET, models.resnet152, 2048),
    "vgg16": _Member(_VGG, models.vgg16, 512),
    "vgg19": _Member(_VGG, models.vgg19, 512),
}


class ImageNetOptions(EncoderOptions):
    """Options of ImageNet frame networks."""

    tap: Tap = Field(
        "pooled",
        description="Where the row is taken: pooled (mean over the last map), the map itself (pool5 of a VGG, layer4 "
        "of a ResNet: height, width, channel), or fc7 of a VGG, after ReLU.",
    )
    variant: Variant = Field(
        "torchvision",
        description="What the weights learned from: torchvision (RGB, mean and deviation) or caffe (BGR in 0..255 "
        "minus a mean: the VGG group's own weights).",
    )
    frame: Framing = Field(
        "crop",
        description="crop: shorter side to resize_px, then the middle square of side_px; stretch: to a square of "
        "side_px, aspect not kept; whole: shorter side to side_px, nothing cut.",
    )
    side_px: int = Field(
        224, ge=64, le=1024, multiple_of=_STRIDE_PX, description="Side of what the network sees (see frame), pixels."
    )
    resize_px: int = Field(256, ge=64, le=1024, description="Shorter side before the middle is cut (frame=crop).")
    num_frames: int = Field(1, ge=1, description="Frames whose mean is the row; 1: the frame of the row's centre.")
    window_s: Fraction = Field(
        Fraction(1), gt=0, description="Seconds that num_frames are spread over, where they are more than 1."
    )
    before_norm: bool = Field(
        default=False,
        description="Also store the map before the last norm and ReLU, as field 'before_norm' (ResNet, tap=layer4).",
    )
    scores: bool = Field(
        default=False, description="Also store the scores of all classes (before the softmax), as the field 'scores'."
    )
    # Not among the recorded options: the names themselves are recorded, as the stream's vocabulary.
    classes: str = Field(
        "",
        exclude=True,
        description="File with one class name per line, for scores of your own weights; the published ones bring the "
        "names of ImageNet.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.frame == "crop" and self.side_px > self.resize_px:
            raise ValueError(f"side_px {self.side_px} does not fit into resize_px {self.resize_px}")
        if self.frame == "whole" and self.tap in _MAPS:
            raise ValueError(
                f"maps of whole frames differ in size; with tap={self.tap} use frame=crop or frame=stretch"
            )
        if self.before_norm and self.tap != "layer4":
            raise ValueError("before_norm=true gives a second map beside that of tap=layer4; add tap=layer4")
        return self


class ImageNetNetwork(Encoder):
    """Features of frames by a network that learned ImageNet's classes."""

    Options: ClassVar[type[EncoderOptions]] = ImageNetOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, ImageNetOptions):
            raise TypeError(f"{name} takes ImageNetOptions, got {type(options).__name__}.")
        self.options: ImageNetOptions = options
        self.name = name
        self.member = _MEMBERS[name]
        self._vocabulary = _checked(options, name)
        checkpoint = weights.resolve(options.weights, published_name(options, name))
        state = None if checkpoint.path is None else _renamed(weights.read_state(checkpoint.path))
        last = (state or {}).get(self.member.family.classifier)
        # A checkpoint without it is refused by name when it is loaded.
        self.num_classes = len(IMAGENET_1000) if last is None else len(last)
        check_number(self._vocabulary, self.num_classes, encoder=name, classes=options.classes)
        with weights.seeded(checkpoint.seed or 0):
            network = self.member.build(num_classes=self.num_classes)
        if state is not None:
            weights.load_into(network, state, where=str(checkpoint.path))
        if isinstance(network, models.VGG) and options.tap != "fc7" and not options.scores:
            network.classifier = nn.Sequential()  # nine tenths of its numbers, half a gigabyte
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        last_norm = _taken_out(network) if options.before_norm else None
        self.network: Any = fold_batch_norms(network.eval())
        self._last_norm = None if last_norm is None else placed(last_norm, device, torch.channels_last)
        placed(self.network, device, torch.channels_last)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        if isinstance(options, ImageNetOptions):
            _checked(options, name)
            weights.check_available(published_name(options, name), options.weights)

    @property
    def input(self) -> FrameInput | ClipInput:
        """One frame, or those of a window."""
        options, side = self.options, self.options.side_px
        # Antialiased, as torchvision prepares pictures (but not videos).
        size = {
            "crop": FrameSize(options.resize_px, side, antialias=True),
            "whole": FrameSize(side, antialias=True),
            "stretch": FrameSize(stretch_px=(side, side), antialias=True),
        }[options.frame]
        return FrameInput(size) if options.num_frames == 1 else ClipInput(options.num_frames, options.window_s, size)

    def stream(self) -> StreamTemplate:
        """One vector or map per row, and one score per class where they are wanted."""
        positions = self.options.side_px // _STRIDE_PX
        shape: tuple[int, ...] = (_FC7,) if self.options.tap == "fc7" else (self.member.num_maps,)
        if self.options.tap in _MAPS:
            shape = (positions, positions, *shape)
        shapes = {"features": shape} | ({"before_norm": shape} if self.options.before_norm else {})
        shapes |= {"scores": (self.num_classes,)} if self.options.scores else {}
        return StreamTemplate(
            kind="clip",
            fields={name: FieldSpec(row_shape=row, dtype=self.options.dtype) for name, row in shapes.items()},
            source=Source(
                paper=self.member.family.paper,
                code="https://github.com/pytorch/vision",
                commit="release 0.26",
                licence=f"BSD-3-Clause (code); {_LICENCES[self.options.variant]}",
                differs="batch norms are folded into convolutions" if self.member.family is _RESNET else "",
            ),
            preprocessing=self._described(),
            vocabulary=self._vocabulary,
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of frames, float32."""
        # Whole frames of several videos may differ in size.
        runs = [list(run) for _, run in groupby(samples, key=lambda sample: np.shape(sample.data))]
        with arithmetic(self.device, self.options.precision):
            pieces = [self._rows(run) for run in runs]
        return Rows.dense(**{name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]})

    def preferred_batch(self) -> int:
        """Samples per call."""
        return max(64 // self.options.num_frames, 1) if self.device.type == "cuda" else 1

    def _rows(self, samples: Sequence[Sample]) -> dict[str, NDArray[np.float32]]:
        maps, before_norm = self._last_maps(self.pictures(samples))
        hidden = self._hidden(maps)
        match self.options.tap:
            case "pooled":
                features = maps.float().mean(dim=(2, 3))
            case "fc7":
                features = hidden
            case _:
                features = maps.permute(0, 2, 3, 1)
        rows = {"features": features}
        if before_norm is not None:
            rows["before_norm"] = before_norm.permute(0, 2, 3, 1)
        if self.options.scores:
            rows["scores"] = self._scores(hidden)
        return {name: self._mean_over_frames(row).cpu().numpy() for name, row in rows.items()}

    def pictures(self, samples: Sequence[Sample]) -> torch.Tensor:
        """All frames of samples as `(num_samples * num_frames, 3, height, width)` float32, as the weights know them."""
        frames = stacked(samples, self.device)
        pictures = frames.flatten(0, -4).permute(0, 3, 1, 2).to(torch.float32)
        if self.options.variant == "caffe":
            return pictures.flip(1) - torch.tensor(_CAFFE_MEAN, device=self.device).view(3, 1, 1)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (_MEAN, _STD))
        return pictures.div_(255.0).sub_(mean).div_(std)

    def _last_maps(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The last maps, and what they are before the last norm where that is wanted."""
        network = self.network
        if self.member.family is _VGG:
            return network.features(pictures), None
        maps = network.maxpool(network.relu(network.bn1(network.conv1(pictures))))
        for stage in (network.layer1, network.layer2, network.layer3):
            maps = stage(maps)
        if self._last_norm is None:
            return network.layer4(maps), None
        *blocks, last = network.layer4
        for block in blocks:
            maps = block(maps)
        convolved = _last_convolution(last, maps)
        return functional.relu(self._last_norm(convolved) + maps), convolved + maps

    def _hidden(self, maps: torch.Tensor) -> torch.Tensor:
        """What the last layer takes; of a VGG without its classifier, what its first layer would take."""
        pooled: torch.Tensor = self.network.avgpool(maps).flatten(1)
        return self.network.classifier[:-1](pooled) if self.member.family is _VGG else pooled

    def _scores(self, hidden: torch.Tensor) -> torch.Tensor:
        last = self.network.classifier[-1] if self.member.family is _VGG else self.network.fc
        scores: torch.Tensor = last(hidden)
        return scores

    def _mean_over_frames(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.float().reshape(-1, self.options.num_frames, *rows.shape[1:]).mean(dim=1)

    def _described(self) -> dict[str, Any]:
        options, side = self.options, self.options.side_px
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (_MEAN, _STD))
        caffe = options.variant == "caffe"
        taps: dict[Tap, str] = {
            "pooled": "last map, mean over positions",
            "pool5": "map after the fifth pooling, (height, width, channel)",
            "layer4": "last map, (height, width, channel)",
            "fc7": "second linear layer, after ReLU",
        }
        resize = {
            "crop": f"shorter side {options.resize_px}, centre {side}",
            "whole": f"shorter side {side}, nothing cut",
            "stretch": f"to {side} x {side}, aspect not kept",
        }[options.frame]
        return {
            "colour": "BGR in 0..255" if caffe else "RGB in [0, 1]",
            "normalisation": "minus " + ", ".join(map(str, _CAFFE_MEAN)) if caffe else f"minus {mean}, over {std}",
            "resize": f"{resize}, bilinear, antialiased",
            "tap": taps[options.tap],
        } | ({"scores": "before the softmax"} if options.scores else {})


def published_name(options: ImageNetOptions, name: str) -> str:
    """Name of the published checkpoint that empty `weights` stand for."""
    return name if options.variant == "torchvision" else f"{name}_caffe"


def _checked(options: ImageNetOptions, name: str) -> tuple[str, ...]:
    # The vocabulary, once it is sure that the network has the tap.
    taps = _MEMBERS[name].family.taps
    if options.tap not in taps:
        raise OptionError(f"encoder {name!r}: there is no tap={options.tap}; it has {', '.join(taps)}.")
    return score_names(options.classes, scores=options.scores, published=() if options.weights else IMAGENET_1000)


def _taken_out(network: Any) -> nn.Module:
    # The last norm: it stays out of the last convolution, whose own output is wanted.
    last = network.layer4[-1]
    name = "bn3" if isinstance(last, Bottleneck) else "bn2"
    norm: nn.Module = getattr(last, name)
    setattr(last, name, nn.Identity())
    return norm


def _last_convolution(block: Any, maps: torch.Tensor) -> torch.Tensor:
    """What the last convolution of a ResNet's block gives, of the block's input."""
    inner = block.relu(block.bn1(block.conv1(maps)))
    if isinstance(block, Bottleneck):
        inner = block.relu(block.bn2(block.conv2(inner)))
    convolved: torch.Tensor = block.conv3(inner) if isinstance(block, Bottleneck) else block.conv2(inner)
    return convolved


def _renamed(state: State) -> dict[str, torch.Tensor]:
    # The layer numbers of the release for Caffe occur in no checkpoint of torchvision.
    def ours(name: str) -> str:
        for theirs, own in _CAFFE_LAYERS.items():
            if name.startswith(theirs):
                return own + name.removeprefix(theirs)
        return name

    return {ours(name): tensor for name, tensor in state.items()}


ENCODER = ImageNetNetwork
