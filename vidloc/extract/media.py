"""Opening video and sound files: what a header says, a track decoded packet by packet.

Rules that hold for every file:

* A file is recognised by its content, whatever its name, and only as a plain file: playlists that point to other
  files or addresses are not followed.
* The picture track is the first one that is no attached cover picture; the sound track is the first one.
* A packet that cannot be decoded is left out and counted, and decoding goes on behind it: one bad packet does not cost
  the rest of a long video. How many frames right beside the damage survive depends on the decoder and its threads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, TypeVar

import av

from vidloc.errors import MediaError

_TRACK_WORDS = {"video": "picture", "audio": "sound"}

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class MediaProbe:
    """What a file's header says of its tracks; headers may be wrong, decoding decides.

    Attributes:
        has_video, has_audio: which tracks there are; a cover picture is no video track.
        duration_s: stated length of the picture track, else of the whole file.
        fps_nominal: stated frame rate as "num/den".
        num_frames: stated number of frames.
        rotation_deg: display rotation, counter-clockwise, as the first frame carries it.
        width_px, height_px: size after rotation.
        sample_rate_hz: native rate of the sound track.

    All but the first two are `None` where there is no such track or nothing is stated.
    """

    has_video: bool
    has_audio: bool
    duration_s: float | None = None
    fps_nominal: str | None = None
    num_frames: int | None = None
    rotation_deg: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    sample_rate_hz: int | None = None


def probe(path: str | Path) -> MediaProbe:
    """Read a file's header; the first frame is decoded for its rotation.

    Raises:
        MediaError: the file is missing, empty, unreadable, or holds neither picture nor sound.
    """
    with open_media(path) as container:
        video, audio = video_track(container), audio_track(container)
        if video is None and audio is None:
            found = ", ".join(sorted({s.type for s in container.streams})) or "no tracks at all"
            raise MediaError(f"{path} holds neither picture nor sound (found: {found}). Remove it from the list.")
        rate = None if audio is None else getattr(audio.codec_context, "sample_rate", None) or None
        length = _stated_seconds(container, video)
        if video is None:
            return MediaProbe(has_video=False, has_audio=True, duration_s=length, sample_rate_hz=rate)
        rotation = _first_rotation(container, video)
        stored = (getattr(video.codec_context, "width", 0), getattr(video.codec_context, "height", 0))
        width, height = displayed_size(*stored, rotation or 0)
        return MediaProbe(
            has_video=True,
            has_audio=audio is not None,
            duration_s=length,
            fps_nominal=rate_text(video.average_rate),
            num_frames=video.frames or None,
            rotation_deg=rotation,
            width_px=width or None,
            height_px=height or None,
            sample_rate_hz=rate,
        )


@contextmanager
def open_media(path: str | Path) -> Iterator[Any]:
    """A file opened for demuxing, as PyAV's input container.

    Raises:
        MediaError: it cannot be opened; the reason is said in one line.
    """
    name = os.fspath(path)
    found = _stat(name)
    if found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise MediaError(f"{name} cannot be opened: it is no plain file but a pipe or a device, which may never end.")
    try:
        # With the protocol named, a dash or a colon in a name means nothing; the whitelist keeps playlists from
        # reaching beyond this file.
        container = av.open(f"file:{name}", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, UnicodeEncodeError, ValueError) as error:
        raise MediaError(f"{name} cannot be opened: {_why_not(found, error)}.") from error
    with container:
        yield container


def video_track(container: Any) -> Any | None:
    """The first picture track that is no attached cover picture; it has no `codec_context` if no decoder knows it."""
    cover = av.stream.Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & cover), None)


def audio_track(container: Any) -> Any | None:
    """The first sound track; it has no `codec_context` if no decoder knows it."""
    return next(iter(container.streams.audio), None)


def displayed_size(width: int, height: int, rotation_deg: int) -> tuple[int, int]:
    """Width and height after the nearest quarter turn."""
    return (height, width) if round(rotation_deg / 90) % 2 else (width, height)


def rate_text(rate: Fraction | None) -> str | None:
    """A frame rate as "num/den"."""
    return f"{rate.numerator}/{rate.denominator}" if rate else None


def one_line(error: BaseException) -> str:
    """What a decoder says of an error, without its place in the source code of the library."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    log = getattr(error, "log", None)
    detail = str(log[2]).strip() if log else ""
    return " ".join(f"{text} ({detail})".split() if detail else text.split())


