"""Files of every layout, cut and changed anywhere: each ends in a failed item or one clear error, no traceback."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from import_samples import box, datasets, message, numbers, objects, run, tsv_line

from vidloc.errors import OptionError, VidlocError
from vidloc.pipelines.importing import ImportRequest, import_features, parse_stream
from vidloc.stores.base import open_store

SECONDS = {"window": "1s", "stride": "1s"}
PICKLE = {"allow_pickle": True}


def make_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", numbers(4, 6))
    return folder / "a.npy"


def make_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", feats=numbers(4, 6))
    return folder / "a.npz"


def make_pt(folder: Path) -> Path:
    torch.save(torch.from_numpy(numbers(4, 6)), folder / "a.pt")
    return folder / "a.pt"


def make_sfnet(folder: Path) -> Path:
    np.save(folder / "names.npy", np.array(["a", "b"]))
    return objects(folder / "features.npy", [numbers(2, 6), numbers(3, 6)])


def make_lfb(folder: Path) -> Path:
    path = folder / "bank.pkl"
    path.write_bytes(pickle.dumps({"a": {30: numbers(6), 60: numbers(6)}}, 2))
    return path


def make_detections(folder: Path) -> Path:
    return objects(folder / "a.npy", [np.array([[3.0, 0, 0, 8, 8, 0.5]]), []])


def make_hand_objects(folder: Path) -> Path:
    hand = message(f1=[box(0.0, 0.25, 0.5, 0.5)], f2=[0.5], f3=[3], f4=[message(f1=[0.25])], f5=[1])
    path = folder / "a.pkl"
    path.write_bytes(pickle.dumps([message(f2=[1], f3=[hand], f4=[message(f2=[0.5])])], 3))
    return path


def make_bottom_up(folder: Path) -> Path:
    path = folder / "boxes.tsv"
    path.write_text(tsv_line("a_1", (100, 50), numbers(2, 4), numbers(2, 6)))
    return path


LAYOUTS = {
    "npy": (make_npy, SECONDS),
    "npz": (make_npz, SECONDS),
    "pt": (make_pt, SECONDS),
    "sfnet": (make_sfnet, {"fps": "25", **PICKLE}),
    "lfb": (make_lfb, {"window": "64f", **PICKLE}),
    "detections": (make_detections, {"fps": "30", "image_size": "16x8", **PICKLE}),
    "hand_objects": (make_hand_objects, {"fps": "50", **PICKLE}),
    "bottom_up": (make_bottom_up, {"fps": "2", "ids": "{item}_{frame}"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_cut_and_changed_files(name, tmp_path):
    make, options = LAYOUTS[name]
    path = make(tmp_path)
    if name == "sfnet":
        options = {**options, "names": str(tmp_path / "names.npy")}
    layout = "npy" if name == "npz" else name
    request = ImportRequest(layout, path, (parse_stream("x"),), options=options)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    assert not import_features(tmp_path / "whole.zarr", request).failures
    for attempt in range(14):
        changed = bytearray(content)
        if attempt % 3 == 0:
            del changed[generator.integers(len(content)) :]
        else:
            for place in generator.integers(min(len(content), 400 * (attempt % 3)), size=2):
                changed[place] = generator.integers(256)
        path.write_bytes(changed)
        store = tmp_path / f"{attempt}.zarr"
        try:
            report = import_features(store, request)
        except VidlocError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        with open_store(store) as opened:
            for outcome in report.outcomes:
                assert outcome.status == "done" or outcome.reason
                if outcome.status == "done":
                    entry = opened.entry("x", outcome.item_id)
                    assert opened.recomputed_digest("x", outcome.item_id) == entry.digest


def npy_with(path: Path, header: str, array: np.ndarray) -> Path:
    text = header.encode().ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + array.tobytes())
    return path


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', ", "{'descr': ('<f4',), 'fortran_order': False, 'shape': (1,)}", "("]
)
def test_headers_that_python_cannot_parse_fail_their_item(tmp_path, header):
    make_npy(tmp_path)
    npy_with(tmp_path / "b.npy", header, numbers(1))
    report = import_features(tmp_path / "s.zarr", ImportRequest("npy", tmp_path, (parse_stream("x"),), options=SECONDS))
    assert report.failures == ["b"]
    assert "no array that can be read" in report.outcomes[1].reason


def test_headers_that_python_2_wrote_are_read(tmp_path):
    npy_with(tmp_path / "a.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (4L, 6L), }", numbers(4, 6))
    import_features(tmp_path / "s.zarr", ImportRequest("npy", tmp_path, (parse_stream("x"),), options=SECONDS))
    with open_store(tmp_path / "s.zarr") as opened:
        assert np.array_equal(opened.read_field("x", "a"), numbers(4, 6))


def test_cut_h5_files(tmp_path):
    path = datasets(tmp_path / "f.h5", a=numbers(4, 6), b=numbers(4, 6))
    content = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        error = run("h5", path, "--store", tmp_path / "s.zarr", "--stream", "x", "--window", "1s", "--stride", "1s")
        assert "no HDF5 file that can be read" in str(error.exception)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    result = run("rulstm", tmp_path, "--store", tmp_path / "s.zarr", "--stream", "x", "--fps", 30)
    assert isinstance(result.exception, OptionError)
    assert "pip install 'vidloc[lmdb]'" in str(result.exception)


def test_what_is_no_lmdb(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    result = run("rulstm", tmp_path, "--store", tmp_path / "s.zarr", "--stream", "x", "--fps", 30)
    assert isinstance(result.exception, VidlocError)
    assert "no LMDB that can be read" in str(result.exception)
