"""A small made-up corpus: labelled videos with sound in the folder layout and annotation files of EPIC-KITCHENS-55.

    folder/videos/train/P01/P01_01.MP4     objects as nouns, motions as verbs, notes as sounds; one kitchen each
    folder/annotations/EPIC_*.csv          the official columns

Participants above P25 are the held-out ones, as in the split of `--dataset epic55`. Classes are as uneven as real ones
are: the most frequent verb and noun make 4 of 9 segments, so that guessing them is better than chance. The same seed
gives the same pictures, sounds and annotations.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from vidloc.testing.synthetic_annotations import AnnotatedSegment, AnnotatedVideo, write_epic55
from vidloc.testing.synthetic_videos import LOOKS, MOTIONS, Scene, VideoFormat, write_video

# How often the first, second and third class occur in one video.
_SHARES = (4, 3, 2)
_SCENE_S = Fraction(2)
_FIRST_HELD_OUT = 26
# Rates in turn, so that nothing in the set can be done right by counting frames.
_RATES = (Fraction(30), Fraction(25), Fraction(30000, 1001))


@dataclass(frozen=True)
class MadeVideo:
    """One video: its id, file and scenes."""

    video_id: str
    path: Path
    scenes: tuple[Scene, ...]
    form: VideoFormat

    @property
    def duration_s(self) -> Fraction:
        """Length of all scenes together."""
        return sum((scene.duration_s for scene in self.scenes), Fraction(0))


@dataclass(frozen=True)
class MadeSet:
    """What was written.

    Attributes:
        root: folder to give as `--root`.
        annotations: folder to give as `--annotations`.
        scene_s: length of every scene; with this as stride, each row lies on one scene.
    """

    root: Path
    annotations: Path
    training: tuple[MadeVideo, ...]
    held_out: tuple[MadeVideo, ...]
    scene_s: Fraction

    @property
    def videos(self) -> tuple[MadeVideo, ...]:
        """All videos, training first."""
        return self.training + self.held_out


def make_set(folder: Path, *, seed: int = 0, num_training: int = 8, num_held_out: int = 3) -> MadeSet:
    """Write the corpus below `folder`.

    Args:
        num_training, num_held_out: participants of each part, at most 25 to train; each has one video of nine scenes.
    """
    training = tuple(_make_video(folder, number, seed) for number in range(1, num_training + 1))
    held_out = tuple(_make_video(folder, _FIRST_HELD_OUT + k, seed) for k in range(num_held_out))
    made = MadeSet(folder, folder / "annotations", training, held_out, _SCENE_S)
    write_epic55(
        made.annotations,
        [segment for video in made.videos for segment in _segments(video)],
        [_facts(video) for video in made.videos],
        verbs=list(MOTIONS),
        nouns=list(LOOKS),
    )
    return made


def _make_video(folder: Path, participant: int, seed: int) -> MadeVideo:
    video_id = f"P{participant:02d}_01"
    path = folder / "videos" / "train" / f"P{participant:02d}" / f"{video_id}.MP4"
    rng = np.random.default_rng([seed, participant])
    form = VideoFormat(fps=_RATES[participant % len(_RATES)])
    verbs, nouns = (rng.permutation(np.repeat(list(names), _SHARES)) for names in (MOTIONS, LOOKS))
    scenes = tuple(Scene(str(noun), str(verb), _SCENE_S) for verb, noun in zip(verbs, nouns, strict=True))
    write_video(path, scenes, seed=int(rng.integers(2**31)), kitchen=participant, form=form)
    return MadeVideo(video_id, path, scenes, form)


def _segments(video: MadeVideo) -> list[AnnotatedSegment]:
    segments = []
    start_s = Fraction(0)
    for scene in video.scenes:
        stop_s = start_s + scene.duration_s
        sentence = f"{scene.verb} the {LOOKS[scene.noun].adjective} {scene.noun}"
        segments.append(AnnotatedSegment(video.video_id, scene.verb, scene.noun, start_s, stop_s, sentence))
        start_s = stop_s
    return segments


def _facts(video: MadeVideo) -> AnnotatedVideo:
    resolution = f"{video.form.width_px}x{video.form.height_px}"
    return AnnotatedVideo(video.video_id, resolution, video.duration_s, video.form.fps)
