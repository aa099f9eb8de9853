"""The picture pass against decoding everything first: the same frames, the same pixels, the same rows."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from made_videos import write_video
from torchvision.transforms.v2 import functional as vision

from vidloc.core.timeline import TimeGrid, center_grid, frames_at_cells
from vidloc.errors import MediaError
from vidloc.extract import frames as frames_module
from vidloc.extract.base import ClipInput, FrameInput, FrameSize, Sample
from vidloc.extract.frames import VideoPass
from vidloc.extract.pictures import sized

HALF = Fraction(1, 2)
SIZES = [FrameSize(), FrameSize(64), FrameSize(64, 48), FrameSize(64, 48, antialias=True), FrameSize(None, 101)]
STRETCHED = FrameSize(crop_px=28, stretch_px=(32, 43))


@dataclass
class Whole:
    """All frames of a file in display order, decoded in the plainest way."""

    times: list[Fraction]
    pictures: list[np.ndarray]
    duration_s: Fraction


def decode_all(path: Path) -> Whole:
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
        base = container.streams.video[0].time_base
    ticks = sorted(f.pts for f in frames)
    gaps = sorted(b - a for a, b in itertools.pairwise(ticks))
    end = ticks[-1] + (frames[-1].duration or gaps[(len(gaps) - 1) // 2])
    turns = round(frames[0].rotation / 90) % 4
    pictures = [np.rot90(f.to_ndarray(format="rgb24"), turns) for f in frames]
    return Whole([(t - ticks[0]) * base for t in ticks], pictures, (end - ticks[0]) * base)


def plainly_sized(picture: np.ndarray, size: FrameSize) -> np.ndarray:
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    if size.stretch_px is not None:
        image = vision.resize(image, list(size.stretch_px), antialias=size.antialias)
    if size.short_side_px is not None:
        image = vision.resize(image, [size.short_side_px], antialias=size.antialias)
    if size.crop_px is not None:
        image = vision.center_crop(image, [size.crop_px, size.crop_px])
    return image.permute(1, 2, 0).numpy()


def rows_of(path: Path, **wants: tuple[ClipInput | FrameInput, TimeGrid]) -> tuple[dict[str, list[Sample]], VideoPass]:
    seen = VideoPass(path, wants)
    rows: dict[str, list[Sample]] = {name: [] for name in wants}
    for name, row, sample in seen:
        assert row == len(rows[name])
        rows[name].append(sample)
    return rows, seen


@pytest.mark.parametrize(
    "name",
    [
        "videos_bad/good_reference_4s.mp4",
        "videos_bad/vfr.mp4",
        "videos_bad/start_offset_10s.mkv",
        "videos_bad/start_offset_1h.ts",
        "videos_bad/video_starts_0.8s_late.mp4",
        "videos_bad/edit_list_cut.mp4",
        "videos_bad/rotated_displaymatrix_90.mp4",
        "videos_bad/real_rotation_90.mov",
        "videos_bad/real_rotation_180.mov",
        "videos_bad/odd_227x127.webm",
        "videos_bad/odd_227x127_yuv444p.mp4",
        "videos_bad/hevc_main10.mp4",
        "videos_bad/gray.mp4",
        "videos_bad/animated.gif",
        "videos_bad/mjpeg_pcm.avi",
        "videos_bad/fps_1000.mp4",
        "videos_bad/one_frame.mp4",
        "videos_bad/-video-with-dash-.mp4",
        "videos/v_ApplyEyeMakeup_g01_c01.avi",
    ],
)
def test_rows_equal_those_chosen_from_all_frames(name: str, shared: Path) -> None:
    path = shared / "data" / name
    whole = decode_all(path)
    wants: dict[str, tuple[ClipInput | FrameInput, TimeGrid]] = {
        "short": (ClipInput(4, Fraction(4, 25), SIZES[1]), center_grid(Fraction(4, 25), HALF)),
        "long": (ClipInput(16, Fraction(64, 30), SIZES[2]), center_grid(Fraction(64, 30), HALF)),
        "smooth": (ClipInput(2, Fraction(1, 3), SIZES[3]), center_grid(Fraction(1, 3), HALF)),
        "frame": (FrameInput(SIZES[0]), center_grid(1, HALF)),
        "start": (ClipInput(3, Fraction(32, 30), SIZES[4]), TimeGrid(Fraction(32, 30), Fraction(16, 30))),
        "motion": (ClipInput(4, Fraction(4, 25), SIZES[1], frames_after=2), center_grid(Fraction(4, 25), HALF)),
    }
    rows, seen = rows_of(path, **wants)
    assert seen.report.duration_s == whole.duration_s
    assert seen.report.num_frames == len(whole.times)
    for stream, (want, grid) in wants.items():
        cells, after = (want.num_frames, want.frames_after) if isinstance(want, ClipInput) else (1, 0)
        centers = [grid.center(k) for k in range(1000) if grid.center(k) < whole.duration_s]
        assert len(rows[stream]) == max(len(centers), 1)
        for row, sample in enumerate(rows[stream]):
            start, end = grid.span(row)
            longer = (start, end + after * grid.window_s / cells)
            chosen = frames_at_cells(longer, cells + after, whole.times)
            expected = [plainly_sized(whole.pictures[i], want.size) for i in chosen]
            data = sample.data if isinstance(want, ClipInput) else sample.data[None]
            np.testing.assert_array_equal(data, np.stack(expected))
            np.testing.assert_array_equal(sample.pts_s, [float(whole.times[i]) for i in chosen])
            assert sample.span == grid.span(row)
            assert sample.image_size == whole.pictures[0].shape[1::-1]


def test_a_row_comes_as_soon_as_its_last_frame_is_known(shared: Path) -> None:
    grid = center_grid(HALF, HALF)
    seen = VideoPass(
        shared / "data/videos/one-by-one-person-detection.mp4", {"a": (ClipInput(2, HALF, FrameSize(16)), grid)}
    )
    samples = iter(seen)
    assert next(samples)[1] == 0
    with pytest.raises(RuntimeError, match="has not ended"):
        _ = seen.report
    samples.close()


def test_frames_nobody_needs_are_not_converted_and_needed_ones_once_per_size(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted, resized = [], []

    class Counting(frames_module.PictureMaker):
        def rgb(self, frame: Any) -> np.ndarray:
            converted.append(frame.pts)
            return super().rgb(frame)

    def counting(picture: np.ndarray, size: FrameSize) -> np.ndarray:
        resized.append(size)
        return sized(picture, size)

    monkeypatch.setattr(frames_module, "PictureMaker", Counting)
    monkeypatch.setattr("vidloc.extract.pictures.sized", counting)
    path = shared / "data/videos_bad/good_reference_4s.mp4"
    clip = (ClipInput(4, Fraction(2), FrameSize(32)), center_grid(2, HALF))
    rows, _ = rows_of(path, one=clip, other=clip, frame=(FrameInput(FrameSize(40)), center_grid(1, HALF)))
    used = {pts for name in ("one", "frame") for s in rows[name] for pts in s.pts_s}
    assert len(converted) == len(set(converted)) == len(used)
    assert resized.count(FrameSize(32)) == len({pts for s in rows["one"] for pts in s.pts_s})
    assert resized.count(FrameSize(40)) == len({pts for s in rows["frame"] for pts in s.pts_s})


def test_the_frame_after_a_window_at_the_end_of_a_video_is_the_last_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=1.0, fps=10, sound=False)
    want = ClipInput(2, Fraction(1, 5), FrameSize(), frames_after=1)
    rows, _ = rows_of(path, motion=(want, TimeGrid(Fraction(1, 5), Fraction(1, 5))))
    # Two frames inside each window, and the one at the midpoint of the next cell; after 0.9 s there is none.
    assert [sample.pts_s.tolist() for sample in rows["motion"][:2]] == [[0.0, 0.1, 0.2], [0.2, 0.3, 0.4]]
    last = rows["motion"][-1]
    assert last.pts_s.tolist() == [0.8, 0.9, 0.9]
    assert last.span == (Fraction(4, 5), 1)  # the window itself is not longer
    np.testing.assert_array_equal(last.data[1], last.data[2])
    assert not np.array_equal(last.data[0], last.data[1])


def test_crops_of_one_size_are_cut_from_one_resized_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", seconds=0.5, fps=10, sound=False)
    resized = []

    def counting(picture: np.ndarray, size: FrameSize) -> np.ndarray:
        resized.append(size)
        return sized(picture, size)

    monkeypatch.setattr("vidloc.extract.pictures.sized", counting)
    grid = center_grid(HALF, HALF)
    rows, _ = rows_of(
        path, rgb=(ClipInput(5, HALF, FrameSize(16, 12)), grid), flow=(ClipInput(5, HALF, FrameSize(16)), grid)
    )
    assert resized == [FrameSize(16)] * 5
    whole, cut = rows["flow"][0].data, rows["rgb"][0].data
    assert (whole.shape, cut.shape) == ((5, 16, 24, 3), (5, 12, 12, 3))
    np.testing.assert_array_equal(cut, whole[:, 2:14, 6:18])


def test_memory_holds_only_what_open_windows_need(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()

    class Tracked(np.ndarray):
        pass

    def tracked(picture: np.ndarray, size: FrameSize) -> np.ndarray:
        out = sized(picture, size).copy().view(Tracked)
        alive.add(id(out))
        weakref.finalize(out, alive.discard, id(out))
        return out

    monkeypatch.setattr("vidloc.extract.pictures.sized", tracked)
    window = Fraction(1, 2)
    seen = VideoPass(
        shared / "data/videos/one-by-one-person-detection.mp4",
        {"a": (ClipInput(5, window, FrameSize(16)), center_grid(window, Fraction(1, 4)))},
    )
    most = max(len(alive) for _ in seen)
    # Windows of 5 frames, two of them open at a time; the frames of the row just given are still held by it.
    assert 0 < most <= 16


def test_a_video_without_wants_is_only_measured(shared: Path) -> None:
    seen = VideoPass(shared / "data/videos_bad/vfr.mp4", {})
    assert list(seen) == []
    assert (seen.report.num_frames, seen.report.variable_rate) == (35, True)


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (45, 45), (7, 300), (33, 64), (65, 64), (1, 1)])
@pytest.mark.parametrize(
    "size",
    [*SIZES, FrameSize(33, 32), FrameSize(32, 33), FrameSize(64, 63), FrameSize(45, 64, antialias=True), STRETCHED],
    ids=str,
)
def test_resize_and_crop_equal_torchvision(shape: tuple[int, int], size: FrameSize) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(sized(picture, size), plainly_sized(picture, size))


def test_a_strip_that_would_explode_is_refused() -> None:
    with pytest.raises(MediaError, match="a picture of 40000x1 with its short side at 256 would have 10240000x256"):
        sized(np.zeros((1, 40000, 3), np.uint8), FrameSize(256))


def written(path: Path, ticks: list[int], *, sizes: list[tuple[int, int]] | None = None, base: int = 1000) -> Path:
    """A Matroska file of one gray level per frame with the given presentation times."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height = (sizes or [(32, 16)])[0]
        stream.pix_fmt = "yuvj420p"
        stream.codec_context.time_base = Fraction(1, base)
        for level, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 8 * level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def gray_levels(sample: Sample) -> list[int]:
    return [round(float(picture.mean()) / 8) for picture in sample.data]


