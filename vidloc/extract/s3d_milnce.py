"""S3D-G of MIL-NCE: clips and sentences in one space, learned from HowTo100M's narrations (Miech et al., CVPR 2020).

32 frames at 10 fps, values in [0, 1] (specs/encoders.md section 5.7). A row holds 1024 numbers (`mixed_5c`, for heads)
and 512 (`joint`), whose dot product with a sentence's by the encoder `milnce_text` says how well they go together. To
search by text, make the second the stream's features: `tap=joint`.

The publisher states neither rate nor resizing: 10 fps is what COOT used; the shorter side becomes 224 with Pillow's
filter, where the training code cropped and scaled by ffmpeg.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

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
)
from vidloc.extract.folding import fold_batch_norms
from vidloc.extract.gated_s3d import NUM_JOINT, GatedS3D
from vidloc.extract.inception import NUM_FEATURES
from vidloc.extract.preparation import CroppedOptions, Preparation

_TEXT_SIDE = "text_module."


class MilNceOptions(CroppedOptions):
    """Options of S3D-G."""

    tap: Literal["mixed_5c", "joint"] = Field(
        "mixed_5c",
        description="mixed_5c: 1024 numbers per row, and the joint 512 as a field beside them; joint: only those 512, "
        "as the features, to be searched by text.",
    )
    num_frames: int = Field(32, ge=2, multiple_of=2, description="Frames of a clip; the weights learned from 32.")
    fps: Fraction = Field(Fraction(10), gt=0, description="Frames per second of a clip.")
    short_side_px: int = Field(224, ge=32, description="Length that the shorter side of a frame is resized to.")
    crop_px: int = Field(
        224, ge=32, multiple_of=2, description="Side of the square cut from the centre; the publisher used 200 to 256."
    )


class MilNce(Encoder):
    """Clips in the space that they share with sentences, and the features before it."""

    Options: ClassVar[type[EncoderOptions]] = MilNceOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        if not isinstance(options, MilNceOptions):
            raise TypeError(f"{name} takes MilNceOptions, got {type(options).__name__}.")
        self.options: MilNceOptions = options
        checkpoint = weights.resolve(options.weights, name)
        with weights.seeded(checkpoint.seed or 0):
            network = GatedS3D()
        if checkpoint.path is not None:
            whole = weights.read_state(checkpoint.path)
            state = {name: tensor for name, tensor in whole.items() if not name.startswith(_TEXT_SIDE)}
            weights.load_into(network, state, where=str(checkpoint.path))
        self.weights_name, self.weights_sha256 = checkpoint.name, checkpoint.sha256
        self.network = placed(fold_batch_norms(network.eval()), device, torch.channels_last_3d)

    @classmethod
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """See the base class."""
        weights.check_available(name, options.weights)

    @property
    def preparation(self) -> Preparation:
        """Values in [0, 1] as they are."""
        size = FrameSize(self.options.short_side_px, self.options.crop_px, antialias=True)
        return Preparation(self.options.num_frames, self.options.fps, size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    @property
    def input(self) -> ClipInput:
        """Frames of one window."""
        return self.preparation.input

    def stream(self) -> StreamTemplate:
        """One vector per row, and with it the joint one unless that is wanted alone."""
        joint = FieldSpec(row_shape=(NUM_JOINT,), dtype=self.options.dtype)
        mixed_5c = FieldSpec(row_shape=(NUM_FEATURES,), dtype=self.options.dtype)
        return StreamTemplate(
            kind="clip",
            fields={"features": joint} if self.options.tap == "joint" else {"features": mixed_5c, "joint": joint},
            source=Source(
                paper="Miech, Alayrac, Smaira, Laptev, Sivic, Zisserman. End-to-End Learning of Visual Representations "
                "from Uncurated Instructional Videos. CVPR 2020.",
                code="https://github.com/antoine77340/S3D_HowTo100M",
                commit="b8cd0bb",
                licence="Apache-2.0",
            ),
            preprocessing={
                **self.preparation.described(),
                "tap": "mixed_5c: mean over times and positions; joint: fc of it, not normalised",
            }
            | ({"text_encoder": "milnce_text"} if self.options.tap == "joint" else {}),
        )

    def encode(self, samples: Sequence[Sample]) -> Rows:
        """Rows of clips, float32."""
        with arithmetic(self.device, self.options.precision):
            mixed_5c = self.network.features(self.preparation.clips(samples, self.device))
            joint = self.network.joint(mixed_5c).float()
        rows = {"features": joint} if self.options.tap == "joint" else {"features": mixed_5c, "joint": joint}
        return Rows.dense(**{name: np.ascontiguousarray(row.cpu().numpy()) for name, row in rows.items()})


ENCODER = MilNce
