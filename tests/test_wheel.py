"""The built wheel holds everything: installed elsewhere, it lists its parts from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, built from a copy so that the work tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "vidloc", source / "vidloc", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "vidloc.cli", *arguments]
    return subprocess.run(command, cwd=site.parent, env=environment, check=True, capture_output=True, text=True).stdout


def test_wheel_is_complete(site: Path) -> None:
    ours = {p.relative_to(REPOSITORY) for p in (REPOSITORY / "vidloc").rglob("*.py")}
    assert ours <= {p.relative_to(site) for p in site.rglob("*.py")}
    assert (site / "vidloc" / "py.typed").exists()
    assert (site / "vidloc" / "extract" / "audioset_521.txt").exists()
    assert (site / "vidloc" / "pipelines" / "reports" / "page.html").exists()


def test_installed_elsewhere_it_works(site: Path) -> None:
    assert "vidloc" in run(site, "--version")
    assert "slowfast_r50" in run(site, "list", "encoders")
    assert "sapnet" in run(site, "list", "heads")
