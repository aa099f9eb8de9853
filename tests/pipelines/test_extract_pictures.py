"""`vidloc extract` of videos kept as numbered pictures: EPIC-KITCHENS's released frames, and a list with rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made_videos import write_video
from numbered_frames import frames, named, write_folder, write_lossless, write_tar

from vidloc.cli import vidloc
from vidloc.errors import AnnotationError
from vidloc.stores.base import open_store

DATA = Path(__file__).parent.parent / "data"
COLOUR, LOUDNESS = f"colour={DATA / 'mean_colour.py'}:dtype=float32", f"loudness={DATA / 'loudness.py'}"


def invoke(*arguments: object):
    return CliRunner().invoke(vidloc, ["extract", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def annotations(tmp_path) -> Path:
    """EPIC-KITCHENS-100 of three videos: two of 2018, the second of which lasts 3 s, and one of 2020."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp\n"
    rows = "".join(f"{v}_0,P01,{v},0:0:0,0:0:1\n" for v in ("P01_01", "P01_02", "P01_101"))
    for name, content in {
        "EPIC_100_verb_classes": "id,key\n0,take\n",
        "EPIC_100_noun_classes": "id,key\n0,cup\n",
        "EPIC_100_test_timestamps": header + rows,
        "EPIC_100_video_info": "video_id,duration,fps,resolution\n"
        "P01_01,2.0,59.9400599400599,1920x1080\nP01_02,4.5,59.9400599400599,1920x1080\nP01_101,1.0,50.0,1920x1080\n",
    }.items():
        (folder / f"{name}.csv").write_text(content)
    return folder


def test_epic_100_from_its_released_frames(tmp_path, annotations):
    root = tmp_path / "EPIC-KITCHENS"
    pictures = frames(180)
    write_tar(root / "P01/rgb_frames/P01_01.tar", named(pictures[:120], ending=".png"))
    write_folder(root / "P01/rgb_frames/P01_02", named(pictures, ending=".png"))
    write_tar(root / "P01/rgb_frames/P01_101.tar", named(pictures[:50], ending=".png"))
    run = (
        "--dataset", "epic100", "--root", tmp_path, "--annotations", annotations, "--store", tmp_path / "s.zarr",
        "--encoder", COLOUR, "--encoder", LOUDNESS,
    )  # fmt: skip
    plan = invoke(*run, "--plan")
    assert plan.exit_code == 0
    assert "Numbered pictures: 2 items at 60 fps (to which the frames of 2018 were resampled)." in plan.stdout
    assert "Numbered pictures: 1 items at 50 fps (stated by the annotations)." in plan.stdout
    assert "About 8 s of video (from the annotations)" in plan.stdout
    report = json.loads((ran := invoke(*run, "--json")).stdout)
    assert (ran.exit_code, report["failed"]) == (3, [])
    assert {(entry["item"], entry["reason"]) for entry in report["absent"]} == {
        (item, "numbered pictures have no sound") for item in ("P01_01", "P01_02", "P01_101")
    }
    ((item, reason),) = {(entry["item"], entry["reason"]) for entry in report["partial"]}
    assert item == "P01_02"
    assert reason.startswith("the annotations state a duration of 4.50 s, but 180 frames at 60 fps last 3.00 s")
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, count, fps in (("P01_01", 120, 60), ("P01_02", 180, 60), ("P01_101", 50, 50)):
        write_lossless(videos / f"{name}.nut", pictures[:count], fps=fps)
    invoke("--dataset", "folder", "--root", videos, "--store", tmp_path / "v.zarr", "--encoder", COLOUR)
    with open_store(tmp_path / "s.zarr") as store, open_store(tmp_path / "v.zarr") as expected:
        for item in ("P01_01", "P01_02", "P01_101"):
            np.testing.assert_array_equal(
                store.read_field("colour", item), expected.read_field("colour", f"{item}.nut")
            )
            info, video = store.info(item), expected.info(f"{item}.nut")
            assert (info.num_frames, info.duration_s, info.width_px) == (
                video.num_frames, video.duration_s, video.width_px,
            )  # fmt: skip
        assert store.info("P01_01").fps_nominal == "60/1"
        assert store.info("P01_02").source_name == "P01_02"
        assert store.info("P01_101").source_bytes == (root / "P01/rgb_frames/P01_101.tar").stat().st_size
    again = json.loads(invoke(*run, "--json").stdout)
    assert again["items_already_done"] == 3


