"""Damage and malice, seeded: one change to a small store of either backend, named so that a failure can be repeated."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

HUGE = 2**40
NUMBERS = (-1, 0, 1, 7, 2**31, HUGE, 2**62, 2**63 - 1, -(2**63), 2**64, 10**30)
# What json.loads takes although the standard does not, or what no writer would write; put in as they stand.
RAW = ("NaN", "-Infinity", "1e400", "9" * 5000, "[" * 20_000 + "]" * 20_000, '"\\ud800"', "{", "")
TEXTS = ("", "../../outside/precious", "/etc/passwd", "clip/../objects", "a\nb", "\x1b[2J", "x" * 5000, "compressed")
_MARK = "@@raw@@"
_SUBTREES = ("vidloc", "vidloc_stream", "root", "streams")

Mutation = Callable[[random.Random, Path, Path], str]


def mutate(chance: random.Random, store: Path, outside: Path) -> str:
    """Change the store in one way, sometimes in two, and say how.

    Args:
        store: a folder or an HDF5 file, changed in place.
        outside: a folder with files that the store has no business with; links lead there.
    """
    said = []
    if store.is_file() and chance.random() < 0.5:
        said.append(_drop_index(store))
    for number in range(chance.choice((1, 1, 1, 2))):
        staging = store.with_name(f"{store.name}.staging")
        folder = store if store.is_dir() else staging
        in_folder = folder.is_dir() and (store.is_dir() or chance.random() < 0.5)
        # libhdf5 may crash on what an earlier change left, and here it would take the mutator along.
        kinds = _OF_FOLDERS if in_folder else _BY_HDF5 + _OF_BYTES if number == 0 else _OF_BYTES
        kind = chance.choice(kinds)
        try:
            said.append(f"{kind.__name__.strip('_')}: {kind(chance, folder if in_folder else store, outside)}")
        except (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, MemoryError) as error:
            if number == 0:
                raise
            said.append(f"{kind.__name__.strip('_')} is not possible any more: {error}")
    return "; ".join(said)


def _drop_index(file: Path) -> str:
    """Leave what any HDF5 program would write, which libhdf5 has to read."""
    os.truncate(file, int.from_bytes(file.read_bytes()[28:36], "little"))
    return "no index"


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(file for file in folder.rglob(pattern) if file.is_file() and not file.is_symlink())


def _flip(chance: random.Random, folder: Path, outside: Path) -> str:
    return _flip_bits(chance, chance.choice(_files(folder)))


def _flip_bits(chance: random.Random, file: Path, reach: int | None = None) -> str:
    data = bytearray(file.read_bytes())
    places = [chance.randrange(min(len(data), reach or len(data))) for _ in range(chance.randint(1, 8))] if data else []
    for place in places:
        data[place] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return f"{file.name} at {places}"


def _resize(chance: random.Random, folder: Path, outside: Path) -> str:
    return _resize_file(chance, chance.choice(_files(folder)))


def _resize_file(chance: random.Random, file: Path) -> str:
    size = chance.choice((0, 1, chance.randint(0, file.stat().st_size), file.stat().st_size + 1000, HUGE))
    os.truncate(file, size)
    return f"{file} to {size} bytes"


def _swap_chunks(chance: random.Random, folder: Path, outside: Path) -> str:
    one, other = chance.sample([file for file in _files(folder) if "c" in file.parts], 2)
    aside = folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return f"{one} and {other}"


def _replace_entry(chance: random.Random, folder: Path, outside: Path) -> str:
    """A file or folder that is something else: nothing, a link, a pipe, a device, a folder, an empty file."""
    place = chance.choice(sorted(entry for entry in folder.rglob("*")))
    is_folder = place.is_dir()
    copy = outside / f"copy{chance.randrange(10**9)}"
    place.rename(copy)
    kind = chance.choice(("nothing", "link out", "relative link", "link to device", "loop", "pipe", "folder", "file"))
    if kind == "link out":
        place.symlink_to(copy)
    elif kind == "relative link":
        place.symlink_to(os.path.relpath(copy, place.parent))
    elif kind == "link to device":
        place.symlink_to("/dev/zero")
    elif kind == "loop":
        place.symlink_to(place.name)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_bytes(bytes(chance.choice((0, 100, 100_000))))
    return f"{place} ({'folder' if is_folder else 'file'}) is {kind}"


def _edit_document(chance: random.Random, folder: Path, outside: Path) -> str:
    """The root's metadata, which vidloc reads, or now and then those of a member."""
    file = folder / "zarr.json" if chance.random() < 0.9 else chance.choice(_files(folder, "zarr.json"))
    if not file.is_file():
        return "no document"
    text, said = _edited(chance, file.read_text())
    file.write_text(text)
    return f"{file}: {said}"


