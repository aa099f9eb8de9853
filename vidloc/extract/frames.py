"""One pass over the picture track that serves every encoder: each row's frames, as soon as the last one is known.

The track is that of a video file, or numbered pictures that stand for one (`vidloc.extract.picture_track`).

Which frame a row's cell shows follows `vidloc.core.timeline.frames_at_cells`: the one with the largest presentation
time strictly before the cell's midpoint. Here the rule is applied while decoding: when a frame arrives, its predecessor
is known to be on screen until then, and goes to every cell whose midpoint lies after the predecessor's time and not
after the new one's. Comparisons are between integers (ticks of the track's time base), hence exact.

Rules for times:

* Second 0 is the presentation time of a file's first frame. The last frame lasts for its stated duration, else the
  median gap, else one frame at the stated rate, else until the stated end of the file.
* Decoders give frames in display order. Where their times are not (AVI files with B-frames store none that are), the
  times are put in order and the frames keep theirs.
* A frame without a time comes one frame duration after its predecessor; one at or slightly before its predecessor's
  time replaces it. A jump of more than 1 s back or 10 minutes ahead ends the pass and is damage: no time is invented.
* Rows are those whose centre lies before the end of the last frame, at least one; where they are planned, those of
  the plan, as far as they would have been planned for what decodes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vidloc.core.numbered_pictures import FrameRate
from vidloc.core.timeline import TimeGrid
from vidloc.core.windows import ListedWindows, Windows
from vidloc.errors import MediaError
from vidloc.extract.base import ClipInput, FlowInput, FrameInput, Sample, Steps
from vidloc.extract.media import TrackDecoder, open_media, rate_text, video_track
from vidloc.extract.picture_files import open_pictures
from vidloc.extract.picture_track import PictureTrack
from vidloc.extract.pictures import Picture, PictureMaker, Shown
from vidloc.extract.track_times import Gaps


@dataclass(frozen=True)
class PlannedRows:
    """Rows that depend on where a video ends, laid out before it is decoded.

    Attributes:
        windows: where they lie.
        duration_s: how long the video is, by its packets (`vidloc.extract.track_times`).
    """

    windows: Windows
    duration_s: Fraction

    def __len__(self) -> int:
        return self.windows.num_rows(self.duration_s)

    def span(self, row: int) -> tuple[Fraction, Fraction]:
        """Exact start and end of one row's window."""
        return self.windows.span(row, self.duration_s)


PictureRows = TimeGrid | PlannedRows | ListedWindows
VideoWants = Mapping[str, tuple[ClipInput | FrameInput, PictureRows]]

_MAX_STEP_BACK_S = Fraction(1)
_MAX_GAP_S = Fraction(600)


@dataclass(frozen=True)
class VideoReport:
    """What one pass over a picture track found.

    Attributes:
        duration_s: end of the last frame, counted from the first.
        origin_s: presentation time of the first frame in the file.
        fps_nominal: stated frame rate as "num/den".
        fps_measured: frames decoded by duration; `None` for a video of no duration.
        variable_rate: whether gaps between frames differ by more than a tenth of their median.
        rotation_deg: display rotation that was applied, counter-clockwise.
        width_px, height_px: picture size after rotation.
        extent_s: start and end of the track.
        damage: what could not be read or decoded, in a sentence; `None` for a sound file.
    """

    duration_s: Fraction
    origin_s: Fraction
    num_frames: int
    fps_nominal: str | None
    fps_measured: float | None
    variable_rate: bool
    rotation_deg: int
    width_px: int
    height_px: int
    damage: str | None

    @property
    def extent_s(self) -> tuple[Fraction, Fraction]:
        """Start and end of the track."""
        return Fraction(0), self.duration_s


