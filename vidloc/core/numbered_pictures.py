"""Videos kept as numbered pictures, in a folder or a tar archive: what counts as one, and at which rate they follow.

    P01_01/frame_0000000001.jpg     shown from 0 s
    P01_01/frame_0000000002.jpg     shown from 1/60 s, at 60 frames per second

A picture's number is the last digits of its name before `.jpg`, `.jpeg` or `.png`; all that comes before them is the
name of the series. Numbers count from 1, as those of FFmpeg and EPIC-KITCHENS do; a series that has a number 0 counts
from there.

Released optical flow is kept in the same way, as two grey pictures per number:

    P01_01/u/frame_0000000001.jpg   motion to the right
    P01_01/v/frame_0000000001.jpg   motion downwards, at the same time
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath

PICTURE_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png"))
ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz")

_NUMBERED = re.compile(r"(.*?)(\d{1,12})", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class FrameRate:
    """How fast the numbered pictures of one item follow one another.

    Attributes:
        fps: frames per second.
        basis: where that is known from, for people.
        duration_s: how long the video is, where its corpus says so; pictures that last longer or less are damage.
    """

    fps: Fraction
    basis: str
    duration_s: float | None = None


@dataclass(frozen=True)
class FlowPictures:
    """Released optical flow of one item.

    Attributes:
        path: the folder or tar archive that holds the folders `u` and `v`.
        rate: pairs of pictures per second, which need not be the rate of the frames they were made from.
    """

    path: Path
    rate: FrameRate


def archive_stem(path: Path) -> str | None:
    """A tar archive's name without its ending, `None` for any other name."""
    name = path.name
    return next((name[: -len(end)] for end in ARCHIVE_ENDINGS if name.lower().endswith(end)), None)


def is_picture(name: str) -> bool:
    """Whether a file is a picture, by its name; hidden files are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in PICTURE_EXTENSIONS and not path.name.startswith(".")


def series_and_number(name: str) -> tuple[str, int] | None:
    """The series that a picture belongs to, with its folders, and its number; `None` where its name has none."""
    path = PurePosixPath(name)
    match = _NUMBERED.fullmatch(path.stem)
    return None if match is None else (path.with_name(match[1] or "_").as_posix(), int(match[2]))
