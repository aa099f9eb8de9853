"""An encoder that another package provides."""

import numpy as np

from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import AudioInput, Encoder, StreamTemplate


class ThirdPartyEncoder(Encoder):
    """Loudest sample of a second."""

    def __init__(self, options, *, name, device):
        super().__init__(options, name=name, device=device)
        self.weights_name = self.weights_sha256 = "random:0"

    @property
    def input(self):
        return AudioInput(num_samples=16_000, sample_rate_hz=16_000)

    def stream(self):
        return StreamTemplate(
            kind="audio",
            fields={"features": FieldSpec(row_shape=(1,), dtype="float32")},
            source=Source(paper="A third party's paper", licence="MIT"),
            preprocessing={},
        )

    def encode(self, samples):
        return Rows.dense(features=np.array([[abs(s.data).max()] for s in samples], dtype=np.float32))
