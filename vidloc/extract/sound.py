"""One pass over the sound track that serves every audio encoder: each row's samples, as soon as the last one is known.

* Channels are averaged to mono, then resampled by soxr's stream resampler (quality HQ), block by block with bounded
  memory; the result equals that of resampling the whole track at once.
* The track keeps its true offset to the first video frame, to half an output sample; outside it there is silence.
* Sound is placed by its timestamps: where they run ahead of the samples decoded so far by more than 20 ms (a lost
  packet), silence is put in between; where they lag as much, the overlap is left out. Smaller differences are rounding
  of the container. A hole of more than 10 minutes ends the pass and is damage.
* A file without a picture track has its time from the sound: second 0 is the first sample, the duration is the track's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from vidloc.core.timeline import TimeGrid
from vidloc.core.windows import ListedWindows, Windows
from vidloc.errors import MediaError
from vidloc.extract.base import AudioInput, Sample
from vidloc.extract.media import TrackDecoder, audio_track, open_media

SoundRows = Windows | ListedWindows
AudioWants = Mapping[str, tuple[AudioInput, TimeGrid | SoundRows]]
Wave = NDArray[np.float32]

_SLIP_S = Fraction(1, 50)
_MAX_HOLE_S = Fraction(600)
_NO_TIMES: NDArray[np.float64] = np.empty(0)


@dataclass(frozen=True)
class AudioReport:
    """What one pass over a sound track found.

    Attributes:
        duration_s: end of the item: that of the picture where there is one, else of the sound.
        origin_s: time in the file that counts as second 0.
        extent_s: start and end of the track, counted from there.
        sample_rate_hz: native rate.
        num_samples: samples at the native rate, silence in holes included.
        damage: what could not be read or decoded, in a sentence; `None` for a sound file.
    """

    duration_s: Fraction
    origin_s: Fraction
    extent_s: tuple[Fraction, Fraction]
    sample_rate_hz: int
    num_samples: int
    damage: str | None


class AudioPass:
    """Iterates once over a file's sound track and yields `(stream, row, sample)`, rows of a stream in order.

    Args:
        path: the file.
        wants: per stream what each sample must be, and the windows of its rows (of a grid, all centred before the end).
        origin_s: presentation time of the first video frame, from `VideoReport`; `None` without a picture track.
        duration_s: duration of the video, which decides the rows; `None` likewise.

    Raises (while iterating):
        MediaError: the file has no sound track, or nothing of it can be decoded.
    """

    def __init__(
        self,
        path: str | Path,
        wants: AudioWants,
        *,
        origin_s: Fraction | None = None,
        duration_s: Fraction | None = None,
    ) -> None:
        self._path = path
        self._wants = {
            name: (want, Windows(rows) if isinstance(rows, TimeGrid) else rows) for name, (want, rows) in wants.items()
        }
        self._origin_s = origin_s
        self._duration_s = duration_s
        self._waves: list[_Resampled] = []
        self._report: AudioReport | None = None

    @property
    def prepare_s(self) -> float:
        """Seconds spent so far on resampling."""
        return sum(wave.spent_s for wave in self._waves)

    @property
    def report(self) -> AudioReport:
        """What the pass found; known once all samples were taken."""
        if self._report is None:
            raise RuntimeError(f"the pass over {self._path} has not ended; take all of its samples first")
        return self._report

    def __iter__(self) -> Iterator[tuple[str, int, Sample]]:
        with open_media(self._path) as container:
            track = audio_track(container)
            if track is None:
                raise MediaError(f"{self._path} has no sound track.")
            blocks = _MonoBlocks(container, track)
            waves: list[_Resampled] = []
            for block in blocks:
                waves = self._waves = waves or self._resamplers(blocks)
                for wave in waves:
                    wave.append(block)
                    yield from wave.full_rows(self._duration_s)
            if not waves:
                reasons = "; ".join(blocks.decoder.failures()) or "the track is empty"
                raise MediaError(f"{self._path} has a sound track, but nothing of it can be decoded: {reasons}.")
            report = self._reported(blocks)
            for wave in waves:
                wave.end()
                yield from wave.rows_left(report.duration_s)
            self._report = report

    def _resamplers(self, blocks: _MonoBlocks) -> list[_Resampled]:
        offset_s = Fraction(0) if self._origin_s is None else blocks.start_s - self._origin_s
        rates = sorted({want.sample_rate_hz for want, _ in self._wants.values()})
        return [
            _Resampled(
                {name: wanted for name, wanted in self._wants.items() if wanted[0].sample_rate_hz == rate},
                native_hz=blocks.rate_hz,
                rate_hz=rate,
                offset_s=offset_s,
            )
            for rate in rates
        ]

    def _reported(self, blocks: _MonoBlocks) -> AudioReport:
        length = Fraction(blocks.num_samples, blocks.rate_hz)
        origin = blocks.start_s if self._origin_s is None else self._origin_s
        start = blocks.start_s - origin
        return AudioReport(
            duration_s=start + length if self._duration_s is None else self._duration_s,
            origin_s=origin,
            extent_s=(start, start + length),
            sample_rate_hz=blocks.rate_hz,
            num_samples=blocks.num_samples,
            damage=blocks.damage(),
        )


class _MonoBlocks:
    """The sound track as mono float32 blocks without holes, at its native rate.

    `start_s` and `rate_hz` are known with the first block.
    """

    def __init__(self, container: Any, track: Any) -> None:
        self.decoder: TrackDecoder[Any] = TrackDecoder(container, track)
        self.start_s = Fraction(0)
        self.rate_hz = 0
        self.num_samples = 0
        # Of the track, not of its frames: those that come out when a decoder is emptied have none.
        self._base: Fraction = track.time_base
        self._break: str | None = None

    def __iter__(self) -> Iterator[Wave]:
        for frame in self.decoder:
            if not frame.samples:
                continue
            if not self.rate_hz:
                self.rate_hz = frame.sample_rate
                self.start_s = Fraction(0) if frame.pts is None else frame.pts * self._base
            block = self._placed(frame)
            if block is None:
                return
            self.num_samples += len(block)
            yield block

    def damage(self) -> str | None:
        """A sentence about what could not be read or decoded."""
        said = self.decoder.failures()
        if self._break:
            said.append(self._break)
        return "; ".join(said) or None

    def _placed(self, frame: Any) -> Wave | None:
        """The frame's samples, after silence for a hole before them; `None` where the pass must end."""
        reached_s = self.start_s + Fraction(self.num_samples, self.rate_hz)
        slip_s = Fraction(0) if frame.pts is None else frame.pts * self._base - reached_s
        if frame.sample_rate != self.rate_hz:
            self._break = f"the sample rate changes from {self.rate_hz} to {frame.sample_rate} Hz"
        elif slip_s > _MAX_HOLE_S:
            self._break = f"there is a hole of {float(slip_s):.0f} s"
        if self._break:
            self._break += f" at {float(reached_s - self.start_s):.2f} s of the sound, and what follows was left out"
            return None
        block = _mono(frame)
        if abs(slip_s) <= _SLIP_S:
            return block
        samples = round(slip_s * self.rate_hz)
        return np.concatenate([np.zeros(samples, np.float32), block]) if samples > 0 else block[-samples:]


