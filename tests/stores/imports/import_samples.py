"""Files of each layout, made as their publishers make them, and a short way to import one."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from pathlib import Path

import h5py
import numpy as np
from click.testing import CliRunner

from vidloc.cli import vidloc


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(*arguments: object):
    """`vidloc import ...` as typed; an error made on purpose is the result's exception."""
    return CliRunner().invoke(vidloc, ["import", *map(str, arguments)])


def report(*arguments: object) -> dict:
    """The same with --json, which has to succeed or end with failures."""
    result = run(*arguments, "--json")
    assert result.exit_code in (0, 3), (result.output, result.exception)
    return json.loads(result.stdout)


def objects(path: Path, parts: list, *, protocol: int = 3) -> Path:
    """An array of objects as np.save writes it."""
    array = np.empty(len(parts), dtype=object)
    array[:] = parts
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": array.shape})
        pickle.dump(array, file, protocol=protocol)
    return path


def datasets(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a Protocol Buffers message: a varint, a 32-bit float, or bytes."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, bytes):
        return bytes([number << 3 | 2]) + varint(len(value)) + value
    return bytes([number << 3]) + varint(value)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(**fields: list) -> bytes:
    """Fields `f1`, `f2`, ... of a message; what is 0 is left out, as proto3 does."""
    parts = [field(int(name[1:]), value) for name, values in fields.items() for value in values if value != 0]
    return b"".join(parts)


def box(left: float, top: float, right: float, bottom: float) -> bytes:
    return message(f1=[left], f2=[top], f3=[right], f4=[bottom])


def tsv_line(image: str, size: tuple[int, int], boxes: np.ndarray, features: np.ndarray) -> str:
    parts = [
        image,
        *size,
        len(boxes),
        *(base64.b64encode(a.astype("<f4").tobytes()).decode() for a in (boxes, features)),
    ]
    return "\t".join(map(str, parts)) + "\n"
