"""RGB and optical flow of one video from one decode, from the command line to the rows in the store."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torchvision.models import optical_flow

from vidloc.cli import vidloc
from vidloc.extract import frames as frames_module
from vidloc.extract import tvl1
from vidloc.extract.weights import sha256_of
from vidloc.pipelines.extract import Selection, plan_extraction
from vidloc.pipelines.extraction import decoding
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.stores.base import open_store

FPS, NUM_FRAMES = 10, 5
SMALLEST = "weights=random:0,num_frames=9,short_side_px=193,crop_px=193"


def write_drift(path: Path) -> None:
    """An mp4 of soft stripes that drift to the right by three pixels per frame."""
    columns, rows = np.meshgrid(np.arange(64), np.arange(48))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "threads": "1", "crf": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(NUM_FRAMES):
            grey = 128 + 60 * np.sin((columns - 3 * number) / 6) + 50 * np.sin(rows / 5)
            picture = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))


@pytest.fixture
def counted(monkeypatch) -> dict[str, list]:
    """Passes over the picture, frames converted, and pairs whose flow was computed, with that flow."""
    found: dict[str, list] = {"passes": [], "converted": [], "flows": []}

    class Pass(decoding.VideoPass):
        def __iter__(self):
            found["passes"].append(self._path.name)
            yield from super().__iter__()

    class Maker(frames_module.PictureMaker):
        def rgb(self, frame):
            found["converted"].append(frame.pts)
            return super().rgb(frame)

    between = tvl1.TVL1.between

    def counting(self, pairs):
        flows = between(self, pairs)
        found["flows"] += flows
        return flows

    monkeypatch.setattr(decoding, "VideoPass", Pass)
    monkeypatch.setattr(frames_module, "PictureMaker", Maker)
    monkeypatch.setattr(tvl1.TVL1, "between", counting)
    return found


def test_rgb_and_flow_come_from_one_decode(tmp_path, counted):
    write_drift(tmp_path / "drift.mp4")
    store = tmp_path / "s.zarr"
    arguments = ["extract", "--dataset", "folder", "--root", tmp_path, "--store", store, "--device", "cpu", "--json"]
    for encoder in (f"rgb=i3d:{SMALLEST}", f"flow=i3d_flow:{SMALLEST}"):
        arguments += ["--encoder", encoder]
    result = CliRunner().invoke(vidloc, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"] == {"rgb": 1, "flow": 1}
    assert counted["passes"] == ["drift.mp4"]
    assert len(counted["converted"]) == len(set(counted["converted"])) == NUM_FRAMES
    # Nine cells from 0.07 to 0.43 s and the one behind show the frames 0 1 1 2 2 2 3 3 4 4: nine flows of eight pairs.
    flows = [flow[40:-40, 40:-40] for flow in counted["flows"]]
    still = [flow for flow in flows if not flow.any()]
    drift = [flow for flow in flows if flow.any()]
    assert (len(still), len(drift)) == (4, 4)
    # Three pixels of 48 rows are twelve of 193.
    for flow in drift:
        assert flow.mean((0, 1)) == pytest.approx([3 * 193 / 48, 0], abs=0.2)
    with open_store(store) as reader:
        rows = {name: reader.read_field(name, "drift.mp4") for name in ("rgb", "flow")}
        assert {name: found.shape for name, found in rows.items()} == {"rgb": (1, 1024), "flow": (1, 1024)}
        assert all(np.isfinite(found).all() and found.any() for found in rows.values())
        assert reader.timeline("rgb", "drift.mp4") == reader.timeline("flow", "drift.mp4")
        spec = reader.streams()["flow"]
    assert spec.sampling["frames_after_window"] == 1
    assert spec.options["flow"] == "tvl1"
    assert spec.preprocessing["flow"]["parameters"]["Lambda"] == 0.15
    assert spec.versions["opencv"] == tvl1.opencv_contrib().__version__


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("", "optical flow by tvl1"),
        (
            ",flow=raft_small,flow_weights=random:4",
            "optical flow by raft_small, WHOSE WEIGHTS ARE RANDOM (random:4)",
        ),
        (
            ",flow=raft_small,flow_weights={file}",
            "optical flow by raft_small, weights own.pth (sha256 {sha256}); licence: BSD",
        ),
    ],
)
def test_the_plan_says_how_flow_is_made(tmp_path, options, line):
    write_drift(tmp_path / "drift.mp4")
    file = tmp_path / "own.pth"
    torch.save(optical_flow.raft_small().state_dict(), file)
    encoder = f"flow=i3d_flow:{SMALLEST}{options.format(file=file)}"
    plan = plan_extraction(
        tmp_path / "s.zarr", [encoder], Selection(dataset=open_dataset("folder"), root=tmp_path), device="cpu"
    )
    assert any(line.format(sha256=sha256_of(file)[:12]) in shown for shown in plan.lines())
    assert any("(9 frames from 3.6 and 1 after)" in shown for shown in plan.lines())
