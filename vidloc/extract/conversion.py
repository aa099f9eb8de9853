"""Checkpoints that are pickles of NumPy arrays (Caffe2, Detectron, PySlowFast's zoo) made into safetensors.

Names stay as they are, so that the result can be compared with its source; encoders map them. What a training needed
and a network does not, such as momenta, is left out and listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc import __version__
from vidloc.core.plain_pickle import read_plain_pickle
from vidloc.errors import WeightsError
from vidloc.extract.weights import sha256_of

_WRAPPERS = ("blobs", "model_state", "state_dict", "model")
_STATE_OF_TRAINING = ("lr", "model_iter", "cur_iter", "current_iter", "epoch")
_DTYPES = tuple(np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"))


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        num_tensors, num_numbers: what was written.
        left_out: what was not, by name, and why.
        source_sha256: SHA-256 of the file that was read.
    """

    path: Path
    num_tensors: int
    num_numbers: int
    left_out: Mapping[str, str]
    source_sha256: str


def convert(source: Path, target: Path) -> Conversion:
    """Write the arrays of a pickled checkpoint as safetensors.

    Args:
        source: pickle of a dict of arrays, bare or under `blobs`, `model_state`, `state_dict` or `model`.
        target: a new file whose name ends with `.safetensors`.

    Raises:
        PickleError: the pickle holds more than plain data; nothing of it was run.
        WeightsError: it holds no named arrays, or the target exists or cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if target.suffix != ".safetensors":
        raise WeightsError(f"{target} does not end with .safetensors, the format that is written.")
    if target.exists():
        raise WeightsError(f"{target} exists already; remove it, or choose another name.")
    content = read_plain_pickle(source)
    left_out: dict[str, str] = {}
    arrays = dict(_sorted_out(_unwrapped(content, left_out), left_out))
    if not arrays:
        raise WeightsError(
            f"{source} holds no arrays by name, bare or under one of {', '.join(_WRAPPERS)} "
            f"(found {type(content).__name__}); is it a checkpoint?"
        )
    source_sha256 = sha256_of(source)
    metadata = {"source": source.name, "source_sha256": source_sha256, "converted_by": f"vidloc {__version__}"}
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(arrays, temporary, metadata)
        temporary.replace(target)
    except (OSError, SafetensorError) as error:  # the latter where the library itself could not write
        raise WeightsError(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Conversion(target, len(arrays), sum(array.size for array in arrays.values()), left_out, source_sha256)


def _unwrapped(content: Any, left_out: dict[str, str]) -> Mapping[Any, Any]:
    if not isinstance(content, dict):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            beside = (str(name) for name in content if name != wrapper)
            left_out.update(dict.fromkeys(beside, f"lies beside {wrapper!r}, which holds the tensors"))
            return dict(content[wrapper])
    return content


def _sorted_out(named: Mapping[Any, Any], left_out: dict[str, str]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, value in named.items():
        reason = _reason_to_leave(name, value)
        if reason:
            left_out[str(name)] = reason
        else:
            # Whole, in rows and little-endian, as the format has it.
            yield name, np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<")).reshape(value.shape)


def _reason_to_leave(name: Any, value: Any) -> str:
    if not isinstance(name, str):
        return f"its name is a {type(name).__name__}, not text"
    if name.endswith("_momentum"):
        return "momentum of the optimiser"
    if name in _STATE_OF_TRAINING:
        return "state of the training"
    if not isinstance(value, np.ndarray):
        return f"a {type(value).__name__}, not an array"
    return "" if value.dtype.newbyteorder("=") in _DTYPES else f"an array of {value.dtype}, not of numbers"
