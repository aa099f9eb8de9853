"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from vidloc.stores.hdf5_apart import answer_of

# How long one example takes says nothing on a machine that does other things besides.
settings.register_profile("vidloc", deadline=None)
settings.load_profile("vidloc")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real videos and annotations; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("VIDLOC_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data at {folder} (set VIDLOC_SHARED to its place)")
    return folder


@pytest.fixture(autouse=True)
def _libhdf5_in_this_process(request, monkeypatch):
    """HDF5 files that tests changed themselves are read here, which is faster, unless a test asks for `apart`."""
    if "apart" not in request.fixturenames:
        monkeypatch.setattr("vidloc.stores.hdf5_apart._answer_apart", answer_of)


@pytest.fixture
def apart() -> None:
    """As users have it: HDF5 files without an index are read by another process."""
