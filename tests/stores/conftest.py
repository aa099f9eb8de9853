"""One fixture for the contract of stores: every test that takes it runs over both backends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SUFFIXES = {"zarr": ".zarr", "hdf5": ".h5"}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """These tests stop processes, not machines: what was written is there without being synced."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)


@pytest.fixture(params=sorted(SUFFIXES))
def backend(request) -> str:
    return request.param


@pytest.fixture
def store_path(tmp_path: Path, backend: str) -> Path:
    """Where a store of the backend under test may be made."""
    return tmp_path / f"feats{SUFFIXES[backend]}"
