"""From what is said of frame rate, window and stride to the times of rows.

Two rules cover most published features (each layout says which is its own). On a *grid*, row k starts at `start + k *
stride`. With *frame numbers*, a row of a window of w frames belongs to a frame f and covers the frames from `f -
floor(w / 2)` on: one frame is itself, 21 frames lie around it, 64 begin 32 before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.timeline import Spans, TimeGrid
from vidloc.errors import OptionError, StoreError
from vidloc.stores.imports.base import ItemFacts

_LENGTH = re.compile(r"(-?\d{1,9}(?:\.\d{1,9})?(?:/\d{1,9})?)(s?)", re.ASCII)
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
    window: str = Field("", description="What one row covers, in frames (16) or seconds (0.96s).")
    stride: str = Field("", description="From the start of one row to that of the next, in frames (4) or seconds (1s).")
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
    window: str = Field("1", description="Frames that one row was made from, around the frame that it is filed under.")


@dataclass(frozen=True)
class Length:
    """A length in frames or seconds."""

    value: Fraction
    in_seconds: bool

    def seconds(self, fps: Fraction | None) -> Fraction:
        """In seconds; a length in frames needs the rate."""
        if self.in_seconds:
            return self.value
        if fps is None:
            raise ValueError("a length in frames needs a frame rate")
        return self.value / fps


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
        self._window = self._stride = self._start = Length(Fraction(0), in_seconds=True)
        if self._equal_parts:
            return
        for name in ("window", "stride"):
            if not getattr(options, name):
                raise OptionError(
                    f"layout {layout!r} does not say {_MEANINGS[name]}: add --{name}, in frames (16) or in seconds "
                    "(0.96s)."
                )
        self._window, self._stride = (_positive(getattr(options, name), name) for name in ("window", "stride"))
        self._start = parse_length(options.start, "start")
        in_frames = not all(length.in_seconds or not length.value for length in self._lengths)
        if in_frames and self._fps is None and not fps_by_item:
            raise OptionError(
                f"layout {layout!r} does not say how many frames a second has: add --fps, or --facts FILE.csv with the "
                "columns item_id,fps. With --window and --stride in seconds (0.64s) no rate is needed."
            )

    @property
    def _lengths(self) -> tuple[Length, Length, Length]:
        return self._window, self._stride, self._start

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
        if fps is None and not all(length.in_seconds or not length.value for length in self._lengths):
            raise StoreError("its frame rate is not known: give it in the column fps of --facts, or for all by --fps.")
        window, stride, start = (length.seconds(fps or Fraction(1)) for length in self._lengths)
        return TimeGrid(window, stride, start)


class FrameRule:
    """Times of rows that are filed under frame numbers.

    Raises:
        OptionError: an option that is needed is missing or malformed.
    """

    def __init__(self, options: FrameOptions, *, layout: str, fps_by_item: bool) -> None:
        self._fps = parse_fps(options.fps)
        self._first = options.first_frame
        window = _positive(options.window, "window")
        if window.in_seconds or window.value.denominator != 1:
            raise OptionError(f"--window of layout {layout!r} is a whole number of frames, got {options.window!r}.")
        self._window = int(window.value)
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
        fps = facts.fps or self._fps
        if fps is None:
            raise StoreError("its frame rate is not known: give it in the column fps of --facts, or for all by --fps.")
        starts = np.asarray(frames, dtype=np.int64) - self._first - self._window // 2
        bounds = np.stack([starts, starts + self._window], axis=1)
        return Spans((bounds * float(fps.denominator) / float(fps.numerator)).astype(np.float64))


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


def parse_length(text: str, name: str) -> Length:
    """A length in frames (`16`) or seconds (`0.96s`).

    Raises:
        OptionError: it is none.
    """
    match = _LENGTH.fullmatch(text.strip())
    try:
        value = Fraction(match[1]) if match else None
    except (ValueError, ZeroDivisionError):
        value = None
    if match is None or value is None:
        raise OptionError(f"--{name} takes frames (16) or seconds (0.96s), got {text!r}.")
    return Length(value, match[2] == "s")


def _positive(text: str, name: str) -> Length:
    length = parse_length(text, name)
    if length.value <= 0:
        raise OptionError(f"--{name} must be more than 0, got {text!r}.")
    return length