def test_uneven_gaps_choose_by_time_not_by_index(tmp_path: Path) -> None:
    """Acceptance check 19: gaps of 20, 60, 20, 60 ms."""
    ticks = [0, 20, 80, 100, 160, 180, 240, 260]
    path = written(tmp_path / "a.mkv", ticks)
    rows, seen = rows_of(path, a=(ClipInput(8, Fraction(8, 25), FrameSize()), TimeGrid(Fraction(8, 25), Fraction(1))))
    # Midpoints at 20, 60, 100, 140, 180, 220, 260, 300 ms; a frame exactly at a midpoint is not yet on screen.
    assert gray_levels(rows["a"][0]) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert seen.report.variable_rate
    rows, _ = rows_of(path, a=(ClipInput(4, Fraction(8, 25), FrameSize()), TimeGrid(Fraction(8, 25), Fraction(1))))
    assert gray_levels(rows["a"][0]) == [1, 3, 5, 7]


def test_times_that_jump_end_the_pass_and_are_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mkv", [0, 40, 80, 120, 5_000_000, 5_000_040])
    rows, seen = rows_of(path, a=(FrameInput(), center_grid(1, Fraction(1, 25))))
    assert seen.report.num_frames == 4
    assert len(rows["a"]) == 4
    assert "the frame times jump from 0.120 s to 5000.000 s, and what follows was left out" in str(seen.report.damage)