class VideoPass:
    """Iterates once over a file's picture track and yields `(stream, row, sample)`, rows of a stream in order.

    Args:
        path: the file, or the folder or tar archive of numbered pictures.
        wants: per stream what each sample must be, and the grid of its rows (as many as the video has room for), the
            rows that were planned, or a list of windows, each of which is made.
        threads: that the decoder may use; 0 is one per core.
        frame_rate: that of numbered pictures; `None` for a video file.
        pairs: these are pairs of released flow, which every want is a `FlowInput` of.

    Raises (while iterating):
        MediaError: the file has no picture track, or no frame of it can be decoded.

    Example:
        video = VideoPass("a.mp4", {"objects": (FrameInput(), center_grid(1, 1))})
        for stream, row, sample in video: ...
        print(video.report.duration_s)
    """

    def __init__(
        self,
        path: str | Path,
        wants: VideoWants,
        *,
        threads: int = 0,
        frame_rate: FrameRate | None = None,
        pairs: bool = False,
    ) -> None:
        self._path = path
        self._wants = dict(wants)
        self._threads = threads
        self._frame_rate = frame_rate
        self._pairs = pairs
        self._maker: PictureMaker | None = None
        self._report: VideoReport | None = None

    @property
    def prepare_s(self) -> float:
        """Seconds spent so far on turning decoded frames into pictures of the sizes that were asked for."""
        return self._maker.spent_s if self._maker is not None else 0.0

    @property
    def report(self) -> VideoReport:
        """What the pass found; known once all samples were taken."""
        if self._report is None:
            raise RuntimeError(f"the pass over {self._path} has not ended; take all of its samples first")
        return self._report

    def __iter__(self) -> Iterator[tuple[str, int, Sample]]:
        with self._opened() as frames:
            base = frames.time_base
            windows = [_Windows(name, *want, time_base=base) for name, want in self._wants.items()]
            shown: Shown | None = None
            maker: PictureMaker | None = None
            for tick, frame in frames:
                if shown is not None:
                    for window in windows:
                        yield from window.show(shown, until=tick)
                maker = self._maker = maker or PictureMaker(frame)
                shown = Shown(tick, frame, maker)
            if shown is None or maker is None:
                reasons = "; ".join(frames.failures()) or "the track is empty"
                raise MediaError(f"{self._path} has no frame that can be decoded: {reasons}.")
            duration = frames.end_tick() * base
            for window in windows:
                yield from window.finish(shown, duration)
            self._report = _reported(frames, duration, maker)

    @contextmanager
    def _opened(self) -> Iterator[_OrderedFrames | PictureTrack]:
        if self._frame_rate is not None:
            with open_pictures(self._path, pairs=self._pairs) as files:
                yield PictureTrack(files, self._frame_rate, threads=self._threads)
            return
        with open_media(self._path) as container:
            track = video_track(container)
            if track is None:
                raise MediaError(f"{self._path} has no picture track.")
            frames = _OrderedFrames(container, track)
            track.thread_type = "AUTO"
            track.codec_context.thread_count = self._threads
            yield frames


def _reported(frames: _OrderedFrames | PictureTrack, duration: Fraction, maker: PictureMaker) -> VideoReport:
    return VideoReport(
        duration_s=duration,
        origin_s=frames.origin_s,
        num_frames=frames.num_frames,
        fps_nominal=frames.fps_nominal,
        fps_measured=float(frames.num_frames / duration) if duration else None,
        variable_rate=frames.variable_rate,
        rotation_deg=maker.rotation_deg,
        width_px=maker.width_px,
        height_px=maker.height_px,
        damage=frames.damage(duration),
    )


