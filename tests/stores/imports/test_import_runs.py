"""A run of `vidloc import`: one bad file fails one item, the same command resumes, and provenance is kept."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from import_samples import numbers, objects, report, run

from vidloc.core.records import Source
from vidloc.errors import AnnotationError, OptionError, ProvenanceError, StoreError
from vidloc.pipelines.importing import ImportRequest, import_features, parse_stream, read_facts
from vidloc.stores.base import open_store
from vidloc.stores.merging import merge

GRID = {"window": "1s", "stride": "1s"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    for k, item in enumerate("abc"):
        np.save(folder / f"{item}.npy", numbers(3, 4, seed=k))
    return folder


@pytest.fixture
def store(tmp_path):
    return tmp_path / "feats.zarr"


def arguments(folder: Path, store: Path) -> tuple:
    return ("npy", folder, "--store", store, "--window", "1s", "--stride", "1s", "--stream", "x")


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_bad_files_fail_their_items_and_are_tried_again(folder, tmp_path, suffix):
    store = tmp_path / f"feats.{suffix}"
    broken = {
        "b": (b"\x93NUMPY garbage", "no array that can be read"),
        "d": (b"", "no array that can be read"),
    }
    for item, (content, _) in broken.items():
        (folder / f"{item}.npy").write_bytes(content)
    bad = {
        "e": (numbers(3, 5), "has rows of shape (5,), the stream has (4,)"),
        "f": (np.full((3, 4), np.nan), "only finite numbers"),
        "g": (numbers(4), "expected (rows, width)"),
        "h": (np.array([["a", "b"]]), "not numbers"),
        "i": (np.zeros((0, 4), np.float32), "holds no rows"),
    }
    for item, (array, _) in bad.items():
        np.save(folder / f"{item}.npy", array)
    result = run(*arguments(folder, store))
    assert result.exit_code == 3
    assert "9 items worked on, 7 failed; 0 were done before. x 6 rows." in result.stdout
    for item, (_, reason) in (broken | bad).items():
        [line] = [line for line in result.stdout.splitlines() if line.startswith(f"failed: {item} (x): ")]
        assert reason in line
    with open_store(store) as opened:
        assert opened.items("x") == ["a", "c"]
        assert "no array" in opened.entry("x", "b").reason
    np.save(folder / "b.npy", numbers(3, 4, seed=1))
    found = report(*arguments(folder, store))
    assert (found["done"], found["items_already_done"]) == (["b"], 2)
    assert run(*arguments(folder, store), "--allow-failures", 6).exit_code == 0
    with open_store(store) as opened:
        assert np.array_equal(opened.read_field("x", "b"), numbers(3, 4, seed=1))


def test_another_stream_of_the_same_items_joins_them(folder, store):
    report(*arguments(folder, store))
    found = report(*arguments(folder, store), "--stream", "half:channels=0:2")
    assert (found["done"], found["rows"]) == (["a", "b", "c"], {"half": 9})
    with open_store(store) as opened:
        assert set(opened.info("a").imported) == {"x", "half"}


def test_provenance_names_layout_facts_source_and_files(folder, store):
    more = ("--paper", "Doe 2020", "--url", "https://example.org/feats", "--licence", "CC BY 4.0")
    report(*arguments(folder, store)[:-1], "x:network=I3D of Kinetics", *more)
    with open_store(store) as opened:
        spec = opened.streams()["x"]
        sha256 = hashlib.sha256((folder / "a.npy").read_bytes()).hexdigest()
        assert opened.info("a").imported == {"x": {"a.npy": sha256}}
        assert opened.info("a").source_sha256 is None  # that is the video's
    assert spec.encoder == "import:npy"
    assert spec.source == Source(paper="Doe 2020", code="https://example.org/feats", licence="CC BY 4.0")
    assert spec.options["window"] == "1s"
    assert spec.preprocessing == {"network": "I3D of Kinetics"}
    assert str(folder) not in json.dumps(spec.model_dump(mode="json"))


def test_rows_of_other_times_are_not_mixed_in(folder, store):
    report(*arguments(folder, store))
    np.save(folder / "d.npy", numbers(2, 4))
    error = run("npy", folder, "--store", store, "--window", "2s", "--stride", "1s", "--stream", "x").exception
    assert isinstance(error, ProvenanceError)
    assert "give the new stream another name" in str(error)


def test_parts_of_different_streams_merge_with_the_files_of_both(folder, tmp_path):
    for stream in ("x", "y"):
        report(*arguments(folder, tmp_path / f"{stream}.zarr")[:-1], stream)
    merge(tmp_path / "all.zarr", [tmp_path / "x.zarr", tmp_path / "y.zarr"])
    with open_store(tmp_path / "all.zarr") as opened:
        assert set(opened.info("b").imported) == {"x", "y"}


def test_a_signal_stops_between_items_and_the_run_goes_on_later(folder, store):
    request = ImportRequest("npy", folder, (parse_stream("x"),), options=GRID)

    def interrupt(done: int, total: int) -> None:
        assert total == 3
        os.kill(os.getpid(), signal.SIGTERM)

    stopped = import_features(store, request, progress=interrupt)
    assert (stopped.interrupted_by, stopped.not_reached, len(stopped.outcomes)) == (signal.SIGTERM, 2, 1)
    rest = import_features(store, request)
    assert (rest.interrupted_by, rest.already_done, len(rest.outcomes)) == (None, 1, 2)


def test_rows_larger_than_a_block_are_written_whole(folder, store, monkeypatch):
    monkeypatch.setattr("vidloc.pipelines.importing._BLOCK_BYTES", 32)  # two rows
    np.save(folder / "a.npy", numbers(101, 4))
    report(*arguments(folder, store))
    with open_store(store) as opened:
        assert np.array_equal(opened.read_field("x", "a"), numbers(101, 4))
        assert opened.entry("x", "a").digest == opened.recomputed_digest("x", "a")


class TestNames:
    def test_patterns_choose_files_and_ids(self, tmp_path, store):
        for name in ("train/v1-rgb.npy", "train/v1-flow.npy", "test/v2-rgb.npy"):
            (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "f" / name, numbers(2, 4))
        base = arguments(tmp_path / "f", store)
        assert report(*base, "--ids", "*/{item}-rgb")["done"] == ["v1", "v2"]
        assert report(*base[:-1], "y", "--ids", "{item}-rgb")["done"] == ["test/v2", "train/v1"]
        error = run(*base[:-1], "z", "--ids", "*/{item}-*").exception
        assert "both stand for item 'v1'" in str(error)
        assert "Say by --ids" in str(error)

    @pytest.mark.parametrize("ids", ["rgb", "{item}{item}", "{item}_{frame}"])
    def test_patterns_that_are_none(self, folder, store, ids):
        error = run(*arguments(folder, store), "--ids", ids).exception
        assert isinstance(error, OptionError)
        assert "--ids holds {" in str(error)

    def test_one_file_is_one_item(self, folder, store):
        assert report(*arguments(folder / "a.npy", store))["done"] == ["a"]

    def test_nothing_to_import(self, tmp_path, store):
        (tmp_path / "empty").mkdir()
        assert "It is empty" in str(run(*arguments(tmp_path / "empty", store)).exception)
        (tmp_path / "empty" / "a.txt").write_text("x")
        assert "such as a.txt: .txt is not an extension" in str(run(*arguments(tmp_path / "empty", store)).exception)
        assert "there is no" in str(run(*arguments(tmp_path / "gone", store)).exception)


class TestStrangers:
    """Files that someone else made, perhaps on purpose."""

    def test_links_out_of_the_folder_are_left_out_unless_asked_for(self, folder, tmp_path, store):
        np.save(tmp_path / "secret.npy", numbers(2, 4))
        (tmp_path / "elsewhere").mkdir()
        np.save(tmp_path / "elsewhere" / "s.npy", numbers(2, 4))
        (folder / "link.npy").symlink_to(tmp_path / "secret.npy")
        (folder / "inside.npy").symlink_to(folder / "a.npy")
        (folder / "sub").symlink_to(tmp_path / "elsewhere")
        (folder / "loop").symlink_to(folder)
        found = report(*arguments(folder, store))
        assert found["done"] == ["a", "b", "c", "inside"]
        assert set(found["ignored"]) == {"link.npy", "sub"}
        assert "leads out of the folder (--follow-links reads it)" in found["ignored"]["link.npy"]
        assert report(*arguments(folder, store)[:-1], "y", "--follow-links")["done"] == [
            "a", "b", "c", "inside", "link", "sub/s",
        ]  # fmt: skip

    def test_pickles_are_not_read_where_arrays_are_expected(self, folder, store, tmp_path):
        objects(folder / "b.npy", [numbers(2, 4)])
        np.savez(folder / "d.npz", x=np.array([{}, 1], dtype=object))
        failed = {entry["item"]: entry["reason"] for entry in report(*arguments(folder, store))["failed"]}
        assert "holds objects, which is a pickle" in failed["b"]
        assert "holds objects, which is a pickle" in failed["d"]

    def test_sizes_are_checked_before_memory_is_taken(self, folder, store):
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)}
        with (folder / "b.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
        with zipfile.ZipFile(folder / "d.npz", "w") as archive, archive.open("x.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)
        claims = bytearray((folder / "d.npz").read_bytes())
        (folder / "e.npz").write_bytes(claims)
        torch.save(torch.zeros(1).expand(2**20, 2**20), folder / "f.pt")
        found = report(*arguments(folder, store))
        failed = {entry["item"]: entry["reason"] for entry in found["failed"]}
        assert set(failed) == {"b", "d", "e"}
        assert "of which the bytes are not there" in failed["d"]
        error = run("pt", *arguments(folder, store)[1:-1], "t").exception
        assert "of which the bytes are not there" in str(error)

    def test_pt_files_run_nothing(self, folder, store, tmp_path):
        class Runs:
            def __reduce__(self):
                return (os.system, (f"touch {tmp_path / 'was_here'}",))

        torch.save({"x": Runs()}, folder / "f.pt")
        error = run("pt", *arguments(folder, store)[1:]).exception
        assert "no file of tensors that can be read" in str(error)
        assert "\n" not in str(error)
        assert not (tmp_path / "was_here").exists()

    def test_h5_files_keep_to_themselves(self, tmp_path, store):
        raw = tmp_path / "raw.bin"
        raw.write_bytes(bytes(32))
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["x"] = numbers(2, 4)
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["good"] = numbers(2, 4)
            file["link"] = h5py.ExternalLink("other.h5", "x")
            file.create_dataset("outside", (2, 4), "f4", external=[(str(raw), 0, 32)])
            layout = h5py.VirtualLayout((2, 4), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (2, 4))
            file.create_virtual_dataset("virtual", layout)
            file.create_dataset("huge", (2**30, 2**10), "f4", chunks=(1, 2**10), compression="gzip")
            file["names"] = ["a", "b"]
        found = report("h5", *arguments(tmp_path / "f.h5", store)[1:])
        failed = {entry["item"]: entry["reason"] for entry in found["failed"]}
        assert found["done"] == ["good"]
        assert set(failed) == {"huge", "names", "outside", "virtual"}
        assert "in other files" in failed["outside"]
        assert "in other files" in failed["virtual"]
        assert "are not read" in failed["huge"]


class TestFacts:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("item_id,colour\na,red\n", "states no facts"),
            ("item_id,fps\na,25\na,25\n", "occurs a second time"),
            ("item_id,fps\na,fast\n", "frames per second"),
            ("item_id,duration_s\na,-1\n", "seconds above 0"),
            ("item_id,width_px\na,wide\n", "a whole number"),
            ("name,fps\na,25\n", "no column 'item_id'"),
        ],
    )
    def test_malformed_ones_are_named_by_line(self, tmp_path, content, reason):
        (tmp_path / "facts.csv").write_text(content)
        with pytest.raises(AnnotationError, match=reason):
            read_facts(tmp_path / "facts.csv")


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        ("x:channels=4", "channels are FIRST:STOP"),
        ("x:channels=3:3", "channels are FIRST:STOP"),
        ("x:kind=video", "option 'kind'"),
        ("x:chanels=0:2", "Did you mean channels"),
        ("9x", "usable stream name"),
    ],
)
def test_streams_that_cannot_be_meant(folder, store, stream, reason):
    error = run(*arguments(folder, store)[:-1], stream).exception
    assert isinstance(error, OptionError)
    assert reason in str(error)


def test_channels_beyond_the_rows(folder, store):
    error = run(*arguments(folder, store)[:-1], "x:channels=2:9").exception
    assert isinstance(error, StoreError)
    assert "has rows of 4 numbers, channels 2:9 go beyond them" in str(error)


@pytest.mark.parametrize(
    "flags",
    [("--fps", "0"), ("--fps", "1/0"), ("--window", "-1s"), ("--window", "16"), ("--stride", "x"), ("--start", "y")],
)
def test_lengths_and_rates_that_are_none(folder, store, flags):
    error = run("npy", folder, "--store", store, "--stream", "x", "--window", "1f", "--stride", "1f", *flags).exception
    assert isinstance(error, OptionError)
    assert flags[0] in str(error)


def test_an_unknown_layout_gets_the_nearest_one(folder, store):
    result = run("npz", folder)
    assert result.exit_code == 2
    assert "no layout 'npz'. Did you mean npy?" in result.stderr


def test_a_layout_of_ones_own_works_by_its_path(tmp_path, folder, store):
    file = tmp_path / "halved.py"
    file.write_text(
        '"""Arrays of which every second row counts."""\n'
        "from vidloc.stores.imports.npy import Npy\n\n\n"
        "class Halved(Npy):\n"
        "    def _array(self, path, stream):\n"
        "        return super()._array(path, stream)[::2]\n\n\n"
        "LAYOUT = Halved\n"
    )
    assert report(str(file), *arguments(folder, store)[1:])["rows"] == {"x": 6}
