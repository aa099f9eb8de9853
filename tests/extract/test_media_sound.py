"""The sound pass against resampling the whole track at once, and sound kept at its true place beside the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soxr

from vidloc.core.timeline import TimeGrid, center_grid, num_center_rows
from vidloc.errors import MediaError
from vidloc.extract import sound as sound_module
from vidloc.extract.base import AudioInput, Sample
from vidloc.extract.frames import VideoPass
from vidloc.extract.sound import AudioPass

HALF = Fraction(1, 2)
MEL = AudioInput(15600, 16000)
MEL_GRID = center_grid(Fraction(15600, 16000), HALF)


def whole_track(path: Path, rate: int) -> tuple[np.ndarray, Fraction, int]:
    """Mono samples at `rate` of the whole track, its start in the file, and its native rate; for float formats."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.audio[0]))
    parts = []
    for frame in frames:
        array = frame.to_ndarray()
        channels = frame.layout.nb_channels
        array = array if frame.format.is_planar else array.reshape(-1, channels).T
        scale = {"u8": 128, "s16": 2**15, "s16p": 2**15, "s32": 2**31}.get(frame.format.name, 1)
        parts.append((array.astype(np.float32) / np.float32(scale)).mean(axis=0))
    native = frames[0].sample_rate
    track = np.concatenate(parts)
    if native != rate:
        track = soxr.ResampleStream(native, rate, 1, quality="HQ").resample_chunk(track, last=True)
    return track, frames[0].pts * frames[0].time_base, native


def cut(track: np.ndarray, start: int, count: int) -> np.ndarray:
    """Samples of a track from any position on, zeros outside it."""
    padded = np.zeros(count, np.float32)
    for k in range(max(start, 0), min(start + count, len(track))):
        padded[k - start] = track[k]
    return padded


def heard(path: Path, **kwargs: Any) -> tuple[list[Sample], AudioPass]:
    listening = AudioPass(path, {"mel": (MEL, MEL_GRID)}, **kwargs)
    samples = []
    for stream, row, sample in listening:
        assert (stream, row) == ("mel", len(samples))
        samples.append(sample)
    return samples, listening


@pytest.mark.parametrize(
    "name",
    [
        "videos_bad/good_reference_4s.mp4",
        "videos_bad/video_starts_0.8s_late.mp4",
        "videos_bad/start_offset_10s.mkv",
        "videos_bad/start_offset_1h.ts",
        "videos_bad/audio_8khz_mono.mp4",
        "videos_bad/audio_5_1_ac3.mkv",
        "videos_bad/audio_longer_than_video.mp4",
        "videos_bad/audio_shorter_than_video.mp4",
        "videos_bad/mjpeg_pcm.avi",
        "videos_bad/flv1_mp3.flv",
        "videos/bento.mp4",
        "videos/flipping_a_pancake.mkv",
    ],
)
def test_rows_equal_those_cut_from_the_whole_track(name: str, shared: Path) -> None:
    path = shared / "data" / name
    seen = VideoPass(path, {})
    assert list(seen) == []
    origin, duration = seen.report.origin_s, seen.report.duration_s
    samples, listening = heard(path, origin_s=origin, duration_s=duration)
    track, start, native = whole_track(path, 16000)
    assert len(samples) == num_center_rows(HALF, duration)
    for row, sample in enumerate(samples):
        first = (MEL_GRID.center(row) - (start - origin)) * 16000 - 7800
        expected = cut(track, math.floor(first + HALF), 15600)
        np.testing.assert_array_equal(sample.data, expected)
        assert sample.data.dtype == np.float32
        assert sample.span == MEL_GRID.span(row)
        assert len(sample.pts_s) == 0
    assert listening.report.duration_s == duration
    assert listening.report.extent_s[0] == start - origin
    assert listening.report.sample_rate_hz == native


