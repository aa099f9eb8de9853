"""What a row looks like: frames with their times and boxes, spectrograms, optical flow and waveforms as pictures.

Pixels of frames are those that the network is fed; smaller ones are means over squares of whole pixels. Numbers that
are no pixels share one scale over all rows of a sheet, which the legend states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import flow_to_image

from vidloc.errors import OptionError
from vidloc.extract.base import Spectrogram
from vidloc.pipelines.previews.rows import Box, ShownRow

Picture = NDArray[np.uint8]
Ticks = Mapping[float, str]

_PLOT_WIDTH, _PLOT_HEIGHT = 300, 200  # that spectrograms are enlarged to at most, and waveforms drawn in
_LEFT, _RIGHT, _BOTTOM, _TOP = 56, 16, 22, 6  # of a plot, for its ticks
_TICK_STEPS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_MOST_TICKS = 6
_WHEEL_PX = 64
# Told apart on light and dark ground; white letters can be read on each.
_COLOURS = ("#c62828", "#1565c0", "#2e7d32", "#6a1b9a", "#bf5000", "#00707c", "#ad1457", "#5d4037")


@cache
def small_font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font of captions, labels and ticks."""
    return ImageFont.load_default(12)


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture `(height, width, 3)` and the words below it."""

    picture: Picture
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Drawn:
    """All rows of a sheet, a list of panels each, and what their colours mean."""

    panels: list[list[Panel]]
    legend: str = ""


def draw_rows(rows: Sequence[ShownRow], *, shrink: int) -> Drawn:
    """Pictures of rows of one stream; sentences have none.

    Args:
        shrink: whole number that sides of frames are divided by.

    Raises:
        OptionError: the encoder's `as_seen` returns something that has no picture.
    """
    seen = [row.seen for row in rows]
    if all(isinstance(one, str) for one in seen):
        return Drawn([[] for _ in rows])
    if all(isinstance(one, Spectrogram) for one in seen):
        return _spectrograms(rows)
    kinds = {(one.dtype.kind, one.ndim) for one in seen if isinstance(one, np.ndarray)}
    if kinds and kinds <= {("u", 3), ("u", 4)}:
        labels = dict.fromkeys(box.label for row in rows for box in row.boxes)
        colours = {label: _COLOURS[k % len(_COLOURS)] for k, label in enumerate(labels)}
        return Drawn([_frames(row, shrink, colours) for row in rows])
    if kinds == {("f", 4)}:
        return _flows(rows, shrink)
    if kinds == {("f", 1)}:
        return _waveforms(rows)
    found = sorted({f"{type(one).__name__} {getattr(one, 'dtype', '')}{getattr(one, 'shape', '')}" for one in seen})
    raise OptionError(
        f"a preview cannot draw {', '.join(found)}. The encoder's method 'as_seen' returns uint8 pictures, float flows "
        "(n, height, width, 2), a waveform (num_samples,), a Spectrogram, or a sentence."
    )


def _frames(row: ShownRow, shrink: int, colours: Mapping[str, str]) -> list[Panel]:
    pictures = np.asarray(row.seen)
    pictures = pictures.reshape(-1, *pictures.shape[-3:])
    times = row.sample.pts_s
    captions = [f"{time:.3f} s" for time in times] if len(times) == len(pictures) else [""] * len(pictures)
    panels = [Panel(_smaller(p, shrink), caption) for p, caption in zip(pictures, captions, strict=True)]
    if row.boxes:
        # Regions of a clip are those of its middle.
        start, end = row.sample.span
        known = len(times) == len(pictures)
        at = int(np.abs(times - float(start + end) / 2).argmin()) if known else len(pictures) // 2
        panels[at] = Panel(_with_boxes(panels[at].picture, row.boxes, colours), panels[at].caption)
    return panels


def _smaller(picture: Picture, shrink: int) -> Picture:
    return picture if shrink == 1 else np.asarray(Image.fromarray(picture).reduce(shrink))


def _with_boxes(picture: Picture, boxes: Sequence[Box], colours: Mapping[str, str]) -> Picture:
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    placed: list[tuple[int, int, int, int]] = []
    for box in reversed(boxes):  # the best one last, on top
        x1, y1, x2, y2 = (round(c * n) for c, n in zip(box.corners, image.size * 2, strict=True))
        # Corners are half-open; a box thinner than a pixel still shows.
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colours[box.label], width=2)
    for box in boxes:
        text = f"{box.label} {box.score:.2f}"
        place = _free_place(box, image.size, math.ceil(draw.textlength(text, small_font())) + 6, placed)
        placed.append(place)
        draw.rectangle(place, fill=colours[box.label])
        draw.text((place[0] + 3, place[1] + 1), text, fill="white", font=small_font())
    return np.asarray(image)


def _free_place(
    box: Box, size: tuple[int, int], width: int, taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """Where a label does not cover another one: in the box's upper left corner, or as little below it as will do."""
    height = 16
    x = max(min(round(box.corners[0] * size[0]), size[0] - width), 0)
    top = max(min(round(box.corners[1] * size[1]), size[1] - height), 0)
    for y in (*range(top, size[1] - height + 1, 4), *range(top, -1, -4)):
        place = (x, y, x + width - 1, y + height - 1)
        if not any(place[0] <= t[2] and t[0] <= place[2] and place[1] <= t[3] and t[1] <= place[3] for t in taken):
            return place
    return (x, top, x + width - 1, top + height - 1)


