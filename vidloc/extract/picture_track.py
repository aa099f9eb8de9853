"""Numbered pictures as a picture track: what `VideoPass` reads frames from where there is no video file.

* Picture n is shown from (n - 1) / fps until the next one's time; in a series that has a number 0, from n / fps.
* A number that is missing shifts nothing: its predecessor stays on screen, and the track is damaged. So it is where a
  picture cannot be decoded.
* The track ends one frame after its last number. Where the corpus states a duration that differs by more than 1 s and
  1 %, the rate is not what it was said to be or pictures are missing, and the track is damaged.
* Pixels are those of Pillow: 8-bit RGB, gray as three equal channels, an alpha channel dropped, the orientation that a
  camera noted applied.
* Of released flow, a frame is the two grey pictures of one number: red is horizontal, green vertical, blue empty.
"""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image, ImageOps

from vidloc.core.numbered_pictures import FrameRate
from vidloc.extract.media import one_line, rate_text
from vidloc.extract.picture_files import PictureFile, PictureFiles
from vidloc.extract.pictures import Picture

_MAX_GAP_S = 600
_MOST_THREADS = 8
# 8K (7680 x 4320) just fits; several are decoded at a time.
_MAX_PIXELS = 1 << 25
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# Ranges of missing numbers that a sentence lists.
_MOST_LISTED = 5


class PictureTrack:
    """Iterates once over the pictures that can be decoded, each with its tick: frames from second 0.

    Args:
        threads: that decode pictures ahead; 0 is one per core, at most eight.

    Attributes:
        time_base: seconds per tick.
        num_frames: pictures decoded so far.
        origin_s, fps_nominal, variable_rate: as in `VideoReport`.
    """

    origin_s = Fraction(0)
    variable_rate = False

    def __init__(self, files: PictureFiles, rate: FrameRate, *, threads: int = 0) -> None:
        self.time_base = 1 / rate.fps
        self.fps_nominal = rate_text(rate.fps)
        self.num_frames = 0
        self._files = files
        self._rate = rate
        self._threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
        self._max_gap = math.floor(_MAX_GAP_S * rate.fps)
        self._end = 0
        self._num_failed = 0
        self._first_failure = ""
        self._num_missing = 0
        self._missing: list[tuple[int, int]] = []
        self._jump: str | None = None

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        waiting: deque[tuple[PictureFile, int, Future[Picture]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            for file, tick in self._in_time():
                waiting.append((file, tick, self._begun(file, pool)))
                if len(waiting) > self._threads:
                    yield from self._finished(*waiting.popleft())
            while waiting:
                yield from self._finished(*waiting.popleft())

    def end_tick(self) -> int:
        """Tick at which the last frame ends."""
        return self._end

    def failures(self) -> list[str]:
        """Sentences about what could not be read or decoded."""
        said = []
        if self._num_failed:
            said.append(
                f"{self._num_failed} of {self._num_failed + self.num_frames} pictures could not be decoded "
                f"(first: {self._first_failure})"
            )
        return [*said, *(text for text in (self._files.cut_off, self._jump) if text)]

    def damage(self, duration_s: Fraction) -> str | None:
        """A sentence about what is missing, could not be decoded, or contradicts the corpus."""
        said = self.failures()
        if self._num_missing:
            ranges = [f"{a}" if a == b else f"{a}-{b}" for a, b in self._missing]
            more = ", ..." if self._num_missing > sum(b - a + 1 for a, b in self._missing) else ""
            said.insert(0, f"{self._num_missing} frames are missing: number {', '.join(ranges)}{more}")
        stated_s = self._rate.duration_s
        if stated_s is not None and abs(float(duration_s) - stated_s) > max(1.0, stated_s / 100):
            said.append(
                f"the annotations state a duration of {stated_s:.2f} s, but {self._end} frames at "
                f"{float(self._rate.fps):g} fps last {float(duration_s):.2f} s: frames are missing or too many, or "
                "their rate is another"
            )
        return "; ".join(said) or None

    def _in_time(self) -> Iterator[tuple[PictureFile, int]]:
        """Pictures with their ticks, until the numbers jump; what is missing between them is noted."""
        first = None
        for file in self._files:
            first = min(file.number, 1) if first is None else first
            tick = file.number - first
            if tick - self._end > self._max_gap:
                self._jump = (
                    f"the numbers jump from {self._end + first - 1} to {file.number}, by more than "
                    f"{_MAX_GAP_S // 60} minutes, and what follows was left out"
                )
                return
            self._miss(self._end + first, file.number - 1)
            self._end = tick + 1
            yield file, tick

    def _begun(self, file: PictureFile, pool: ThreadPoolExecutor) -> Future[Picture]:
        """A picture being decoded; files are read here, since an archive has but one place to read from."""
        try:
            contents = file.read()
        except OSError as error:
            unread: Future[Picture] = Future()
            unread.set_exception(error)
            return unread
        return pool.submit(_decoded, contents)

    def _finished(self, file: PictureFile, tick: int, decoding: Future[Picture]) -> Iterator[tuple[int, Any]]:
        try:
            picture = decoding.result()
        except Exception as error:  # noqa: BLE001  (whatever Pillow makes of broken bytes costs this picture alone)
            self._num_failed += 1
            self._first_failure = self._first_failure or f"number {file.number}, {one_line(error)}"
            return
        self.num_frames += 1
        yield tick, av.VideoFrame.from_ndarray(picture, format="rgb24")

    def _miss(self, first: int, last: int) -> None:
        if last < first:
            return
        self._num_missing += last - first + 1
        if len(self._missing) < _MOST_LISTED:
            self._missing.append((first, last))


def _decoded(contents: tuple[bytes, ...]) -> Picture:
    return _rgb(*contents) if len(contents) == 1 else _motion(*contents)


def _rgb(content: bytes) -> Picture:
    with _opened(content) as image:
        if image.mode not in _MODES:
            raise ValueError(f"its samples are not of 8 bits (mode {image.mode})")
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _motion(horizontal: bytes, vertical: bytes) -> Picture:
    right, down = _levels(horizontal), _levels(vertical)
    if right.shape != down.shape:
        sizes = (f"{levels.shape[1]}x{levels.shape[0]}" for levels in (right, down))
        raise ValueError(f"its two pictures differ in size ({' and '.join(sizes)})")
    return np.stack([right, down, np.zeros_like(right)], axis=-1)


def _levels(content: bytes) -> Picture:
    with _opened(content) as image:
        if image.mode != "L":
            raise ValueError(f"a picture of flow is grey, of 8 bits; this is none (mode {image.mode})")
        return np.array(image)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than a frame may have ({_MAX_PIXELS:,})")
        yield image
