"""Made-up videos with sound: one coloured object moves before a wall, and sounds while it does.

Each scene shows one object (a noun) in one motion (a verb). What is seen and heard is tied to both:

    noun   colour, outline and texture, and the pitch of its note
    verb   course, size and visibility over time, and the loudness of the note

A kitchen (the participant's wall, light and camera noise) is shared by all scenes of a video, so that a held-out
participant is a place no head has seen. Everything follows from the seed; files are H.264 and AAC in mp4, by PyAV.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Pixels = NDArray[np.float32]

SAMPLE_RATE_HZ = 44_100
_AAC_FRAME = 1024
# x264's macroblock tree gives other bytes for the same pictures from one call to the next; one thread, so that the
# number of cores changes nothing either.
_X264 = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}


@dataclass(frozen=True)
class Look:
    """What an object looks and sounds like.

    Attributes:
        adjective: colour by name, for narrations.
        colours: body and texture, RGB.
        outline: signed distance to the edge in units of the radius, from `x, y` in those units; negative inside.
        texture: where the second colour shows, from `x, y` in units of the radius.
        pitch_hz: its note.
    """

    adjective: str
    colours: tuple[Colour, Colour]
    outline: Callable[[Pixels, Pixels], Pixels]
    texture: Callable[[Pixels, Pixels], NDArray[np.bool_]]
    pitch_hz: float


@dataclass(frozen=True)
class Pose:
    """Where an object is at one moment: centre in shares of the picture, radius in shares of its height."""

    x: float
    y: float
    radius: float
    visible: bool = True


@dataclass(frozen=True)
class Motion:
    """How an object moves and how loud it sounds while it does.

    Attributes:
        pose: from the share of the scene that has passed, in [0, 1), to where the object is.
        loudness: from shares of the scene to amplitudes in [0, 1].
    """

    pose: Callable[[float], Pose]
    loudness: Callable[[NDArray[np.float64]], NDArray[np.floating[Any]]]


def _disc(x: Pixels, y: Pixels) -> Pixels:
    return np.asarray(np.hypot(x, y) - 1, dtype=np.float32)


def _square(x: Pixels, y: Pixels) -> Pixels:
    return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.9, dtype=np.float32)


def _star(x: Pixels, y: Pixels) -> Pixels:
    return np.asarray(np.hypot(x, y) - (0.8 + 0.35 * np.cos(5 * np.arctan2(y, x) + math.pi / 2)), dtype=np.float32)


def _highlight(x: Pixels, y: Pixels) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(x + 0.35, y + 0.35) < 0.25)


def _stripes(x: Pixels, _: Pixels) -> NDArray[np.bool_]:
    return np.asarray(np.sin(9 * x) > 0.3)


def _chequers(x: Pixels, y: Pixels) -> NDArray[np.bool_]:
    return np.asarray(np.sin(8 * x) * np.sin(8 * y) > 0)


LOOKS: dict[str, Look] = {
    "ball": Look("red", ((225, 35, 30), (255, 190, 180)), _disc, _highlight, pitch_hz=262.0),
    "box": Look("blue", ((25, 60, 215), (235, 235, 250)), _square, _stripes, pitch_hz=587.0),
    "star": Look("green", ((20, 170, 50), (245, 225, 40)), _star, _chequers, pitch_hz=1319.0),
}

MOTIONS: dict[str, Motion] = {
    # From one side to the other under a steady note.
    "push": Motion(lambda t: Pose(0.12 + 0.76 * t, 0.5, 0.22), lambda t: np.full_like(t, 0.6)),
    # From a speck to most of the picture under a swelling note.
    "grow": Motion(lambda t: Pose(0.5, 0.5, 0.05 + 0.45 * t), lambda t: t**2),
    # In place, three times a second there and gone, each time with a beep.
    "blink": Motion(lambda t: Pose(0.5, 0.5, 0.24, visible=(6 * t) % 1 < 0.5), lambda t: 0.9 * ((6 * t) % 1 < 0.5)),
}


@dataclass(frozen=True)
class Scene:
    """A stretch of a video: an object in motion.

    Attributes:
        noun, verb: keys of `LOOKS` and `MOTIONS`.
        duration_s: whole hundredths of a second, so that annotations name its ends exactly.
    """

    noun: str
    verb: str
    duration_s: Fraction


@dataclass(frozen=True)
class VideoFormat:
    """Size and rate of the picture."""

    width_px: int = 160
    height_px: int = 120
    fps: Fraction = Fraction(30)


def write_video(path: Path, scenes: Sequence[Scene], *, seed: int, kitchen: int, form: VideoFormat) -> None:
    """Write one mp4 file that shows the scenes one after another.

    Args:
        seed: what varies between scenes (places, sizes, pitch) follows from it.
        kitchen: wall and light follow from this number alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=form.fps, options=_X264)
        video.width, video.height, video.pix_fmt = form.width_px, form.height_px, "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        pictures = _frames(_pictures(scenes, seed=seed, kitchen=kitchen, form=form), form.fps)
        blocks = _blocks(_sound(scenes, seed=seed))
        timed: Iterator[tuple[Fraction, av.VideoFrame | av.AudioFrame]] = heapq.merge(
            pictures, blocks, key=itemgetter(0)
        )
        for _, frame in timed:
            container.mux(video.encode(frame) if isinstance(frame, av.VideoFrame) else audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _pictures(scenes: Sequence[Scene], *, seed: int, kitchen: int, form: VideoFormat) -> Iterator[NDArray[np.uint8]]:
    """All frames of a video, `(height, width, 3)`."""
    rng = np.random.default_rng([seed, 1])
    wall = _wall(kitchen, form)
    rows, columns = np.mgrid[0 : form.height_px, 0 : form.width_px].astype(np.float32)
    starts = _starts(scenes)
    shifts = rng.uniform(-0.05, 0.05, (len(scenes), 2))
    sizes = rng.uniform(0.85, 1.15, len(scenes))
    for frame in range(math.ceil(starts[-1] * form.fps)):
        time = frame / form.fps
        index = max(k for k, start in enumerate(starts[:-1]) if start <= time)
        scene = scenes[index]
        pose = MOTIONS[scene.verb].pose(float((time - starts[index]) / scene.duration_s))
        picture = wall.copy()
        if pose.visible:
            radius = pose.radius * sizes[index] * form.height_px
            x = (columns - (pose.x + shifts[index, 0]) * form.width_px) / radius
            y = (rows - (pose.y + shifts[index, 1]) * form.height_px) / radius
            _paint(picture, LOOKS[scene.noun], x, y, radius)
        picture += rng.normal(0, 3, picture.shape[:2]).astype(np.float32)[..., None]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _paint(picture: Pixels, look: Look, x: Pixels, y: Pixels, radius: float) -> None:
    """Lay an object over a picture, its edge one pixel soft."""
    body, texture = (np.array(colour, dtype=np.float32) for colour in look.colours)
    colours = np.where(look.texture(x, y)[..., None], texture, body)
    cover = np.clip(0.5 - look.outline(x, y) * radius, 0, 1)[..., None]
    picture += cover * (colours - picture)


def _wall(kitchen: int, form: VideoFormat) -> Pixels:
    """The background of a participant: a grey of its own that grows lighter along a direction of its own."""
    rng = np.random.default_rng([kitchen, 2])
    tint = rng.uniform(-8, 8, 3)
    slope = rng.uniform(-20, 20, 2)
    rows, columns = np.mgrid[-0.5 : 0.5 : form.height_px * 1j, -0.5 : 0.5 : form.width_px * 1j]
    light = rng.uniform(100, 130) + slope[0] * rows + slope[1] * columns
    return np.asarray(light[..., None] + tint, dtype=np.float32)


def _sound(scenes: Sequence[Scene], *, seed: int) -> NDArray[np.float32]:
    """The whole track, mono: the object's note with one overtone, as loud as its motion says, over faint noise."""
    rng = np.random.default_rng([seed, 3])
    starts = [round(start * SAMPLE_RATE_HZ) for start in _starts(scenes)]
    track = rng.normal(0, 0.002, starts[-1])
    for scene, first, stop in zip(scenes, starts[:-1], starts[1:], strict=True):
        seconds = np.arange(stop - first) / SAMPLE_RATE_HZ
        pitch_hz = LOOKS[scene.noun].pitch_hz * rng.uniform(0.97, 1.03)
        note = np.sin(2 * np.pi * pitch_hz * seconds) + 0.4 * np.sin(4 * np.pi * pitch_hz * seconds)
        track[first:stop] += 0.5 * MOTIONS[scene.verb].loudness(seconds / float(scene.duration_s)) * note
    return track.astype(np.float32)


def _frames(pictures: Iterable[NDArray[np.uint8]], fps: Fraction) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    for k, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = k, 1 / fps
        yield k / fps, frame


def _blocks(track: NDArray[np.float32]) -> Iterator[tuple[Fraction, av.AudioFrame]]:
    for first in range(0, len(track), _AAC_FRAME):
        block = av.AudioFrame.from_ndarray(track[None, first : first + _AAC_FRAME], format="fltp", layout="mono")
        block.sample_rate = SAMPLE_RATE_HZ
        block.time_base = Fraction(1, SAMPLE_RATE_HZ)
        block.pts = first
        yield Fraction(first, SAMPLE_RATE_HZ), block


def _starts(scenes: Sequence[Scene]) -> list[Fraction]:
    """Start of each scene, then the end of the last."""
    starts = [Fraction(0)]
    for scene in scenes:
        starts.append(starts[-1] + scene.duration_s)
    return starts