def _flows(rows: Sequence[ShownRow], shrink: int) -> Drawn:
    flows = [torch.from_numpy(np.asarray(row.seen, dtype=np.float32)).permute(0, 3, 1, 2) for row in rows]
    strongest = float(torch.cat(flows).norm(dim=1).max())
    # All rows at once: torchvision scales by the strongest motion of what it is given.
    pictures = iter(flow_to_image(torch.cat(flows)).permute(0, 2, 3, 1).numpy())
    panels = []
    for row, flow in zip(rows, flows, strict=True):
        times = row.sample.pts_s
        known = len(times) > len(flow)
        captions = [f"{times[k]:.3f} - {times[k + 1]:.3f} s" if known else "" for k in range(len(flow))]
        of_row = [Panel(_smaller(np.ascontiguousarray(next(pictures)), shrink), caption) for caption in captions]
        panels.append([*of_row, Panel(_wheel(), "direction")])
    return Drawn(
        panels,
        f"colours are the direction of motion (see the wheel), white is rest; the strongest is {strongest:.2f} pixels "
        "from frame to frame",
    )


def _wheel() -> Picture:
    steps = np.linspace(-1.0, 1.0, _WHEEL_PX, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    inside = np.hypot(x, y) <= 1
    vectors = torch.from_numpy(np.stack([x, y]) * inside)
    wheel: Picture = np.ascontiguousarray(flow_to_image(vectors).permute(1, 2, 0).numpy())
    return wheel


def _spectrograms(rows: Sequence[ShownRow]) -> Drawn:
    grams = [row.seen for row in rows if isinstance(row.seen, Spectrogram)]
    low = min(float(gram.values.min()) for gram in grams)
    high = max(float(gram.values.max()) for gram in grams)
    panels = []
    for row, gram in zip(rows, grams, strict=True):
        num_frames, num_bands = gram.values.shape
        zoom = (max(1, _PLOT_HEIGHT // num_bands), max(1, _PLOT_WIDTH // num_frames))
        gray = np.round(255 * (gram.values.T[::-1] - low) / max(high - low, 1e-9)).astype(np.uint8)
        picture = np.repeat(np.repeat(gray, zoom[0], axis=0), zoom[1], axis=1)
        seconds = _seconds_ticks(float(row.sample.span[0]), num_frames * gram.step_s, picture.shape[1])
        panels.append([Panel(_with_axes(picture, seconds, _hertz_ticks(gram.band_hz, zoom[0])))])
    return Drawn(
        panels, f"{grams[0].meaning}, over seconds and Hz; black is {low:.2f}, white {high:.2f}, in all rows alike"
    )


def _waveforms(rows: Sequence[ShownRow]) -> Drawn:
    sounds = [np.asarray(row.seen) for row in rows]
    peak = max(float(np.abs(sound).max(initial=0.0)) for sound in sounds)
    height = _PLOT_HEIGHT // 2
    panels = []
    for row, sound in zip(rows, sounds, strict=True):
        columns = np.array_split(sound, min(_PLOT_WIDTH, max(len(sound), 1)))
        picture = np.full((height, len(columns)), 255, dtype=np.uint8)
        for x, part in enumerate(columns):
            ends = (part.max(initial=0.0), part.min(initial=0.0))
            top, bottom = (round((1 - end / (peak or 1.0)) / 2 * (height - 1)) for end in ends)
            picture[top : bottom + 1, x] = 60
        start, end = row.sample.span
        seconds = _seconds_ticks(float(start), float(end - start), len(columns))
        panels.append(
            [Panel(_with_axes(picture, seconds, {0: f"{peak:.2g}", height / 2: "0", height: f"{-peak:.2g}"}))]
        )
    return Drawn(panels, "waveform over seconds, in all rows to one scale")


def _seconds_ticks(start_s: float, length_s: float, width: int) -> dict[float, str]:
    """Round seconds of the item, by their place in pixels."""
    step = next((s for s in _TICK_STEPS_S if length_s / s <= _MOST_TICKS), length_s)
    first, stop = math.ceil(start_s / step), math.floor((start_s + length_s) / step) + 1
    digits = max(0, -math.floor(math.log10(step)))
    return {(k * step - start_s) / length_s * width: f"{k * step:.{digits}f}" for k in range(first, stop)}


def _hertz_ticks(band_hz: NDArray[np.float64], zoom: int) -> dict[float, str]:
    """Octaves of 250 Hz, by their place in pixels from the top."""
    octaves = [250 * 2**k for k in range(8) if band_hz[0] <= 250 * 2**k <= band_hz[-1]]
    bands = np.interp(octaves, band_hz, np.arange(len(band_hz)))
    return {(len(band_hz) - 0.5 - band) * zoom: f"{hz} Hz" for hz, band in zip(octaves, bands, strict=True)}


def _with_axes(gray: Picture, below: Ticks, left: Ticks) -> Picture:
    height, width = gray.shape
    image = Image.new("RGB", (_LEFT + width + _RIGHT, _TOP + height + _BOTTOM), "white")
    image.paste(Image.fromarray(gray), (_LEFT, _TOP))
    draw = ImageDraw.Draw(image)
    for x, text in below.items():
        draw.line((_LEFT + x, _TOP + height, _LEFT + x, _TOP + height + 4), fill="black")
        draw.text((_LEFT + x, _TOP + height + 7), text, fill="black", font=small_font(), anchor="mt")
    for y, text in left.items():
        draw.line((_LEFT - 3, _TOP + y, _LEFT - 1, _TOP + y), fill="black")
        draw.text((_LEFT - 5, _TOP + y), text, fill="black", font=small_font(), anchor="rm")
    return np.asarray(image)
