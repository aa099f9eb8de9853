"""Stores written by the first release read as they did then: same rows, times, facts, states and digests."""

from __future__ import annotations

import shutil
from pathlib import Path

import make_v1 as v1
import numpy as np
import pytest

from vidloc.stores.base import append_to_store, open_store
from vidloc.stores.operations import verify

# Of the rows as they were when the archive was made; the same for both backends.
CONTENT_ID = "4a361f7f307450d0d88dd70832e157a09fe81c7a9d376636263bdd0a6d861cdf"


@pytest.fixture(params=v1.PATHS, ids=["zarr", "hdf5", "indexed"])
def archive(request, tmp_path) -> Path:
    """A copy, since nothing may change the archive itself."""
    copy = tmp_path / request.param.name
    (shutil.copytree if request.param.is_dir() else shutil.copy)(request.param, copy)
    return copy


def test_rows_times_and_facts_read_as_they_were_written(archive):
    with open_store(archive) as store:
        assert store.streams() == {spec.name: spec for spec in v1.SPECS}
        assert store.items() == sorted([*v1.NUM_ROWS, "broken.mp4", "silent.m4a"])
        for item in v1.NUM_ROWS:
            assert store.info(item) == v1.expected_info(item)
            for spec in v1.SPECS:
                found, expected = store.read(spec.name, item), v1.expected_rows(spec.name, item)
                for name in spec.fields:
                    np.testing.assert_array_equal(found.fields[name], expected.fields[name], strict=True)
                for axis, counts in expected.counts.items():
                    np.testing.assert_array_equal(found.counts[axis], counts)
                assert store.timeline(spec.name, item) == v1.expected_timeline(spec.name, item)


def test_states_and_reasons_are_kept(archive):
    with open_store(archive) as store:
        assert store.entry("clip", "P01_01").num_rows == 5  # the later entry counts
        assert store.entry("clip", "P01_01").extent == (0.0, 2.5)
        assert store.entry("clip", "P01_02").status == "partial"
        assert store.entry("clip", "P01_02").reason == "frames after 1.5 s cannot be decoded"
        assert store.entry("clip", "silent.m4a").status == "absent"
        assert store.entry("regions", "broken.mp4").reason == "the file ends before its index"


def test_digests_are_those_of_the_first_day(archive):
    report = verify(archive)
    assert report.damages == ()
    assert report.digest == CONTENT_ID


def test_an_old_store_is_appended_to(archive):
    with append_to_store(archive) as writer:
        writer.write("clip", "new", v1.expected_rows("clip", "P01_02"), v1.GRID)
        writer.commit("new")
    with open_store(archive) as store:
        np.testing.assert_array_equal(
            store.read_field("clip", "new"), v1.expected_rows("clip", "P01_02").fields["features"]
        )
    assert verify(archive).damages == ()
