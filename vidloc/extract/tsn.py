"""Networks of temporal segment networks (Wang et al., ECCV 2016), frame by frame: rows for consensus and its kin.

- `tsn_rgb_bninception`: BN-Inception, 1024 numbers; by default of the whole frame stretched to 256 x 454, as RULSTM's
  features of EPIC-KITCHENS are made;
- `tsn_rgb_r50`: torchvision's ResNet-50, 2048 numbers; by default of the middle square of 224 pixels.

The row is the last map averaged over its positions. Checkpoints load under the names of the TSN family (`base_model.`,
after `module.` or `model.`), under mmaction2's (ResNet-50) and as plain ImageNet backbones. Their classifiers are left
aside unless `scores=true`: `new_fc` gives the field `scores`, the pair `fc_verb` and `fc_noun` of the models for
EPIC-KITCHENS-55 gives `scores_verb` and `scores_noun`. So does the joint `new_fc` of those for EPIC-KITCHENS-100, verbs
first, if `classes_verb=FILE` and `classes_noun=FILE` tell where nouns begin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, JsonValue
from torch import nn
from torchvision import models

from vidloc.core.records import Source
from vidloc.extract import bn_inception
from vidloc.extract.base import EncoderOptions, FrameInput, FrameSize, Sample, stacked
from vidloc.extract.clip_classifier import ClipClassifier, State, TwoTaskOptions, joined
from vidloc.extract.preparation import ClipPreparation, CroppedOptions, by_channel, resize_described

NAMES = ("tsn_rgb_bninception", "tsn_rgb_r50")

Framing = Literal["published", "crop", "stretch"]

_STRETCHED_PX = (256, 454)
_BACKBONE = "base_model."
_TASKS = ("verb", "noun")
_CLASSIFIERS = re.compile(r"(new_fc|fc_verb|fc_noun)\.")
_IMAGENET_CLASSIFIER = re.compile(r"(fc|last_linear)\.")
# A convolution of mmaction2's ResNets and its norm are one module.
_MMACTION2 = (
    (re.compile(r"^backbone\.(.*)conv(\d)\.conv\."), r"base_model.\1conv\2."),
    (re.compile(r"^backbone\.(.*)conv(\d)\.bn\."), r"base_model.\1bn\2."),
    (re.compile(r"^backbone\.(.*)downsample\.conv\."), r"base_model.\1downsample.0."),
    (re.compile(r"^backbone\.(.*)downsample\.bn\."), r"base_model.\1downsample.1."),
    (re.compile(r"^cls_head\.fc_cls\."), "new_fc."),
)


@dataclass(frozen=True)
class Member:
    """One network of the family.

    Attributes:
        backbone: builds it for a number of channels; from pictures to one vector each.
        num_features: length of that vector.
        frame: how its publishers framed.
        levels: whether it takes numbers in 0..255, blue first; else in [0, 1], red first.
        mean: subtracted, by channel in that order and range.
        std: what they are then divided by.
    """

    backbone: Callable[[int], nn.Module]
    num_features: int
    frame: Framing
    levels: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    paper: str
    code: str
    licence: str


def resnet50(in_channels: int) -> nn.Module:
    """ResNet-50 of torchvision up to its average, of pictures or of stacks of flow."""
    network: nn.Module = models.resnet50()
    network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    network.fc = nn.Identity()
    return network


TSN_PAPER = "Wang et al. Temporal Segment Networks: Towards Good Practices for Deep Action Recognition. ECCV 2016."
MEMBERS: Mapping[str, Member] = {
    "tsn_rgb_bninception": Member(
        bn_inception.BNInception,
        bn_inception.NUM_FEATURES,
        "stretch",
        levels=True,
        mean=(104.0, 117.0, 128.0),
        std=(1.0, 1.0, 1.0),
        paper=f"{TSN_PAPER} Ioffe and Szegedy. Batch Normalization. ICML 2015; as used by Furnari and Farinella. "
        "Rolling-Unrolling LSTMs. TPAMI 2021.",
        code="https://github.com/fpv-iplab/rulstm",
        licence="no separate licence is stated for the published weights",
    ),
    "tsn_rgb_r50": Member(
        resnet50,
        2048,
        "crop",
        levels=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        paper=f"{TSN_PAPER} He et al. Deep Residual Learning for Image Recognition. CVPR 2016.",
        code="https://github.com/epic-kitchens/C1-Action-Recognition-TSN-TRN-TSM",
        licence="CC BY-NC 4.0 (weights for EPIC-KITCHENS)",
    ),
}


class TSNOptions(TwoTaskOptions, CroppedOptions):
    """Options of TSN's networks."""

    frame: Framing = Field(
        "published",
        description="stretch: the whole frame to 256 x 454 pixels; crop: shorter side to short_side_px, then the "
        "middle square of crop_px; published: stretch for BN-Inception, crop for ResNet-50.",
    )
    short_side_px: int = Field(256, ge=64, le=1024, description="Shorter side before the middle is cut (frame=crop).")
    crop_px: int = Field(
        224, ge=64, le=1024, multiple_of=bn_inception.STRIDE_PX, description="Side of the middle square (frame=crop)."
    )


