"""Pull, push and signatures: only the wanted bytes travel, nothing wrong is kept, a part is proven to be a part."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from remote_servers import file_server
from test_remote_store import flat

from vidloc.cli import vidloc
from vidloc.errors import OptionError, StoreError
from vidloc.stores import remote_files
from vidloc.stores.base import append_to_store, create_store, open_store
from vidloc.stores.operations import verify
from vidloc.stores.pulling import plan_pull, pull
from vidloc.stores.pushing import push
from vidloc.stores.remote_store import RemoteStore
from vidloc.stores.signing import sign, verify_signature
from vidloc.testing.synthetic_store import ITEMS, write_all


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(remote_files, "FIRST_WAIT_S", 0.001)


def call(*arguments):
    return CliRunner().invoke(vidloc, ["store", *map(str, arguments)])


def pulled(url, out, **choice):
    with RemoteStore(url) as store:
        plan = plan_pull(store, out, **choice)
        return plan, pull(store, out, plan)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_scattered_items_cost_little_more_than_their_rows(tmp_path, suffix):
    path = flat(tmp_path / f"s{suffix}", num_items=100)
    chosen = [f"v{k:03d}" for k in np.random.default_rng(3).permutation(100)[:15]]
    with file_server(tmp_path) as server:
        plan, report = pulled(f"{server.url}/s{suffix}", tmp_path / "mine.zarr", items=chosen)
        rows = 15 * 20 * 512 * 4
        assert plan.num_row_bytes == rows
        assert rows <= plan.num_bytes <= 1.1 * rows
        # All bytes count here: tables, metadata and rows.
        assert sum(server.sent.values()) <= 1.2 * rows
        assert plan.num_requests < 15
    assert report.num_pulled == 15
    assert verify(tmp_path / "mine.zarr").damages == ()
    with open_store(tmp_path / "mine.zarr") as mine, open_store(path) as theirs:
        assert mine.items() == sorted(chosen)
        assert all(mine.entry("clip", item) == theirs.entry("clip", item) for item in chosen)


def test_streams_of_every_shape_arrive_with_their_digests(tmp_path):
    with create_store(tmp_path / "s.zarr") as writer:
        write_all(writer)
        writer.mark("maps", "none.mp4", "failed", "no frame")
        writer.commit("none.mp4")
    with file_server(tmp_path) as server:
        pulled(f"{server.url}/s.zarr", tmp_path / "mine.h5", items=[ITEMS[2]], streams=["regions", "sentences"])
        plan, report = pulled(f"{server.url}/s.zarr", tmp_path / "mine.h5")
    assert plan.num_there == 2
    assert report.num_pulled == 3 * 5 - 2 + 1
    with open_store(tmp_path / "mine.h5") as mine, open_store(tmp_path / "s.zarr") as theirs:
        assert mine.digest() == theirs.digest()
        assert mine.entry("maps", "none.mp4").reason == "no frame"
    assert verify(tmp_path / "mine.h5").damages == ()


def test_a_pull_that_was_stopped_goes_on_and_asks_for_nothing_twice(tmp_path, monkeypatch):
    flat(tmp_path / "s.zarr", num_items=4)
    out = tmp_path / "mine.zarr"
    with file_server(tmp_path) as server:
        monkeypatch.setattr("vidloc.stores.remote_store._AHEAD_BYTES", 20 * 512 * 4)  # an item at a time
        server.faults = {"features/c/0/0": ["", "", *["cut"] * 100]}
        with pytest.raises(StoreError, match="did not come after 6 attempts"):
            pulled(f"{server.url}/s.zarr", out)
        with open_store(out) as mine:
            assert mine.items("clip") == ["v000", "v001"]
        server.faults = {}
        server.forget()
        plan, _ = pulled(f"{server.url}/s.zarr", out)
        assert (plan.num_entries, plan.num_there) == (2, 2)
        assert server.sent["/s.zarr/streams/clip/features/c/0/0"] == 2 * 20 * 512 * 4
    assert verify(out).damages == ()


@pytest.mark.parametrize("fault", ["flip", "short"])
def test_wrong_bytes_are_never_committed(tmp_path, fault):
    flat(tmp_path / "s.zarr", num_items=2)
    with file_server(tmp_path) as server:
        server.faults = {"features/c/0/0": [fault] * 100}
        with pytest.raises(StoreError, match=r"digest that was committed|did not come"):
            pulled(f"{server.url}/s.zarr", tmp_path / "mine.zarr")
        server.faults = {"features/c/0/0": [fault, "503", "reset", "cut"]}
        pulled(f"{server.url}/s.zarr", tmp_path / "mine.zarr")
    assert verify(tmp_path / "mine.zarr").damages == ()


def test_the_command_says_terms_and_cost_before_and_a_dry_run_writes_nothing(tmp_path):
    flat(tmp_path / "s.zarr", num_items=4)
    out = tmp_path / "mine.zarr"
    with file_server(tmp_path) as server:
        result = call("pull", f"{server.url}/s.zarr", out, "--items", "v00[13]", "--dry-run")
        assert result.exit_code == 0, result.output
        assert "clip: by an encoder not stated, weights not stated, licence not stated" in result.output
        assert "2 entries of 2 items to pull, 81.9 KB of rows, transferring 81.9 KB in 2 requests." in result.output
        assert not out.exists()
        result = call("pull", f"{server.url}/s.zarr", out, "--items", "v00[13]")
        assert "2 items, 2 entries pulled" in result.output
        assert "0 entries of 0 items" in call("pull", f"{server.url}/s.zarr", out, "--items", "v00[13]").output
    with file_server(tmp_path, ranges=False) as server:
        result = call("pull", f"{server.url}/s.zarr", tmp_path / "whole.zarr", "--items", "v001")
        assert "as 1 whole files (no ranges)" in result.output
        assert server.requests["/s.zarr/streams/clip/features/c/0/0"] <= 2  # a HEAD is not counted
    assert verify(tmp_path / "whole.zarr").damages == ()
    assert isinstance(call("pull", tmp_path / "s.zarr", out).exception, OptionError)


@pytest.fixture(scope="module")
def bucket():
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}"}
    fs = pytest.importorskip("s3fs").S3FileSystem(**options)
    fs.mkdir("lab")
    yield options
    server.stop()


def test_a_store_goes_to_s3_and_comes_back(tmp_path, bucket):
    path = flat(tmp_path / "s.zarr", num_items=6)
    address = "s3://lab/feats.zarr"
    report = push(path, address, bucket)
    assert report.num_sent == report.num_files
    assert report.is_checked
    with open_store(address, storage_options=bucket) as there, open_store(path) as here:
        assert there.digest() == report.digest == here.digest()
        assert np.array_equal(there.read("clip", "v003").fields["features"], here.read_field("clip", "v003"))
    assert push(path, address, bucket).num_sent == 0
    flags = [part for key, value in bucket.items() for part in ("--storage-option", f"{key}={value}")]
    result = call("pull", address, tmp_path / "mine.zarr", "--items", "v001", *flags)
    assert result.exit_code == 0, result.output
    assert verify(tmp_path / "mine.zarr").damages == ()
    with pytest.raises(StoreError, match="holds another store"):
        push(tmp_path / "mine.zarr", address, bucket)
    with pytest.raises(StoreError, match="no such place"):
        push(path, "s3://nowhere/feats.zarr", bucket)


def test_the_root_goes_last_and_a_push_goes_on(tmp_path, bucket, monkeypatch):
    path = flat(tmp_path / "s.h5", num_items=2)
    assert push(path, "s3://lab/feats.h5", bucket).num_files == 1
    path = flat(tmp_path / "s.zarr", num_items=2)
    send = remote_files.RemoteFiles.put
    sent = []

    def put(files, source, name):
        if name == "zarr.json":
            raise StoreError("stopped")
        sent.append(name)
        send(files, source, name)

    monkeypatch.setattr(remote_files.RemoteFiles, "put", put)
    with pytest.raises(StoreError, match="stopped"):
        push(path, "s3://lab/half.zarr", bucket)
    with pytest.raises(StoreError, match="is not there"):
        open_store("s3://lab/half.zarr", storage_options=bucket)
    monkeypatch.undo()
    report = push(path, "s3://lab/half.zarr", bucket)
    assert (report.num_sent, report.num_files) == (1, len(sent) + 1)


def test_a_store_that_is_written_is_not_pushed(tmp_path):
    path = flat(tmp_path / "s.zarr", num_items=1)
    with append_to_store(path), pytest.raises(StoreError, match="being written by"):
        push(path, "memory://s.zarr")
    with pytest.raises(StoreError, match="place on this machine"):
        push(path, str(tmp_path / "other.zarr"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "eve"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name]
        subprocess.run(command, check=True)
    public = (folder / "ada.pub").read_text()
    (folder / "allowed").write_text(f"ada@lab.example {public}")
    return folder


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_signature_holds_for_the_whole_and_not_for_anything_else(tmp_path, keys, suffix):
    path = flat(tmp_path / f"s{suffix}", num_items=3)
    assert "is signed" in call("sign", path, "--key", keys / "ada").output
    result = call("verify", path, "--signature", "--allowed-signers", keys / "allowed")
    assert result.exit_code == 0, result.output
    assert "Signed by ada@lab.example: all of content id" in result.output
    sign(path, keys / "eve")
    with pytest.raises(StoreError, match="does not list"):
        verify_signature(path, keys / "allowed")
    sign(path, keys / "ada")
    with append_to_store(path) as writer, open_store(path) as store:
        writer.write("clip", "new", store.read("clip", "v000"), store.timeline("clip", "v000"))
        writer.commit("new")
    with pytest.raises(StoreError, match=r"has rows that ada@lab\.example did not sign: clip new"):
        verify_signature(path, keys / "allowed")


@pytest.mark.parametrize("name", ["statement", "statement.sig", "entries.tsv", "manifest.tsv"])
def test_no_file_of_a_signature_can_be_changed(tmp_path, keys, name):
    path = flat(tmp_path / "s.zarr", num_items=2)
    sign(path, keys / "ada")
    file = path / "signatures" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"signature|sign"):
        verify_signature(path, keys / "allowed")
    file.unlink()
    with pytest.raises(StoreError, match=r"lacks|not signed"):
        verify_signature(path, keys / "allowed")


def test_a_pulled_part_is_proven_to_be_part_of_the_signed_whole(tmp_path, keys):
    path = flat(tmp_path / "s.zarr", num_items=5)
    content = sign(path, keys / "ada")
    with file_server(tmp_path) as server:
        _, report = pulled(f"{server.url}/s.zarr", tmp_path / "mine.h5", items=["v001", "v004"])
        assert verify_signature(f"{server.url}/s.zarr", keys / "allowed").is_whole
    assert report.signed
    found = verify_signature(tmp_path / "mine.h5", keys / "allowed")
    assert (found.content, found.num_entries, found.num_signed) == (content, 2, 5)
    result = call("verify", tmp_path / "mine.h5", "--signature", "--allowed-signers", keys / "allowed", "--json")
    assert json.loads(result.stdout)["signature"]["signer"] == "ada@lab.example"
    assert call("verify", path, "--signature").exit_code == 2
