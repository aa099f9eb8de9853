"""What the clip networks of pytorchvideo have in common: building, folding, input and the way a clip is encoded.

Only `pytorchvideo.models` is imported, and only here: `pytorchvideo.transforms` fails beside torchvision 0.17 and
later, so resizing, cropping and normalising are ours.

Three things make a network faster without changing its answer (to 1e-6 of the maximum): inference mode, the
channels-last layout, and batch norms folded into the convolutions before them.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract import weights
from vidloc.extract.base import (
    ClipInput,
    Encoder,
    EncoderOptions,
    FrameSize,
    Sample,
    StreamTemplate,
    arithmetic,
    placed,
    stacked,
)
from vidloc.extract.folding import fold_batch_norms

with warnings.catch_warnings():
    # Its modules apply torch.jit.script while they are imported, which newer PyTorch deprecates.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    from pytorchvideo.models import hub

MEAN, STD = 0.45, 0.225  # of every channel, on values in [0, 1]


class ClipOptions(EncoderOptions):
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

    @model_validator(mode="after")
    def _crop_inside(self) -> Self:
        if self.crop_px > self.short_side_px:
            raise ValueError(f"crop_px {self.crop_px} does not fit into short_side_px {self.short_side_px}")
        return self


class ClipEncoder(Encoder):
    """A pytorchvideo network whose pooled map, averaged over its positions, is the row.

    Class attributes:
        num_frames: frames of a clip; the networks' pools are made for exactly these.
        num_features: numbers per row.
        source: paper, code and licence.
        tap: where the row is taken, in words.
    """

    Options: ClassVar[type[EncoderOptions]] = ClipOptions
    num_frames: ClassVar[int]
    num_features: ClassVar[int]
    source: ClassVar[Source]
    tap: ClassVar[str]

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, ClipOptions):
            raise TypeError(f"{name} takes ClipOptions, got {type(options).__name__}.")
        self.options: ClipOptions = options
        checkpoint = weights.resolve(options.weights, name)
        with weights.seeded(checkpoint.seed or 0):
            network: nn.Module = getattr(hub, name)(pretrained=False)
        # Rows are what the classifier is fed, so that checkpoints of any number of classes fit.
        blocks_of(network)[-1].proj = None
        if checkpoint.path is not None:
            classifier = f"blocks.{len(blocks_of(network)) - 1}.proj"
            renamed = {self.renamed(name): tensor for name, tensor in weights.read_state(checkpoint.path).items()}
            state = {name: tensor for name, tensor in renamed.items() if not name.startswith(classifier)}
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(fold_batch_norms(network.eval()), device, torch.channels_last_3d)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        weights.check_available(name, options.weights)

    @staticmethod
    def renamed(name: str) -> str:
        """Name of a checkpoint's tensor as pytorchvideo has it; families known under other names override it."""
        return name

    @abstractmethod
    def pooled(self, clips: torch.Tensor) -> torch.Tensor:
        """Feature maps `(batch, num_features, ...)` of normalised clips `(batch, 3, num_frames, height, width)`."""

    @property
    def input(self) -> ClipInput:
        """Frames of one window, resized without antialiasing and cropped at the centre."""
        size = FrameSize(self.options.short_side_px, self.options.crop_px, antialias=False)
        return ClipInput(self.num_frames, self.options.window_s, size)

    def stream(self) -> StreamTemplate:
        """One vector per row."""
        return StreamTemplate(
            kind="clip",
            fields={"features": FieldSpec(row_shape=(self.num_features,), dtype=self.options.dtype)},
            source=self.source,
            preprocessing={
                "colour": "RGB in [0, 1]",
                "normalisation": f"minus {MEAN}, over {STD}",
                "resize": f"shorter side {self.options.short_side_px}, bilinear, no antialiasing",
                "crop": f"centre {self.options.crop_px}",
                "tap": self.tap,
            },
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of clips, `(num_samples, num_features)` float32."""
        with arithmetic(self.device, self.options.precision):
            # (batch, frames, height, width, 3) seen as (batch, 3, frames, ...) is channels-last already.
            frames = stacked(samples, self.device).permute(0, 4, 1, 2, 3)
            clips = frames.to(torch.float32).div_(255.0).sub_(MEAN).div_(STD)
            rows = self.pooled(clips).float().flatten(2).mean(2)
        return Rows.dense(features=np.ascontiguousarray(rows.cpu().numpy()))


def blocks_of(network: Any) -> list[Any]:
    """The blocks of a pytorchvideo network (untyped); the last one is its head: pool, dropout, projection."""
    return list(network.blocks)