@dataclass(frozen=True)
class FramePreparation:
    """How a frame becomes what the network is fed.

    Attributes:
        size: resizing and cropping.
        bgr: blue first, in 0..255; else red first, in [0, 1].
        mean: subtracted, by channel as the network takes them.
        std: what they are then divided by.
    """

    size: FrameSize
    bgr: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input(self) -> FrameInput:
        """What the pipeline is asked for."""
        return FrameInput(self.size)

    def clips(self, samples: Sequence[Sample], device: torch.device) -> torch.Tensor:
        """Frames as `(batch, 3, height, width)` float32."""
        pictures = stacked(samples, device).permute(0, 3, 1, 2).to(torch.float32)
        pictures = pictures.flip(1) if self.bgr else pictures / 255.0
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return (pictures - mean) / std

    def described(self) -> Mapping[str, JsonValue]:
        """The facts of it for a stream's provenance."""
        return {
            "colour": "BGR in 0..255" if self.bgr else "RGB in [0, 1]",
            "normalisation": f"minus {by_channel(self.mean)}, over {by_channel(self.std)}",
            "resize": resize_described(self.size),
            "crop": "none" if self.size.crop_px is None else f"centre {self.size.crop_px}",
        }


class TSNNetwork(nn.Module):
    """A backbone and its classifier, under the names of the TSN family.

    Args:
        backbone: from pictures to one vector each.
        num_features: length of that vector.
        num_classes: of the classifier; `None` leaves it out.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int | None) -> None:
        super().__init__()
        self.base_model = backbone
        self.new_fc = None if num_classes is None else nn.Linear(num_features, num_classes)


class TSN(ClipClassifier):
    """Features of single frames by a network that learned with temporal segments.

    Class attributes:
        members: networks by name.
        in_channels: of what they are fed.
    """

    Options: ClassVar[type[EncoderOptions]] = TSNOptions
    options: TSNOptions
    members: ClassVar[Mapping[str, Member]] = MEMBERS
    in_channels: ClassVar[int] = 3
    network: Any
    classifier = "new_fc.weight"
    tap = "last map, mean over positions"
    published_classes = ()
    memory_format = torch.channels_last

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        self.member = self.members[name]
        self.num_features = self.member.num_features
        self.source = Source(
            paper=self.member.paper,
            code=self.member.code,
            licence=self.member.licence,
            differs="batch norms are folded into convolutions",
        )
        super().__init__(options, name=name, device=device)

    def build(self, num_classes: int) -> nn.Module:
        """See the base class."""
        return TSNNetwork(
            self.member.backbone(self.in_channels), self.num_features, num_classes if self.options.scores else None
        )

    def renamed(self, state: State) -> State:
        """The TSN family's names, with classifiers of two tasks joined, and without any unless scores are wanted."""
        plain = _plain(state)
        if not self.options.scores:
            return {name: tensor for name, tensor in plain.items() if not _CLASSIFIERS.match(name)}
        for kind in ("weight", "bias"):
            names = _of_tasks(kind)
            joint = joined([plain[name] for name in names if name in plain])
            if joint is not None and all(name in plain for name in names):
                plain = {name: tensor for name, tensor in plain.items() if name not in names} | {
                    f"new_fc.{kind}": joint
                }
        return plain

    def tasks(self, state: State) -> Mapping[str, int]:
        """See the base class."""
        plain = _plain(state)
        layers = [plain[name] for name in _of_tasks("weight") if name in plain]
        if len(layers) == len(_TASKS) and all(layer.ndim for layer in layers):
            return {task: len(layer) for task, layer in zip(_TASKS, layers, strict=True)}
        joint = plain.get(self.classifier)
        named = {task: len(self._class_names.get(f"scores_{task}", ())) for task in _TASKS}
        return named if joint is not None and all(named.values()) and sum(named.values()) == len(joint) else {}

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """See the base class: the backbone's own average."""
        features: torch.Tensor = self.network.base_model(clips)
        return features

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        scores: torch.Tensor = self.network.new_fc(pooled)
        return scores

    @property
    def size(self) -> FrameSize:
        """How frames are resized and cropped."""
        frame = self.member.frame if self.options.frame == "published" else self.options.frame
        if frame == "stretch":
            return FrameSize(stretch_px=_STRETCHED_PX, antialias=True)
        return FrameSize(self.options.short_side_px, self.options.crop_px, antialias=True)

    @property
    def preparation(self) -> ClipPreparation:
        """The frame of the row's centre."""
        return FramePreparation(self.size, self.member.levels, self.member.mean, self.member.std)

    def preferred_batch(self) -> int:
        """Frames per call."""
        return 64 if self.device.type == "cuda" else 1


def _of_tasks(kind: str) -> list[str]:
    return [f"fc_{task}.{kind}" for task in _TASKS]


def _plain(state: State) -> dict[str, torch.Tensor]:
    """Tensors under `base_model.` and the classifiers' names, from whichever release."""
    wrapped = bool(state) and all(name.startswith("model.") for name in state)
    plain = {name.removeprefix("model.") if wrapped else name: tensor for name, tensor in state.items()}
    if any(name.startswith("backbone.") for name in plain):
        return {_of_mmaction2(name): tensor for name, tensor in plain.items()}
    if not any(name.startswith(_BACKBONE) for name in plain):
        plain = {
            _IMAGENET_CLASSIFIER.sub("new_fc.", name) if _IMAGENET_CLASSIFIER.match(name) else _BACKBONE + name: tensor
            for name, tensor in plain.items()
        }
    # Norms of the oldest BN-Inception files are (1, channels).
    return {name: t.squeeze(0) if "_bn." in name and t.ndim == 2 else t for name, t in plain.items()}


def _of_mmaction2(name: str) -> str:
    for pattern, ours in _MMACTION2:
        name = pattern.sub(ours, name)
    return name


ENCODER = TSN
