"""Small real video files for tests: a colour that changes from frame to frame, and a tone."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: int = 10,
    size: tuple[int, int] = (48, 32),
    seed: int = 0,
    sound: bool = True,
) -> Path:
    """An mp4 of flat pictures whose colour follows the frame number and the seed."""
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "threads": "1"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for colour in generator.integers(0, 256, (round(seconds * fps), 3), dtype=np.uint8):
            picture = np.broadcast_to(colour, (size[1], size[0], 3))
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            wave = (0.1 * (seed % 5 + 1) * np.sin(np.arange(round(seconds * 8000)) * 0.3)).astype(np.float32)
            for start in range(0, len(wave), 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 8000, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def write_folder(folder: Path, count: int, **kwargs) -> Path:
    """`count` videos of slightly different lengths, `v00.mp4` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        write_video(folder / f"v{k:02d}.mp4", seconds=1.0 + 0.3 * (k % 3), seed=k, **kwargs)
    return folder
