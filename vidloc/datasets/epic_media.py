"""Where the videos of EPIC-KITCHENS lie, as video files or else as the released frames, and the released flow.

Video files `P01_01.*` are looked for in `videos/train/P01/`, `videos/test/P01/` (EPIC-55), `P01/videos/` (EPIC-100), or
flat. Frames are pictures `frame_0000000001.jpg` in a tar archive, or in the folder it was unpacked to:
`frames_rgb_flow/rgb/train/P01/P01_01.tar`, the same in `test` (EPIC-55), `P01/rgb_frames/P01_101.tar` (EPIC-100). All
this also below `EPIC-KITCHENS/`, which the official download script makes.

The rate of the frames is not always that of the video. Those of 2018 (`P01_01`) were resampled to 60 per second from
videos of 29.97, 47.95, 59.94 and 90, and it is these that the annotations count. Those of 2020 (`P01_101`) have the
rate of their video, 50 throughout.

Flow lies beside the frames, in `flow` and `flow_frames` in place of `rgb` and `rgb_frames`; an archive or folder of it
has the folders `u` and `v`. That of 2018 was taken from every second frame: frame n belongs to flow (n - 1) // 2 + 1,
and there are 30 per second. That of 2020 has as many as there are frames.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from vidloc.core.numbered_pictures import FrameRate, archive_stem, is_picture
from vidloc.datasets.base import Annotations, Media
from vidloc.datasets.media_files import VIDEO_EXTENSIONS
from vidloc.errors import MediaError

VIDEO_NAME = re.compile(r"(P\d{2})_\d{2,3}")

_VIDEO_FOLDERS = ("", "train", "test", "videos", "videos/train", "videos/test")
_RGB = ("", "train", "test", "rgb", "rgb/train", "rgb/test")
_FRAME_FOLDERS = (*_RGB, *(f"frames_rgb_flow/{f}" for f in _RGB[3:]), "rgb_frames")
_OF_2018 = re.compile(r"P\d{2}_\d{2}")
_FPS_2018, _FPS_2020 = Fraction(60), Fraction(50)
_FLOW_FOLDERS = tuple(
    f"{top}{name}" for top in ("", "frames_rgb_flow/") for name in ("flow", "flow/train", "flow/test")
)
_FLOW_STRIDE_2018 = 2


def find_epic_media(root: Path, annotations: Annotations | None) -> Media:
    """Videos and frames below a folder; without annotations, all that are there.

    Raises:
        MediaError: no such folder, or two different copies of one video.
    """
    _require_folder(root)
    videos = _videos_below(root)
    frames, unpacked = _pictures_below(
        root, _official_folders(root, _FRAME_FOLDERS, inner="rgb_frames"), _holds_pictures
    )
    found = frames | videos
    twice = sorted(frames.keys() & videos.keys())
    ignored = {frames[item]: f"the video file {videos[item].relative_to(root)} is taken" for item in twice}
    ignored |= {path: f"the archive {frames[item].name} beside it is taken" for item, path in unpacked.items()}
    media = _found(root, found, annotations, ignored)
    return replace(
        media,
        frame_rates={item: _rate(item, annotations) for item in media.paths if item not in videos},
        notes=(f"{len(twice)} videos are there as frames too; the video files are taken.",) if twice else (),
    )


def find_epic_flow(root: Path, annotations: Annotations | None) -> Media:
    """Released flow below a folder; without annotations, all that is there.

    Raises:
        MediaError: no such folder, or two different copies of one video's flow.
    """
    _require_folder(root)
    found, unpacked = _pictures_below(root, _flow_folders(root), _holds_flow)
    ignored = {path: f"the archive {found[item].name} beside it is taken" for item, path in unpacked.items()}
    media = _found(root, found, annotations, ignored)
    return replace(media, frame_rates={item: _flow_rate(item, annotations) for item in media.paths})


def _found(
    root: Path, found: Mapping[str, Path], annotations: Annotations | None, ignored: Mapping[Path, str]
) -> Media:
    """What was found of the videos that are annotated, and what was not taken."""
    known = sorted(found) if annotations is None else annotations.items
    if annotations is not None:
        foreign = f"{annotations.dataset} does not annotate this video"
        ignored = {**ignored, **{found[item]: foreign for item in found.keys() - set(known)}}
    return Media(
        paths={item: found[item] for item in known if item in found},
        missing=tuple(item for item in known if item not in found),
        ignored=dict(sorted((path.relative_to(root).as_posix(), why) for path, why in ignored.items())),
    )


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise MediaError(f"there is no folder {root}. Give --root the folder that holds the EPIC-KITCHENS videos.")


def _flow_rate(item: str, annotations: Annotations | None) -> FrameRate:
    rate = _rate(item, annotations)
    if _OF_2018.fullmatch(item):
        return FrameRate(rate.fps / _FLOW_STRIDE_2018, "of every second frame of 2018", rate.duration_s)
    return rate


def _rate(item: str, annotations: Annotations | None) -> FrameRate:
    duration_s = annotations.durations_s.get(item) if annotations else None
    if _OF_2018.fullmatch(item):
        return FrameRate(_FPS_2018, "to which the frames of 2018 were resampled", duration_s)
    if annotations is not None and item in annotations.fps:
        return FrameRate(annotations.fps[item], "stated by the annotations", duration_s)
    return FrameRate(_FPS_2020, "that of all videos of 2020", duration_s)


def _videos_below(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in _official_folders(root, _VIDEO_FOLDERS, inner="videos"):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in VIDEO_EXTENSIONS or not VIDEO_NAME.fullmatch(path.stem):
                continue
            known = found.setdefault(path.stem, path)
            if known != path and not known.samefile(path):
                raise _twice(f"video {path.stem} lies", root, known, path)
    return found


def _pictures_below(
    root: Path, folders: Iterable[Path], holds: Callable[[Path], bool]
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures by video, and folders that an archive beside them was unpacked to."""
    found: dict[str, Path] = {}
    unpacked: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            item = path.name if path.is_dir() else archive_stem(path)
            if item is None or not VIDEO_NAME.fullmatch(item) or (path.is_dir() and not holds(path)):
                continue
            known = found.setdefault(item, path)
            if known == path or known.samefile(path):
                continue
            if not known.is_dir() or path.is_dir() or known.parent != path.parent:
                raise _twice(f"the pictures of {item} lie", root, known, path)
            found[item], unpacked[item] = path, known
    return found, unpacked


def _official_folders(root: Path, bases: Sequence[str], *, inner: str) -> Iterator[Path]:
    for top in (root, root / "EPIC-KITCHENS"):
        for base in (top / name for name in bases):
            if base.is_dir():
                yield base
                for participant in sorted(base.glob("P[0-9][0-9]")):
                    yield from (f for f in (participant, participant / inner) if f.is_dir())


def _flow_folders(root: Path) -> Iterator[Path]:
    yield from _official_folders(root, _FLOW_FOLDERS, inner="flow_frames")
    for top in (root, root / "EPIC-KITCHENS"):
        for folder in (top / "flow_frames", *sorted(top.glob("P[0-9][0-9]/flow_frames"))):
            if folder.is_dir():
                yield folder


def _holds_flow(folder: Path) -> bool:
    return (folder / "u").is_dir() or (folder / "v").is_dir()


def _holds_pictures(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_picture(entry.name) for entry in entries)


def _twice(what: str, root: Path, first: Path, second: Path) -> MediaError:
    return MediaError(
        f"{what} below {root} twice: {first.relative_to(root)} and {second.relative_to(root)}. "
        "Give --root the folder that holds the copy you mean."
    )
