"""`kill -9` at random moments of an extraction: what was committed is there, whole, and a rerun does the rest."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest
from made_videos import write_folder

from vidloc.errors import StoreError
from vidloc.pipelines.extract import Selection, extract
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.stores.base import open_store

DATA = Path(__file__).parent.parent / "data"
ENCODERS = [f"colour={DATA / 'mean_colour.py'}:delay_s=0.01", f"loudness={DATA / 'loudness.py'}"]
NUM_VIDEOS = 16

# One process imports everything once; each victim is forked from it, and dies without taking anything along.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["vidloc.pipelines.extract", "vidloc.stores.backends", __name__])


def run(store: Path, root: Path) -> None:
    extract(store, ENCODERS, Selection(dataset=open_dataset("folder"), root=root))


def entries(path: Path) -> dict[tuple[str, str], tuple[str, int]]:
    with open_store(path) as store:
        return {(s, i): (e.digest, e.num_rows) for s in store.streams() for i, e in store.entries(s).items()}


def run_in_child(store: Path, root: Path) -> float:
    """Seconds that an uninterrupted run takes."""
    begun = time.monotonic()
    process = _SERVER.Process(target=run, args=(store, root))
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begun


def committed(store: Path) -> dict[tuple[str, str], tuple[str, int]]:
    """Entries of a store whose writer was killed, perhaps before there was one."""
    try:
        return entries(store)
    except StoreError as error:
        if "is not there" in str(error) or "no store" in str(error):
            return {}
        raise


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("made") / "videos", NUM_VIDEOS)


@pytest.mark.parametrize(("suffix", "num_kills"), [("zarr", 20), ("h5", 6)])
def test_killed_at_random_moments_then_resumed_equals_uninterrupted(folder, tmp_path, suffix, num_kills):
    whole = tmp_path / f"whole.{suffix}"
    run_in_child(tmp_path / f"warm.{suffix}", folder)  # the first one waits for the server to import everything
    duration = run_in_child(whole, folder)
    expected = entries(whole)
    assert len(expected) == 2 * NUM_VIDEOS

    moments = random.Random(7)
    interrupted_midway = 0
    for kill in range(num_kills):
        store = tmp_path / f"killed{kill}.{suffix}"
        victim = _SERVER.Process(target=run, args=(store, folder))
        victim.start()
        if kill % 2:  # half of the moments count from the first commit, however busy the machine is
            while victim.is_alive() and not committed(store):
                time.sleep(0.005)
            victim.join(moments.uniform(0, duration / 2))
        else:
            victim.join(moments.uniform(0, duration))
        victim.kill()
        victim.join()
        found = committed(store)
        assert found.items() <= expected.items()  # whole items only, each as it should be
        assert all(("loudness", item) in found for stream, item in found if stream == "colour")
        interrupted_midway += 0 < len(found) < len(expected)
        run(store, folder)
        assert entries(store) == expected
        with open_store(store) as resumed, open_store(whole) as once:
            assert resumed.digest() == once.digest()
        shutil.rmtree(store) if store.is_dir() else store.unlink()
    assert interrupted_midway >= num_kills // 5, "the moments did not fall into the work"