class _Resampled:
    """The track at one rate, as far as rows still need it, and the rows that wait for it."""

    def __init__(
        self, wants: Mapping[str, tuple[AudioInput, SoundRows]], *, native_hz: int, rate_hz: int, offset_s: Fraction
    ) -> None:
        self.spent_s = 0.0  # in the resampler
        self._rate = rate_hz
        self._offset_s = offset_s
        self._soxr = None if native_hz == rate_hz else soxr.ResampleStream(native_hz, rate_hz, 1, quality="HQ")
        self._kept: Wave = np.empty(0, np.float32)
        self._first = 0  # position of the first kept sample on the track
        self._ended = False
        self._wants = dict(wants)
        self._next_row = dict.fromkeys(self._wants, 0)

    def append(self, block: Wave) -> None:
        """Take the next block of the track."""
        begun = time.perf_counter()
        if self._soxr is not None:
            block = self._soxr.resample_chunk(block)
        self.spent_s += time.perf_counter() - begun
        self._forget()
        self._kept = np.concatenate([self._kept, block])

    def end(self) -> None:
        """Nothing follows: what the resampler still holds comes out."""
        if self._soxr is not None:
            self._kept = np.concatenate([self._kept, self._soxr.resample_chunk(np.empty(0, np.float32), last=True)])

    def full_rows(self, duration_s: Fraction | None) -> Iterator[tuple[str, int, Sample]]:
        """Rows whose last sample has come, as far as a known duration has room for them."""
        reached = self._first + len(self._kept)
        for name, (want, windows) in self._wants.items():
            num_rows = _known_number(windows, duration_s)
            while num_rows is None or self._next_row[name] < num_rows:
                span = windows.span(self._next_row[name], duration_s)
                if self._start(want, span) + want.num_samples > reached:
                    break
                yield self._next_sample(name, want, span)

    def rows_left(self, duration_s: Fraction) -> Iterator[tuple[str, int, Sample]]:
        """All other rows that the duration has room for."""
        for name, (want, windows) in self._wants.items():
            for row in range(self._next_row[name], windows.num_rows(duration_s)):
                yield self._next_sample(name, want, windows.span(row, duration_s))

    def _next_sample(self, name: str, want: AudioInput, span: tuple[Fraction, Fraction]) -> tuple[str, int, Sample]:
        row = self._next_row[name]
        self._next_row[name] += 1
        start = self._start(want, span) - self._first
        data = np.zeros(want.num_samples, np.float32)
        inside = self._kept[max(start, 0) : max(start + want.num_samples, 0)]
        place = max(-start, 0)
        data[place : place + len(inside)] = inside
        return name, row, Sample(span, data, _NO_TIMES)

    def _start(self, want: AudioInput, span: tuple[Fraction, Fraction]) -> int:
        """Position on the track of a row's first sample: as many lie before its centre as after it."""
        center = ((span[0] + span[1]) / 2 - self._offset_s) * self._rate
        return math.floor(center - Fraction(want.num_samples, 2) + Fraction(1, 2))

    def _forget(self) -> None:
        """Drop what no row needs any more, in large steps: each one moves all that is kept."""
        needed = min(self._first_needed(name, want, windows) for name, (want, windows) in self._wants.items())
        done = min(needed - self._first, len(self._kept))
        if done > max(self._rate, len(self._kept) // 2):
            self._kept = self._kept[done:]
            self._first += done

    def _first_needed(self, name: str, want: AudioInput, windows: SoundRows) -> int:
        row = self._next_row[name]
        if isinstance(windows, ListedWindows):
            if row == len(windows.spans):
                return self._first + len(self._kept)
        elif windows.tail == "backpad":
            # A last row that is moved back begins after the row before it, and where it ends is not known yet.
            row = max(row - 1, 0)
        return self._start(want, windows.span(row))


def _known_number(windows: SoundRows, duration_s: Fraction | None) -> int | None:
    """How many rows there are, `None` while that depends on an end that is not known."""
    if isinstance(windows, ListedWindows):
        return len(windows.spans)
    return None if duration_s is None else windows.num_rows(duration_s)


def _mono(frame: Any) -> Wave:
    """Mean over the channels of a decoded frame, full scale at 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples / np.float32(-float(np.iinfo(samples.dtype).min))
    mean: Wave = samples.astype(np.float32, copy=False).mean(axis=0)
    return mean
