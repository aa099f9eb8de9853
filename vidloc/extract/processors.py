"""Processors of transformers: the preparation that a model brings in its folder, called on samples and described."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from transformers.image_utils import PILImageResampling

from vidloc.extract.base import FrameSize
from vidloc.extract.model_folder import ModelFolder, loading

# What leaves pictures resized and cut, but not yet numbers of a network.
_LEVELS_KEPT = {"do_rescale": False, "do_normalize": False}


def load_processor(kind: Any, folder: ModelFolder) -> Any:
    """A model's own processor.

    Args:
        kind: AutoImageProcessor, AutoVideoProcessor or AutoFeatureExtractor.

    Raises:
        WeightsError: the folder has none.
    """
    with loading(folder.path):
        return kind.from_pretrained(str(folder.path), local_files_only=True, trust_remote_code=False)


def prepared_frames(processor: Any, frames: Sequence[NDArray[np.uint8]], **changed: bool) -> torch.Tensor:
    """Frames `(height, width, 3)`, of any sizes, as `(frames, 3, height, width)` float32.

    Args:
        changed: steps of the processor that are to be done, or not, whatever its settings say.
    """
    prepared = processor(images=list(frames), input_data_format="channels_last", return_tensors="pt", **changed)
    pixels: torch.Tensor = prepared["pixel_values"]
    return pixels


def prepared_clips(processor: Any, clips: Sequence[NDArray[np.uint8]], *, sized: bool, **changed: bool) -> torch.Tensor:
    """Clips `(num_frames, height, width, 3)` as `(clips, num_frames, 3, height, width)` float32.

    Args:
        sized: they have been resized and cut already, see `clip_size`.
        changed: as for `prepared_frames`.
    """
    done = changed | ({"do_resize": False, "do_center_crop": False} if sized else {})
    channels_first = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]
    prepared = processor(videos=channels_first, do_sample_frames=False, return_tensors="pt", **done)
    pixels: torch.Tensor = prepared["pixel_values"]
    return pixels


def seen_frame(processor: Any, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame as `prepared_frames` resizes and cuts it, `(height, width, 3)`, its levels as they were."""
    return _levels(prepared_frames(processor, [frame], **_LEVELS_KEPT)[0])


def seen_clip(processor: Any, clip: NDArray[np.uint8], *, sized: bool) -> NDArray[np.uint8]:
    """A clip as `prepared_clips` resizes and cuts it, `(num_frames, height, width, 3)`, its levels as they were."""
    return _levels(prepared_clips(processor, [clip], sized=sized, **_LEVELS_KEPT)[0])


def prepared_sound(processor: Any, sounds: Sequence[NDArray[np.float32]]) -> dict[str, torch.Tensor]:
    """Sounds of one length, at the processor's rate, as the inputs of its model."""
    with _generator_kept():
        prepared = processor(list(sounds), sampling_rate=processor.sampling_rate, return_tensors="pt")
    inputs = {name: value for name, value in prepared.items() if isinstance(value, torch.Tensor)}
    if "is_longer" in inputs:
        # CLAP's extractor marks one sound of a batch at random where none is longer than the model's window. Windows
        # never are, and rows must not depend on chance.
        inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
    return inputs


def clip_size(processor: Any) -> FrameSize | None:
    """The size at which the pipeline can hand over the very frames that a video processor would make.

    Clips then hold no more pixels than the network sees, and frames are resized once for all windows. `None` where the
    processor does something that `FrameSize` does not say; it is then given whole frames.
    """
    size, crop = getattr(processor, "size", None) or {}, getattr(processor, "crop_size", None) or {}
    plain = (
        getattr(processor, "do_resize", False)
        and getattr(processor, "do_center_crop", False)
        and processor.resample == PILImageResampling.BILINEAR
    )
    short, height, width = size.get("shortest_edge"), crop.get("height"), crop.get("width")
    if not plain or not short or not height or height != width or height > short:
        return None
    return FrameSize(short, height, antialias=True)


def picture_settings(processor: Any) -> dict[str, JsonValue]:
    """How a processor prepares pictures, as far as it says so."""
    facts: dict[str, JsonValue] = {"processor": type(processor).__name__}
    if getattr(processor, "do_resize", False):
        filter_name = PILImageResampling(processor.resample).name.lower()
        facts["resize"] = f"{_sides(processor.size)}, {filter_name}, antialiased"
    if getattr(processor, "do_center_crop", False):
        facts["crop"] = f"centre {_sides(processor.crop_size)}"
    if getattr(processor, "do_rescale", False):
        facts["scale"] = f"times {processor.rescale_factor:.9g}"
    if getattr(processor, "do_normalize", False):
        mean, std = (", ".join(f"{v:.9g}" for v in values) for values in (processor.image_mean, processor.image_std))
        facts["normalisation"] = f"minus {mean}, over {std}"
    return facts


def _levels(pixels: torch.Tensor) -> NDArray[np.uint8]:
    # Filters of floats may overshoot.
    levels: NDArray[np.uint8] = pixels.movedim(-3, -1).round().clamp(0, 255).to(torch.uint8).numpy()
    return np.ascontiguousarray(levels)


def _sides(size: Any) -> str:
    named = {name: size[name] for name in ("shortest_edge", "longest_edge", "height", "width") if size.get(name)}
    return " ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items())


@contextlib.contextmanager
def _generator_kept() -> Iterator[None]:
    before = np.random.get_state()  # noqa: NPY002  (the one that extractors draw from)
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
