"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
