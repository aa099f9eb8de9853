"""What a store from elsewhere may claim: nothing takes memory for it, loses rows by it, or steers a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import resource

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from store_samples import CLIP, GRID, OBJECTS, clip_rows, object_rows, spans

from vidloc.cli import vidloc
from vidloc.core.records import ItemInfo
from vidloc.errors import FormatVersionError, StoreError
from vidloc.stores.base import append_to_store, create_store, open_store
from vidloc.stores.operations import verify

ESCAPE = "\x1b[2J"


@pytest.fixture
def store(store_path):
    with create_store(store_path) as writer:
        writer.add_stream(CLIP)
        for number in range(3):
            writer.set_info(ItemInfo(item_id=f"v{number}", source_name=f"a{ESCAPE}b.mp4"))
            writer.write("clip", f"v{number}", clip_rows(10, number), GRID)
            writer.commit(f"v{number}")
        writer.mark("clip", "bad", "failed", "no frames")
        writer.commit("bad")
    return store_path


def change(path, name, index, value):
    """One entry of one array."""
    group = h5py.File(path, "r+") if path.is_file() else zarr.open_group(path, mode="r+")
    group[name][index] = value
    if path.is_file():
        group.close()


def entry_at(path, first_row):
    """Position in the table, whose order is not the same in both backends."""
    group = h5py.File(path) if path.is_file() else zarr.open_group(path, mode="r")
    (found,) = np.flatnonzero(group["streams/clip/table/first_row"][:] == first_row)
    if path.is_file():
        group.close()
    return int(found)


def edit(path, place, attribute, edited):
    """The JSON of an attribute."""
    if path.is_file():
        with h5py.File(path, "r+") as file:
            document = json.loads(file[place].attrs[attribute])
            edited(document)
            file[place].attrs[attribute] = json.dumps(document)
        return
    document = json.loads((path / "zarr.json").read_bytes())
    members = document["consolidated_metadata"]["metadata"]
    edited((document if place == "/" else members[place])["attributes"][attribute])
    (path / "zarr.json").write_text(json.dumps(document))


def commit_by_hand(path, commit):
    """A line of the journal whose checksum fits."""
    body = json.dumps(commit).encode()
    with next(path.glob("journal-*")).open("ab") as journal:
        journal.write(b'{"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'","commit":' + body + b"}\n")


def test_entries_that_share_rows_are_refused(store):
    # Each would be written in full by whoever copies the store.
    for first_row in (10, 20):
        entry = entry_at(store, first_row)
        change(store, "streams/clip/table/first_row", entry, 1)
        change(store, "streams/clip/table/num_rows", entry, 29)
    with pytest.raises(StoreError, match=r"table of stream 'clip' .*entries share rows"):
        open_store(store)


def test_one_entry_that_takes_rows_of_others_costs_its_item(store):
    change(store, "streams/clip/table/num_rows", entry_at(store, 10), 20)
    assert [damage.item for damage in verify(store).damages] == ["v1"]


def test_commits_that_share_rows_are_refused(tmp_path):
    path = tmp_path / "s.zarr"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(10), GRID)
        writer.commit("a")
    entry = {"status": "done", "first_row": 0, "num_rows": 10, "digest": "ab" * 32, "grid": GRID.as_integers()}
    commit_by_hand(path, {"item_id": "b", "streams": {"clip": entry}})
    for use in (open_store, append_to_store):
        with pytest.raises(StoreError, match="gives item 'b' rows of 'clip' that others have"):
            use(path)


def test_commits_of_rows_that_are_not_there_stop_a_writer(tmp_path):
    path = tmp_path / "s.zarr"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
    entry = {"status": "done", "first_row": 2**50, "num_rows": 1, "digest": "ab" * 32, "grid": GRID.as_integers()}
    commit_by_hand(path, {"item_id": "b", "streams": {"clip": entry}})
    with pytest.raises(StoreError, match=r"stream 'clip', array 'features' .* cannot be read"):
        append_to_store(path)
    assert not list((path / "streams/clip/features").glob("c/*"))


def test_commits_of_failed_items_have_no_rows(tmp_path):
    path = tmp_path / "s.zarr"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
    commit_by_hand(path, {"item_id": "b", "streams": {"clip": {"status": "failed", "num_rows": 3}}})
    with pytest.raises(StoreError, match="an entry that is failed has no rows"):
        open_store(path)


@pytest.mark.parametrize("column", ["items/id", "items/facts", "streams/clip/table/reason"])
def test_holes_take_no_memory(tmp_path, column):
    """A column that claims 64 GiB, and a file that is as long, of which nothing is on the disk."""
    path = tmp_path / "s.zarr"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.mark("clip", "a", "failed", "no frames")
        writer.commit("a")
    size = 2**36
    os.truncate(path / column / "c" / "0", size)

    def lengthened(document):
        member = document["consolidated_metadata"]["metadata"][column]
        member["shape"] = [size]
        member["chunk_grid"]["configuration"]["chunk_shape"] = [size]

    document = json.loads((path / "zarr.json").read_bytes())
    lengthened(document)
    (path / "zarr.json").write_text(json.dumps(document))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="holds control characters"):
        open_store(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


@pytest.mark.parametrize("end", [2**40, -7])
def test_damaged_row_ends_inside_an_item_are_not_copied_into_a_new_file(tmp_path, end):
    """Where items meet all is well; a file that was cut to what the ends say would have lost rows of the sound item."""
    path = tmp_path / "s.h5"
    with create_store(path) as writer:
        writer.add_stream(OBJECTS)
        for item in ("a", "b"):
            writer.write("objects", item, object_rows([2, 1]), spans(2))
            writer.commit(item)
    change(path, "streams/objects/regions_end", 0, end)
    before = path.read_bytes()
    writer = append_to_store(path)
    writer.mark("objects", "c", "failed", "for a test")
    writer.commit("c")
    with pytest.raises(StoreError, match="not ascending"):
        writer.close()
    assert path.read_bytes() == before
    assert open_store(path).recomputed_digest("objects", "b") == open_store(path).entry("objects", "b").digest


def test_rows_of_a_failed_entry_are_not_dropped_from_a_new_file(tmp_path):
    path = tmp_path / "s.h5"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        for item in ("a", "b"):
            writer.write("clip", item, clip_rows(3), GRID)
            writer.commit(item)
    change(path, "streams/clip/table/status", 0, 3)
    assert [damage.item for damage in verify(path).damages] == ["a"]
    writer = append_to_store(path)
    writer.mark("clip", "c", "failed", "for a test")
    writer.commit("c")
    with pytest.raises(StoreError, match=r"item 'a': its table states 3 rows although it is failed"):
        writer.close()


def test_rows_that_only_the_tables_claim_take_no_disk(tmp_path):
    path = tmp_path / "s.h5"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
    writer = append_to_store(path)
    writer.write("clip", "a", clip_rows(3), GRID)
    writer.commit("a")
    writer._staging.abandon()
    staging = path.with_name("s.h5.staging")
    commit = {"status": "done", "first_row": 3, "num_rows": 2**50, "digest": "ab" * 32, "grid": GRID.as_integers()}
    commit_by_hand(staging, {"item_id": "b", "streams": {"clip": commit}})
    with pytest.raises(StoreError, match="cannot be read"):
        append_to_store(path)
    assert open_store(path).read("clip", "a").num_rows == 3
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(path).read("clip", "b")


def test_a_file_and_its_staging_folder_describe_a_stream_alike(tmp_path):
    path = tmp_path / "s.h5"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
    writer = append_to_store(path)
    writer.write("clip", "a", clip_rows(3), GRID)
    writer.commit("a")
    writer._staging.abandon()
    edit(path, "streams/clip", "vidloc_stream", lambda spec: spec["fields"]["features"].update(row_shape=["n", 6]))
    with h5py.File(path, "r+") as file:
        file["streams/clip/n_end"] = np.zeros(0, np.int64)
    with pytest.raises(StoreError, match=r"stream 'clip' is described otherwise in .*s\.h5\.staging"):
        open_store(path)


def test_names_of_a_file_do_not_break_a_message(store):
    edit(store, "streams/clip", "vidloc_stream", lambda spec: spec.update({f"a\n{ESCAPE}": 1}))
    with pytest.raises(StoreError, match=r"stream 'clip' is damaged: a \[2J: Extra inputs") as found:
        open_store(store)
    assert str(found.value).isprintable()


def test_names_of_features_that_are_required_do_not_break_a_message(store):
    edit(store, "/", "vidloc", lambda root: root.update(requires=[f"a\n{ESCAPE}"]))
    with pytest.raises(FormatVersionError, match=r"needs a \[2J; .*update vidloc") as found:
        open_store(store)
    assert str(found.value).isprintable()


@pytest.mark.parametrize("character", ["\x7f", "\x9b", "\u2028"])
def test_no_control_character_is_in_an_id(store, character):
    for position, byte in enumerate(character.encode() + b"a"):
        change(store, "items/id", position, byte)
    with pytest.raises(StoreError, match=r"holds control characters|texts, expected"):
        open_store(store)


@pytest.mark.parametrize("command", [("info",), ("ls",), ("head",), ("card",), ("diff",)])
def test_nothing_that_a_store_says_steers_the_terminal(store, tmp_path, command):
    def edited(spec):
        spec["source"]["licence"] = f"mine{ESCAPE}"
        spec["encoder"] = spec["weights"] = f"x{ESCAPE}\n"
        spec["weights_sha256"] = f"{ESCAPE}ab"
        spec["preprocessing"] = {ESCAPE: ESCAPE}

    other = tmp_path / "other.zarr"
    with create_store(other) as writer:
        writer.add_stream(CLIP)
    edit(store, "streams/clip", "vidloc_stream", edited)
    more = {"head": ["v0"], "diff": [str(other)]}.get(command[0], [])
    result = CliRunner().invoke(vidloc, ["store", *command, str(store), *more])
    assert result.exit_code in (0, 3), result.output
    assert "\x1b" not in result.output
    assert "a [2Jb.mp4" in result.output or command[0] != "head"


def test_a_stream_of_an_unknown_kind_is_listed_and_read(store):
    edit(store, "streams/clip", "vidloc_stream", lambda spec: spec.update(kind="point_cloud"))
    outputs = {}
    for command in ("info", "ls", "head", "verify", "card"):
        more = ["v0"] if command == "head" else []
        result = CliRunner().invoke(vidloc, ["store", command, str(store), *more])
        assert result.exit_code == 0, result.output
        outputs[command] = result.output
    assert "point_cloud" in outputs["info"]
    assert "point_cloud" in outputs["card"]
    assert "clip: done, 10 rows" in outputs["head"]
