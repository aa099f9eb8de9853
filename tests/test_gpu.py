"""The same work on a GPU: rows near those of the CPU, batches across videos, a head trained on the device."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_videos import write_folder

from vidloc.cli import vidloc
from vidloc.pipelines.extract import Selection, extract
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.stores.base import open_store
from vidloc.testing.planted import make_recognition

pytestmark = pytest.mark.gpu

ENCODERS = ("i3d_r50:weights=random:0,crop_px=224,dtype=float32", "vggish:weights=random:0,dtype=float32")


@pytest.fixture(scope="module")
def gpu() -> str:
    """The first GPU; where one is required, its absence is a failure and no reason to skip."""
    if not torch.cuda.is_available():
        if os.environ.get("VIDLOC_REQUIRE_GPU") == "1":
            pytest.fail("VIDLOC_REQUIRE_GPU=1, but torch sees no CUDA device")
        pytest.skip("no CUDA device")
    return "cuda:0"


def rows_on(device: str, videos: Path, store: Path) -> dict[tuple[str, str], np.ndarray]:
    selection = Selection(dataset=open_dataset("folder"), root=videos)
    report = extract(store, ENCODERS, selection, device=device)
    assert not report.failures
    with open_store(store) as reader:
        return {(s, i): np.array(reader.read_field(s, i)) for s in reader.streams() for i in reader.items(s)}


def test_rows_of_a_gpu_are_those_of_a_cpu(gpu: str, tmp_path: Path) -> None:
    # Three short videos: on a GPU one batch holds clips of all of them.
    videos = write_folder(tmp_path / "videos", 3)
    expected = rows_on("cpu", videos, tmp_path / "cpu.zarr")
    found = rows_on(gpu, videos, tmp_path / "gpu.zarr")
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        np.testing.assert_allclose(found[key], rows, atol=1e-4 * np.abs(rows).max(), err_msg=str(key))


@pytest.mark.parametrize("head", ["sapnet", "two_branch"])
def test_a_head_trains_on_a_gpu(gpu: str, tmp_path: Path, head: str) -> None:
    made = make_recognition(tmp_path)
    arguments = [
        *("train-head", head, "--store", str(made.store), "--dataset", "epic", "--annotations", str(made.annotations)),
        *("--stream", "verb=motion", "--stream", "noun=looks", "--epochs", "20", "--batch", "8"),
        *("--device", gpu, "--json", "--out", str(tmp_path / "run")),
    ]
    result = CliRunner().invoke(vidloc, arguments)
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)["scores"]["metrics"]
    assert metrics["verb"]["top1"] > 0.5
