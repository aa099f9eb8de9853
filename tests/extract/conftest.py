"""Fixtures of the encoder tests: encoders as the pipeline builds them, and made-up samples."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from vidloc.core import registry
from vidloc.extract.base import Encoder, Sample
from vidloc.testing import deterministic_fill

BuildEncoder = Callable[..., Encoder]


@pytest.fixture(scope="session")
def build_encoder() -> BuildEncoder:
    """A registered encoder on the CPU: `build_encoder(name, **options)`, options as typed on a command line."""

    def build(name: str, **options: object) -> Encoder:
        found = registry.load("encoders", name)
        values = found.target.Options.parse({k: str(v) for k, v in options.items()}, where=f"encoder {name!r}")
        return found.target(values, name=found.name, device=torch.device("cpu"))

    return build


@pytest.fixture(scope="session")
def clip() -> Callable[..., Sample]:
    """A sample of made-up frames: `clip(name, num_frames, side_px)`."""

    def make(name: str, num_frames: int, side_px: int) -> Sample:
        frames = deterministic_fill.frames(name, num_frames, side_px, side_px)
        return Sample((Fraction(0), Fraction(64, 30)), frames, np.arange(num_frames) / 15)

    return make
