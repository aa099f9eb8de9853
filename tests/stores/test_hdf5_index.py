"""HDF5 files are opened by the index at their end, or by libhdf5 in another process, whatever happens to that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys

import h5py
import numpy as np
import pytest
from remote_servers import file_server
from store_samples import CLIP, GRID, SPECS, clip_rows, fill

from vidloc.errors import FormatVersionError, StoreError
from vidloc.stores import hdf5_apart
from vidloc.stores.base import append_to_store, create_store, open_store
from vidloc.stores.operations import verify

FOOTER = 56


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "feats.h5"
    with create_store(path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for number in range(3):
            fill(writer, f"v{number}", 4 + number, seed=number)
            writer.commit(f"v{number}")
    return path


@pytest.fixture
def no_libhdf5(monkeypatch):
    """Whoever asks libhdf5 fails."""

    def refused(read, size, where):
        raise AssertionError("libhdf5 was asked")

    monkeypatch.setattr(hdf5_apart, "_answer_apart", refused)


def without_index(path):
    """The file as another program would have written it."""
    os.truncate(path, int.from_bytes(path.read_bytes()[28:36], "little"))
    return path


def edited(path, change):
    """The file with another index, whose length and checksum fit."""
    data = path.read_bytes()
    start = int.from_bytes(data[28:36], "little")
    document = json.loads(data[start:-FOOTER])
    change(document)
    body = json.dumps(document).encode()
    footer = len(body).to_bytes(8, "little") + hashlib.sha256(body).digest() + b"vidloc index 1\r\n"
    path.write_bytes(data[:start] + body + footer)
    return path


def test_files_of_ours_are_opened_without_libhdf5(path, no_libhdf5):
    with open_store(path) as store:
        assert store.items("clip") == ["v0", "v1", "v2"]
        assert np.array_equal(store.read_field("clip", "v1"), clip_rows(5, 1).fields["features"].astype(np.float16))
    with file_server(path.parent) as server, open_store(f"{server.url}/{path.name}") as store:
        assert np.array_equal(store.read_field("clip", "v1"), clip_rows(5, 1).fields["features"].astype(np.float16))


def test_the_index_says_what_libhdf5_says(path):
    assert verify(path).damages == ()
    with open_store(path) as store:
        expected = store.digest(), store.streams()
    with open_store(without_index(path)) as store:
        assert (store.digest(), store.streams()) == expected
    assert verify(path).damages == ()


def test_plain_h5py_cuts_the_index_off(path):
    """So that what it changes is seen, and not what the file was before."""
    size = path.stat().st_size
    with h5py.File(path, "r"):
        pass
    assert path.stat().st_size == size
    with h5py.File(path, "r+") as file:
        file["streams/clip"].attrs["note"] = "mine"
    assert path.read_bytes()[-16:] != b"vidloc index 1\r\n"
    assert open_store(path).items("clip") == ["v0", "v1", "v2"]


@pytest.mark.parametrize("where", [-1, -20, -50, -200, 30])
def test_an_index_that_was_damaged_is_none(path, where):
    """A changed byte of index, footer, or of the end that HDF5 states."""
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    if where == 30:
        with pytest.raises(StoreError, match="is damaged or no HDF5 file"):
            open_store(path)
        return
    assert open_store(path).items("clip") == ["v0", "v1", "v2"]


def put(*keys):
    *way, last, value = keys

    def change(document):
        for key in way:
            document = document[key]
        document[last] = value

    return change


FEATURES = "streams/clip/features"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("root", "format", 2), "update vidloc"),
        (put("root", None), "is not a vidloc store"),
        (put("streams", "clip", None), "stream 'clip'"),
        (put("streams", {}), "stream 'clip'"),
        (put("arrays", FEATURES, "length", -1), "the length '-1'"),
        (put("arrays", FEATURES, "length", 2**64), "the length"),
        (put("arrays", FEATURES, "length", 2**40), "its arrays claim"),
        (put("arrays", FEATURES, "runs", []), "does not say where the entries lie"),
        (put("arrays", FEATURES, "runs", [[0, -5]]), "does not say where the entries lie"),
        (put("arrays", FEATURES, "runs", [[0, 0], [0, 8]]), "does not say where the entries lie"),
        (put("arrays", FEATURES, "runs", [[3, 0]]), "does not say where the entries lie"),
        (put("arrays", FEATURES, "runs", [[0, 0], [2**60, 8]]), "does not say where the entries lie"),
        (put("arrays", FEATURES, {}), "the length 'None'"),
        (put("arrays", {}), "the length 'None'"),
    ],
)
def test_indexes_are_not_trusted(path, change, message):
    edited(path, change)
    error = FormatVersionError if "update" in message else StoreError
    for use in (open_store, append_to_store):
        with pytest.raises(error, match=message):
            use(path)


def test_entries_that_the_index_lays_beyond_the_file_cost_their_items(path):
    edited(path, put("arrays", FEATURES, "runs", [[0, 2**40]]))
    store = open_store(path)
    with pytest.raises(StoreError, match=r"stream 'clip', array 'features' .* are needed"):
        store.read("clip", "v0")
    store.read("objects", "v0")
    report = verify(path)
    assert {damage.stream for damage in report.damages} == {"clip", "(file)"}


def test_an_index_that_contradicts_the_datasets_is_damage(path):
    def change(document):
        document["streams"]["clip"]["source"]["licence"] = "of somebody else"

    assert verify(path).damages == ()
    edited(path, change)
    assert verify(path, quick=True).damages == ()
    assert ["contradict" in str(d) or "says otherwise" in str(d) for d in verify(path).damages] == [True]


def test_an_index_at_the_end_of_another_file_is_no_store(path, tmp_path):
    other = tmp_path / "other.h5"
    start = int.from_bytes(path.read_bytes()[28:36], "little")
    other.write_bytes(b"x" * start + path.read_bytes()[start:])
    with pytest.raises(StoreError, match="neither a Zarr folder nor an HDF5 file"):
        open_store(other)


def test_the_place_of_the_new_file_may_not_be_a_link(path):
    precious = path.with_name("precious")
    precious.write_text("precious")
    path.with_name(f".{path.name}.tmp").symlink_to(precious)
    with append_to_store(path) as writer:
        writer.write("clip", "new", clip_rows(3), GRID)
        writer.commit("new")
    assert precious.read_text() == "precious"
    assert open_store(path).items("clip") == ["new", "v0", "v1", "v2"]


def test_another_process_reads_files_without_index(path, apart):
    expected = open_store(path).digest()
    assert open_store(without_index(path)).digest() == expected
    with file_server(path.parent) as server, open_store(f"{server.url}/{path.name}") as store:
        assert store.digest() == expected


def test_what_the_other_process_finds_is_said_in_its_words(path, apart):
    with h5py.File(path, "r+") as file:
        file.attrs["vidloc"] = file.attrs["vidloc"].replace('"format":1', '"format":2')
    with pytest.raises(FormatVersionError, match=r"feats\.h5 has store format 2.*update vidloc"):
        open_store(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["vidloc"]
    with pytest.raises(StoreError, match=r"feats\.h5 is not a vidloc store"):
        open_store(path)


def test_modules_beside_a_store_are_not_imported(path, apart, monkeypatch):
    """A Python that is started with a program on its command line would look in the working directory first."""
    (path.parent / "h5py.py").write_text("raise SystemExit('imported from beside the store')")
    (path.parent / "vidloc").mkdir()
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert open_store(without_index(path)).items("clip") == ["v0", "v1", "v2"]


def test_a_file_that_libhdf5_never_finishes_is_refused(path, apart, monkeypatch):
    """One number changed, so that libhdf5 reads its first attribute for ever.

    A text lies in a "global heap" of objects: after its header of 16 bytes, number, count and size of the first object,
    whose size plus its own header of 16 bytes is to be 0 in 64 bits.
    """
    monkeypatch.setattr(hdf5_apart, "CPU_SECONDS", 2)
    data = bytearray(without_index(path).read_bytes())
    size = data.index(b"GCOL") + 16 + 8
    data[size : size + 8] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"feats\.h5 .*libhdf5 does not come to an end with it within 2 s"):
        open_store(path)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
        ("raise RuntimeError('out of luck')", r"ended by exit code 1 \(RuntimeError: out of luck\)"),
        ("import os; os.write(1, b'few')", "ended by exit code 0"),
        ("import os, struct; os.write(1, struct.pack('<qq', 0, 2**50)); os.read(0, 1)", "over and over"),
        ("import os, struct; os.write(1, struct.pack('<qq', -1, 2**62)); os.read(0, 1)", "ended by exit code"),
    ],
)
def test_however_the_other_process_ends_it_is_one_sentence(path, apart, monkeypatch, program, message):
    monkeypatch.setattr(hdf5_apart, "_PROGRAM", program)
    with pytest.raises(StoreError, match=rf"store .*feats\.h5 .*{message}"):
        open_store(without_index(path))


def test_a_dataset_that_claims_more_than_the_file_holds_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["streams/clip/features"]
        file.create_dataset("streams/clip/features", (2**40, 6), "f2", chunks=(1024, 6))
    with pytest.raises(StoreError, match=r"dataset streams/clip/features claims 13194139533312"):
        open_store(path)


def test_hdf5_files_are_copied_with_their_index(path, tmp_path, no_libhdf5):
    shutil.copy(path, tmp_path / "copy.h5")
    assert open_store(tmp_path / "copy.h5").digest() == open_store(path).digest()


def test_large_indexes_are_found(tmp_path, no_libhdf5):
    """Longer than what is read at once."""
    spec = CLIP.model_copy(update={"vocabulary": tuple(f"class {k}" for k in range(20_000))})
    with create_store(tmp_path / "s.h5") as writer:
        writer.add_stream(spec)
        writer.write("clip", "a", clip_rows(3), GRID)
        writer.commit("a")
    assert open_store(tmp_path / "s.h5").streams()["clip"] == spec
