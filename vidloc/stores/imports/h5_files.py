"""Datasets of HDF5 files of others: only numbers that lie in the file itself, bounded before memory is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vidloc.errors import StoreError

_MAX_BYTES = 8 * 2**30


def open_h5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        StoreError: it is no HDF5 file.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path} is no HDF5 file that can be read ({' '.join(str(error).split())}).") from None


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All datasets by their path in the file; links, which may lead to other files, are not followed.

    Raises:
        StoreError: the file is damaged.
    """
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found[name] = node

    try:
        file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise StoreError(f"{file.filename} is damaged ({' '.join(str(error).split())}).") from None
    return found


def check_numbers(dataset: h5py.Dataset, *, where: str) -> None:
    """Make sure that a dataset holds numbers, in this file.

    Raises:
        StoreError: it does not.
    """
    if dataset.dtype.kind not in "fiu":
        raise StoreError(f"{where} holds {dataset.dtype}, not numbers.")
    if dataset.external or dataset.is_virtual:
        raise StoreError(f"{where} keeps its numbers in other files, which are not read.")


def read_rows(dataset: h5py.Dataset, rows: Any, *, where: str) -> NDArray[Any]:
    """Part of a dataset along its first axis (`...` for all of it).

    Raises:
        StoreError: it is too large, or damaged.
    """
    check_numbers(dataset, where=where)
    wanted = dataset.nbytes if rows is ... else dataset.nbytes // max(dataset.shape[0], 1)
    if wanted > _MAX_BYTES:
        raise StoreError(f"{where} has {wanted:,} bytes; more than {_MAX_BYTES:,} of one item are not read.")
    try:
        return np.asarray(dataset[rows])
    except (OSError, RuntimeError) as error:
        raise StoreError(f"{where} cannot be read ({' '.join(str(error).split())}).") from None
