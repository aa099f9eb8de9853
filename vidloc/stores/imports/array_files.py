"""Arrays from .npy and .npz files: mapped where they lie plainly, bounded by the bytes that are there, never unpickled.

Arrays of objects are pickles; they come only from `read_objects`, which runs nothing of them.
"""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from vidloc.core.plain_pickle import read_plain_pickle
from vidloc.errors import StoreError, did_you_mean

_MAX_BYTES = 8 * 2**30
# The most that deflate can shrink zeros, and room for headers.
_MAX_RATIO, _SLACK_BYTES = 1040, 4096


def read_array(path: Path, key: str = "") -> NDArray[Any]:
    """The array of a .npy file, or one of a .npz file.

    Args:
        key: name of the array in a .npz file; may be left out where it holds only one.

    Raises:
        StoreError: it is none, is damaged, holds objects, or has no such array.
    """
    try:
        return _from_zip(path, key) if path.suffix == ".npz" else _mapped(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} is no array that can be read ({_one_line(error)}).") from None


def read_objects(path: Path) -> Any:
    """The plain data of a .npy file of objects: (nested) lists of arrays, numbers and text.

    Raises:
        StoreError: it is no .npy file, or holds plain numbers.
        PickleError: it holds anything but plain data.
    """
    try:
        with path.open("rb") as file:
            _, dtype = _header(file)
            start = file.tell()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is no .npy file that can be read ({_one_line(error)}).") from None
    if not dtype.hasobject:
        raise StoreError(f"{path} holds plain {dtype}, not an array of objects.")
    return read_plain_pickle(path, offset=start, object_arrays=True)


def holds_objects(path: Path) -> bool:
    """Whether a .npy file holds a pickle. A file that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return bool(_header(file)[1].hasobject)
    except (OSError, ValueError):
        return False


def _mapped(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        shape, dtype = _header(file)
    if dtype.hasobject:
        raise StoreError(
            f"{path} holds objects, which is a pickle: it is read by the layouts sfnet and detections, with "
            "--allow-pickle."
        )
    if not math.prod(shape):
        raise StoreError(f"{path} holds no rows: its shape is {shape}.")
    with _quiet():
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _from_zip(path: Path, key: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if not key and len(names) == 1:
            key = next(iter(names))
        if not key:
            raise StoreError(f"{path} holds several arrays: name one by --stream NAME:key=... ({', '.join(names)}).")
        if key not in names:
            raise StoreError(f"{path} has no array {key!r}. {did_you_mean(key, names)}")
        info = names[key]
        if info.file_size > min(_MAX_BYTES, info.compress_size * _MAX_RATIO + _SLACK_BYTES):
            raise StoreError(f"{path}: array {key!r} claims {info.file_size:,} bytes, more than there can be.")
        with archive.open(info) as file:
            shape, dtype = _header(file)
        if dtype.hasobject:
            raise StoreError(f"{path}: array {key!r} holds objects, which is a pickle; it is not read.")
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise StoreError(f"{path}: array {key!r} has shape {shape}, of which the bytes are not there.")
        with archive.open(info) as file, _quiet():
            return np.asarray(npy_format.read_array(file, allow_pickle=False))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    try:
        with _quiet():
            shape, _, dtype = read(file)
    except (tokenize.TokenError, SyntaxError, TypeError, LookupError, AttributeError, RecursionError, MemoryError):
        raise ValueError("its header is damaged") from None
    return shape, dtype


@contextmanager
def _quiet() -> Iterator[None]:
    # NumPy warns of headers that Python 2 wrote, and reads them.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional header parsing")
        yield


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
