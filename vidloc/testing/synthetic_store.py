"""Made-up streams of every shape a store must keep: dense, ragged, texts, maps, without times, and empty items."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vidloc.core.records import ItemInfo, Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid, Timeline
from vidloc.stores.base import Extent, FeatureWriter, StreamSpec

ITEMS = ("a.mp4", "b/ü 2.mp4", "z@1-2")
_GRID = TimeGrid(Fraction(64, 30), Fraction(1001, 30000) * 4, Fraction(-1, 3))
_NUM_ROWS = {"a.mp4": 7, "b/ü 2.mp4": 1, "z@1-2": 300}


@dataclass(frozen=True)
class Written:
    """Rows of one (stream, item), as they are written and must come back."""

    rows: Rows
    timeline: Timeline | None
    extent: Extent | None


def specs() -> tuple[StreamSpec, ...]:
    """One stream of each shape."""
    return (
        _spec("vectors", "clip", {"features": FieldSpec(row_shape=(5,), dtype="float16")}),
        _spec(
            "maps",
            "clip",
            {
                "features": FieldSpec(row_shape=(2, 3, 4), dtype="float32"),
                "pts_s": FieldSpec(row_shape=(2,), dtype="float64"),
            },
        ),
        _spec(
            "regions",
            "objects",
            {
                "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
                "labels": FieldSpec(row_shape=("regions",), dtype="int32"),
                "image_size": FieldSpec(row_shape=(2,), dtype="int32"),
            },
        ),
        _spec(
            "sentences",
            "text",
            {
                "features": FieldSpec(row_shape=(3,), dtype="float32"),
                "text": FieldSpec(row_shape=("text_bytes",), dtype="uint8"),
                "key": FieldSpec(row_shape=("key_bytes",), dtype="uint8"),
            },
            timeline="spans",
        ),
        _spec("timeless", "audio", {"features": FieldSpec(row_shape=(2,), dtype="float32")}, timeline="none"),
    )


def made_up(spec: StreamSpec, item: str) -> Written:
    """Rows of an item; the same at every call."""
    num_rows = _NUM_ROWS[item]
    random = np.random.default_rng((len(spec.name), num_rows))
    timeline: Timeline | None = _GRID
    if spec.timeline == "spans":
        starts = random.random(num_rows) * 10
        timeline = Spans(np.stack([starts, starts + random.random(num_rows)], axis=1))
    elif spec.timeline == "none":
        timeline = None
    extent = None if timeline is None else (0.0, num_rows / 7)
    return Written(_rows(spec, num_rows, random), timeline, extent)


def write_all(writer: FeatureWriter, items: tuple[str, ...] = ITEMS) -> None:
    """All streams with some items, each committed."""
    for spec in specs():
        writer.add_stream(spec)
    for item in items:
        for spec in specs():
            made = made_up(spec, item)
            writer.write(spec.name, item, made.rows, made.timeline, extent=made.extent)
        writer.set_info(ItemInfo.model_validate({"item_id": item, "duration_s": _NUM_ROWS[item] / 7}))
        writer.commit(item)


def _rows(spec: StreamSpec, num_rows: int, random: np.random.Generator) -> Rows:
    if spec.name == "regions":
        # Rows without any region, at the ends too, are where offsets go wrong.
        counts = random.integers(0, 4, num_rows) * (np.arange(num_rows) % 3 > 0)
        ragged = Rows.ragged(
            "regions",
            boxes=[random.random((n, 4)).astype(np.float32) for n in counts],
            labels=[random.integers(0, 90, n).astype(np.int32) for n in counts],
        )
        return Rows.joined(ragged, Rows.dense(image_size=np.full((num_rows, 2), 64, np.int32)))
    dense = {}
    for name, field in spec.fields.items():
        if field.axis is None:
            dense[name] = random.standard_normal((num_rows, *field.entry_shape)).astype(field.dtype)
    rows = Rows.dense(**dense)
    if spec.name != "sentences":
        return rows
    said = [f"öffne die Tür {n}" if n % 2 else "" for n in range(num_rows)]
    return Rows.joined(rows, Rows.texts("bytes", text=said, key=[f"n{n}" for n in range(num_rows)]))


def _spec(name: str, kind: str, fields: dict[str, FieldSpec], timeline: str = "grid") -> StreamSpec:
    return StreamSpec.model_validate(
        {
            "name": name,
            "kind": kind,
            "fields": fields,
            "timeline": timeline,
            "encoder": "made_up",
            "encoder_version": "1",
            "weights": "random:0",
            "weights_sha256": "random:0",
            "options": {"gain": 1.5, "tall": True},
            "source": Source(paper="made up", licence="CC0"),
        }
    )