class _OrderedFrames:
    """Decoded frames with their ticks from the first frame, in display order and ascending."""

    def __init__(self, container: Any, track: Any) -> None:
        self.time_base: Fraction = track.time_base
        self.fps_nominal = rate_text(track.average_rate)
        self.num_frames = 0
        self._decoder: TrackDecoder[Any] = TrackDecoder(container, track)
        self._gaps = Gaps()
        self._origin_tick = 0
        self._container = container
        self._track = track
        self._num_corrupt = 0
        self._jump: str | None = None
        self._max_step_back = math.floor(_MAX_STEP_BACK_S / track.time_base)
        self._max_gap = math.floor(_MAX_GAP_S / track.time_base)
        self._last_tick = 0
        self._last_duration = 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        ticks: list[int] = []
        frames: deque[Any] = deque()
        newest = None
        for frame in self._decoder:
            newest = self._stated_tick(frame, newest)
            heapq.heappush(ticks, newest)
            frames.append(frame)
            # As many as the decoder itself holds back to bring frames into display order.
            if len(frames) > self._track.codec_context.reorder_depth:
                timed = self._timed(heapq.heappop(ticks), frames.popleft())
                if timed is None:
                    return
                yield timed
        while frames and (timed := self._timed(heapq.heappop(ticks), frames.popleft())) is not None:
            yield timed

    @property
    def origin_s(self) -> Fraction:
        """Presentation time of the first frame in the file."""
        return self._origin_tick * self.time_base

    @property
    def variable_rate(self) -> bool:
        """Whether gaps between frames vary."""
        return self._gaps.vary()

    def end_tick(self) -> int:
        """Tick at which the last frame ends."""
        return self._last_tick + (
            self._last_duration or self._gaps.median() or self._frame_ticks() or self._ticks_left()
        )

    def failures(self) -> list[str]:
        """Sentences about what could not be read or decoded."""
        return self._decoder.failures()

    def damage(self, duration_s: Fraction) -> str | None:
        """A sentence about what could not be read or decoded."""
        decoder = self._decoder
        said = decoder.failures()
        lost = decoder.num_packets - decoder.num_hidden - decoder.num_failed - self.num_frames
        if 0 < decoder.num_before_key <= lost:
            said.append(f"the first {decoder.num_before_key} packets come before any key frame and cannot be decoded")
        if self._num_corrupt:
            said.append(f"{self._num_corrupt} of {self.num_frames} frames decode with errors")
        if self._jump:
            said.append(self._jump)
        if (shortfall := self._shortfall(duration_s)) is not None:
            said.append(shortfall)
        return "; ".join(said) or None

    def _stated_tick(self, frame: Any, newest: int | None) -> int:
        if frame.pts is not None:
            return int(frame.pts)
        return 0 if newest is None else newest + (frame.duration or self._frame_ticks() or 1)

    def _timed(self, stated: int, frame: Any) -> tuple[int, Any] | None:
        """The frame with its tick from the first frame; `None` where times jump and the pass must end."""
        if self.num_frames == 0:
            self._origin_tick = stated
        tick = stated - self._origin_tick
        if not -self._max_step_back <= tick - self._last_tick <= self._max_gap:
            base = self.time_base
            self._jump = (
                f"the frame times jump from {float(self._last_tick * base):.3f} s to {float(tick * base):.3f} s, and "
                "what follows was left out"
            )
            return None
        tick = max(tick, self._last_tick)
        if self.num_frames and tick > self._last_tick:
            self._gaps.add(tick - self._last_tick)
        self.num_frames += 1
        self._num_corrupt += frame.is_corrupt
        self._last_tick = tick
        self._last_duration = frame.duration if 0 < frame.duration <= self._max_gap else 0
        return tick, frame

    def _frame_ticks(self) -> int:
        rate = self._track.average_rate
        return round(1 / (rate * self.time_base)) if rate else 0

    def _ticks_left(self) -> int:
        """Ticks from the last frame to the stated end of the file; 0 where none is stated or it is beyond belief."""
        stated = Fraction(self._container.duration or 0, 1_000_000)
        left = stated - self._last_tick * self.time_base
        return round(left / self.time_base) if 0 < left <= _MAX_GAP_S else 0

    def _shortfall(self, duration_s: Fraction) -> str | None:
        """What the header promises beyond what came.

        Some headers count frames that a file never shows, others guess a length from the bit rate: with a frame count
        both must fall short, without one the length must by a second and a tenth.
        """
        track, decoder = self._track, self._decoder
        if not track.duration:
            return None
        stated_s = track.duration * track.time_base
        stated_frames = track.frames - decoder.num_hidden
        missing_s = stated_s - duration_s
        if track.frames:
            gap = (self._gaps.median() or 0) * track.time_base
            short = missing_s > gap * Fraction(3, 2) and self.num_frames + decoder.num_failed < stated_frames
            promised = f"{stated_frames} frames and {float(stated_s):.2f} s"
        else:
            short = missing_s > max(Fraction(1), stated_s / 10)
            promised = f"{float(stated_s):.2f} s"
        if not short:
            return None
        return f"the header promises {promised}, but {self.num_frames} frames and {float(duration_s):.2f} s decode"


