"""What a store keeps of an item's source, put together from what the passes over its tracks found."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from vidloc.core.numbered_pictures import is_picture
from vidloc.core.records import ItemInfo
from vidloc.extract.frames import VideoReport
from vidloc.extract.sound import AudioReport

_MIB = 1 << 20


def item_info(
    item_id: str,
    path: str | Path | None,
    *,
    video: VideoReport | None = None,
    audio: AudioReport | None = None,
    flow: VideoReport | None = None,
) -> ItemInfo:
    """Facts of an item; a track that was not decoded (not there, or not asked for) leaves its facts open.

    Args:
        path: its file, or its folder of pictures; `None` where it has released flow alone.
        flow: of its released flow, which tells how long the item is where nothing else does.

    Raises:
        OSError: the file cannot be read.
    """
    mark = None if path is None else source_mark(Path(path))
    timed = video or audio or flow
    return ItemInfo(
        item_id=item_id,
        duration_s=None if timed is None else float(timed.duration_s),
        origin_s=None if timed is None else float(timed.origin_s),
        fps_nominal=None if video is None else video.fps_nominal,
        fps_measured=None if video is None else video.fps_measured,
        num_frames=None if video is None else video.num_frames,
        variable_rate=None if video is None else video.variable_rate,
        rotation_deg=None if video is None else video.rotation_deg,
        width_px=None if video is None else video.width_px,
        height_px=None if video is None else video.height_px,
        sample_rate_hz=None if audio is None else audio.sample_rate_hz,
        source_name=None if path is None else Path(path).name,
        source_bytes=None if mark is None else mark.num_bytes,
        source_sha256=None if mark is None else mark.sha256,
    )


@dataclass(frozen=True)
class SourceMark:
    """By what an item's source is recognised without reading all of it.

    Attributes:
        num_bytes: of the file; of all pictures of a folder.
        sha256: of a file, that of its first and last MiB (of all of it up to 2 MiB). Of a folder, that of one line
            `NAME<tab>BYTES` per picture, sorted by name, followed by the first and last MiB of the first picture and
            of the last one.
    """

    num_bytes: int
    sha256: str


def source_mark(path: Path) -> SourceMark:
    """The mark of a file, or of a folder of pictures.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_dir():
        return SourceMark(path.stat().st_size, hashlib.sha256(_ends(path)).hexdigest())
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if is_picture(entry.name) and entry.is_file())
    digest = hashlib.sha256()
    num_bytes = 0
    for name in names:
        size = (path / name).stat().st_size
        num_bytes += size
        digest.update(f"{name}\t{size}\n".encode("utf-8", "surrogateescape"))
    for name in names[:1] + names[-1:]:
        digest.update(_ends(path / name))
    return SourceMark(num_bytes, digest.hexdigest())


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(_MIB)
        file.seek(max(file.tell(), path.stat().st_size - _MIB))
        return first + file.read(_MIB)
