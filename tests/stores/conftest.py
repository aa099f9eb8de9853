"""One fixture for the contract of stores: every test that takes it runs over both backends."""

from __future__ import annotations

from pathlib import Path

import pytest

SUFFIXES = {"zarr": ".zarr", "hdf5": ".h5"}


@pytest.fixture(params=sorted(SUFFIXES))
def backend(request) -> str:
    return request.param


@pytest.fixture
def store_path(tmp_path: Path, backend: str) -> Path:
    """Where a store of the backend under test may be made."""
    return tmp_path / f"feats{SUFFIXES[backend]}"
