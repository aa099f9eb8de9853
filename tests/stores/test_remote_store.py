"""Stores opened where they lie: equal to the same store here, few requests, and nothing wrong ever accepted."""

from __future__ import annotations

import pickle
import shutil
import sys
from itertools import pairwise

import fsspec
import numpy as np
import pytest
from remote_servers import file_server
from store_samples import GRID

from vidloc.core.rows import FieldSpec, Rows
from vidloc.errors import OptionError, StoreError, VidlocError
from vidloc.stores import operations, remote_files
from vidloc.stores.base import StreamSpec, append_to_store, create_store, expect, gather, open_store
from vidloc.stores.facts import facts_of
from vidloc.stores.remote_files import ByteRange, merged
from vidloc.testing.synthetic_store import ITEMS, made_up, specs, write_all


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(remote_files, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def served(store_path):
    with create_store(store_path) as writer:
        write_all(writer)
    with file_server(store_path.parent) as server:
        yield server, f"{server.url}/{store_path.name}", store_path


def flat(path, num_items=40, rows=20, dim=512):
    spec = StreamSpec(name="clip", kind="clip", fields={"features": FieldSpec(row_shape=(dim,), dtype="float32")})
    with create_store(path) as writer:
        writer.add_stream(spec)
        for k in range(num_items):
            features = np.random.default_rng(k).standard_normal((rows, dim)).astype(np.float32)
            writer.write("clip", f"v{k:03d}", Rows.dense(features=features), GRID)
            writer.commit(f"v{k:03d}")
    return path


def assert_same(found, expected):
    assert found.digest() == expected.digest()
    assert found.items() == expected.items()
    assert found.streams() == expected.streams()
    for spec in specs():
        for item in ITEMS:
            mine, theirs = found.read(spec.name, item), expected.read(spec.name, item)
            assert all(np.array_equal(mine.fields[name], theirs.fields[name]) for name in spec.fields)
            assert all(np.array_equal(mine.counts[axis], theirs.counts[axis]) for axis in theirs.counts)
            assert found.entry(spec.name, item) == expected.entry(spec.name, item)
            assert found.num_bytes(spec.name, item) == sum(array.nbytes for array in theirs.fields.values())
            times = made_up(spec, item).timeline
            assert times is None or np.array_equal(found.timeline(spec.name, item).spans(1), times.spans(1))
        part = slice(1, 5)
        assert np.array_equal(
            found.read(spec.name, ITEMS[0], part).fields["features" if "features" in spec.fields else "boxes"],
            expected.read(spec.name, ITEMS[0], part).fields["features" if "features" in spec.fields else "boxes"],
        )


def test_a_store_over_http_is_the_same_store(served):
    server, url, path = served
    with open_store(path) as here, open_store(url) as there:
        assert there.path == url
        assert there.backend == here.backend
        assert_same(there, here)
    assert operations.verify(url).damages == ()
    assert server.requests[f"/{path.name}/items/id/c/0"] <= 2


def test_a_store_in_memory_and_by_a_file_address(store_path):
    with create_store(store_path) as writer:
        write_all(writer)
    memory = fsspec.filesystem("memory")
    memory.put(str(store_path), f"/bucket/{store_path.name}", recursive=True)
    try:
        with open_store(store_path) as here, open_store(f"memory://bucket/{store_path.name}") as there:
            assert_same(there, here)
            with pickle.loads(pickle.dumps(there)) as copy:
                assert copy.digest() == here.digest()
        with open_store(f"file://{store_path}") as here:
            assert here.path == str(store_path)
    finally:
        memory.rm("/bucket", recursive=True)


def test_opening_takes_one_request_for_all_metadata(tmp_path):
    path = flat(tmp_path / "s.zarr", num_items=3)
    with file_server(tmp_path) as server, open_store(f"{server.url}/s.zarr") as store:
        assert store.items() == ["v000", "v001", "v002"]
        asked = [name for name in server.requests if name.endswith("zarr.json")]
        assert asked == ["/s.zarr/zarr.json"]
        assert not any("features" in name for name in server.requests)
    assert path.exists()


def test_announced_items_come_in_few_requests(tmp_path):
    flat(tmp_path / "s.zarr")
    with file_server(tmp_path) as server, open_store(f"{server.url}/s.zarr") as store:
        server.forget()
        expect(store, "clip", store.items())
        for item in store.items():
            store.read("clip", item)
        assert sum(server.requests.values()) == 1
        server.forget()
        gather(store, "clip", store.items()[::2])
        assert sum(server.requests.values()) == 20
        assert sum(server.sent.values()) == 20 * 20 * 512 * 4


def test_commits_that_are_not_folded_yet_are_seen(tmp_path):
    path = flat(tmp_path / "s.zarr", num_items=2)
    writer = append_to_store(path)
    writer.write("clip", "late", Rows.dense(features=np.ones((3, 512), np.float32)), GRID)
    writer.commit("late")
    with file_server(tmp_path) as server:
        with open_store(f"{server.url}/s.zarr") as store:
            assert np.array_equal(store.read_field("clip", "late"), np.ones((3, 512)))
        assert "writer" in facts_of(f"{server.url}/s.zarr").writer
    writer.close()


@pytest.mark.parametrize("fault", ["503", "reset", "cut", "short", "flip"])
def test_what_goes_wrong_once_is_mended(tmp_path, fault):
    path = flat(tmp_path / "s.zarr", num_items=2)
    with file_server(tmp_path) as server, open_store(f"{server.url}/s.zarr") as store, open_store(path) as here:
        server.faults = {"features/c/0/0": [fault]}
        assert np.array_equal(store.read("clip", "v001").fields["features"], here.read_field("clip", "v001"))
        assert server.requests["/s.zarr/streams/clip/features/c/0/0"] == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [("503", "did not come after 6 attempts"), ("cut", "did not come"), ("flip", "do not have the digest")],
)
def test_what_stays_wrong_is_never_accepted(tmp_path, fault, message):
    flat(tmp_path / "s.zarr", num_items=2)
    with file_server(tmp_path) as server, open_store(f"{server.url}/s.zarr") as store:
        server.faults = {"features/c/0/0": [fault] * 100}
        with pytest.raises(StoreError, match=message):
            store.read("clip", "v001")


