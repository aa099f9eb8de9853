"""From what is said of frame rate, window and stride to the times of rows.

Two rules cover most published features (each layout says which is its own). On a *grid*, row k starts at `start + k *
stride`. With *frame numbers*, a row of a window of w frames belongs to a frame f and covers the frames from `f -
floor(w / 2)` on: one frame is itself, 21 frames lie around it, 64 begin 32 before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.lengths import Length, read_length
from vidloc.core.options import Options
from vidloc.core.timeline import Spans, TimeGrid
from vidloc.errors import OptionError, StoreError
from vidloc.stores.imports.base import ItemFacts

_RATE = re.compile(r"\d{1,9}(?:\.\d{1,9}|/\d{1,9})?", re.ASCII)
_MAX_DENOMINATOR = 10**6

_FPS = Field(
    "",
    description="Frames per second of the frames that rows were made from (25, 29.97, 30000/1001); a column fps of "
    "--facts says it per item.",
)


class GridOptions(Options):
    """How rows follow each other in time."""

    fps: str = _FPS
    window: str = Field("", description="What one row covers, in frames (16f) or seconds (0.96s).")
    stride: str = Field(
        "", description="From the start of one row to that of the next, in frames (4f) or seconds (1s)."
    )
    start: str = Field("0", description="Start of the first row, in frames or seconds; may be negative.")
    equal_parts: bool = Field(
        default=False,
        description="Rows divide the item's duration (column duration_s of --facts) into equal parts: features of a "
        "fixed number of rows per video. Replaces window and stride.",
    )


class FrameOptions(Options):
    """How frame numbers become seconds."""

    fps: str = _FPS
    first_frame: int = Field(1, ge=0, le=1, description="Number of a video's first frame in these files: 0 or 1.")
    window: str = Field("1f", description="Frames that one row was made from, around the frame that it is filed under.")


class GridRule:
    """Times of rows that follow each other evenly.

    Args:
        options: as given.
        layout: name of the layout, for messages.
        fps_by_item: whether `--facts` or the files state rates of their own.

    Raises:
        OptionError: an option that is needed is missing or malformed.
    """

    def __init__(self, options: GridOptions, *, layout: str, fps_by_item: bool) -> None:
        self._fps = parse_fps(options.fps)
        self._equal_parts = options.equal_parts
        self._window = self._stride = self._start = Length(Fraction(0))
        if self._equal_parts:
            return
        for name in ("window", "stride"):
            if not getattr(options, name):
                raise OptionError(
                    f"layout {layout!r} does not say {_MEANINGS[name]}: add --{name}, in frames (16f) or in seconds "
                    "(0.96s)."
                )
        self._window, self._stride = (_positive(getattr(options, name), name) for name in ("window", "stride"))
        self._start = parse_length(options.start, "start")
        in_frames = any(length.in_frames for length in (self._window, self._stride, self._start))
        if in_frames and self._fps is None and not fps_by_item:
            raise OptionError(
                f"layout {layout!r} does not say how many frames a second has: add --fps, or --facts FILE.csv with the "
                "columns item_id,fps. With --window and --stride in seconds (0.64s) no rate is needed."
            )

    def grid(self, num_rows: int, facts: ItemFacts) -> TimeGrid:
        """The grid of one item.

        Raises:
            StoreError: its rate or its duration is not known; the option that states it is named.
        """
        if self._equal_parts:
            if not facts.duration_s:
                raise StoreError("its duration is not known: give it in a column duration_s of --facts.")
            part = (Fraction(facts.duration_s) / num_rows).limit_denominator(_MAX_DENOMINATOR)
            return TimeGrid(part, part)
        fps = facts.fps or self._fps
        window, stride, start = (_seconds(length, fps) for length in (self._window, self._stride, self._start))
        return TimeGrid(window, stride, start)


class FrameRule:
    """Times of rows that are filed under frame numbers.

    Raises:
        OptionError: an option that is needed is missing or malformed.
    """

    def __init__(self, options: FrameOptions, *, layout: str, fps_by_item: bool) -> None:
        self._fps = parse_fps(options.fps)
        self._first = options.first_frame
        self._window = frames_of(options.window, layout=layout)
        if self._fps is None and not fps_by_item:
            raise OptionError(
                f"layout {layout!r} files rows under frame numbers: add --fps, the rate at which frames were numbered, "
                "or --facts FILE.csv with the columns item_id,fps."
            )

    def spans(self, frames: Sequence[int] | NDArray[np.int64], facts: ItemFacts) -> Spans:
        """Span of each row.

        Raises:
            StoreError: the item's rate is not known.
        """
        starts = np.asarray(frames, dtype=np.int64) - self._first - self._window // 2
        bounds = np.stack([starts, starts + self._window], axis=1)
        gap = _seconds(Length(Fraction(1), in_frames=True), facts.fps or self._fps)
        return Spans((bounds * float(gap.numerator) / float(gap.denominator)).astype(np.float64))


_MEANINGS = {"window": "how much time one row covers", "stride": "how far rows are apart"}


def parse_fps(text: str) -> Fraction | None:
    """A frame rate, `None` for an empty text.

    Raises:
        OptionError: it is none.
    """
    if not text:
        return None
    try:
        rate = Fraction(text) if _RATE.fullmatch(text) else Fraction(0)
    except ZeroDivisionError:
        rate = Fraction(0)
    if rate <= 0:
        raise OptionError(f"--fps takes frames per second, such as 25, 29.97 or 30000/1001; got {text!r}.")
    return rate


def frames_of(window: str, *, layout: str) -> int:
    """The window of a layout that counts in frames.

    Raises:
        OptionError: it is no whole number of frames above 0.
    """
    length = _positive(window, "window")
    if not length.in_frames or length.value.denominator != 1:
        raise OptionError(f"--window of layout {layout!r} is a whole number of frames (64f), got {window!r}.")
    return int(length.value)


def parse_length(text: str, name: str) -> Length:
    """A length in frames (`16f`) or seconds (`0.96s`). A bare number could be meant as either, and is not taken.

    Raises:
        OptionError: it is none.
    """
    stripped = text.strip()
    try:
        length = read_length(stripped)
    except ValueError:
        length = None
    if length is None or (length.value and not stripped.endswith(("f", "s"))):
        raise OptionError(f"--{name} takes frames (16f) or seconds (0.96s), got {text!r}; the unit is part of it.")
    return length


def _positive(text: str, name: str) -> Length:
    length = parse_length(text, name)
    if length.value <= 0:
        raise OptionError(f"--{name} must be more than 0, got {text!r}.")
    return length


def _seconds(length: Length, fps: Fraction | None) -> Fraction:
    if not length.in_frames:
        return length.value
    if fps is None:
        raise StoreError("its frame rate is not known: give it in the column fps of --facts, or for all by --fps.")
    return length.value / fps
