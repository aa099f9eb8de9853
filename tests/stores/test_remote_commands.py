"""Stores elsewhere, from the command line: looked at, verified and trained on where they lie."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from remote_servers import file_server

from vidloc.cli import vidloc
from vidloc.commands.storage import without_secrets
from vidloc.stores import remote_files
from vidloc.testing.planted import make_detection


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(remote_files, "FIRST_WAIT_S", 0.001)


def call(*arguments):
    return CliRunner().invoke(vidloc, [str(a) for a in arguments])


def test_a_head_trains_straight_off_a_store_elsewhere_with_few_requests(tmp_path):
    planted = make_detection(tmp_path / "made")
    labels = ["--dataset", "segments", "--annotations", planted.annotations]
    here = call("train-head", "linear", "--store", planted.store, *labels, "--out", tmp_path / "here", "--json")
    with file_server(planted.store.parent) as server:
        url = f"{server.url}/feats.zarr"
        there = call("train-head", "linear", "--store", url, *labels, "--out", tmp_path / "there", "--json")
        assert there.exit_code == here.exit_code == 0, there.output
        rows = [name for name in server.requests.elements() if "features" in name]
    # One for the rows of the training split, one for those that are predicted.
    assert len(rows) == 2
    assert json.loads(there.stdout)["scores"] == json.loads(here.stdout)["scores"]
    record = json.loads((tmp_path / "there" / "run.json").read_text())
    assert [stream["store"] for stream in record["streams"].values()] == [url]


def test_info_ls_verify_and_search_take_an_address(tmp_path):
    planted = make_detection(tmp_path)
    with file_server(tmp_path) as server:
        url = f"{server.url}/feats.zarr"
        facts = json.loads(call("store", "info", url, "--json").stdout)
        assert facts["digest"] == json.loads(call("store", "info", planted.store, "--json").stdout)["digest"]
        assert call("store", "ls", url).stdout == call("store", "ls", planted.store).stdout
        assert "Sound. Content id" in call("store", "verify", url).stdout
        found = call("search", url, "--row", "video_00.mp4:3", "--json")
        assert found.exit_code == 0, found.output
        assert (
            json.loads(found.stdout)["answers"]
            == json.loads(call("search", planted.store, "--row", "video_00.mp4:3", "--json").stdout)["answers"]
        )
        failed = call("index", "build", url, "--stream", "frames")
        assert "vidloc store pull" in str(failed.exception)
        assert call("store", "info", url, "--storage-option", "anon").exit_code != 0


def test_values_of_storage_options_are_not_kept_in_records():
    typed = ["train-head", "--storage-option", "secret=a=b", "--storage-option=key=x", "--store", "s3://lab/f.zarr"]
    assert without_secrets(typed) == [
        *("train-head", "--storage-option", "secret=...", "--storage-option=key=...", "--store", "s3://lab/f.zarr")
    ]
