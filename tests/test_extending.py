"""docs/extending.md runs as it stands, and a third party's installed package is found, listed and checked."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vidloc.cli import vidloc
from vidloc.core import registry
from vidloc.errors import VidlocError
from vidloc.stores.base import open_store
from vidloc.testing.checks import check

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, flags=re.DOTALL))
COMMANDS = re.findall(r"^\$ vidloc (.+)$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files, a list of one green video, and a folder of features."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with av.open(str(folder / "green.mp4"), "w") as file:
        track = file.add_stream("libx264", rate=10, options={"qp": "10"})
        track.width = track.height = 64
        track.pix_fmt = "yuv420p"
        for _ in range(20):
            shade = np.full((64, 64, 3), (40, 200, 40), np.uint8)
            file.mux(track.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        file.mux(track.encode())
    (folder / "features").mkdir()
    np.save(folder / "features" / "green.npy", np.ones((4, 8), np.float32))
    (folder / "list.csv").write_text("path\ngreen.mp4\n", encoding="utf-8")
    return folder


def run(*args, code=0):
    result = CliRunner().invoke(vidloc, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_the_page_has_what_is_tested():
    assert sorted(FILES) == ["halved.py", "make_model.py", "mean_colour.py", "peak_head.py", "test_contract.py"]
    assert len(COMMANDS) == 12


def test_every_command_of_the_page_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    runpy.run_path("make_model.py")
    printed = {command: run(*shlex.split(command)) for command in COMMANDS}
    assert "--dropout" in printed["train-head ./peak_head.py --help"]
    assert "11 of 11 checks passed" in printed["check ./peak_head.py"]
    assert "shown over time: row scores" in printed["check ./peak_head.py"]
    for command in ("check ./mean_colour.py", "check hf:tiny_videomae"):
        assert "10 of 10 checks passed" in printed[command]
    assert "3 of 3 checks passed" in printed["check colours.zarr"]
    with open_store("colours.zarr") as store:
        rows = store.read_field("mean_colour", "green.mp4")
    assert rows.shape == (4, 3)
    np.testing.assert_allclose(rows, np.full((4, 3), (40 / 255, 200 / 255, 40 / 255)), atol=0.03)
    with Image.open("previews/green.mp4@0-0.6.mean_colour.png") as image:
        (row,) = json.loads(image.text["vidloc"])["rows"]
        (place,) = row["pictures"]
        shown = np.asarray(image.crop(place))
    assert (shown.shape, row["span_s"]) == ((32, 32, 3), [0.0, 0.5])
    np.testing.assert_allclose(shown, np.broadcast_to((40, 200, 40), shown.shape), atol=0.03 * 255)
    with open_store("vmae.zarr") as store:
        spec = store.streams()["vmae"]
        rows, scores = (store.read_field("vmae", "green.mp4", field) for field in ("features", "scores"))
    assert (rows.shape, scores.shape) == ((4, 32), (4, 2))
    assert (spec.encoder, spec.vocabulary) == ("hf:tiny_videomae", ("chop", "stir"))
    assert (spec.sampling["num_frames"], spec.sampling["window_s"]) == (4, "4/5")


def test_the_check_of_the_page_runs_without_pytest(folder):
    path = f"{TESTS.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    subprocess.run([sys.executable, "test_contract.py"], cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True)


@pytest.fixture
def installed(monkeypatch):
    """The package of the tests on the path, with its dist-info folder beside it."""
    monkeypatch.syspath_prepend(str(TESTS))
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


@pytest.mark.usefixtures("installed")
def test_an_installed_package_is_listed_with_its_origin():
    printed = run("list", "heads")
    assert "third_party_head" in printed
    assert "package-with-entry-point (package_with_entry_point.third_party_head:ThirdPartyHead)" in printed
    assert "A third party's paper" in run("list", "heads", "third_party_head")
    assert "third_party_encoder" in run("list", "encoders")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["third_party_head", "third_party_encoder"])
def test_an_installed_package_is_checked(name):
    report = check(name)
    assert report.origin.startswith("package-with-entry-point (")
    assert [outcome.sentence for outcome in report.outcomes if not outcome.passed] == []


@pytest.mark.usefixtures("installed")
def test_two_providers_of_one_name_are_both_named(tmp_path, monkeypatch):
    other = tmp_path / "rival-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[vidloc.heads]\nthird_party_head = rival:Head\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        VidlocError, match=r"two heads are called 'third_party_head': .*rival \(rival:Head\).*use a path"
    ):
        registry.entries("heads")
