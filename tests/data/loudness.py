"""Root mean square of half a second of sound: the audio counterpart of mean_colour.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import AudioInput, Encoder, EncoderOptions, Sample, StreamTemplate


class Loudness(Encoder):
    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        self.options = options
        self.device = device
        self.weights_name = self.weights_sha256 = options.weights

    @property
    def input(self) -> AudioInput:
        return AudioInput(num_samples=4000, sample_rate_hz=8000)

    def stream(self) -> StreamTemplate:
        fields = {"features": FieldSpec(row_shape=(1,), dtype=self.options.dtype)}
        return StreamTemplate("audio", fields, Source(licence="Apache-2.0"), {})

    def encode(self, samples: Sequence[Sample]) -> Rows:
        loudness = [[np.sqrt(np.mean(np.square(sample.data)))] for sample in samples]
        return Rows.dense(features=np.array(loudness, np.float32))


ENCODER = Loudness
