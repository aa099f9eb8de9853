"""The real clips: frames at a constant rate against ffmpeg, and the rows that a real network gave elsewhere."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from ffmpeg_fps import through_ffmpeg

from vidloc.core import registry
from vidloc.core.timeline import frames_at_cells
from vidloc.core.windows import ListedWindows
from vidloc.extract.base import EncoderOptions, FrameInput
from vidloc.extract.frames import VideoPass
from vidloc.extract.media import open_media, video_track
from vidloc.extract.track_times import track_times

ENCODER = Path(__file__).parent.parent / "data" / "mobilenet_v1.py"
WEIGHTS = "mobilenet_v1_0.25_224_imagenet.safetensors"
# The references show the one as it lies in the file, unrotated, and count the other's frames by times that are not in
# order of display (an AVI file with B-frames states none that are).
OTHERWISE = {"fire2.mp4", "v_ApplyEyeMakeup_g01_c01.avi"}


def names(shared: Path) -> list[str]:
    with (shared / "data" / "videos" / "videos.csv").open(newline="", encoding="utf-8") as file:
        return [row["file"] for row in csv.DictReader(file)]


def frame_times(path: Path) -> list[Fraction]:
    """Presentation times of the frames, from the first one, by the packets alone."""
    with open_media(path) as container:
        track = video_track(container)
        packets = [p for p in container.demux(track) if p.size and not p.is_discard]
        ticks = sorted(p.pts if p.pts is not None else p.dts for p in packets)
        return [(tick - ticks[0]) * track.time_base for tick in ticks]


@pytest.mark.parametrize("fps", [25, 10])
def test_frames_at_a_constant_rate_are_those_of_ffmpeg(shared, fps):
    compared = 0
    for name in names(shared):
        path = shared / "data" / "videos" / name
        times, duration = frame_times(path), track_times(path).duration_s
        expected = through_ffmpeg(times, duration, fps)
        count = len(expected)
        assert abs(count - duration * fps) <= 1, name
        chosen = frames_at_cells((Fraction(0), Fraction(count, fps)), count, times)
        assert chosen.tolist() == expected, name
        compared += count
    assert compared > 400 * fps


def test_rows_of_a_real_network_are_those_it_gave_elsewhere(shared):
    """Decoding, choice of frames, resizing and network together: cosine above 0.99, as the references ask for."""
    folder = shared / "data" / "features" / "mobilenet_reference"
    encoder = registry.load("encoders", str(ENCODER)).target(
        EncoderOptions(weights=str(shared / "data" / "weights" / WEIGHTS)),
        name="mobilenet_v1",
        device=torch.device("cpu"),
    )
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert {entry["file"] for entry in index.values()} == set(names(shared))
    for name, entry in index.items():
        if entry["file"] in OTHERWISE:
            continue
        # Each at the moment after the frame was shown: the stated times are rounded to a tenth of a millisecond.
        first, *_ = times = [Fraction(str(seconds)) for seconds in entry["times_s"]]
        moments = [seconds - first + Fraction(1, 1000) for seconds in times]
        windows = ListedWindows(tuple((moment, moment) for moment in moments))
        samples = [
            s for _, _, s in VideoPass(shared / "data" / "videos" / entry["file"], {"f": (FrameInput(), windows)})
        ]
        rows = np.concatenate([encoder.encode([sample]).fields["features"] for sample in samples])
        expected = np.load(folder / f"{name}.npy", allow_pickle=False).astype(np.float32)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = (rows * expected).sum(axis=1) / lengths
        assert cosines.min() > 0.99, (name, float(cosines.min()))
