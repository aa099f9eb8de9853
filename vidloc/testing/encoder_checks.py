"""Contract checks of encoders: what `extract.base` promises the pipelines, on made-up samples.

`EncoderCase` builds one encoder (untrained unless asked otherwise) and runs it a few times; each check is a function
of it. Rows are compared as `encode` returns them, before any cast.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidloc.core.rows import Rows
from vidloc.extract.base import (
    AudioInput,
    ClipInput,
    Encoder,
    EncoderInput,
    EncoderOptions,
    FlowInput,
    FrameInput,
    FrameSize,
    Sample,
    StreamTemplate,
    TextInput,
)
from vidloc.testing.checking import options_described, require

_INPUTS = (ClipInput, FrameInput, AudioInput, TextInput)
_SENTENCES = ("open the fridge", "a dog barks in the yard")
_NUM_SAMPLES = len(_SENTENCES)
_FRAME_PX = 120  # short side of made-up frames that an encoder takes as they come
_ASPECT = Fraction(4, 3)
_TOLERANCE = 1e-4  # of the largest number in a row: orders of summing differ between batches


@dataclass(frozen=True)
class _Generators:
    """States of the global random generators."""

    torch: torch.Tensor
    numpy: Any
    python: Any

    def moved(self) -> list[str]:
        """Those that have moved since."""
        now = _generators()
        differing = {
            "torch": not torch.equal(self.torch, now.torch),
            "numpy": not np.array_equal(self.numpy[1], now.numpy[1]) or self.numpy[2] != now.numpy[2],
            "random": self.python != now.python,
        }
        return [name for name, differs in differing.items() if differs]


def _generators() -> _Generators:
    return _Generators(torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002


class EncoderCase:
    """An encoder's class, and what it makes of two unlike samples.

    Args:
        encoder: the class.
        name: registered name it is built by.
        options: options that differ from the defaults; weights are `random:0` unless given.
    """

    def __init__(self, encoder: type[Encoder], name: str, options: Mapping[str, Any] | None = None) -> None:
        self.kind, self.name = encoder, name
        self.options: EncoderOptions = encoder.Options.parse(
            {"weights": "random:0"} | dict(options or {}), where=f"encoder {name!r}"
        )
        self.moved_by: dict[str, list[str]] = {}

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, built once on the CPU."""
        before = _generators()
        encoder = self.kind(self.options, name=self.name, device=torch.device("cpu"))
        self.moved_by["building"] = before.moved()
        return encoder

    @cached_property
    def template(self) -> StreamTemplate:
        """What it says of its stream."""
        return self.encoder.stream()

    @cached_property
    def samples(self) -> list[Sample]:
        """Two samples as it wants to be fed."""
        return [made_up_sample(self.encoder.input, number) for number in range(_NUM_SAMPLES)]

    @cached_property
    def together(self) -> Rows:
        """Rows of both samples in one call."""
        encoder, samples = self.encoder, self.samples
        before = _generators()
        rows = encoder.encode(samples)
        self.moved_by["encoding"] = before.moved()
        return rows

    @cached_property
    def alone(self) -> list[Rows]:
        """Rows of each sample in a call of its own."""
        return [self.encoder.encode([sample]) for sample in self.samples]


def made_up_sample(wanted: EncoderInput, number: int) -> Sample:
    """A sample of noise in the shape an encoder asks for; unlike for unlike numbers."""
    generator = np.random.default_rng(number)
    span = (Fraction(number), Fraction(number + 1))
    match wanted:
        case ClipInput():
            num_frames = wanted.num_frames + wanted.frames_after
            height, width, colours = _frame_shape(wanted.size)
            clip_shape = (num_frames, height, width, 2 if isinstance(wanted, FlowInput) else colours)
            pts = float(span[0]) + np.arange(num_frames, dtype=np.float64) * float(wanted.window_s / wanted.num_frames)
            return Sample(span, _picture(generator, clip_shape), pts, image_size=(160, 120))
        case FrameInput():
            shape = _frame_shape(wanted.size)
            return Sample(span, _picture(generator, shape), np.array([float(number)]), image_size=(shape[1], shape[0]))
        case AudioInput():
            sound = generator.normal(0, 0.1, wanted.num_samples).astype(np.float32)
            return Sample(span, sound, np.empty(0))
        case TextInput():
            return Sample(span, _SENTENCES[number % _NUM_SAMPLES], np.empty(0), key=f"key_{number}")


