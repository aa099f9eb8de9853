"""What a store keeps of an item's source, put together from what the passes over its tracks found."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vidloc.core.records import ItemInfo
from vidloc.extract.frames import VideoReport
from vidloc.extract.sound import AudioReport

_MIB = 1 << 20


def item_info(
    item_id: str, path: str | Path, *, video: VideoReport | None = None, audio: AudioReport | None = None
) -> ItemInfo:
    """Facts of an item; a track that was not decoded (not there, or not asked for) leaves its facts open.

    Raises:
        OSError: the file cannot be read.
    """
    path = Path(path)
    timed = video or audio
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
        source_name=path.name,
        source_bytes=path.stat().st_size,
        source_sha256=source_sha256(path),
    )


def source_sha256(path: Path) -> str:
    """sha256 of a file's first and last MiB (of all of it up to 2 MiB): recognises it without reading all of it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_MIB))
        file.seek(max(file.tell(), path.stat().st_size - _MIB))
        digest.update(file.read(_MIB))
    return digest.hexdigest()