class TrackDecoder(Generic[Frame]):
    """Frames of one track in the order the decoder gives them; what fails is counted, not fatal.

    Attributes:
        num_packets: packets read.
        num_hidden: packets that an edit list hides.
        num_failed: packets that could not be decoded.
        num_before_key: packets ahead of the first key frame.
        first_failure: what the decoder said of the first failed packet.
        read_error: why reading ended early, `None` if it did not.

    Raises:
        MediaError: no decoder knows the track's format.
    """

    def __init__(self, container: Any, track: Any) -> None:
        if track.codec_context is None:
            raise MediaError(
                f"{container.name.removeprefix('file:')} has a {_TRACK_WORDS[track.type]} track in a format that no "
                "decoder here knows. Convert it, for example to H.264 and AAC."
            )
        self._container = container
        self._track = track
        self._key_seen = False
        self.num_packets = 0
        self.num_hidden = 0
        self.num_failed = 0
        self.num_before_key = 0
        self.first_failure: str | None = None
        self.read_error: str | None = None

    def __iter__(self) -> Iterator[Frame]:
        packets = self._container.demux(self._track)
        while (packet := self._next_packet(packets)) is not None:
            if packet.size:
                self._count(packet)
                yield from self._decoded(packet)
        yield from self._decoded(None)

    def failures(self) -> list[str]:
        """Sentences about what could not be read or decoded."""
        said = []
        if self.num_failed:
            word = _TRACK_WORDS[self._track.type]
            said.append(
                f"{self.num_failed} of {self.num_packets} {word} packets could not be decoded "
                f"(first reason: {self.first_failure})"
            )
        if self.read_error:
            said.append(f"reading stopped early: {self.read_error}")
        return said

    def _next_packet(self, packets: Iterator[Any]) -> Any | None:
        try:
            return next(packets, None)
        except av.FFmpegError as error:
            self.read_error = one_line(error)
            return None
        except IndexError:
            # Everything has been read: PyAV trips here over a track that first appeared midway.
            return None

    def _count(self, packet: Any) -> None:
        self.num_packets += 1
        self.num_hidden += packet.is_discard
        self._key_seen = self._key_seen or packet.is_keyframe
        self.num_before_key += not self._key_seen

    def _decoded(self, packet: Any | None) -> list[Frame]:
        """Frames that a packet brings out of the decoder, or those left in it at the end (`None`)."""
        try:
            frames: list[Frame] = self._track.codec_context.decode(packet)
        except av.FFmpegError as error:
            self.num_failed += 1
            self.first_failure = self.first_failure or one_line(error)
            return []
        return frames


def _stat(name: str) -> os.stat_result | None:
    try:
        return Path(name).stat()
    except (OSError, ValueError):  # not there, a closed folder above it, a name too long, or none at all
        return None


def _why_not(found: os.stat_result | None, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "this user may not read it"
    if found is None:
        return "there is no such file"
    if stat.S_ISDIR(found.st_mode):
        return "it is a folder"
    if found.st_size == 0:
        return "the file is empty (0 bytes)"
    return f"no video or sound was recognised in it ({one_line(error)}); it may be cut off or no media file"


def _stated_seconds(container: Any, track: Any | None) -> float | None:
    if track is not None and track.duration and track.time_base:
        return float(track.duration * track.time_base)
    return container.duration / av.time_base if container.duration else None


def _first_rotation(container: Any, track: Any) -> int | None:
    if track.codec_context is None:
        return None
    try:
        return int(next(container.decode(track)).rotation)
    except (av.FFmpegError, StopIteration):
        return None
