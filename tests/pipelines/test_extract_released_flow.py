"""`vidloc extract` of released flow: EPIC-KITCHENS's `flow_frames`, and a list that names flow pictures with rates."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numbered_frames import frames, named, of_flow, write_folder, write_tar

from vidloc.cli import vidloc
from vidloc.core import registry
from vidloc.errors import AnnotationError, OptionError
from vidloc.extract.base import Encoder, Sample
from vidloc.stores.base import open_store

TSN = {
    "weights": "random:0", "frame": "crop", "short_side_px": "64", "crop_px": "64", "dtype": "float32",
    "flow": "released",
}  # fmt: skip
I3D = {
    "weights": "random:0", "num_frames": "9", "short_side_px": "193", "crop_px": "193", "dtype": "float32",
    "flow": "released", "align": "start", "stride": "1",
}  # fmt: skip
COLOUR = f"colour={Path(__file__).parent.parent / 'data' / 'mean_colour.py'}"
WORDS = ("align", "stride")
TSN_FLOW, I3D_FLOW = (
    f"{name}:{','.join(f'{k}={v}' for k, v in options.items())}"
    for name, options in (("tsn=tsn_flow_bninception", TSN), ("i3d=i3d_flow", I3D))
)
LEVELS = [picture[..., :2] for picture in frames(30, size=(80, 64))]


def invoke(*arguments: object):
    arguments = ("extract", *arguments, "--device", "cpu")
    return CliRunner().invoke(vidloc, [str(argument) for argument in arguments], catch_exceptions=False)


def built(name: str, options: dict[str, str]) -> Encoder:
    found = registry.load("encoders", name)
    own = {name: value for name, value in options.items() if name not in WORDS}
    return found.target(found.target.Options.parse(own, where=name), name=name, device=torch.device("cpu"))


def on_screen(seconds: Fraction, fps: int) -> int:
    """The number of the flow picture that is shown just before a time: number k is from (k - 1) / fps."""
    return max(k for k in range(1, 31) if k == 1 or Fraction(k - 1, fps) < seconds)


def expected_tsn(fps: int, centres: list[Fraction]) -> np.ndarray:
    """Rows of the five pairs around each centre, a thirtieth of a second apart, picked one by one."""
    encoder = built("tsn_flow_bninception", TSN)
    rows = []
    for centre in centres:
        numbers = [on_screen(centre + Fraction(cell, 30), fps) for cell in (-2, -1, 0, 1, 2)]
        data = np.stack([LEVELS[number - 1][:, 8:72] for number in numbers])
        rows.append(encoder.encode([Sample((centre, centre), data, np.empty(0))]).fields["features"][0])
    return np.stack(rows)


def test_epic_flow_of_both_years_beside_frames_and_alone(tmp_path):
    root = tmp_path / "EPIC"
    write_tar(root / "P01/flow_frames/P01_101.tar", of_flow(LEVELS))
    write_tar(root / "frames_rgb_flow/flow/train/P01/P01_01.tar", of_flow(LEVELS))
    write_tar(root / "frames_rgb_flow/rgb/train/P01/P01_01.tar", named(frames(60)))
    write_folder(root / "P01/rgb_frames/P01_02", named(frames(2)))
    run = (
        "--dataset",
        "epic",
        "--root",
        root,
        "--store",
        tmp_path / "s.zarr",
        "--stride",
        "1/2",
        "--encoder",
        TSN_FLOW,
    )
    plan = invoke(*run, "--plan").stdout
    assert "Released flow: 1 items at 30 fps (of every second frame of 2018)." in plan
    assert "Released flow: 1 items at 50 fps (that of all videos of 2020)." in plan
    assert "optical flow as released, white being 25 pixels" in plan
    ran = invoke(*run, "--json")
    report = json.loads(ran.stdout)
    assert ran.exit_code == 3
    assert [(entry["item"], entry["stream"]) for entry in report["failed"]] == [("P01_02", "tsn")]
    assert report["failed"][0]["reason"].startswith("no flow pictures were found for it; without flow=released")
    with open_store(tmp_path / "s.zarr") as store:
        # 30 pairs last 1 s at 30 per second and 0.6 s at 50.
        for item, fps, centres in (("P01_01", 30, (1, 3)), ("P01_101", 50, (1,))):
            rows = store.read_field("tsn", item)
            expected = expected_tsn(fps, [Fraction(quarter, 4) for quarter in centres])
            np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        spec = store.streams()["tsn"]
        frames_of, alone = store.info("P01_01"), store.info("P01_101")
    assert (spec.options["flow"], spec.options["flow_bound_px"]) == ("released", 25)
    assert (spec.preprocessing["flow"]["algorithm"], spec.preprocessing["flow"]["bound_px"]) == ("released", 25)
    assert "frames_after_window" not in spec.sampling
    assert (frames_of.source_name, alone.source_name) == ("P01_01.tar", None)
    assert (frames_of.duration_s, alone.duration_s) == (1, pytest.approx(0.6))
    # What was missing is looked for again, and nothing else is done twice.
    write_folder(root / "P01/flow_frames/P01_02", of_flow(LEVELS))
    again = json.loads((ran := invoke(*run, "--json")).stdout)
    assert (ran.exit_code, again["items_already_done"], again["rows"]) == (0, 2, {"tsn": 2})


def test_known_motion_comes_through_up_to_eight_bits(tmp_path):
    """What the network is fed is motion in pixels, whatever bound the pictures were written with."""
    rows, columns = np.mgrid[:193, :193]
    motion = np.stack([12 * np.sin(columns / 20), 6 * np.cos(rows / 15)], axis=-1).astype(np.float32)
    written = np.round(255 * (motion + 16) / 32).astype(np.uint8)
    write_folder(tmp_path / "flow", of_flow([written] * 10))
    (tmp_path / "list.csv").write_text("item_id,path,flow_path,flow_fps\na,,flow,25\n")
    run = (
        "--videos",
        tmp_path / "list.csv",
        "--store",
        tmp_path / "s.zarr",
        "--encoder",
        f"{I3D_FLOW},flow_bound_px=16",
    )
    ran = invoke(*run)
    assert ran.exit_code == 0, ran.output
    with open_store(tmp_path / "s.zarr") as store:
        (row,) = store.read_field("i3d", "a")
    encoder = built("i3d_flow", I3D)
    clip = torch.from_numpy(np.broadcast_to(motion / 20, (1, 9, 193, 193, 2)).copy()).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        expected, weaker = (encoder.pooled(clip * scale).numpy().reshape(-1) for scale in (1, 0.8))
    error = np.abs(row - expected).max() / np.abs(expected).max()
    assert error < 0.02
    assert np.abs(weaker - expected).max() / np.abs(expected).max() > 5 * error


def test_half_pairs_make_an_item_partial_and_videos_without_flow_are_named(tmp_path):
    files = of_flow(LEVELS)
    del files["v/frame_0000000007.png"]
    write_tar(tmp_path / "a.tar", files)
    write_tar(tmp_path / "z.tar.gz", files)
    write_folder(tmp_path / "frames", named(frames(30)))
    listed = tmp_path / "list.csv"
    listed.write_text(
        "item_id,path,fps,flow_path,flow_fps\na,,,a.tar,30\nb,frames,30,,\nc,frames,30,a.tar,30\nz,,,z.tar.gz,30\n"
    )
    run = ("--videos", listed, "--store", tmp_path / "s.zarr", "--stride", "1", "--encoder")
    report = json.loads(invoke(*run, TSN_FLOW, "--json").stdout)
    half = "1 of 30 pictures could not be decoded (first: number 7, there is no picture of it in v)"
    assert {entry["item"]: entry["reason"] for entry in report["partial"]} == {"a": half, "c": half}
    reasons = {entry["item"]: entry["reason"] for entry in report["failed"]}
    assert list(reasons) == ["b", "z"]
    assert reasons["z"].startswith("z.tar.gz is compressed")
    # An encoder of frames finds none of an item that has its flow alone.
    frames_too = json.loads(invoke(*run, COLOUR, "--encoder", TSN_FLOW, "--json").stdout)
    reasons = {(entry["item"], entry["stream"]): entry["reason"] for entry in frames_too["failed"]}
    assert reasons["a", "colour"] == "no file was found for it but its flow pictures"
    assert frames_too["rows"]["colour"] == 2


def test_wrong_requests_are_refused_before_any_work(tmp_path):
    write_folder(tmp_path / "flow", of_flow(LEVELS[:2]))
    listed, store = tmp_path / "list.csv", tmp_path / "s.zarr"
    run = ("--videos", listed, "--store", store, "--encoder", TSN_FLOW)
    listed.write_text("item_id,path,flow_path\na,,flow\n")
    with pytest.raises(AnnotationError, match=r"line 2: 'flow' is a folder .* Add a column flow_fps"):
        invoke(*run)
    listed.write_text("item_id,path\na,a.mp4\n")
    with pytest.raises(AnnotationError, match="has no column 'flow_path'"):
        invoke(*run)
    with pytest.raises(OptionError, match=r"folder has no released flow .* columns flow_path and flow_fps"):
        invoke("--dataset", "folder", "--root", tmp_path, "--store", store, "--encoder", TSN_FLOW)
    with pytest.raises(OptionError, match="flow_bound_px is for released pictures, but flow is tvl1"):
        built("tsn_flow_bninception", {**TSN, "flow": "tvl1", "flow_bound_px": "20"})
    with pytest.raises(OptionError, match="flow is released, which learns nothing"):
        built("tsn_flow_bninception", {**TSN, "flow_weights": "random:0"})
    assert not store.exists()
