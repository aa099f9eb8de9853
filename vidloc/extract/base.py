"""What an encoder is: it turns decoded samples into rows, and knows neither stores nor files.

An encoder says once what it wants to be fed (`input`); the pipeline decodes each track a single time and hands every
encoder its samples. A file of one encoder ends with `ENCODER = MyEncoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue
from torch import nn

from vidloc.core.options import Options
from vidloc.core.records import Kind, Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError

Place = Literal["centre", "near", "far", "top_left", "top_right", "bottom_left", "bottom_right"]


@dataclass(frozen=True)
class FrameSize:
    """How a decoded frame becomes the picture a network sees; frames of one size are resized once for all encoders.

    Attributes:
        short_side_px: length the shorter side is resized to (the longer follows, truncated); `None` keeps the size.
        crop_px: side of the square cut from the centre; `None` keeps the whole frame.
        antialias: Pillow-like filtering when shrinking; off for torchvision and pytorchvideo networks.
        stretch_px: height and width that a frame of any aspect is resized to; in place of `short_side_px`.
        place: where the square is cut: `near` and `far` are the ends of the longer side.
        mirrored: the square is then flipped from left to right.
    """

    short_side_px: int | None = None
    crop_px: int | None = None
    antialias: bool = False
    stretch_px: tuple[int, int] | None = None
    place: Place = "centre"
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.short_side_px is not None and self.stretch_px is not None:
            raise ValueError("a frame is resized by its shorter side or stretched to a size, not both")


@dataclass(frozen=True)
class Steps:
    """Frames of a constant rate, each some of them after the one before; beyond the window its last one again.

    Attributes:
        frame_s: length of one frame of that rate; frame j is the one on screen in the middle of it.
        step_s: from frame to frame.
    """

    frame_s: Fraction
    step_s: Fraction


@dataclass(frozen=True)
class ClipInput:
    """A window of `num_frames` frames: `Sample.data` is uint8 `(num_frames + frames_after, height, width, 3)`, RGB.

    Attributes:
        num_frames: frames inside the window, one for each of its equal cells.
        window_s: length of the window, seconds.
        size: resizing and cropping.
        frames_after: further frames beyond the window's end, at the midpoints of the cells that would follow: the
            motion of the last frame inside is that to the first one after it.
        steps: how frames follow one another where they are not spread evenly over the window.
    """

    num_frames: int
    window_s: Fraction
    size: FrameSize
    frames_after: int = 0
    steps: Steps | None = None


@dataclass(frozen=True)
class FlowInput(ClipInput):
    """A window of released flow, a pair of pictures per frame: `Sample.data` is uint8 `(num_frames, height, width, 2)`.

    Horizontal and vertical, as grey levels with no motion in the middle; resized and cropped like any picture. Levels
    are not rescaled with the size; where the square is mirrored, horizontal ones are 255 less the level.
    """


@dataclass(frozen=True)
class FrameInput:
    """One frame at the row's centre: `Sample.data` is uint8 `(height, width, 3)`, RGB."""

    size: FrameSize = FrameSize()


@dataclass(frozen=True)
class AudioInput:
    """Mono sound around the row's centre: `Sample.data` is float32 `(num_samples,)`, zeros outside the track."""

    num_samples: int
    sample_rate_hz: int


@dataclass(frozen=True)
class TextInput:
    """One sentence: `Sample.data` is a `str`. Rows follow the dataset's annotations, not the grid."""


Precision = Literal["float32", "tf32", "bfloat16", "float16"]
_GPU_PRECISIONS = ("tf32", "float16")
Network = TypeVar("Network", bound=nn.Module)
EncoderInput = ClipInput | FrameInput | AudioInput | TextInput


@dataclass(frozen=True, eq=False)
class Sample:
    """What one row is made from.

    Attributes:
        span: window of the row, seconds.
        data: see the input that was asked for.
        pts_s: presentation times of the frames used, seconds; empty for sound and text.
        image_size: decoded width and height after display rotation; `None` for sound and text.
        key: annotation id, for text.
        item_id: the item it is of, for encoders that are told something of each item besides; empty outside a run.
        place: where it belongs among the samples of an item that come in another order (views of segments).
    """

    span: tuple[Fraction, Fraction]
    data: Any
    pts_s: NDArray[np.float64]
    image_size: tuple[int, int] | None = None
    key: str | None = None
    item_id: str = ""
    place: int = 0


@dataclass(frozen=True, eq=False)
class Spectrogram:
    """Sound as a network sees it.

    Attributes:
        values: `(num_frames, num_bands)`, the lowest band first.
        step_s: seconds between the starts of neighbouring frames; the first begins with the sample.
        band_hz: `(num_bands,)` centre of each band, ascending.
        meaning: what the values are, in a few words.
    """

    values: NDArray[np.floating]
    step_s: float
    band_hz: NDArray[np.float64]
    meaning: str