def _edited(chance: random.Random, text: str) -> tuple[str, str]:
    """One value, or one name, of a JSON document changed."""
    try:
        document = json.loads(text)
    except ValueError:
        return text + "}", "a bracket more"
    places: list[tuple[Any, Any]] = []
    _walk(document, places)
    # Half of the edits are to what vidloc says itself: zarr's own metadata outnumber it.
    ours = [place for place in places if place[1] in (*_SUBTREES, "shape", "chunk_shape", "length", "runs")]
    parent, key = chance.choice(ours if ours and chance.random() < 0.5 else places)
    if key in _SUBTREES and isinstance(parent[key], dict) and parent[key]:
        inner: list[tuple[Any, Any]] = []
        _walk(parent[key], inner)
        parent, key = chance.choice(inner)
    raw = None
    action = chance.choice(("number", "number", "text", "raw", "delete", "rename", "structure"))
    if action == "delete":
        del parent[key]
    elif action == "rename" and isinstance(parent, dict):
        parent[chance.choice(TEXTS)] = parent.pop(key)
    elif action == "raw":
        raw, parent[key] = chance.choice(RAW), _MARK
    elif action == "text":
        parent[key] = chance.choice(TEXTS)
    elif action == "structure":
        parent[key] = chance.choice(([], {}, None, True, [parent[key]], {"a": parent[key]}, [1] * 50))
    else:
        parent[key] = chance.choice(NUMBERS)
    changed = json.dumps(document)
    return (changed if raw is None else changed.replace(f'"{_MARK}"', raw)), f"{action} at {key!r}"


def _walk(node: Any, places: list[tuple[Any, Any]]) -> None:
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        places.append((node, key))
        _walk(node[key], places)


def _edit_journal(chance: random.Random, folder: Path, outside: Path) -> str:
    journals = _files(folder, "journal-*")
    if not journals:
        return "no journal"
    lines = journals[0].read_bytes().splitlines(keepends=True)
    action = chance.choice(("cut", "duplicate", "reorder", "junk", "commit", "commit", "commit"))
    if not lines or action == "junk":
        lines.insert(0, chance.choice((b"\n", b"{}\n", b"\0" * 5000, b"x" * 200 + b"\n")))
    elif action == "cut":
        k = chance.randrange(len(lines))
        lines[k] = lines[k][: chance.randrange(len(lines[k]))]
    elif action == "duplicate":
        lines += [chance.choice(lines)] * chance.randint(1, 50)
    elif action == "reorder":
        chance.shuffle(lines)
    else:  # malice rather than chance: the checksum fits
        k = chance.randrange(len(lines))
        body = _edited(chance, json.dumps(json.loads(lines[k])["commit"]))[0].encode("utf-8", "surrogatepass")
        lines[k] = b'{"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'","commit":' + body + b"}\n"
    journals[0].write_bytes(b"".join(lines))
    return action


def _set_words(chance: random.Random, folder: Path, outside: Path) -> str:
    """Entries of tables, row ends or spans overwritten by numbers that nobody expects there."""
    names = ("table", "regions_end", "bytes_end", "spans", "items")
    file = chance.choice([f for f in _files(folder) if "c" in f.parts and set(names) & set(f.parts)] or _files(folder))
    return _overwrite_words(chance, file)


