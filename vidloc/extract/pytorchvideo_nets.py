"""What the clip networks of pytorchvideo have in common: building, input, taps, scores and names of checkpoints.

Only `pytorchvideo.models` is imported, and only here: `pytorchvideo.transforms` fails beside torchvision 0.17 and
later, so resizing, cropping and normalising are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from pydantic import Field
from torch import nn

from vidloc.core.records import Source
from vidloc.extract.base import EncoderOptions, FrameSize
from vidloc.extract.clip_classifier import ClipClassifier, State, TwoTaskOptions
from vidloc.extract.preparation import CroppedOptions, Preparation
from vidloc.extract.pyslowfast import Layout, tasks_of

with warnings.catch_warnings():
    # Its modules apply torch.jit.script while they are imported, which newer PyTorch deprecates.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    from pytorchvideo.models import hub

_MEAN, _STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


class PytorchVideoOptions(TwoTaskOptions, CroppedOptions):
    """Options of the pytorchvideo clip networks."""

    window_s: Fraction = Field(
        Fraction(64, 30),
        gt=0,
        description="Seconds that the frames of a clip are spread over; the Kinetics checkpoints learned with 64/30.",
    )
    short_side_px: int = Field(256, ge=224, description="Length that the shorter side of a frame is resized to.")
    crop_px: int = Field(
        256, ge=224, description="Side of the square cut from the centre; 224 is faster and has one position, not four."
    )


class PytorchVideoNet(ClipClassifier):
    """A network of pytorchvideo's hub, by its name there.

    Class attributes:
        num_frames: frames of a clip; the networks' pools are made for exactly these. Families whose members differ
            set it, and `layout`, on the instance.
        layout: which of its blocks is what, for checkpoints under PySlowFast's names.
    """

    Options = PytorchVideoOptions
    options: PytorchVideoOptions
    num_frames: int
    layout: Layout

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        self.classifier = f"blocks.{self.layout.head}.proj.weight"
        super().__init__(options, name=name, device=device)

    def build(self, num_classes: int) -> nn.Module:
        """See the base class."""
        network: nn.Module = getattr(hub, self.name)(pretrained=False, model_num_class=num_classes)
        if not self.options.scores:
            blocks_of(network)[-1].proj = None
        return network

    def renamed(self, state: State) -> State:
        """All but the classifier unless its scores are wanted, so that checkpoints with any, or none, give rows."""
        renamed = self.layout.renamed(state)
        if self.options.scores:
            return renamed
        classifiers = (self.classifier.removesuffix(".weight"), "head.projection")
        return {name: tensor for name, tensor in renamed.items() if not name.startswith(classifiers)}

    def tasks(self, state: State) -> Mapping[str, int]:
        """See the base class."""
        return tasks_of(state)

    def fed(self, clips: torch.Tensor) -> Any:
        """What the network is called with; families of several pathways override it."""
        return clips

    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """See the base class: the input of the classifier, pooled over all times and 7 x 7 positions."""
        *body, head = blocks_of(self.network)
        maps = self.fed(clips)
        for block in body:
            maps = block(maps)
        # SlowFast's last block before the head has pooled and joined its pathways.
        joined: torch.Tensor = maps if head.pool is None else head.pool(maps)
        return joined

    def classified(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the base class: the projection alone, since the head of R(2+1)D would return its softmax."""
        scores: torch.Tensor = blocks_of(self.network)[-1].proj(pooled.movedim(1, -1))
        return scores.movedim(-1, 1)

    @property
    def preparation(self) -> Preparation:
        """The frames spread over the window, resized without antialiasing."""
        size = FrameSize(self.options.short_side_px, self.options.crop_px, antialias=False)
        return Preparation(self.num_frames, self.num_frames / self.options.window_s, size, _MEAN, _STD)


def source_of(paper: str) -> Source:
    """Where a network comes from, by its paper."""
    return Source(
        paper=paper,
        code="https://github.com/facebookresearch/pytorchvideo",
        commit="release 0.1.5",
        licence="Apache-2.0 (code); no separate licence is stated for the published weights",
    )


def blocks_of(network: Any) -> list[Any]:
    """The blocks of a pytorchvideo network (untyped); the last one is its head: pool, dropout, projection."""
    return list(network.blocks)