class _Windows:
    """Rows of one stream that wait for frames, by the tick of the next cell to fill."""

    def __init__(self, name: str, want: ClipInput | FrameInput, rows: PictureRows, *, time_base: Fraction) -> None:
        self._name = name
        self._want = want
        self._rows = rows
        self._base = time_base
        self._in_window, after = (want.num_frames, want.frames_after) if isinstance(want, ClipInput) else (1, 0)
        self._num_cells = self._in_window + after
        match rows:
            case TimeGrid():
                self._planned = None
            case PlannedRows():
                self._planned = len(rows)
            case ListedWindows():
                self._planned = len(rows.spans)
        self._next_row = 0
        self._waiting: list[tuple[int, int, int]] = []
        self._filled: dict[int, _Filling] = {}
        self._open_row()

    def show(self, shown: Shown, *, until: int) -> Iterator[tuple[str, int, Sample]]:
        """Fill the cells that see a frame which is on screen until a tick; yield the rows that are full."""
        while self._waiting and self._waiting[0][0] <= until:
            yield from self._fill_next(shown)

    def finish(self, shown: Shown, duration_s: Fraction) -> Iterator[tuple[str, int, Sample]]:
        """Fill what is left with the last frame; rows centred after the end are dropped, unless they were listed."""
        while self._waiting:
            row = self._waiting[0][1]
            if row == 0 or isinstance(self._rows, ListedWindows) or _must_precede(self._rows, row) < duration_s:
                yield from self._fill_next(shown)
            else:
                heapq.heappop(self._waiting)

    def _fill_next(self, shown: Shown) -> Iterator[tuple[str, int, Sample]]:
        _, row, cell = heapq.heappop(self._waiting)
        if row == self._next_row - 1:
            self._open_row()
        filling = self._filled[row]
        filling.pictures.append((shown.tick, shown.at(self._want.size)))
        if cell + 1 < self._num_cells:
            heapq.heappush(self._waiting, (filling.tick(cell + 1), row, cell + 1))
        else:
            del self._filled[row]
            yield self._name, row, self._sample(row, filling.pictures, shown.image_size)

    def _open_row(self) -> None:
        row = self._next_row
        if self._planned is not None and row >= self._planned:
            return
        steps = self._want.steps if isinstance(self._want, ClipInput) else None
        self._filled[row] = _Filling(self._rows.span(row), self._in_window, self._base, steps)
        heapq.heappush(self._waiting, (self._filled[row].tick(0), row, 0))
        self._next_row += 1

    def _sample(self, row: int, filled: Sequence[tuple[int, Picture]], image_size: tuple[int, int]) -> Sample:
        data = np.stack([p for _, p in filled]) if isinstance(self._want, ClipInput) else filled[0][1]
        if isinstance(self._want, FlowInput):
            data = _motion(data, mirrored=self._want.size.mirrored)
        pts_s = np.array([float(tick * self._base) for tick, _ in filled])
        return Sample(self._rows.span(row), data, pts_s, image_size=image_size)


def _must_precede(rows: TimeGrid | PlannedRows, row: int) -> Fraction:
    """The time that must lie before the end of the track for it to have a row."""
    return rows.center(row) if isinstance(rows, TimeGrid) else rows.windows.must_precede(rows.span(row))


def _motion(pictures: Picture, *, mirrored: bool) -> Picture:
    """Levels of flow, from how `vidloc.extract.picture_track` holds them; in a mirror, right is left."""
    levels = pictures[..., :2].copy()
    if mirrored:
        levels[..., 0] = 255 - levels[..., 0]
    return levels


class _Filling:
    """One row being filled.

    Attributes:
        pictures: those of its first cells, each with its tick.
    """

    def __init__(
        self, span: tuple[Fraction, Fraction], num_cells: int, time_base: Fraction, steps: Steps | None
    ) -> None:
        self.pictures: list[tuple[int, Picture]] = []
        # Cell c has its midpoint at (first + c * step) / unit ticks, all integers.
        even = (span[1] - span[0]) / num_cells
        cell, step = (even, even) if steps is None else (steps.frame_s, steps.step_s)
        first, step = (span[0] + cell / 2) / time_base, step / time_base
        self._latest = None if steps is None else math.ceil((span[1] - cell / 2) / time_base)
        self._unit = math.lcm(first.denominator, step.denominator)
        self._first, self._step = int(first * self._unit), int(step * self._unit)

    def tick(self, cell: int) -> int:
        """The first whole tick at or after a cell's midpoint: a frame is strictly before one iff before the other."""
        tick = -((-self._first - cell * self._step) // self._unit)
        return tick if self._latest is None else min(tick, self._latest)
