"""Stopped at any moment, on a full disk, by a second writer: what was committed stays, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_samples import CLIP, GRID, OBJECTS, SPECS, clip_rows, fill, object_rows, same_rows

from vidloc.errors import StoreError
from vidloc.stores.base import append_to_store, create_store, open_store
from vidloc.stores.lock import Holder, holder_of, remove_lock

# Writes items 0, 1, 2, ... and says each number once it is committed; folds often, so that kills hit folds as well.
_WRITER = """
import sys
from store_samples import SPECS, fill
from vidloc.stores import zarr_writer
from vidloc.stores.base import append_to_store
zarr_writer.FOLD_COMMITS = 3
with append_to_store(sys.argv[1]) as writer:
    for spec in SPECS:
        writer.add_stream(spec)
    print("open", flush=True)
    done = set(writer.items("clip"))
    for number in range(int(sys.argv[2])):
        if f"v{number}" not in done:
            fill(writer, f"v{number}", 3 + number % 4, seed=number)
            writer.commit(f"v{number}")
            print(number, flush=True)
"""


def _start_writer(path: Path, count: int) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _check_items(store) -> None:
    for item in store.items("clip"):
        number = int(item.removeprefix("v"))
        count = 3 + number % 4
        assert same_rows(store.read("clip", item), clip_rows(count, number), CLIP)
        assert same_rows(store.read("objects", item), object_rows([k % 3 for k in range(count)], number), OBJECTS)
        for stream in store.streams():
            assert store.recomputed_digest(stream, item) == store.entry(stream, item).digest


def test_killed_at_random_moments(store_path, caplog):
    chance = random.Random(f"kill {store_path.suffix}")
    for _ in range(3):
        process = _start_writer(store_path, 10_000)
        assert process.stdout is not None
        told = "".join(process.stdout.readline() for _ in range(1 + chance.randint(0, 9)))
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        told += process.communicate()[0]
        said = {f"v{number}" for number in told.split()[1:]}
        store = open_store(store_path)
        kept = set(store.items("clip"))
        assert said <= kept
        _check_items(store)
    assert kept
    last = len(kept) + 2
    with append_to_store(store_path) as writer:
        assert "took over the lock of process" in caplog.text
        for number in range(last):
            if f"v{number}" not in kept:
                fill(writer, f"v{number}", 3 + number % 4, seed=number)
                writer.commit(f"v{number}")
    with create_store(store_path.with_name("whole.zarr")) as whole:
        for spec in SPECS:
            whole.add_stream(spec)
        for number in range(last):
            fill(whole, f"v{number}", 3 + number % 4, seed=number)
            whole.commit(f"v{number}")
        assert open_store(store_path).digest() == whole.digest()


def test_a_stop_inside_a_with_block_is_quick_and_loses_nothing(store_path):
    def interrupted():
        with create_store(store_path) as writer:
            writer.add_stream(CLIP)
            for item in ("a", "b"):
                writer.write("clip", item, clip_rows(3), GRID)
                if item == "b":
                    raise KeyboardInterrupt
                writer.commit(item)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert open_store(store_path).items() == ["a"]
    append_to_store(store_path).close()
    assert store_path.exists()
    assert open_store(store_path).items() == ["a"]


@pytest.mark.parametrize("step", [*range(1, 12), *range(12, 60, 4)])
def test_every_step_of_a_fold_may_be_the_last(tmp_path, monkeypatch, step):
    """The n-th replacement, truncation or removal of a file fails as if the process had died there."""
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        fill(writer, "v0", 3, seed=0)
        writer.commit("v0")
    calls = [0]

    def dying(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] >= step:
                raise OSError(errno.EIO, "the machine stopped")
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying(Path.replace))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        patch.setattr(os, "truncate", dying(os.truncate))
        patch.setattr(os, "ftruncate", dying(os.ftruncate))
        committed = ["v0"]
        try:
            writer = append_to_store(path)
            for number in (1, 2):
                fill(writer, f"v{number}", 3 + number, seed=number)
                writer.commit(f"v{number}")
                committed.append(f"v{number}")
            writer.close()
        except OSError:
            pass
    remove_lock(path)
    store = open_store(path)
    assert store.items("clip") == committed
    _check_items(store)
    with append_to_store(path) as writer:
        assert writer.digest() == store.digest()
        fill(writer, "v9", 4, seed=9)
        writer.commit("v9")
    assert open_store(path).items("clip") == [*committed, "v9"]
    assert [entry.name for entry in path.glob("journal-*")] == [_root(path)["journal"]]


def _root(path: Path) -> dict:
    return json.loads((path / "zarr.json").read_bytes())["attributes"]["vidloc"]


@pytest.mark.parametrize("cut", [1, 40, 90])
def test_a_torn_last_line_of_the_journal_does_not_count(tmp_path, cut):
    path = tmp_path / "feats.zarr"
    journal = _left_with_journal(path)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    assert open_store(path).items("clip") == ["v0"]
    with append_to_store(path) as writer:
        assert writer.items("clip") == ["v0"]


def test_a_damaged_line_of_the_journal_is_an_error(tmp_path):
    path = tmp_path / "feats.zarr"
    journal = _left_with_journal(path)
    data = bytearray(journal.read_bytes())
    data[120] ^= 1
    journal.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged in line 1 of 2: its checksum does not fit"):
        open_store(path)


def test_a_missing_journal_is_an_error(tmp_path):
    path = tmp_path / "feats.zarr"
    _left_with_journal(path).unlink()
    for use in (open_store, append_to_store):
        with pytest.raises(StoreError, match=r"journal .*journal-\d+.jsonl is missing"):
            use(path)


def _left_with_journal(path: Path) -> Path:
    """A store whose writer died with two commits in the journal."""
    writer = create_store(path)
    for spec in SPECS:
        writer.add_stream(spec)
    for number in range(2):
        fill(writer, f"v{number}", 3 + number % 4, seed=number)
        writer.commit(f"v{number}")
    writer.abandon()
    return path / _root(path)["journal"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk, backend):
    path = small_disk / f"feats.{'h5' if backend == 'hdf5' else 'zarr'}"
    writer = create_store(path)
    for spec in SPECS:
        writer.add_stream(spec)
    committed = []

    def until_full():
        for number in range(100):
            fill(writer, f"v{number}", 3 + number % 4, seed=number)
            writer.write("clip", f"v{number}", clip_rows(10_000, number), GRID)
            writer.commit(f"v{number}")
            committed.append(f"v{number}")

    with pytest.raises(
        StoreError, match=r"no space is left on its disk .* What was committed is safe; free some space"
    ):
        until_full()
    assert len(committed) > 5
    before = writer.digest()
    with pytest.raises(StoreError, match="no space is left"):
        writer.close()
    store = open_store(path)
    assert store.items("clip") == sorted(committed)
    assert store.digest() == before
    assert all(store.recomputed_digest("clip", item) == store.entry("clip", item).digest for item in committed)
    store.close()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    with append_to_store(path) as writer:
        fill(writer, "w", 4)
        writer.commit("w")
    assert open_store(path).items("clip") == [*sorted(committed), "w"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failing_disk_leaves_the_last_commit(tmp_path, monkeypatch, call):
    with create_store(tmp_path / "feats.zarr") as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(3), GRID)
        writer.commit("a")
        writer.write("clip", "b", clip_rows(4, 1), GRID)
        real, count = getattr(os, call), [0]

        def failing(*args):
            count[0] += 1
            if count[0] == 2:  # the rows are written, the journal's line is not
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            with pytest.raises(StoreError, match="no space is left"):
                writer.commit("b")
        assert writer.items() == open_store(writer.path).items() == ["a"]
        writer.commit("b")
    assert same_rows(open_store(tmp_path / "feats.zarr").read("clip", "b"), clip_rows(4, 1), CLIP)


def test_a_full_disk_while_rows_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("vidloc.stores.pending.MEMORY_BYTES", 100)
    with create_store(tmp_path / "feats.zarr") as writer:
        writer.add_stream(CLIP)

        def failing(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing)
            with pytest.raises(StoreError, match="no space is left"):
                writer.write("clip", "a", clip_rows(30), GRID)
        writer.write("clip", "a", clip_rows(20), GRID)
        writer.commit("a")
        assert same_rows(writer.read("clip", "a"), clip_rows(20), CLIP)


def _lock_folder(path: Path) -> Path:
    return path.with_name(path.name + ".staging") if path.suffix == ".h5" else path


def test_a_dead_writer_is_taken_over_with_a_notice(store_path, caplog):
    process = _start_writer(store_path, 2)
    process.communicate()
    process = _start_writer(store_path, 10_000)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StoreError, match=f"being written by process {process.pid} on"):
        append_to_store(store_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with append_to_store(store_path):
        assert f"took over the lock of process {process.pid}" in caplog.text


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}])
def test_a_writer_elsewhere_is_not_taken_over(tmp_path, change):
    path = tmp_path / "feats.zarr"
    create_store(path).close()
    there = Holder.here().model_copy(update={"process": 2**22 + 1, **change})
    (path / "lock").write_text(there.model_dump_json())
    with pytest.raises(StoreError, match=rf"process 4194305 on .*vidloc store unlock {path}"):
        append_to_store(path)
    assert holder_of(path) == there
    assert open_store(path).items() == []
    assert remove_lock(path)
    append_to_store(path).close()


@pytest.mark.parametrize("change", [{"boot": "another"}, {"started": "1"}, {"process": 2**22 + 1}])
def test_a_number_used_again_or_a_boot_later_is_dead(tmp_path, change):
    path = tmp_path / "feats.zarr"
    create_store(path).close()
    (path / "lock").write_text(Holder.here().model_copy(update=change).model_dump_json())
    append_to_store(path).close()
    assert not (path / "lock").exists()


def test_an_unreadable_lock_is_respected(tmp_path):
    path = tmp_path / "feats.zarr"
    create_store(path).close()
    (path / "lock").write_text("{")
    with pytest.raises(StoreError, match=r"another writer .*not readable"):
        append_to_store(path)


def test_a_writer_whose_lock_was_removed_stops(store_path):
    with create_store(store_path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(2), GRID)
        writer.commit("a")
        assert remove_lock(_lock_folder(store_path))
        writer.write("clip", "b", clip_rows(2), GRID)
        with pytest.raises(StoreError, match=r"lock of store .* was removed while this process was writing"):
            writer.commit("b")
        with pytest.raises(StoreError, match="was removed"):
            writer.close()
    assert open_store(store_path).items() == ["a"]


def test_a_reader_beside_a_writer_sees_one_state(store_path):
    """Each opening shows whole items, never fewer than the last; an open reader stays with what it opened."""
    process = _start_writer(store_path, 10_000)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    seen = 0
    try:
        for _ in range(5):
            with open_store(store_path) as store:
                items = store.items("clip")
                _check_items(store)
                assert all(store.items(stream) == items for stream in store.streams())
                assert len(items) >= seen
                seen = len(items)
                time.sleep(0.01)
                assert store.items("clip") == items
    finally:
        process.kill()
        process.communicate()
    assert seen


def test_hdf5_without_file_locking(tmp_path):
    """As on file systems without locks, where libhdf5 is told to do without."""
    path = tmp_path / "feats.h5"
    program = "from vidloc.stores.operations import verify\nprint(len(verify(sys.argv[1]).damages))"
    environment = {
        **os.environ,
        "HDF5_USE_FILE_LOCKING": "FALSE",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", f"{_WRITER}\n{program}", str(path), "4"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert done.stdout.split()[-1] == "0"
    assert len(open_store(path).items("clip")) == 4
