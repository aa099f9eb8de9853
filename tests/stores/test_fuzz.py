"""Stores that were damaged or tampered with end in a clear error, or in rows that pass verification.

Never in another exception, a crash, a hang, a file opened elsewhere, or memory without bounds. Cases are numbered and
seeded: `python tests/stores/fuzz_worker.py BASES FOLDER SEED CASE CASE+1` repeats one.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz_worker import BASES, CHUNK_BYTES, SECONDS
from store_samples import SPECS, fill

from vidloc.core.records import ItemInfo
from vidloc.stores.base import FeatureWriter, append_to_store, create_store
from vidloc.stores.format import chunk_rows
from vidloc.stores.zarr_writer import ZarrWriter

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> Path:
    """Two closed stores, and two whose writer died with commits in the journal."""
    folder = tmp_path_factory.mktemp("bases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunk_rows.__kwdefaults__, "target", CHUNK_BYTES)
        patch.setattr("vidloc.stores.hdf5_file._CHUNK_BYTES", CHUNK_BYTES)
        make_bases(folder)
    return folder


def make_bases(folder: Path) -> None:
    for name in BASES:
        with create_store(folder / name) as writer:
            write(writer, range(2))
        if not name.startswith("closed"):
            writer = append_to_store(folder / name)
            write(writer, range(2, 4))
            (writer if isinstance(writer, ZarrWriter) else writer._staging).abandon()


def write(writer: FeatureWriter, numbers: range) -> None:
    for spec in SPECS:
        writer.add_stream(spec)
    for number in numbers:
        item = f"v{number}"
        writer.set_info(ItemInfo(item_id=item, duration_s=3.5, source_sha256="cd" * 32))
        fill(writer, item, 4 + number, seed=number)
        writer.commit(item)
    writer.mark("clip", f"bad{numbers.start}", "failed", "no frames")
    writer.commit(f"bad{numbers.start}")


def test_mutated_stores(bases, tmp_path):
    check(bases, tmp_path, seed=0, count=200)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_mutated_stores(bases, tmp_path, seed):
    check(bases, tmp_path, seed=seed, count=1000)


def check(bases: Path, folder: Path, *, seed: int, count: int) -> None:
    reports = list(run_cases(bases, folder, seed, count))
    wrong = [report for report in reports if report["wrong"]]
    assert not wrong, "\n".join(f"seed {seed}, {report}" for report in wrong[:20])
    assert len(reports) == count, f"seed {seed}, case {len(reports)}: the process died, or said nothing for long"
    outcomes = Counter(report["outcome"] for report in reports)
    # A mutator that changes nothing, or breaks everything at once, would test little.
    assert all(outcomes[outcome] > count / 20 for outcome in ("refused", "damaged", "sound")), outcomes


def run_cases(bases: Path, folder: Path, seed: int, count: int) -> Iterator[dict]:
    command = [sys.executable, str(HERE / "fuzz_worker.py"), str(bases), str(folder), str(seed), "0", str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield from map(json.loads, lines(process))


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Lines of a process that is killed once it says nothing for long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(timeout=2 * SECONDS):
            line = process.stdout.readline()
            if not line:
                return
            yield line
        process.kill()