def input_sane(case: EncoderCase) -> str:
    """The encoder asks for something that can be decoded."""
    wanted = case.encoder.input
    require(isinstance(wanted, _INPUTS), f"input is {wanted!r}, none of {', '.join(i.__name__ for i in _INPUTS)}.")
    numbers: dict[str, Any] = {}
    match wanted:
        case ClipInput():
            numbers = {"num_frames": wanted.num_frames, "window_s": wanted.window_s}
            require(isinstance(wanted.window_s, Fraction), f"input.window_s is {wanted.window_s!r}, no Fraction.")
            after = wanted.frames_after
            require(after >= 0, f"input asks for frames_after = {after}, expected 0 or more.")
        case AudioInput():
            numbers = {"num_samples": wanted.num_samples, "sample_rate_hz": wanted.sample_rate_hz}
    if isinstance(wanted, (ClipInput, FrameInput)):
        sides = {"short_side_px": wanted.size.short_side_px, "crop_px": wanted.size.crop_px}
        numbers |= {name: side for name, side in sides.items() if side is not None}
        if wanted.size.short_side_px is not None and wanted.size.crop_px is not None:
            fits = wanted.size.crop_px <= wanted.size.short_side_px
            require(fits, f"input.size cuts {wanted.size.crop_px} pixels out of {wanted.size.short_side_px}.")
    for name, value in numbers.items():
        require(value > 0, f"input asks for {name} = {value}, expected more than 0.")
    batch = case.encoder.preferred_batch()
    require(batch >= 1, f"preferred_batch() is {batch}, expected at least 1.")
    return f"input: {wanted}"


def options_have_help(case: EncoderCase) -> str:
    """Every option has help."""
    require(issubclass(case.kind.Options, EncoderOptions), "Options is no subclass of EncoderOptions.")
    return options_described(case.kind.Options)


def source_filled_in(case: EncoderCase) -> str:
    """The stream says whose work it is, and under which licence."""
    source = case.template.source
    for name in ("paper", "licence"):
        require(
            getattr(source, name).strip(), f"stream().source.{name} is empty; users must know it before they share."
        )
    return f"source: {source.paper}; licence: {source.licence}"


def weights_stated(case: EncoderCase) -> str:
    """The encoder says which weights it loaded, by name and hash."""
    encoder = case.encoder
    for name in ("weights_name", "weights_sha256"):
        require(getattr(encoder, name, ""), f"{name} is not set; rows could not be told from those of other weights.")
    stated = re.fullmatch(r"random:\d+|[0-9a-f]{64}", encoder.weights_sha256)
    require(stated, f"weights_sha256 is {encoder.weights_sha256!r}, expected 64 hex digits or random:SEED.")
    return f"weights: {encoder.weights_name} ({encoder.weights_sha256})"


def rows_as_declared(case: EncoderCase) -> str:
    """`encode` returns the fields, shapes and types that `stream` declares, all finite."""
    rows, declared = case.together, case.template.fields
    require(len(rows) == _NUM_SAMPLES, f"encode() returns {len(rows)} rows for {_NUM_SAMPLES} samples.")
    same = rows.fields.keys() == declared.keys()
    require(same, f"encode() returns fields {sorted(rows.fields)}, stream() declares {sorted(declared)}.")
    for name, spec in declared.items():
        array = rows.fields[name]
        require(isinstance(array, np.ndarray), f"field {name!r} is {type(array).__name__}, no NumPy array.")
        axis = rows.axes.get(name)
        require(axis == spec.axis, f"field {name!r} is ragged along {axis!r}, stream() declares {spec.axis!r}.")
        found = array.shape[1:]
        require(found == spec.entry_shape, f"field {name!r} has entries {found}, stream() declares {spec.entry_shape}.")
        # Features may be stored narrower than they are made; anything else would lose more than digits.
        wanted = np.dtype("float32") if spec.dtype == "float16" else np.dtype(spec.dtype)
        require(array.dtype == wanted, f"field {name!r} is {array.dtype}, expected {wanted} (stored as {spec.dtype}).")
        require(np.isfinite(array).all(), f"field {name!r} holds values that are not finite.")
    return f"fields {', '.join(declared)} as declared, finite"


