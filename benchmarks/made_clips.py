"""Videos, tables and records that the extraction benchmarks share; not a benchmark itself."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch


@dataclass(frozen=True)
class Format:
    """Size and rate of a made-up video."""

    name: str
    width: int
    height: int
    fps: int


# What EPIC-KITCHENS is distributed as, small and original.
SMALL = Format("456x256 30 fps", 456, 256, 30)
LARGE = Format("1920x1080 60 fps", 1920, 1080, 60)


def write_video(path: Path, form: Format, seconds: float) -> Path:
    """An H.264 file of a texture that drifts under a hard light, with a tone: costs about what real video does."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (form.height // 8 + 1, form.width // 8 + 1, 3), dtype=np.uint8)
    texture = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[: form.height, : form.width]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=form.fps, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = form.width, form.height, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="mono")
        for k in range(round(seconds * form.fps)):
            picture = np.ascontiguousarray(np.roll(texture, (2 * k, 3 * k), axis=(0, 1)))
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        wave = (0.3 * np.sin(np.arange(round(seconds * 44100)) * 0.06)).astype(np.float32)
        for start in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def video_list(folder: Path, videos: Sequence[Path]) -> Path:
    """A `--videos` list."""
    path = folder / f"{videos[0].stem}.csv"
    path.write_text("path\n" + "".join(f"{video.name}\n" for video in videos), encoding="utf-8")
    return path


def spread(values: Sequence[float]) -> str:
    """Median with the range of all rounds."""
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def save(path: Path, *, command: str, rows: Sequence[dict[str, object]]) -> None:
    """Results with what they were measured on."""
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    path.write_text(json.dumps({"command": command, "machine": machine, "rows": list(rows)}, indent=2) + "\n")
