"""Peak memory over the length of a video: that of ten hours is that of one, with picture, sound and wide rows."""

from __future__ import annotations

import multiprocessing
import resource
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np

from vidloc.extract.base import Sample
from vidloc.pipelines.extract import Selection, extract
from vidloc.pipelines.extraction import in_process
from vidloc.pipelines.extraction.decoding import Arrived, size_of
from vidloc.stores import pending
from vidloc.stores.base import open_store

LOUDNESS = Path(__file__).parent.parent / "data" / "loudness.py"
STRIDE_S = 10
ROW_NUMBERS = 6144
# What may wait in memory for the disk, and for its commit, set low: ten hours of these rows are 88 MB.
WAITING_BYTES = 4 * 2**20
# Blocks on their way to the disk, and what the allocator keeps: a third of what the rows of nine hours would add.
SLACK_BYTES = 24 * 2**20

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["vidloc.pipelines.extract", "vidloc.stores.backends", __name__])


def write_hours(path: Path, hours: int) -> Path:
    """A picture every ten seconds and sound at 500 Hz: one minute of packets, over and over."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=Fraction(1, 10))
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        audio = container.add_stream("pcm_u8", rate=500, layout="mono")
        colours = np.random.default_rng(0).integers(0, 256, (6, 1, 1, 3), dtype=np.uint8)
        frames = [av.VideoFrame.from_ndarray(np.tile(colour, (48, 64, 1)), format="rgb24") for colour in colours]
        pictures = [bytes(packet) for frame in (*frames, None) for packet in video.encode(frame)]
        wave = (128 + 60 * np.sin(np.arange(5000) * 0.3)).astype(np.uint8).tobytes()
        for k in range(hours * 360):
            for track, data, tick in ((video, pictures[k % 6], Fraction(10)), (audio, wave, Fraction(1, 500))):
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = track, tick, True
                packet.duration = int(10 / tick)
                packet.pts = packet.dts = k * packet.duration
                container.mux(packet)
    return path


def measure(store: Path, video: Path, encoder: Path, answer: Connection) -> None:
    """Extract in a process of its own, and tell its peak of memory."""
    pending.MEMORY_BYTES = in_process.BEHIND_BYTES = WAITING_BYTES
    video.with_suffix(".csv").write_text(f"path\n{video.name}\n")
    report = extract(
        store,
        [str(encoder), str(LOUDNESS)],
        Selection(videos=video.with_suffix(".csv")),
        stride_s=Fraction(STRIDE_S),
        device="cpu",
    )
    assert not report.failures
    answer.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak_bytes(store: Path, video: Path, encoder: Path) -> int:
    ours, theirs = _SERVER.Pipe()
    process = _SERVER.Process(target=measure, args=(store, video, encoder, theirs))
    process.start()
    theirs.close()
    peak = ours.recv()
    process.join()
    return peak


def test_ten_hours_take_the_memory_of_one(tmp_path):
    encoder = tmp_path / "wide.py"
    encoder.write_text(
        f'''
"""Wide rows that cost nothing: a frame's numbers over and over."""
import numpy as np
from vidloc.core.records import Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.extract.base import Encoder, FrameInput, FrameSize, StreamTemplate

class Wide(Encoder):
    input = FrameInput(FrameSize(short_side_px=16, crop_px=16))
    def __init__(self, options, *, name, device):
        self.options, self.device, self.weights_name, self.weights_sha256 = options, device, "", ""
    def stream(self):
        fields = {{"features": FieldSpec(row_shape=({ROW_NUMBERS},), dtype="float32")}}
        return StreamTemplate("clip", fields, Source(), {{}})
    def encode(self, samples):
        return Rows.dense(features=np.stack([np.resize(s.data, {ROW_NUMBERS}).astype(np.float32) for s in samples]))

ENCODER = Wide
''',
        encoding="utf-8",
    )
    peaks = {
        hours: peak_bytes(tmp_path / f"{hours}.zarr", write_hours(tmp_path / f"{hours}.mkv", hours), encoder)
        for hours in (1, 10)
    }
    with open_store(tmp_path / "10.zarr") as store:
        rows = store.entry("wide", "10.mkv").num_rows
        assert rows == store.entry("loudness", "10.mkv").num_rows == 10 * 3600 / STRIDE_S
        assert rows * ROW_NUMBERS * 4 > 3 * SLACK_BYTES
        assert store.recomputed_digest("wide", "10.mkv") == store.entry("wide", "10.mkv").digest
    assert peaks[10] - peaks[1] < SLACK_BYTES, {hours: f"{peak / 2**20:.0f} MiB" for hours, peak in peaks.items()}


def test_small_samples_are_not_free():
    # A quarter of a million of them would fit the allowance of the decoder by their pixels alone.
    assert size_of(Arrived("a", "colour", Sample((0, 1), "text", np.empty(0)))) >= 1024
