"""The examples of docs/store_format.md: run as they stand, they read what vidloc reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from vidloc.stores.base import open_store

HERE = Path(__file__).parent
DOCUMENT = (HERE.parent / "docs" / "store_format.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## (Reading with [^\n]+)\n+```python\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE))
STORES = HERE / "archives" / "v1"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    shutil.copytree(STORES / "feats.zarr", tmp_path / "feats.zarr")
    shutil.copy(STORES / "feats.h5", tmp_path / "feats.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(title: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[title], f"docs/store_format.md: {title}", "exec"), names)
    return names


def test_there_are_three_examples():
    assert list(EXAMPLES) == ["Reading with plain zarr", "Reading with plain h5py", "Reading with neither"]


def test_plain_zarr_reads_rows_and_times(here, capsys):
    names = run("Reading with plain zarr")
    with open_store("feats.zarr") as store:
        np.testing.assert_array_equal(names["features"], store.read_field("clip", "P01_01"))
        np.testing.assert_allclose(names["centers"], store.timeline("clip", "P01_01").centers(5))
    assert capsys.readouterr().out == "random:3 (5, 4) [0.25, 0.75, 1.25, 1.75, 2.25]\n"


def test_plain_h5py_reads_ragged_rows(here, capsys):
    names = run("Reading with plain h5py")
    with open_store("feats.h5") as store:
        for found, expected in zip(names["boxes"], store.read("regions", "P01_01").entries("boxes"), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert capsys.readouterr().out == "made_up_detector [0, 1, 2, 0, 1]\n"


def test_numpy_alone_reads_the_bytes(here):
    features = run("Reading with neither")["features"]
    with open_store("feats.zarr") as store:
        # Two rows of a superseded entry come first, then those of the first item.
        np.testing.assert_array_equal(features[2:7], store.read_field("clip", "P01_01"))


def test_every_column_and_rule_names_what_stores_hold(here):
    """The tables of the document against a real store: no column is left out, none is made up."""
    import zarr

    stream = zarr.open_group("feats.zarr", mode="r")["streams/clip"]
    table = DOCUMENT[DOCUMENT.index("## Tables") : DOCUMENT.index("## Commits")]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    assert set(stream["table"].array_keys()) == named
