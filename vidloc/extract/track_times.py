"""How long a picture track is and at what rate it runs, from its packets (or numbers) alone: nothing is decoded.

Layouts that end with the video, or count in its own frames, need both before the first row. A header may be wrong about
them; the packets are read once more instead, which costs reading and no decoding.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from vidloc.core.numbered_pictures import FrameRate
from vidloc.errors import MediaError
from vidloc.extract.media import open_media, video_track
from vidloc.extract.picture_files import numbers_of


@dataclass(frozen=True)
class TrackTimes:
    """Frames of a picture track by their packets, or by the numbers of pictures that stand for one.

    Attributes:
        num_frames: packets that are shown, the undecodable ones included; numbers, the missing ones included.
        duration_s: end of the last frame, counted from the first.
        fps: the stated rate where it tells the number of frames, else frames by duration.
    """

    num_frames: int
    duration_s: Fraction
    fps: Fraction


class Gaps:
    """Ticks between neighbouring frames, kept as counts: a long video has few distinct ones."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, ticks: int) -> None:
        """Count one gap."""
        self._counts[ticks] += 1

    def median(self) -> int | None:
        """The (lower) median gap, `None` for fewer than two frames."""
        half = (self._counts.total() + 1) // 2
        for ticks in sorted(self._counts):
            half -= self._counts[ticks]
            if half <= 0:
                return ticks
        return None

    def vary(self) -> bool:
        """Whether a gap differs from the median by more than a tenth of it.

        One tick of rounding is allowed where a gap has several: Matroska counts in milliseconds.
        """
        median = self.median()
        if median is None:
            return False
        allowed = max(median / 10, 1 if median >= 4 else 0)
        return any(abs(ticks - median) > allowed for ticks in self._counts)


def track_times(path: str | Path, frame_rate: FrameRate | None = None, *, pairs: bool = False) -> TrackTimes:
    """Read the packets of a file's picture track, or the numbers of pictures.

    Args:
        frame_rate: that of numbered pictures; `None` for a video file.
        pairs: these are pairs of released flow.

    Raises:
        MediaError: the file cannot be opened, has no picture track, or its packets tell no duration.
    """
    if frame_rate is not None:
        numbers = numbers_of(path, pairs=pairs)
        num_frames = numbers.last - min(numbers.first, 1) + 1
        return TrackTimes(num_frames, num_frames / frame_rate.fps, frame_rate.fps)
    with open_media(path) as container:
        track = video_track(container)
        if track is None:
            raise MediaError(f"{path} has no picture track.")
        stated: Fraction | None = track.average_rate or None
        ticks, last_duration = _packet_ticks(container, track)
        if not ticks:
            raise MediaError(f"{path} has a picture track without a packet.")
        gaps = Gaps()
        for earlier, later in pairwise(ticks):
            if later > earlier:
                gaps.add(later - earlier)
        frame_ticks = round(1 / (stated * track.time_base)) if stated else 0
        last = last_duration or gaps.median() or frame_ticks
        duration = (ticks[-1] - ticks[0] + last) * track.time_base
        if not duration:
            raise MediaError(f"{path} has one frame and states neither its duration nor a frame rate.")
        measured = len(ticks) / duration
        # Containers that count in milliseconds blur the measured rate; a stated one is exact, if it is true.
        agreed = stated is not None and abs(stated * duration - len(ticks)) < 1
        return TrackTimes(len(ticks), duration, stated if stated is not None and agreed else measured)


def _packet_ticks(container: Any, track: Any) -> tuple[array[int], int]:
    """Presentation times of the packets in ascending order, and the duration of the last one shown."""
    found = array("q")
    newest, last_duration = -(2**62), 0
    try:
        for packet in container.demux(track):
            if not packet.size or packet.is_discard:
                continue
            # AVI files with B-frames store no presentation times; those of decoding are as many and as far apart.
            tick = packet.dts if packet.pts is None else packet.pts
            if tick is None:
                tick = found[-1] + (packet.duration or 1) if found else 0
            found.append(tick)
            if tick >= newest:
                newest, last_duration = tick, packet.duration or 0
    except (av.FFmpegError, IndexError):
        pass  # decoding meets it too, and reports it
    return array("q", sorted(found)), last_duration