# Pictures uint8 (n, height, width, 3), or one without n; flows float (n, height, width, 2), pixels to the right and
# downwards; a waveform float (num_samples,); a sentence.
Seen = NDArray[Any] | Spectrogram | str


class EncoderOptions(Options):
    """Options that every encoder has."""

    weights: str = Field(
        "",
        description="Checkpoint: a path, 'random:SEED' for untrained weights, or empty for the published ones.",
    )
    precision: Precision = Field(
        "float32",
        description="Arithmetic of the network. bfloat16 and, on GPUs, tf32 and float16 are faster and less exact.",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="How feature rows are stored.")


@dataclass(frozen=True)
class StreamTemplate:
    """What an encoder says of its stream; the pipeline adds name, sampling rule and versions.

    Attributes are those of `StreamSpec` (kind, fields, vocabulary, source, preprocessing).
    """

    kind: Kind
    fields: Mapping[str, FieldSpec]
    source: Source
    preprocessing: Mapping[str, JsonValue]
    vocabulary: tuple[str, ...] = ()


class Encoder(ABC):
    """Base of all encoders.

    Class attributes:
        Options: the encoder's options, a subclass of `EncoderOptions`.
        version: raised whenever the same input gives other rows; rows of two versions are never mixed in a stream.

    Instances are built on their device with weights loaded, and are then only called. `weights_name` and
    `weights_sha256` say what was loaded (`random:SEED` for both when untrained).
    """

    Options: ClassVar[type[EncoderOptions]] = EncoderOptions
    version: ClassVar[str] = "1"

    options: EncoderOptions
    device: torch.device
    weights_name: str
    weights_sha256: str

    @abstractmethod
    def __init__(self, options: EncoderOptions, *, name: str, device: torch.device) -> None:
        """Build the network and load its weights.

        Args:
            name: the registered name it was asked for by; files of a family tell their members apart by it.

        Raises:
            WeightsError: the checkpoint is missing or does not fit; the message says how to get the right one.
            OptionError: the device has no such arithmetic.
        """
        if device.type == "cpu" and options.precision in _GPU_PRECISIONS:
            raise OptionError(
                f"encoder {name!r}: precision={options.precision} needs a GPU; a CPU would take 100 times longer. "
                "Use precision=bfloat16, or float32."
            )
        self.options, self.device = options, device

    @classmethod  # noqa: B027  (there is nothing to look for unless an encoder says so)
    def check_weights(cls, options: EncoderOptions, *, name: str) -> None:
        """Make sure that the weights are at hand, by a look at the disk, before any work is done.

        Encoders with weights override it; the constructor of others never lacks any.

        Raises:
            WeightsError: a file is missing; the message has the line that gets it.
        """

    @property
    @abstractmethod
    def input(self) -> EncoderInput:
        """What each sample must be."""

    @abstractmethod
    def stream(self) -> StreamTemplate:
        """Shape, dtype and provenance of the rows."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> Rows:
        """One row per sample, float32 before any cast to the stored dtype.

        Rows do not depend on which samples share a batch.
        """

    def as_seen(self, sample: Sample) -> Seen:
        """What the network sees of a sample, before its numbers are normalised, for a person to look at.

        Encoders that make something else of it first (a spectrogram, optical flow) override it with their own front
        end; `vidloc extract --preview` draws it.
        """
        data: Seen = sample.data
        return data

    def preferred_batch(self) -> int:
        """Samples per call: batches on GPUs, one at a time on CPU, where larger ones are slower per clip."""
        return 16 if self.device.type == "cuda" else 1


def placed(network: Network, device: torch.device, layout: torch.memory_format) -> Network:
    """A network ready to be called: in eval mode, on its device, its weights in the layout its samples come in."""
    network.eval().requires_grad_(requires_grad=False)
    return network.to(device=device, memory_format=layout)  # type: ignore[call-overload,no-any-return]  # not in its stubs


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """How networks run here: without gradients, and in the numbers that were asked for.

    `float32` is that on GPUs too, where PyTorch would otherwise multiply convolutions in TF32 and the same clip would
    give other rows than on a CPU (by about 1e-3).
    """
    # The switches are read when a kernel is launched, so that they hold for what runs inside and nothing else.
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = precision == "tf32"
    try:
        with torch.inference_mode(), _autocast(device, precision):
            yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    half = precision in ("bfloat16", "float16")
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=half)


def stacked(samples: Sequence[Sample], device: torch.device) -> torch.Tensor:
    """Array data of samples as one tensor `(batch, ...)` on the device, dtype unchanged."""
    arrays = [np.asarray(s.data) for s in samples]
    if device.type != "cuda":
        return torch.from_numpy(np.stack(arrays)).to(device)
    # Stacked into page-locked memory, from which the GPU fetches by itself while this thread goes on.
    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    batch = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype, pin_memory=True)
    np.stack(arrays, out=batch.numpy())
    return batch.to(device, non_blocking=True)
