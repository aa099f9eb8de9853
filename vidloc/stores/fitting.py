"""What is offered to a store, checked against the stream's description: origin, times, and rows cast to its dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid, Timeline
from vidloc.errors import ProvenanceError, StoreError
from vidloc.stores.base import Extent, StreamSpec
from vidloc.stores.format import axes

_TIMELINES = {"grid": TimeGrid, "spans": Spans, "none": type(None)}


def fitted(spec: StreamSpec, rows: Rows, *, where: str) -> Rows:
    """Rows in the stored dtypes, in arrays of their own: what the caller does to its arrays later does not show.

    Raises:
        StoreError: other fields, axes, shapes or kinds of number than the stream has, or a value that is not finite
            or does not fit.
    """
    if set(rows.fields) != set(spec.fields):
        raise StoreError(f"{where}: got fields {sorted(rows.fields)}, the stream has {sorted(spec.fields)}.")
    for name, field in spec.fields.items():
        if rows.axes.get(name) != field.axis:
            raise StoreError(
                f"{where}: field {name!r} has axis {rows.axes.get(name)!r}, the stream has {field.axis!r}."
            )
    counts = {}
    for axis in axes(spec):
        counts[axis] = np.array(rows.counts[axis], np.int64)
        if (counts[axis] < 0).any():
            raise StoreError(f"{where}: axis {axis!r} has a negative count.")
    fields = {name: _cast(rows.fields[name], field, f"{where}: field {name!r}") for name, field in spec.fields.items()}
    return Rows(rows.num_rows, fields, counts, {n: f.axis for n, f in spec.fields.items() if f.axis is not None})


def check_times(
    spec: StreamSpec, timeline: Timeline | None, num_rows: int, extent: Extent | None, *, where: str
) -> None:
    """Make sure that the times of rows are of the stream's sort.

    Raises:
        StoreError: they are not, or cannot be kept.
    """
    if not isinstance(timeline, _TIMELINES[spec.timeline]):
        got = "no timeline" if timeline is None else type(timeline).__name__
        raise StoreError(f"{where}: got {got}, the stream keeps times as {spec.timeline!r}.")
    if isinstance(timeline, Spans) and len(timeline) != num_rows:
        raise StoreError(f"{where}: got {len(timeline)} spans for {num_rows} rows.")
    if isinstance(timeline, TimeGrid) and any(abs(n) >= 2**63 for n in timeline.as_integers()):
        raise StoreError(f"{where}: the fractions of {timeline} do not fit 64 bits; round window, stride or start.")
    if extent is not None and not (np.isfinite(extent).all() and extent[0] <= extent[1]):
        raise StoreError(f"{where}: extent {extent} is not a start and an end in seconds.")


def check_same_origin(stored: StreamSpec, offered: StreamSpec, *, store: Path) -> None:
    """Make sure that rows of one stream have one origin.

    Raises:
        ProvenanceError: they would not; each difference is named.
    """
    old, new = stored.origin(), offered.origin()
    differing = [_told_apart(key, old[key], new[key]) for key in old if old[key] != new[key]]
    if differing:
        raise ProvenanceError(
            f"stream {stored.name!r} in {store} was made otherwise ({'; '.join(differing)}). Rows of two origins "
            "are not mixed: give the new stream another name, or repeat the options it was made with."
        )


def origin_differences(first: StreamSpec, second: StreamSpec) -> list[str]:
    """In what two streams' origins differ, one text per member; empty where rows of both could be one stream's."""
    ours, theirs = first.origin(), second.origin()
    return [_difference(name, ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]]


def _told_apart(name: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        # Of a long table only what differs.
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        old, new = ({key: facts.get(key) for key in keys} for facts in (old, new))
    return f"{name}: {str(old)[:200]} here, {str(new)[:200]} now"


def _difference(name: str, ours: Any, theirs: Any) -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        return ", ".join(f"{name}.{key} {ours.get(key)!r} and {theirs.get(key)!r}" for key in keys)
    return f"{name} {ours!r} and {theirs!r}"


def _cast(array: NDArray[Any], field: FieldSpec, where: str) -> NDArray[Any]:
    array = np.asarray(array)
    if array.shape[1:] != field.entry_shape:
        raise StoreError(f"{where} has rows of shape {array.shape[1:]}, the stream has {field.entry_shape}.")
    wanted = np.dtype(field.dtype).newbyteorder("<")
    if array.dtype.kind != wanted.kind and not {array.dtype.kind, wanted.kind} <= {"i", "u"}:
        raise StoreError(f"{where} is {array.dtype}, the stream stores {field.dtype}.")
    if wanted.kind != "f":
        limits = np.iinfo(wanted)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise StoreError(f"{where} has values from {array.min()} to {array.max()}, outside {field.dtype}.")
        return np.array(array, wanted, order="C")
    with np.errstate(over="ignore"):
        cast = np.array(array, wanted, order="C")
    if not _all_finite(cast):
        raise _not_storable(array, cast, field, where)
    return cast


def _all_finite(array: NDArray[Any]) -> bool:
    if array.dtype.itemsize == 2 and array.flags.c_contiguous:
        # With all exponent bits set it is inf or nan; comparing as integers is ten times faster than isfinite.
        return not array.size or (
            int(array.view(np.int16).max()) < 0x7C00 and int(array.view(np.uint16).max()) < 0xFC00
        )
    return bool(np.isfinite(array).all())


def _not_storable(array: NDArray[Any], cast: NDArray[Any], field: FieldSpec, where: str) -> StoreError:
    place = tuple(int(k) for k in np.argwhere(~np.isfinite(cast))[0])
    value = array[place]
    if np.isfinite(value):
        return StoreError(
            f"{where} has the value {value:g} in row {place[0]}, beyond what {field.dtype} holds "
            f"(up to {float(np.finfo(field.dtype).max):g}). Store this stream with dtype=float32."
        )
    return StoreError(
        f"{where} has the value {value} in row {place[0]}; only finite numbers are stored. If the network overflows at "
        "low precision, run it with precision=float32 and store it with dtype=float32."
    )
