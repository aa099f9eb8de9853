"""The number that each frame of a window shows, one per frame: tells which frames a layout chose."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import ClipInput, Encoder, EncoderOptions, FrameSize, Sample, StreamTemplate


class FrameNumbersOptions(EncoderOptions):
    num_frames: int = Field(4, ge=1, le=64, description="Frames per window.")


class FrameNumbers(Encoder):
    Options = FrameNumbersOptions
    options: FrameNumbersOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        assert isinstance(options, FrameNumbersOptions)
        self.options = options
        self.device = device
        self.weights_name = self.weights_sha256 = options.weights

    @property
    def input(self) -> ClipInput:
        return ClipInput(self.options.num_frames, Fraction(1), FrameSize())

    def stream(self) -> StreamTemplate:
        fields = {"features": FieldSpec(row_shape=(self.options.num_frames,), dtype="float32")}
        return StreamTemplate("clip", fields, Source(licence="Apache-2.0"), {})

    def encode(self, samples: Sequence[Sample]) -> Rows:
        # Three bands of 16 pixels, each one octal digit; see write_numbered in tests/pipelines/test_layouts.py.
        digits = np.stack([sample.data[:, 8, 8::16, 0] for sample in samples]).astype(int) // 32
        return Rows.dense(features=(digits @ np.array([64, 8, 1])).astype(np.float32))


ENCODER = FrameNumbers