def batch_equals_members(case: EncoderCase) -> str:
    """A sample's row is the same alone and in a batch (wherever in the batch it went)."""
    for number, single in enumerate(case.alone):
        nearest = min(_distance(case.together[k : k + 1], single) for k in range(len(case.together)))
        close = nearest <= _TOLERANCE
        require(
            close, f"sample {number} gives another row in a batch than alone (by {nearest:.2g} of the largest number)."
        )
    return "rows do not depend on what shares their batch"


def order_kept(case: EncoderCase) -> str:
    """Row k belongs to sample k."""
    if _distance(case.alone[0], case.alone[1]) <= _TOLERANCE:
        return "both made-up samples give the same row, so their order cannot be told"
    for k, single in enumerate(case.alone):
        distances = [_distance(case.together[j : j + 1], single) for j in range(len(case.together))]
        best = int(np.argmin(distances))
        # A row that equals none is not out of order; `batch_equals_members` tells of it.
        kept = best == k or distances[best] > _TOLERANCE
        require(kept, f"row {best} of a batch is that of sample {k}; rows must keep the order of the samples.")
    return "rows keep the order of their samples"


def deterministic(case: EncoderCase) -> str:
    """The same sample twice gives the same row, bit by bit."""
    again = case.encoder.encode(case.samples[:1])
    distance = _distance(case.alone[0], again)
    require(
        distance == 0, f"the same sample gives another row the second time (by {distance:.2g} of the largest number)."
    )
    return "the same sample gives the same row"


def samples_left_alone(case: EncoderCase) -> str:
    """`encode` does not write into its samples, which other encoders are fed as well."""
    _ = case.together
    for number, sample in enumerate(case.samples):
        fresh = made_up_sample(case.encoder.input, number)
        require(np.array_equal(fresh.data, sample.data), "encode() changes the data of its samples.")
    return "encode() leaves its samples as they were"


def generators_left_alone(case: EncoderCase) -> str:
    """Neither building nor encoding moves the global random generators."""
    _ = case.together
    for what, moved in case.moved_by.items():
        require(
            not moved, f"{what} draws from the global generator of {', '.join(moved)}; fork it or use one of its own."
        )
    return "global random generators stay as they were"


ENCODER_CHECKS = (
    input_sane,
    options_have_help,
    source_filled_in,
    weights_stated,
    rows_as_declared,
    batch_equals_members,
    order_kept,
    deterministic,
    samples_left_alone,
    generators_left_alone,
)


def _frame_shape(size: FrameSize) -> tuple[int, int, int]:
    if size.crop_px is not None:
        return size.crop_px, size.crop_px, 3
    if size.stretch_px is not None:
        return *size.stretch_px, 3
    side = size.short_side_px or _FRAME_PX
    return side, int(side * _ASPECT), 3


def _picture(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    # Coarse blocks: noise of single pixels all but vanishes in a network's first strided layers.
    coarse = generator.integers(0, 256, (*shape[:-3], 6, 8, 3), dtype=np.uint8)
    rows, columns = np.arange(shape[-3]) * 6 // shape[-3], np.arange(shape[-2]) * 8 // shape[-2]
    return np.ascontiguousarray(coarse[..., rows[:, None], columns[None, :], :])


def _distance(one: Rows, other: Rows) -> float:
    """Largest difference of two single rows over their largest number; infinite where lengths differ."""
    worst = 0.0
    for name in one.fields.keys() & other.fields.keys():
        a, b = (np.asarray(rows.fields[name], dtype=np.float64) for rows in (one, other))
        if a.shape != b.shape:
            return float("inf")
        if a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-12)))
    return worst