def test_a_server_without_ranges_is_noticed_and_files_come_once(tmp_path, caplog):
    path = flat(tmp_path / "s.zarr", num_items=5)
    with file_server(tmp_path, ranges=False) as server:
        with open_store(f"{server.url}/s.zarr") as store, open_store(path) as here:
            for item in here.items():
                assert np.array_equal(store.read("clip", item).fields["features"], here.read_field("clip", item))
        assert server.requests["/s.zarr/streams/clip/features/c/0/0"] == 1
    assert "does not serve ranges of bytes" in caplog.text
    shutil.copy(path / "zarr.json", tmp_path / "x.h5")
    with file_server(tmp_path, ranges=False) as server, pytest.raises(StoreError, match="server without ranges"):
        open_store(f"{server.url}/x.h5")


def test_what_is_no_store_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "x.txt").write_text("no store, but longer than eight bytes")
    with file_server(tmp_path) as server:
        with pytest.raises(StoreError, match="is not there"):
            open_store(f"{server.url}/feats.zarr")
        with pytest.raises(StoreError, match="neither a Zarr folder nor an HDF5 file"):
            open_store(f"{server.url}/x.txt")
    with pytest.raises(StoreError, match="Protocol not known"):
        open_store("nowhere://feats.zarr")
    with pytest.raises(OptionError, match="query or a password"):
        open_store("https://me:secret@localhost/feats.zarr")
    with pytest.raises(StoreError, match="vidloc store push"):
        append_to_store("s3://bucket/feats.zarr")
    assert issubclass(StoreError, VidlocError)


@pytest.mark.parametrize(
    ("url", "advice"), [("s3://lab/x.zarr", r"pip install 'vidloc\[remote\]'$"), ("gs://lab/x.zarr", "gcsfs")]
)
def test_a_missing_package_is_named(url, advice, monkeypatch):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(StoreError, match=advice):
        open_store(url)


def test_gaps_that_are_read_along_stay_below_a_tenth():
    rng = np.random.default_rng(0)
    starts = np.cumsum(rng.integers(1, 3000, 500))
    wanted = [ByteRange("c", int(a), int(a + n)) for a, n in zip(starts[::2], rng.integers(1, 900, 250), strict=True)]
    covered = np.zeros(starts[-1] + 1000, bool)
    for part in wanted:
        covered[part.start : part.stop] = True
    runs = merged(wanted)
    assert all(any(r.start <= p.start and p.stop <= r.stop for r in runs) for p in wanted)
    assert len(runs) < len(wanted)
    assert sum(run.size for run in runs) <= 1.1 * sum(part.size for part in wanted)
    assert all(a.stop < b.start for a, b in pairwise(runs))
    assert covered.sum() <= sum(run.size for run in runs)
