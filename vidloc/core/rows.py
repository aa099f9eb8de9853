"""Rows of one stream in memory: packed arrays, one per field, ragged where a field has a row-dependent length.

A dense field holds `(num_rows, *row_shape)`. A ragged field holds the entries of all rows one after another,
`(num_entries, *entry_shape)`, and `counts[axis]` says how many of them each row owns; all fields of one ragged axis
(the boxes, scores and features of a frame's regions) share those counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from vidloc.core.records import Record
from vidloc.errors import StoreError

_DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8")


class FieldSpec(Record):
    """Shape and dtype of one field of a stream.

    Attributes:
        row_shape: shape of one row, such as `(2304,)` or `(7, 7, 512)`; a leading name makes the field ragged along
            that axis: `("regions", 4)` is any number of boxes, `("bytes",)` a text in UTF-8.
        dtype: NumPy name of a plain number type.
    """

    row_shape: tuple[int | str, ...]
    dtype: str

    @field_validator("row_shape")
    @classmethod
    def _one_leading_name(cls, shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if any(isinstance(n, str) for n in shape[1:]):
            raise ValueError("only the first axis of a row may be ragged")
        if any(isinstance(n, int) and not 0 < n <= 2**31 for n in shape):
            raise ValueError("every axis of a row needs a length from 1 to 2**31")
        return shape

    @field_validator("dtype")
    @classmethod
    def _plain_dtype(cls, dtype: str) -> str:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}")
        return dtype

    def __str__(self) -> str:
        """As people are shown it: `[regions, 4] float32`, ` float64` for one number."""
        shape = f"[{', '.join(map(str, self.row_shape))}]" if self.row_shape else ""
        return f"{shape} {self.dtype}"

    @property
    def axis(self) -> str | None:
        """Name of the ragged axis, `None` for a dense field."""
        return self.row_shape[0] if self.row_shape and isinstance(self.row_shape[0], str) else None

    @property
    def is_text(self) -> bool:
        """Whether it holds texts in UTF-8: any number of single bytes per row."""
        return self.axis is not None and not self.entry_shape and self.dtype == "uint8"

    @property
    def entry_shape(self) -> tuple[int, ...]:
        """Shape of what is packed: one row of a dense field, one entry of a ragged one."""
        return tuple(n for n in self.row_shape if isinstance(n, int))


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one stream.

    Args:
        num_rows: how many rows.
        fields: packed array per field.
        counts: `(num_rows,)` int64 entries per row, by ragged axis.
        axes: ragged axis of each ragged field; fields not named are dense.

    Raises:
        StoreError: lengths of arrays and counts disagree.
    """

    num_rows: int
    fields: Mapping[str, NDArray[Any]]
    counts: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    axes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for axis, counts in self.counts.items():
            if counts.shape != (self.num_rows,):
                raise StoreError(f"counts of axis {axis!r} have shape {counts.shape}, expected ({self.num_rows},).")
        for name, array in self.fields.items():
            axis_name = self.axes.get(name)
            expected = self.num_rows if axis_name is None else int(self.counts[axis_name].sum())
            if len(array) != expected:
                raise StoreError(f"field {name!r} holds {len(array)} entries, expected {expected}.")

    @classmethod
    def dense(cls, **fields: NDArray[Any]) -> Rows:
        """Rows whose fields are all dense, `(num_rows, ...)` each."""
        return cls(len(next(iter(fields.values()))), fields)

    @classmethod
    def ragged(cls, axis: str, **fields: Sequence[NDArray[Any]]) -> Rows:
        """Rows from one array of entries per row; all fields share `axis`."""
        first = next(iter(fields.values()))
        counts = np.array([len(entries) for entries in first], dtype=np.int64)
        packed = {name: np.concatenate(list(arrays)) for name, arrays in fields.items()}
        return cls(len(first), packed, {axis: counts}, dict.fromkeys(fields, axis))

    @classmethod
    def texts(cls, axis: str, **fields: Sequence[str]) -> Rows:
        """Rows of texts in UTF-8, each field along an axis of its own, named `<field>_<axis>`."""
        parts = [
            cls.ragged(f"{name}_{axis}", **{name: [np.frombuffer(t.encode(), np.uint8) for t in texts]})
            for name, texts in fields.items()
        ]
        return cls.joined(*parts)

    @classmethod
    def joined(cls, *parts: Rows) -> Rows:
        """Fields of several `Rows` of equal length, side by side."""
        fields: dict[str, NDArray[Any]] = {}
        counts: dict[str, NDArray[np.int64]] = {}
        axes: dict[str, str] = {}
        for part in parts:
            fields |= part.fields
            counts |= part.counts
            axes |= part.axes
        return cls(parts[0].num_rows, fields, counts, axes)

    @classmethod
    def concatenated(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several pieces of one stream, one after another; at least one piece."""
        first = parts[0]
        return cls(
            sum(p.num_rows for p in parts),
            {name: np.concatenate([p.fields[name] for p in parts]) for name in first.fields},
            {axis: np.concatenate([p.counts[axis] for p in parts]) for axis in first.counts},
            first.axes,
        )

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, rows: slice) -> Rows:
        """A contiguous range of rows (step 1); arrays are views."""
        start, stop, step = rows.indices(self.num_rows)
        if step != 1:
            raise StoreError("rows are cut out in contiguous ranges only.")
        stop = max(stop, start)
        bounds = {axis: self._bounds(axis) for axis in self.counts}
        fields = {}
        for name, array in self.fields.items():
            axis = self.axes.get(name)
            fields[name] = array[start:stop] if axis is None else array[bounds[axis][start] : bounds[axis][stop]]
        return Rows(stop - start, fields, {a: c[start:stop] for a, c in self.counts.items()}, self.axes)

    def entries(self, name: str) -> list[NDArray[Any]]:
        """One array per row of a field: `(n_k, ...)` for ragged fields, the row itself for dense ones."""
        axis = self.axes.get(name)
        if axis is None:
            return list(self.fields[name])
        bounds = self._bounds(axis)
        return [self.fields[name][bounds[k] : bounds[k + 1]] for k in range(self.num_rows)]

    def strings(self, name: str) -> list[str]:
        """A ragged byte field decoded as UTF-8, one text per row."""
        return [entry.tobytes().decode("utf-8", "replace") for entry in self.entries(name)]

    def _bounds(self, axis: str) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.counts[axis])]).astype(np.int64)
