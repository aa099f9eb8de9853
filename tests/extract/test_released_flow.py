"""Released flow pictures: pairs by number from folders and archives, levels in pixels, and what may be wrong."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numbered_frames import encoded, frames, of_flow, write_folder, write_tar

from vidloc.core.numbered_pictures import FrameRate
from vidloc.core.timeline import TimeGrid
from vidloc.errors import MediaError
from vidloc.extract.base import FlowInput, FrameSize
from vidloc.extract.frames import VideoPass
from vidloc.extract.released_flow import ReleasedFlow
from vidloc.extract.track_times import track_times

RATE = FrameRate(Fraction(10), "the test")
HALF, WHOLE = Fraction(1, 2), FrameSize()
FLOW = [picture[..., :2] for picture in frames(10)]


def seen(path: Path, size: FrameSize = WHOLE) -> tuple[list[np.ndarray], str | None]:
    """Rows of five pairs each, and the damage."""
    video = VideoPass(path, {"a": (FlowInput(5, HALF, size), TimeGrid(HALF, HALF))}, frame_rate=RATE, pairs=True)
    return [sample.data for _, _, sample in video], video.report.damage


def test_pairs_come_by_number_from_folders_and_archives(tmp_path):
    files = of_flow(FLOW)
    backwards = dict(reversed([(f"./P01_01/{name}", content) for name, content in files.items()]))
    for path in (write_folder(tmp_path / "a", files), write_tar(tmp_path / "a.tar", backwards)):
        rows, damage = seen(path)
        assert damage is None
        assert track_times(path, RATE, pairs=True).num_frames == 10
        np.testing.assert_array_equal(np.concatenate(rows), np.stack(FLOW))


def test_a_mirror_turns_what_moves_right_into_what_moves_left(tmp_path):
    path = write_folder(tmp_path / "a", of_flow(FLOW))
    (plain, _), _ = seen(path, FrameSize(crop_px=16, place="near"))
    (mirrored, _), _ = seen(path, FrameSize(crop_px=16, place="near", mirrored=True))
    np.testing.assert_array_equal(plain[0], FLOW[0][8:24, :16])
    np.testing.assert_array_equal(mirrored[..., 0], 255 - plain[:, :, ::-1, 0])
    np.testing.assert_array_equal(mirrored[..., 1], plain[:, :, ::-1, 1])


@pytest.mark.parametrize(
    ("lost", "damage"),
    [
        ("v", r"1 of 10 pictures could not be decoded \(first: number 3, there is no picture of it in v\)"),
        ("u", r"1 of 10 pictures could not be decoded \(first: number 3, there is no picture of it in u\)"),
        ("uv", r"1 frames are missing: number 3"),
    ],
)
def test_half_a_pair_is_reported_and_shifts_nothing(tmp_path, lost, damage):
    files = of_flow(FLOW)
    for side in lost:
        del files[f"{side}/frame_0000000003.png"]
    expected = np.stack([FLOW[k] for k in (0, 1, 1, *range(3, 10))])
    for path in (write_folder(tmp_path / "a", files), write_tar(tmp_path / "a.tar", files)):
        rows, said = seen(path)
        np.testing.assert_array_equal(np.concatenate(rows), expected)
        assert said is not None
        assert re.fullmatch(damage, said)


def test_pictures_that_are_no_flow_are_damage(tmp_path):
    files = of_flow(FLOW)
    files["u/frame_0000000002.png"] = encoded(frames(1)[0], ".png")
    _, said = seen(write_folder(tmp_path / "colour", files))
    assert said is not None
    assert "number 2, a picture of flow is grey, of 8 bits; this is none (mode RGB)" in said
    files = of_flow(FLOW) | {"v/frame_0000000002.png": encoded(np.zeros((8, 9), np.uint8), ".png")}
    _, said = seen(write_folder(tmp_path / "size", files))
    assert said is not None
    assert "number 2, its two pictures differ in size (48x32 and 9x8)" in said


def test_what_cannot_be_read_as_pairs_is_refused(tmp_path):
    files = of_flow(FLOW)
    only_u = {name: content for name, content in files.items() if name.startswith("u/")}
    with pytest.raises(MediaError, match=r"a/v cannot be read: No such file"):
        seen(write_folder(tmp_path / "a", only_u))
    with pytest.raises(MediaError, match=r"a\.tar/v holds no numbered pictures"):
        seen(write_tar(tmp_path / "a.tar", only_u))
    with pytest.raises(MediaError, match=r"is compressed, and the two halves .* Unzip it to a \.tar"):
        seen(write_tar(tmp_path / "a.tar.gz", files))


def test_levels_stand_for_pixels_up_to_the_bound():
    levels = np.array([0, 255, 51, 204], np.uint8).reshape(1, 1, 2, 2)
    assert ReleasedFlow(25).of(levels).reshape(-1).tolist() == pytest.approx([-25, 25, -15, 15], abs=1e-5)
    assert ReleasedFlow(8).of(levels).reshape(-1).tolist() == pytest.approx([-8, 8, -4.8, 4.8], abs=1e-5)
    assert ReleasedFlow(25).levels(levels) is levels
    wanted = ReleasedFlow(25, crop_px=224).input(16, Fraction(16, 25), FrameSize(256, antialias=True))
    assert wanted == FlowInput(16, Fraction(16, 25), FrameSize(256, 224, antialias=True))
    flow = np.random.default_rng(0).uniform(-25, 25, (2, 3, 4, 2)).astype(np.float32)
    written = np.round(255 * (flow + 25) / 50).astype(np.uint8)
    assert np.abs(ReleasedFlow(25).of(written) - flow).max() <= 25 / 255 + 1e-5