def test_streams_of_two_rates_and_lengths_share_one_pass(shared: Path) -> None:
    path = shared / "data/videos_bad/audio_only.m4a"
    wants = {
        "mel": (MEL, MEL_GRID),
        "same_rate": (AudioInput(160, 16000), center_grid(Fraction(1, 100), Fraction(1, 4))),
        "native": (AudioInput(44100, 44100), TimeGrid(Fraction(1), Fraction(1))),
    }
    rows: dict[str, list[Sample]] = {name: [] for name in wants}
    for stream, row, sample in AudioPass(path, wants):
        assert row == len(rows[stream])
        rows[stream].append(sample)
    alone, listening = heard(path)
    duration = listening.report.duration_s
    assert [len(r) for r in rows.values()] == [8, 16, 4]
    for ours, theirs in zip(rows["mel"], alone, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
    track, _, _ = whole_track(path, 44100)
    np.testing.assert_array_equal(np.concatenate([s.data for s in rows["native"]]), track[: 4 * 44100])
    assert duration == Fraction(len(track), 44100)


def written(path: Path, blocks: list[tuple[int, np.ndarray]], rate: int = 8000) -> Path:
    """A Matroska file of 16-bit sound: blocks of samples, each at a presentation time in milliseconds."""
    with av.open(str(path), "w", format="matroska") as container:
        layout = "stereo" if blocks[0][1].ndim == 2 else "mono"
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        for start_ms, block in blocks:
            packed = np.ascontiguousarray(block.astype(np.int16)).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start_ms * rate // 1000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ramp(count: int, start: int = 1) -> np.ndarray:
    return np.arange(start, start + count)


NATIVE = AudioInput(8000, 8000)
SECONDS = TimeGrid(Fraction(1), Fraction(1))


def first_row(path: Path) -> tuple[np.ndarray, AudioPass]:
    listening = AudioPass(path, {"a": (NATIVE, SECONDS)})
    rows = [sample.data for _, _, sample in listening]
    return np.round(rows[0] * 32768).astype(int), listening


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = ramp(8000), 3 * ramp(8000)
    row, _ = first_row(written(tmp_path / "a.mkv", [(0, np.stack([left, right], axis=1))]))
    np.testing.assert_array_equal(row, 2 * ramp(8000))


def test_a_lost_packet_leaves_silence_and_what_follows_keeps_its_time(tmp_path: Path) -> None:
    row, listening = first_row(written(tmp_path / "a.mkv", [(0, ramp(2000)), (500, ramp(4000, 4001))]))
    np.testing.assert_array_equal(row, [*ramp(2000), *[0] * 2000, *ramp(4000, 4001)])
    assert listening.report.num_samples == 8000
    assert listening.report.damage is None


def test_sound_that_comes_twice_is_heard_once(tmp_path: Path) -> None:
    row, listening = first_row(written(tmp_path / "a.mkv", [(0, ramp(4000)), (250, ramp(6000, 2001))]))
    np.testing.assert_array_equal(row, ramp(8000))
    assert listening.report.num_samples == 8000


def test_jitter_of_the_container_does_not_tear_the_sound(tmp_path: Path) -> None:
    row, _ = first_row(written(tmp_path / "a.mkv", [(0, ramp(4000)), (515, ramp(4000, 4001))]))
    np.testing.assert_array_equal(row, ramp(8000))


def test_a_hole_beyond_belief_ends_the_pass(tmp_path: Path) -> None:
    _, listening = first_row(written(tmp_path / "a.mkv", [(0, ramp(8000)), (4_000_000, ramp(8000))]))
    assert listening.report.duration_s == 1
    assert listening.report.damage == "there is a hole of 3999 s at 1.00 s of the sound, and what follows was left out"


def test_a_change_of_rate_ends_the_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sound_module.TrackDecoder.__iter__

    def patched(self: Any) -> Iterator[Any]:
        for number, frame in enumerate(plain(self)):
            frame.sample_rate = 8000 if number < 1 else 16000
            yield frame

    monkeypatch.setattr(sound_module.TrackDecoder, "__iter__", patched)
    _, listening = first_row(written(tmp_path / "a.mkv", [(0, ramp(8000)), (1000, ramp(8000))]))
    assert "the sample rate changes from 8000 to 16000 Hz at 1.00 s of the sound" in str(listening.report.damage)


@pytest.mark.parametrize("name", ["u8", "s16", "s16p", "s32", "s32p", "flt", "fltp", "dbl", "dblp"])
def test_every_sample_format_has_full_scale_at_one(name: str) -> None:
    channels = np.array([[-1.0, -0.5, 0.0, 0.5], [-1.0, 0.5, 0.0, 0.25]])
    kinds = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
    dtype = np.dtype(kinds[name.rstrip("p")])
    if name == "u8":
        stored = (channels * 128 + 128).astype(dtype)
    elif dtype.kind == "i":
        stored = (channels * -float(np.iinfo(dtype).min)).astype(dtype)
    else:
        stored = channels.astype(dtype)
    planar = np.ascontiguousarray(stored if name.endswith("p") else stored.T.reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(planar, format=name, layout="stereo")
    np.testing.assert_array_equal(sound_module._mono(frame), [-1.0, 0.0, 0.0, 0.375])


def test_memory_holds_only_what_open_rows_need(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    plain = sound_module._Resampled.append

    def watched(self: Any, block: np.ndarray) -> None:
        plain(self, block)
        kept.append(len(self._kept))

    monkeypatch.setattr(sound_module._Resampled, "append", watched)
    heard(shared / "data/videos/women_long_jump.mp4")
    assert max(kept) < 4 * 16000


def test_a_file_without_sound_is_refused(shared: Path) -> None:
    listening = AudioPass(shared / "data/videos_bad/gray.mp4", {"mel": (MEL, MEL_GRID)})
    with pytest.raises(MediaError, match=r"gray.mp4 has no sound track"):
        list(listening)
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = listening.report


def test_a_track_of_which_nothing_decodes_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, _: Any) -> list[Any]:
        self.num_failed += 1
        self.first_failure = "Invalid data"
        return []

    monkeypatch.setattr(sound_module.TrackDecoder, "_decoded", failing)
    with pytest.raises(MediaError, match=r"nothing of it can be decoded: \d+ of \d+ sound packets .*Invalid data"):
        heard(shared / "data/videos_bad/audio_only.m4a")


def test_frames_left_in_the_decoder_keep_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sound_module.TrackDecoder.__iter__

    def patched(self: Any) -> Iterator[Any]:
        for frame in plain(self):
            bare = av.AudioFrame.from_ndarray(frame.to_ndarray(), format="s16", layout="mono")
            bare.sample_rate, bare.pts = frame.sample_rate, frame.pts
            assert bare.time_base is None
            yield bare

    path = written(tmp_path / "a.mkv", [(0, ramp(2000)), (500, ramp(4000, 4001))])
    monkeypatch.setattr(sound_module.TrackDecoder, "__iter__", patched)
    row, _ = first_row(path)
    np.testing.assert_array_equal(row, [*ramp(2000), *[0] * 2000, *ramp(4000, 4001)])
