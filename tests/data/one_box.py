"""A detector that finds the same two regions in every frame: what boxes look like depends on nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import Encoder, EncoderOptions, FrameInput, Sample, StreamTemplate

BOXES = np.array([[0.125, 0.5, 0.75, 1.0], [0.5, 0.0, 1.0, 0.25]], np.float32)


class OneBox(Encoder):
    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        super().__init__(options, name=name, device=device)
        self.weights_name = self.weights_sha256 = options.weights

    @property
    def input(self) -> FrameInput:
        return FrameInput()

    def stream(self) -> StreamTemplate:
        fields = {
            "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
            "scores": FieldSpec(row_shape=("regions",), dtype="float32"),
            "labels": FieldSpec(row_shape=("regions",), dtype="int32"),
        }
        return StreamTemplate("objects", fields, Source(licence="Apache-2.0"), {}, ("background", "pan", "egg"))

    def encode(self, samples: Sequence[Sample]) -> Rows:
        n = len(samples)
        scores, labels = np.array([0.875, 0.25], np.float32), np.array([2, 1], np.int32)
        return Rows.ragged("regions", boxes=[BOXES] * n, scores=[scores] * n, labels=[labels] * n)


ENCODER = OneBox