def test_a_long_still_gap_repeats_the_frame(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mkv", [0, 40, 30_000, 30_040])
    rows, seen = rows_of(path, a=(FrameInput(), center_grid(1, 1)))
    assert seen.report.damage is None
    assert len(rows["a"]) == math.ceil(float(seen.report.duration_s) - 0.5) == 30
    assert {float(s.pts_s[0]) for s in rows["a"][1:]} == {0.04}


def patched_times(monkeypatch: pytest.MonkeyPatch, times: list[int | None]) -> None:
    """Decoded frames carry other times than their file says."""
    plain = frames_module.TrackDecoder.__iter__

    def patched(self: Any) -> Iterator[Any]:
        for frame, tick in zip(plain(self), times, strict=False):
            frame.pts = tick
            yield frame

    monkeypatch.setattr(frames_module.TrackDecoder, "__iter__", patched)


@pytest.mark.parametrize(
    ("stated", "expected_ms", "damage"),
    [
        ([None] * 5, [0, 40, 80, 120, 160], None),
        ([0, 40, None, 120, 160], [0, 40, 80, 120, 160], None),
        ([0, 40, 40, 120, 160], [0, 40, 40, 120, 160], None),
        ([0, 500, 40, 80, 120], [0, 500, 500, 500, 500], None),
        ([0, 5000, 40, 80, 120], [0, 5000], "the frame times jump from 5.000 s to 0.040 s"),
    ],
)
def test_times_that_are_missing_or_run_backwards(
    stated: list[int | None],
    expected_ms: list[int],
    damage: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path / "a.mkv", [0, 40, 80, 120, 160])
    patched_times(monkeypatch, stated)
    _, seen = rows_of(path)
    assert seen.report.num_frames == len(expected_ms)
    assert seen.report.duration_s == Fraction(expected_ms[-1] + 40, 1000)
    assert (seen.report.damage is None) if damage is None else (damage in str(seen.report.damage))


def test_a_stream_that_changes_size_keeps_the_first_one(tmp_path: Path) -> None:
    def jpegs(width: int, height: int) -> bytes:
        target = tmp_path / f"{width}.mjpeg"
        with av.open(str(target), "w", format="mjpeg") as container:
            stream = container.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), width, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return target.read_bytes()

    path = tmp_path / "both.mjpeg"
    path.write_bytes(jpegs(64, 32) + jpegs(96, 96))
    rows, seen = rows_of(path, a=(ClipInput(6, Fraction(6, 25), FrameSize()), TimeGrid(Fraction(6, 25), Fraction(1))))
    assert seen.report.num_frames == 6
    assert rows["a"][0].data.shape == (6, 32, 64, 3)
    assert rows["a"][0].data[-1].mean() == pytest.approx(96, abs=2)
