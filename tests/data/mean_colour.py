"""Mean colour of a few frames per window: an encoder without weights that drives whole extractions in tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import ClipInput, Encoder, EncoderOptions, FrameSize, Sample, StreamTemplate


class MeanColourOptions(EncoderOptions):
    num_frames: int = Field(4, ge=1, le=64, description="Frames per window.")
    window_s: float = Field(1.0, gt=0, description="Length of a window, seconds.")
    scale: float = Field(1.0, gt=0, description="Factor applied to every value.")
    batch: int = Field(1, ge=1, description="Samples per call.")
    delay_s: float = Field(0.0, ge=0, description="Sleep per sample, to be interrupted in.")


class MeanColour(Encoder):
    Options = MeanColourOptions
    options: MeanColourOptions

    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        assert isinstance(options, MeanColourOptions)
        self.options = options
        self.device = device
        self.weights_name = self.weights_sha256 = options.weights

    @property
    def input(self) -> ClipInput:
        window = Fraction(self.options.window_s).limit_denominator(1000)
        return ClipInput(self.options.num_frames, window, FrameSize(short_side_px=16, crop_px=16))

    def stream(self) -> StreamTemplate:
        fields = {"features": FieldSpec(row_shape=(3,), dtype=self.options.dtype)}
        return StreamTemplate("clip", fields, Source(licence="Apache-2.0"), {"normalised": "to 0..1"})

    def encode(self, samples: Sequence[Sample]) -> Rows:
        time.sleep(self.options.delay_s * len(samples))
        means = [np.asarray(sample.data, np.float32).mean(axis=(0, 1, 2)) / 255 for sample in samples]
        return Rows.dense(features=np.stack(means) * np.float32(self.options.scale))

    def preferred_batch(self) -> int:
        return self.options.batch


ENCODER = MeanColour
