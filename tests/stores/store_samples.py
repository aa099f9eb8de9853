"""Streams and rows for tests of the stores, and the NumPy side of each comparison."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid
from vidloc.stores.base import StreamSpec

GRID = TimeGrid(Fraction(1001, 30), Fraction(1, 2), Fraction(-7, 60))

CLIP = StreamSpec(
    name="clip",
    kind="clip",
    fields={"features": FieldSpec(row_shape=(6,), dtype="float16")},
    encoder="made_up",
    options={"weights": "random:1"},
    weights="random:1",
    weights_sha256="random:1",
    versions={"numpy": "2"},
)
OBJECTS = StreamSpec(
    name="objects",
    kind="objects",
    fields={
        "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
        "labels": FieldSpec(row_shape=("regions",), dtype="int32"),
        "image": FieldSpec(row_shape=(2, 3), dtype="float32"),
        "key": FieldSpec(row_shape=("bytes",), dtype="uint8"),
    },
    timeline="spans",
)
FREE = StreamSpec(name="free", kind="text", fields={"score": FieldSpec(row_shape=(), dtype="float64")}, timeline="none")
SPECS = (CLIP, OBJECTS, FREE)


def clip_rows(num_rows: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng([seed, num_rows])
    return Rows.dense(features=rng.standard_normal((num_rows, 6)).astype(np.float32))


def object_rows(counts: list[int], seed: int = 0) -> Rows:
    rng = np.random.default_rng([seed, *counts])
    total = sum(counts)
    texts = [("é" * count).encode() for count in counts]
    return Rows(
        len(counts),
        {
            "boxes": rng.random((total, 4), dtype=np.float32),
            "labels": rng.integers(0, 90, total).astype(np.int32),
            "image": rng.random((len(counts), 2, 3), dtype=np.float32),
            "key": np.frombuffer(b"".join(texts), np.uint8),
        },
        {"regions": np.array(counts, np.int64), "bytes": np.array([len(t) for t in texts], np.int64)},
        {"boxes": "regions", "labels": "regions", "key": "bytes"},
    )


def spans(num_rows: int) -> Spans:
    starts = np.arange(num_rows) * 0.7
    return Spans(np.stack([starts, starts + 1.25], axis=1))


def fill(writer, item: str, num_rows: int = 5, *, seed: int = 0) -> None:
    """All three streams of an item, not committed yet."""
    writer.write("clip", item, clip_rows(num_rows, seed), GRID, extent=(0.0, num_rows / 2))
    writer.write("objects", item, object_rows([k % 3 for k in range(num_rows)], seed), spans(num_rows))
    writer.write("free", item, Rows.dense(score=np.arange(num_rows) + seed / 3), None)


def same_rows(found: Rows, expected: Rows, spec: StreamSpec) -> bool:
    """Whether stored rows are the offered ones in the stored dtypes, bit for bit."""
    if len(found) != len(expected) or found.axes != expected.axes:
        return False
    counts = all(np.array_equal(found.counts[axis], expected.counts[axis]) for axis in expected.counts)
    return counts and all(
        found.fields[name].dtype == np.dtype(field.dtype)
        and found.fields[name].tobytes() == expected.fields[name].astype(field.dtype).tobytes()
        for name, field in spec.fields.items()
    )
