"""The bytes on disk: plain zarr and h5py read them, damage is found and named, foreign documents are not trusted."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from store_samples import CLIP, GRID, OBJECTS, SPECS, clip_rows, fill, object_rows, spans

from vidloc.errors import FormatVersionError, StoreError
from vidloc.stores.base import append_to_store, create_store, open_store
from vidloc.stores.format import chunk_rows


@pytest.fixture
def finished(store_path):
    """A finished store of three items."""
    with create_store(store_path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for number in range(3):
            fill(writer, f"v{number}", 4 + number, seed=number)
            writer.commit(f"v{number}")
        writer.mark("clip", "bad", "failed", "no frames")
        writer.commit("bad")
    return store_path


def _open_plain(path: Path):
    return h5py.File(path, "r") if path.suffix == ".h5" else zarr.open_group(path, mode="r")


def _check_plain(group, numbers):
    """Read a store as `docs/store_format.md` tells one without vidloc to."""
    items = bytes(group["items/id"][:]).decode().split("\n")[:-1]
    table = group["streams/objects/table"]
    ends = np.concatenate([[0], group["streams/objects/regions_end"][:]])
    for item, first, count in zip(table["item"][:], table["first_row"][:], table["num_rows"][:], strict=True):
        number = int(items[item].removeprefix("v"))
        expected = object_rows([k % 3 for k in range(4 + number)], number)
        rows = slice(first, first + count)
        entries = slice(ends[first], ends[first + count])
        assert np.array_equal(group["streams/objects/boxes"][entries], expected.fields["boxes"])
        assert np.array_equal(group["streams/objects/image"][rows], expected.fields["image"])
        assert np.array_equal(group["streams/objects/spans"][rows], spans(4 + number).array)
        numbers.remove(number)
    assert not numbers


def test_plain_clients_read_finished_stores(finished):
    group = _open_plain(finished)
    _check_plain(group, [0, 1, 2])
    names = bytes(group["items/id"][:]).decode().split("\n")
    table = group["streams/clip/table"]
    by_item = {names[i]: k for k, i in enumerate(table["item"][:])}
    assert bytes(table["reason"][:]).decode().split("\n")[by_item["bad"]] == "no frames"
    assert table["status"][by_item["bad"]] == 3
    assert tuple(table["grid"][by_item["v0"]]) == GRID.as_integers()
    assert np.isnan(table["extent"][by_item["bad"]]).all()
    assert table["extent"][by_item["v1"]].tolist() == [0.0, 2.5]
    store = open_store(finished)
    assert bytes(table["digest"][by_item["v2"]]).hex() == store.entry("clip", "v2").digest
    first = table["first_row"][by_item["v2"]]
    plain = group["streams/clip/features"][first : first + 6]
    assert np.array_equal(plain, clip_rows(6, 2).fields["features"].astype(np.float16))
    spec = group["streams/clip"].attrs["vidloc_stream"]
    assert (json.loads(spec) if isinstance(spec, str) else spec)["weights"] == "random:1"


def test_plain_zarr_reads_the_last_fold_while_a_writer_is_open(tmp_path):
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for number in range(3):
            fill(writer, f"v{number}", 4 + number, seed=number)
            writer.commit(f"v{number}")
            if number == 1:
                writer.flush()
        _check_plain(zarr.open_group(path, mode="r"), [0, 1])
        by_itself = zarr.open_array(path / "streams/clip/features", mode="r")
        assert by_itself.shape == (9, 6)
        assert np.array_equal(by_itself[4:], clip_rows(5, 1).fields["features"].astype(np.float16))
    _check_plain(zarr.open_group(path, mode="r"), [0, 1, 2])
    with append_to_store(path):
        _check_plain(zarr.open_group(path, mode="r"), [0, 1, 2])


def test_small_stores_are_small(finished):
    files = [finished] if finished.is_file() else [f for f in finished.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 60_000


def test_nothing_else_is_left(finished):
    assert sorted(entry.name for entry in finished.parent.iterdir()) == [finished.name]
    if finished.is_dir():
        names = sorted(entry.name for entry in finished.iterdir())
        assert names[0] == "items"
        assert names[1].startswith("journal-")
        assert names[2:] == ["streams", "zarr.json"]


@pytest.mark.parametrize(
    ("size", "rows"), [(4608, 16384), (2, 2**25), (7 * 7 * 512 * 2, 1024), (2**26, 1), (2**28, 1), (3 * 2**24, 1)]
)
def test_chunks_hold_a_power_of_two_of_rows_nearest_to_64_mib(size, rows):
    assert chunk_rows(size) == rows
    others = [n for n in (rows // 2, rows * 2) if n]
    assert all(abs(rows * size - 2**26) <= abs(n * size - 2**26) for n in others)


def test_rows_across_chunks(store_path, monkeypatch):
    monkeypatch.setitem(chunk_rows.__kwdefaults__, "target", 64)
    monkeypatch.setattr("vidloc.stores.hdf5_file._CHUNK_BYTES", 64)
    monkeypatch.setattr("vidloc.stores.mapped._MAX_OPEN", 2)
    with create_store(store_path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for number in range(3):
            fill(writer, f"v{number}", 4 + number, seed=number)
            writer.commit(f"v{number}")
            writer.flush()
    store = open_store(store_path)
    for number in range(3):
        for stream in store.streams():
            assert store.recomputed_digest(stream, f"v{number}") == store.entry(stream, f"v{number}").digest
        view = store.read_field("clip", f"v{number}", rows=slice(1, 4))
        assert np.array_equal(view, clip_rows(4 + number, number).fields["features"][1:4].astype(np.float16))
        assert np.array_equal(store.read_field("clip", f"v{number}", rows=slice(1, 4), out=np.empty_like(view)), view)
    _check_plain(_open_plain(store_path), [0, 1, 2])
    if store_path.is_dir():
        assert len(list((store_path / "streams/clip/features/c").iterdir())) == 4  # of 4 rows


def test_hdf5_of_another_layout_is_read(tmp_path):
    """Chunks that h5py placed itself, with gaps, and datasets in one piece."""
    path = tmp_path / "feats.h5"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(40), GRID)
        writer.commit("a")
    expected = open_store(path).digest()
    with h5py.File(path, "r+") as file:
        features = file["streams/clip/features"][:]
        del file["streams/clip/features"]
        moved = file.create_dataset("streams/clip/features", features.shape, "f2", chunks=(8, 6))
        for start in (16, 0, 32, 24, 8):
            moved[start : start + 8] = features[start : start + 8]
        grid = file["streams/clip/table/grid"][:]
        del file["streams/clip/table/grid"]
        file.create_dataset("streams/clip/table/grid", data=grid)
    store = open_store(path)
    assert store.digest() == expected
    assert store.recomputed_digest("clip", "a") == store.entry("clip", "a").digest
    assert np.array_equal(store.read_field("clip", "a", rows=slice(6, 30)), features[6:30])


@pytest.mark.parametrize("kind", ["soft link", "external link", "external", "virtual", "gzip", "dtype", "missing"])
def test_hdf5_that_leads_elsewhere_is_refused(tmp_path, kind):
    path = tmp_path / "feats.h5"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(40), GRID)
        writer.commit("a")
    name, other = "streams/clip/features", tmp_path / "other"
    other.write_bytes(bytes(480))
    with h5py.File(path, "r+") as file:
        features = file[name][:]
        del file[name]
        if kind == "soft link":
            file[name] = h5py.SoftLink("/items/id")
        elif kind == "external link":
            file[name] = h5py.ExternalLink(str(other), "/x")
        elif kind == "external":
            file.create_dataset(name, (40, 6), "f2", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((40, 6), "f2")
            layout[:] = h5py.VirtualSource(str(other), "x", (40, 6))
            file.create_virtual_dataset(name, layout)
        elif kind == "gzip":
            file.create_dataset(name, data=features, compression="gzip")
        elif kind == "dtype":
            file.create_dataset(name, data=[b"object"] * 40, dtype=h5py.string_dtype())
    message = {"gzip": "compressed, virtual", "external": "compressed, virtual", "virtual": "compressed, virtual"}
    expected = message.get(kind, "holds object" if kind == "dtype" else "is missing, or a link")
    with pytest.raises(StoreError, match=rf"streams/clip/features.* {expected}"):
        open_store(path)


def test_a_missing_or_short_chunk_is_an_error_and_never_zeros(tmp_path):
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        for number in range(2):
            writer.write("clip", f"v{number}", clip_rows(40, number), GRID)
            writer.commit(f"v{number}")
    chunk = path / "streams/clip/features/c/0/0"
    os.truncate(chunk, 500)
    store = open_store(path)
    assert store.read_field("clip", "v0").shape == (40, 6)
    for out in (None, np.empty((40, 6), np.float16)):
        with pytest.raises(StoreError, match=r"stream 'clip', array 'features' in .* has 500 bytes, its rows need 960"):
            store.read_field("clip", "v1", out=out)
    chunk.unlink()
    with pytest.raises(StoreError, match=r"stream 'clip', array 'features' .* cannot be read \(No such file"):
        open_store(path).read("clip", "v0")


def test_a_short_hdf5_file_is_an_error(tmp_path):
    path = tmp_path / "feats.h5"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "v0", clip_rows(4000), GRID)
        writer.commit("v0")
    os.truncate(path, 20_000)
    with pytest.raises(StoreError, match="is damaged or no HDF5 file"):
        open_store(path)


def test_a_flipped_bit_changes_the_digest(finished):
    row = clip_rows(5, 1).fields["features"].astype(np.float16)[3].tobytes()
    file = finished if finished.is_file() else finished / "streams/clip/features/c/0/0"
    data = bytearray(file.read_bytes())
    data[bytes(data).index(row) + 5] ^= 0x10
    file.write_bytes(data)
    store = open_store(finished)
    assert store.recomputed_digest("clip", "v1") != store.entry("clip", "v1").digest
    for item in ("v0", "v2"):
        assert store.recomputed_digest("clip", item) == store.entry("clip", item).digest


def _edit(path: Path, change) -> None:
    """Change what the root of a store says."""
    if path.is_dir():
        document = json.loads((path / "zarr.json").read_bytes())
        change(document["attributes"]["vidloc"])
        (path / "zarr.json").write_text(json.dumps(document))
        return
    with h5py.File(path, "r+") as file:
        root = json.loads(file.attrs["vidloc"])
        change(root)
        file.attrs["vidloc"] = json.dumps(root)


@pytest.mark.parametrize("change", [{"format": 2}, {"format": "next"}, {"requires": ["compressed"]}])
def test_newer_formats_are_refused(finished, change):
    _edit(finished, lambda root: root.update(change))
    for use in (open_store, append_to_store):
        with pytest.raises(FormatVersionError, match=r"update vidloc"):
            use(finished)


def test_a_stream_of_an_unknown_kind_is_listed_and_read(finished):
    def rename(spec):
        assert spec["kind"] == "clip"
        spec["kind"] = "point_cloud"

    before = open_store(finished).read_field("clip", "v0").copy()
    if finished.is_dir():
        _edit_members(finished, lambda members: rename(members["streams/clip"]["attributes"]["vidloc_stream"]))
    else:
        with h5py.File(finished, "r+") as file:
            spec = json.loads(file["streams/clip"].attrs["vidloc_stream"])
            rename(spec)
            file["streams/clip"].attrs["vidloc_stream"] = json.dumps(spec)
    store = open_store(finished)
    assert {name: spec.kind for name, spec in store.streams().items()} == {
        "clip": "point_cloud",
        "objects": "objects",
        "free": "text",
    }
    assert np.array_equal(store.read_field("clip", "v0"), before)
    with append_to_store(finished) as writer:
        fill(writer, "later", 3)
        writer.commit("later")
    assert open_store(finished).streams()["clip"].kind == "point_cloud"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"journal": "../../etc/passwd"}, "journal: String should match"),
        ({"journal": "journal-000001.jsonl/../x"}, "journal: String should match"),
        ({"streams": {"../clip": 3}}, "'../clip' is no stream name"),
        ({"streams": {"clip": 3, "other": 1}}, "other"),
        ({"items": -1}, "items: Input should be greater"),
        ({"items": 2}, "expected 2"),
        ({"streams": {"clip": 2**62}}, f"expected {2**62}"),
        ({"surprise": 1}, "surprise: Extra inputs"),
    ],
)
def test_roots_are_not_trusted(finished, change, message):
    _edit(finished, lambda root: root.update(change))
    with pytest.raises(StoreError, match=message):
        open_store(finished)


def _edit_members(path: Path, change) -> None:
    document = json.loads((path / "zarr.json").read_bytes())
    change(document["consolidated_metadata"]["metadata"])
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("member", "key", "value", "message"),
    [
        ("streams/clip/features", "data_type", "complex128", "data_type is"),
        ("streams/clip/features", "codecs", [{"name": "zstd"}], "plain uncompressed arrays"),
        ("streams/clip/features", "shape", [2**62, 7], "shape is"),
        ("streams/clip/features", "shape", [-1, 6], "impossible length"),
        ("streams/clip/features", "shape", "x", "impossible length"),
        ("streams/clip/features", "shape", [3, 6], "refers to 15 rows, array features has 3"),
        ("streams/clip/features", "chunk_grid", None, "metadata is missing or no array"),
        ("streams/clip/table/first_row", "shape", [2**40], f"column first_row has {2**40} entries, expected 4"),
        ("items/id", "shape", [2**50], "its rows need|impossible|control characters"),
        ("streams/clip", "attributes", {}, "is damaged"),
        ("streams/clip", "attributes", {"vidloc_stream": {"name": "clip", "kind": "clip", "fields": {}}}, "fields"),
        (
            "streams/clip",
            "attributes",
            {
                "vidloc_stream": {
                    "name": "objects",
                    "kind": "clip",
                    "fields": {"x": {"row_shape": [1], "dtype": "float16"}},
                }
            },
            "is that of 'objects'",
        ),
        (
            "streams/clip",
            "attributes",
            {
                "vidloc_stream": {
                    "name": "clip",
                    "kind": "clip",
                    "fields": {"../x": {"row_shape": [1], "dtype": "float16"}},
                }
            },
            "field or axis '../x'",
        ),
        (
            "streams/clip",
            "attributes",
            {"vidloc_stream": {"name": "clip", "kind": "clip", "fields": {"x": {"row_shape": [1], "dtype": "object"}}}},
            "dtype must be one of",
        ),
    ],
)
def test_array_metadata_is_not_trusted(tmp_path, member, key, value, message):
    path = tmp_path / "feats.zarr"
    with create_store(path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        for number in range(3):
            fill(writer, f"v{number}", 4 + number, seed=number)
            writer.commit(f"v{number}")
        writer.mark("clip", "v3", "absent", "")
        writer.commit("v3")
    _edit_members(path, lambda members: members[member].update({key: value}))
    with pytest.raises(StoreError, match=message):
        open_store(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item", 9, "refers to an item that the store lacks"),
        ("item", -1, "refers to an item that the store lacks"),
        ("first_row", -5, "out of range"),
        ("num_rows", 2**63 - 1, "out of range"),
        ("num_rows", 2**40, "refers to .* rows, array features has"),
        ("status", 7, "a status is none of done"),
    ],
)
def test_tables_are_not_trusted(finished, column, value, message):
    group = h5py.File(finished, "r+") if finished.is_file() else zarr.open_group(finished, mode="r+")
    group[f"streams/clip/table/{column}"][0] = value
    if finished.is_file():
        group.close()
    with pytest.raises(StoreError, match=f"table of stream 'clip' .*{message}"):
        open_store(finished)


def test_row_ends_are_not_trusted(finished):
    group = h5py.File(finished, "r+") if finished.is_file() else zarr.open_group(finished, mode="r+")
    group["streams/objects/regions_end"][2] = 2**40
    if finished.is_file():
        group.close()
    store = open_store(finished)
    with pytest.raises(StoreError, match=r"'objects'.*'regions' are not ascending"):
        store.read("objects", "v0")
    with pytest.raises(StoreError, match="stream 'objects', array 'boxes'"):
        store.read_field("objects", "v0", "boxes", slice(0, 3))


def test_what_is_no_store(tmp_path):
    for name, message in {
        "nothing.zarr": "store .* is not there",
        "folder": "is a folder but no store",
        "file.h5": "neither a Zarr folder nor an HDF5 file",
        "plain.zarr": "is not a vidloc store: its root lacks",
        "plain.h5": "is not a vidloc store: its root lacks",
        "text.zarr": r"zarr.json is damaged: no JSON",
    }.items():
        path = tmp_path / name
        if name == "folder":
            path.mkdir()
        elif name == "file.h5":
            path.write_text("text")
        elif name == "plain.zarr":
            zarr.create_group(path)
        elif name == "plain.h5":
            h5py.File(path, "w").close()
        elif name == "text.zarr":
            path.mkdir()
            (path / "zarr.json").write_text("{")
        with pytest.raises(StoreError, match=message):
            open_store(path)
        if name != "nothing.zarr":
            with pytest.raises(StoreError, match=message):
                append_to_store(path)
            assert not (path / "lock").exists()


@pytest.mark.parametrize("link", ["streams/clip/features/c/0/0", "streams/clip/features/c", "streams", "zarr.json"])
def test_links_out_of_the_store_are_not_followed(tmp_path, link):
    path, outside = tmp_path / "feats.zarr", tmp_path / "precious"
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(3), GRID)
        writer.commit("a")
    (path / link).rename(outside)
    (path / link).symlink_to(outside)
    files = [outside] if outside.is_file() else [f for f in outside.rglob("*") if f.is_file()]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    with pytest.raises(StoreError, match="links are not followed"):
        open_store(path).read("clip", "a")
    with pytest.raises(StoreError, match="links are not followed"):
        append_to_store(path)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files} == before


def test_a_writer_makes_no_file_through_a_link(tmp_path):
    """Names that a writer uses for a moment, laid out as traps."""
    path, precious = tmp_path / "feats.zarr", tmp_path / "precious"
    create_store(path).close()
    precious.write_text("precious")
    for trap in (".zarr.json.tmp", "journal-000009.jsonl", "items/.zarr.json.tmp"):
        (path / trap).symlink_to(precious)
    with append_to_store(path) as writer:
        writer.add_stream(CLIP)
        writer.write("clip", "a", clip_rows(3), GRID)
        writer.commit("a")
    assert precious.read_text() == "precious"
    assert open_store(path).items() == ["a"]


@pytest.mark.parametrize("place", ["zarr.json", "journal", "lock", "items/id/c/0", "feats.h5"])
def test_a_pipe_is_no_file(tmp_path, place):
    """Opening one to read would wait for somebody to write."""
    path = tmp_path / ("feats.h5" if place == "feats.h5" else "feats.zarr")
    with create_store(path) as writer:
        writer.add_stream(CLIP)
        writer.mark("clip", "a", "failed", "for a test")
        writer.commit("a")
    pipe = path if place == "feats.h5" else next(path.glob("journal-*")) if place == "journal" else path / place
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    if place == "lock":
        assert open_store(path).items() == ["a"]
        with pytest.raises(StoreError, match="not readable"):
            append_to_store(path)
        return
    with pytest.raises(StoreError, match=r"no regular file|neither a Zarr folder nor an HDF5 file|is not there"):
        open_store(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_id": "two\nlines"}, "cannot be stored"),
        ({"streams": {"clip": {"status": "failed", "reason": "two\nlines"}}}, "reason"),
    ],
)
def test_texts_of_the_journal_are_not_trusted(tmp_path, change, message):
    # Folded into the tables, a line break would give their other entries to the wrong items.
    with create_store(tmp_path / "s.zarr") as writer:
        writer.add_stream(CLIP)
    commit = json.dumps({"item_id": "a", "streams": {}} | change).encode()
    journal = next((tmp_path / "s.zarr").glob("journal-*"))
    journal.write_bytes(b'{"sha256":"' + hashlib.sha256(commit).hexdigest().encode() + b'","commit":' + commit + b"}\n")
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path / "s.zarr")


def test_ids_that_would_steer_a_terminal_are_refused(tmp_path):
    with create_store(tmp_path / "s.zarr") as writer:
        writer.add_stream(CLIP)
        writer.mark("clip", "item", "failed", "for a test")
        writer.commit("item")
    column = tmp_path / "s.zarr" / "items" / "id" / "c" / "0"
    column.write_bytes(column.read_bytes().replace(b"item", b"\x1b[2J"))
    with pytest.raises(StoreError, match="control characters"):
        open_store(tmp_path / "s.zarr")


def test_half_a_character_is_damage(tmp_path):
    with create_store(tmp_path / "s.h5") as writer:
        writer.add_stream(CLIP)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        group = file["streams/clip"]
        group.attrs["vidloc_stream"] = group.attrs["vidloc_stream"].replace('"made_up"', '"\\ud800"')
    with pytest.raises(StoreError, match="surrogates not allowed"):
        open_store(tmp_path / "s.h5")


def test_damaged_row_ends_are_not_copied_into_a_new_file(tmp_path):
    with create_store(tmp_path / "s.h5") as writer:
        writer.add_stream(OBJECTS)
        writer.write("objects", "a", object_rows([2, 1]), spans(2))
        writer.commit("a")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["streams/objects/regions_end"][1] = -7
    before = (tmp_path / "s.h5").read_bytes()
    writer = append_to_store(tmp_path / "s.h5")
    writer.mark("objects", "b", "failed", "for a test")
    writer.commit("b")
    with pytest.raises(StoreError, match="not ascending"):
        writer.close()
    assert (tmp_path / "s.h5").read_bytes() == before


def test_a_single_number_in_place_of_a_dataset_is_damage(tmp_path):
    with create_store(tmp_path / "s.h5") as writer:
        writer.add_stream(CLIP)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        del file["streams/clip/table/num_rows"]
        file["streams/clip/table/num_rows"] = np.int64(5)
    with pytest.raises(StoreError, match="expected int64 rows"):
        open_store(tmp_path / "s.h5")


def test_what_the_file_system_refuses_is_one_sentence(tmp_path):
    with pytest.raises(StoreError, match="too long"):
        open_store(tmp_path / f"{'x' * 300}.zarr")
    with create_store(tmp_path / "s.zarr") as writer:
        writer.add_stream(CLIP)
    journal = next((tmp_path / "s.zarr").glob("journal-*"))
    journal.unlink()
    journal.mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(tmp_path / "s.zarr")