def test_epic_55_takes_a_video_file_before_its_frames(tmp_path, annotations):
    root = tmp_path / "root"
    (root / "videos/train/P01").mkdir(parents=True)
    write_video(root / "videos/train/P01/P01_01.mp4", seconds=1)
    for name in ("P01_01", "P01_02"):
        write_tar(root / f"frames_rgb_flow/rgb/train/P01/{name}.tar", named(frames(30)))
    run = ("--dataset", "epic", "--root", root, "--store", tmp_path / "s.zarr", "--encoder", COLOUR)
    plan = invoke(*run, "--plan")
    assert "Not taken for videos: 1 files (frames_rgb_flow/rgb/train/P01/P01_01.tar)." in plan.stdout
    assert "Note: 1 videos are there as frames too; the video files are taken." in plan.stdout
    assert "Numbered pictures: 1 items at 60 fps" in plan.stdout
    assert "from the headers of 2 files" in plan.stdout
    assert invoke(*run).exit_code == 0
    with open_store(tmp_path / "s.zarr") as store:
        assert [store.info(item).source_name for item in store.items()] == ["P01_01.mp4", "P01_02.tar"]


def test_a_list_names_folders_and_archives_with_their_rates(tmp_path):
    write_folder(tmp_path / "one", named(frames(24)))
    write_tar(tmp_path / "two.tar.gz", named(frames(24), prefix="img_", ending=".png"))
    write_tar(tmp_path / "bad.tar", {"a_1.jpg": b"", "b_1.jpg": b""})
    listed = tmp_path / "list.csv"
    listed.write_text("path,fps\none,12\ntwo.tar.gz,24\nbad.tar,24\n")
    run = ("--videos", listed, "--store", tmp_path / "s.zarr", "--encoder", COLOUR)
    plan = json.loads(invoke(*run, "--plan", "--json").stdout)
    assert plan["frame_rates"]["one"] == {"fps": "12", "basis": "column fps of list.csv"}
    assert plan["streams"]["colour"]["rows"] == 4 + 2 + 3  # of the one that cannot be read, the mean is guessed
    ran = invoke(*run)
    assert ran.exit_code == 3
    assert "bad.tar holds several series of pictures: 'a_' and 'b_' before the number" in ran.stdout
    assert str(tmp_path) not in ran.stdout.split("bad.tar", 1)[1]
    with open_store(tmp_path / "s.zarr") as store:
        assert {item: store.entry("colour", item).num_rows for item in store.items()} == {
            "bad.tar": 0, "one": 4, "two.tar.gz": 2,
        }  # fmt: skip
    # Added pictures are another video, as a changed file is.
    (tmp_path / "one" / "frame_0000000025.jpg").write_bytes(named(frames(1))["frame_0000000001.jpg"])
    other = invoke(*run[:-1], f"other={DATA / 'mean_colour.py'}:num_frames=2")
    assert "the file is not the one that its rows of colour were made from" in other.stdout


def test_a_list_without_a_rate_is_refused_before_any_work(tmp_path):
    write_folder(tmp_path / "one", named(frames(2)))
    listed = tmp_path / "list.csv"
    listed.write_text("path\none\n")
    with pytest.raises(AnnotationError, match=r"line 2: 'one' is a folder or tar archive .* Add a column fps"):
        invoke("--videos", listed, "--store", tmp_path / "s.zarr", "--encoder", COLOUR)
    assert not (tmp_path / "s.zarr").exists()


def test_layouts_that_count_frames_or_end_with_the_video_find_both(tmp_path):
    pictures = frames(50)
    write_folder(tmp_path / "frames", named(pictures, ending=".png"))
    write_lossless(tmp_path / "video.nut", pictures, fps=20)
    listed = tmp_path / "list.csv"
    listed.write_text("path,fps\nframes,20\nvideo.nut,\n")
    colour = f"{DATA / 'mean_colour.py'}:dtype=float32,num_frames=8,align=start"
    ran = invoke(
        "--videos", listed, "--store", tmp_path / "s.zarr", "--encoder", f"native={colour},rate=native,stride=4f",
        "--encoder", f"moved={colour},rate=12,stride=8f,tail=backpad",
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    with open_store(tmp_path / "s.zarr") as store:
        for stream, num_rows in (("native", 11), ("moved", 4)):
            rows = [store.read_field(stream, item) for item in ("frames", "video.nut")]
            assert len(rows[0]) == num_rows
            np.testing.assert_array_equal(*rows)
            spans = [store.timeline(stream, item).spans(num_rows) for item in ("frames", "video.nut")]
            np.testing.assert_array_equal(*spans)