def _overwrite_words(chance: random.Random, file: Path, reach: int | None = None) -> str:
    data = bytearray(file.read_bytes())
    word = chance.choice(
        [(n % 2**64).to_bytes(8, "little") for n in NUMBERS]
        + [np.float64(x).tobytes() for x in (np.nan, np.inf, -1e300)]
        + [b"\n\n\n\n\n\n\n\n", b"\x1b[2Jabcd", "\x9b2J\u2028ab".encode()]
    )
    words = max(min(len(data), reach or len(data)) // 8, 1)
    places = [8 * chance.randrange(words) for _ in range(chance.choice((1, 3)))]
    for place in places:
        data[place : place + 8] = word
    file.write_bytes(data)
    return f"{file.name} at {places} by {word!r}"


def _flip_hdf5(chance: random.Random, file: Path, outside: Path) -> str:
    return _flip_bits(chance, file, chance.choice((None, 200, 4000, 20_000)))


def _resize_hdf5(chance: random.Random, file: Path, outside: Path) -> str:
    return _resize_file(chance, file)


def _set_words_hdf5(chance: random.Random, file: Path, outside: Path) -> str:
    return _overwrite_words(chance, file, chance.choice((None, 200, 4000, 20_000)))


def _swap_blocks_hdf5(chance: random.Random, file: Path, outside: Path) -> str:
    data = bytearray(file.read_bytes())
    size = chance.choice((8, 64, 512))
    one, other = (size * chance.randrange(max(len(data) // size, 1)) for _ in range(2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
    file.write_bytes(data)
    return f"{size} bytes at {one} and {other}"


def _edit_index(chance: random.Random, file: Path, outside: Path) -> str:
    """Malice rather than chance: length and checksum fit."""
    data = file.read_bytes()
    if not data.endswith(b"vidloc index 1\r\n"):
        return _flip_bits(chance, file)
    length = int.from_bytes(data[-56:-48], "little")
    text, said = _edited(chance, data[-56 - length : -56].decode())
    body = text.encode("utf-8", "surrogatepass")
    footer = len(body).to_bytes(8, "little") + hashlib.sha256(body).digest() + data[-16:]
    file.write_bytes(data[: -56 - length] + body + footer)
    return said


def _edit_attribute(chance: random.Random, path: Path, outside: Path) -> str:
    with h5py.File(path, "r+") as file:
        place = chance.choice([file, *file["streams"].values()])
        name = next(iter(place.attrs))
        text, said = _edited(chance, place.attrs[name])
        other = chance.choice((7, np.zeros(5), b"bytes", np.array(["a", "b"], dtype="S1"), h5py.Empty("f"), "text"))
        place.attrs[name] = text if chance.random() < 0.85 else other
    return said


def _set_element(chance: random.Random, path: Path, outside: Path) -> str:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, place: names.append(name) if isinstance(place, h5py.Dataset) else None)
        name = chance.choice([n for n in names if file[n].size])
        dataset = file[name]
        index = tuple(chance.randrange(n) for n in dataset.shape)
        if dataset.dtype.kind == "f":
            dataset[index] = chance.choice((np.nan, np.inf, -1.0, 6e4))
        else:
            limits = np.iinfo(dataset.dtype)
            dataset[index] = chance.choice([n for n in NUMBERS if limits.min <= n <= limits.max])
    return name


def _replace_dataset(chance: random.Random, path: Path, outside: Path) -> str:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = chance.choice(names)
        old = file[name][()] if isinstance(file[name], h5py.Dataset) else np.zeros(3)
        del file[name]
        kinds = ("missing", "group", "soft", "external link", "external", "virtual", "gzip", "dtype", "size")
        kind = chance.choice(kinds)
        other = str(outside / "precious.h5")
        if kind == "group":
            file.create_group(name)
        elif kind == "soft":
            file[name] = h5py.SoftLink(chance.choice(("/items/id", "/", "/nowhere", f"/{name}")))
        elif kind == "external link":
            file[name] = h5py.ExternalLink(other, "/x")
        elif kind == "external":
            where = [(str(outside / "precious"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(name, old.shape, old.dtype, external=where)
        elif kind == "virtual":
            layout = h5py.VirtualLayout(old.shape, old.dtype)
            layout[...] = h5py.VirtualSource(other, "x", old.shape)
            file.create_virtual_dataset(name, layout)
        elif kind == "gzip" and old.ndim:
            file.create_dataset(name, data=old, compression="gzip", chunks=True)
        elif kind == "dtype":
            dtype = chance.choice(("f8", ">i8", "S3", h5py.string_dtype(), h5py.ref_dtype))
            file.create_dataset(name, old.shape, dtype)
        elif kind == "size":  # of chunks that no byte was written to, so that the file stays small
            length = chance.choice((1, 1000, HUGE))
            rest = old.shape[1:]
            file.create_dataset(name, (length, *rest), old.dtype, chunks=(min(length, 1024), *rest))
    return f"{name} is {kind}"


_OF_FOLDERS: tuple[Mutation, ...] = (
    _flip,
    _resize,
    _swap_chunks,
    _replace_entry,
    _replace_entry,
    _edit_document,
    _edit_document,
    _edit_document,
    _edit_journal,
    _edit_journal,
    _set_words,
    _set_words,
)
_OF_BYTES: tuple[Mutation, ...] = (
    _flip_hdf5,
    _flip_hdf5,
    _resize_hdf5,
    _set_words_hdf5,
    _set_words_hdf5,
    _swap_blocks_hdf5,
    _edit_index,
    _edit_index,
)
_BY_HDF5: tuple[Mutation, ...] = (
    _edit_attribute,
    _edit_attribute,
    _set_element,
    _set_element,
    _replace_dataset,
    _replace_dataset,
)


def copy_store(base: Path, folder: Path) -> Path:
    """A store, and the staging folder beside it where it has one, as all that is in a folder.

    What is left there of an earlier copy is mended: most files are as they were, and making them anew takes longest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {base.name, f"{base.name}.staging"}
    for entry in folder.iterdir():
        if entry.name not in names or not (base.parent / entry.name).exists():
            _remove(entry)
    for name in names:
        if (base.parent / name).exists():
            _mend(base.parent / name, folder / name)
    return folder / base.name


def _mend(base: Path, copy: Path) -> None:
    """Make a copy, of which something may be there, the same as what it is a copy of."""
    if base.is_file():
        is_file = copy.is_file() and not copy.is_symlink()
        if not (is_file and copy.stat().st_size == base.stat().st_size and copy.read_bytes() == base.read_bytes()):
            _remove(copy)
            shutil.copyfile(base, copy)
        return
    if copy.is_symlink() or not copy.is_dir():
        _remove(copy)
        copy.mkdir()
    names = {entry.name for entry in base.iterdir()}
    for entry in copy.iterdir():
        if entry.name not in names:
            _remove(entry)
    for name in names:
        _mend(base / name, copy / name)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
