"""Small videos as numbered pictures for tests: folders and tar archives, and a lossless video of the same frames."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def frames(count: int, *, size: tuple[int, int] = (48, 32), seed: int = 0) -> list[np.ndarray]:
    """Pictures of smooth noise, no two alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return list(coarse.repeat(8, axis=1).repeat(8, axis=2))


def encoded(picture: np.ndarray, ending: str = ".jpg") -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG" if ending == ".png" else "JPEG")
    return content.getvalue()


def named(
    pictures: Iterable[np.ndarray], *, first: int = 1, ending: str = ".jpg", prefix: str = "frame_"
) -> dict[str, bytes]:
    """Contents by file name, as EPIC-KITCHENS names them."""
    return {f"{prefix}{first + k:010d}{ending}": encoded(p, ending) for k, p in enumerate(pictures)}


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_lossless(path: Path, pictures: Iterable[np.ndarray], *, fps: Fraction | int) -> Path:
    """The frames as raw RGB in a container that counts in frames."""
    with av.open(str(path), "w") as container:
        track = None
        for picture in pictures:
            if track is None:
                track = container.add_stream("rawvideo", rate=fps)
                track.width, track.height, track.pix_fmt = picture.shape[1], picture.shape[0], "rgb24"
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode(None))
    return path


def of_flow(levels: Iterable[np.ndarray], *, first: int = 1, ending: str = ".png") -> dict[str, bytes]:
    """Contents by name below a folder or archive, of levels `(height, width, 2)`: all of `u`, then all of `v`."""
    kept = list(levels)
    return {
        f"{side}/{name}": content
        for channel, side in enumerate("uv")
        for name, content in named((both[..., channel] for both in kept), first=first, ending=ending).items()
    }
