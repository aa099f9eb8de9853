"""Write the archive of store format 1: one small store per backend, kept in git and read in every test run.

    python tests/archives/make_v1.py

Run once, when the format was first released. A change that makes these stores unreadable, or read otherwise, is a new
format version; it gets an archive of its own and leaves this one alone. Every value follows from `expected_rows`, so
that the test compares with arithmetic and not with what a reader of some day found.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from vidloc.core.records import ItemInfo, Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid
from vidloc.stores.base import FeatureWriter, StreamSpec, create_store

HERE = Path(__file__).parent / "v1"
PATHS = (HERE / "feats.zarr", HERE / "feats.h5", HERE / "indexed.h5")  # the second is from before files had an index

CLIP = StreamSpec(
    name="clip",
    kind="clip",
    fields={"features": FieldSpec(row_shape=(4,), dtype="float16")},
    sampling={"align": "center", "stride_s": "1/2", "window_s": "32/15"},
    encoder="made_up_network",
    encoder_version="0.1.0",
    options={"weights": "random:3"},
    weights="random:3",
    weights_sha256="random:3",
    source=Source(paper="none", licence="Apache-2.0"),
    preprocessing={"short_side_px": 256, "crop_px": 224},
    versions={"torch": "2.11"},
)
REGIONS = StreamSpec(
    name="regions",
    kind="objects",
    fields={
        "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
        "labels": FieldSpec(row_shape=("regions",), dtype="int32"),
        "image_size": FieldSpec(row_shape=(2,), dtype="int32"),
    },
    encoder="made_up_detector",
    weights="detector.pth",
    weights_sha256="0f" * 32,
    vocabulary=("background", "cup", "tap"),
)
WORDS = StreamSpec(
    name="words",
    kind="text",
    fields={
        "features": FieldSpec(row_shape=(2,), dtype="float32"),
        "text": FieldSpec(row_shape=("text_bytes",), dtype="uint8"),
    },
    timeline="spans",
    encoder="made_up_words",
)
FREE = StreamSpec(
    name="free", kind="audio", fields={"level": FieldSpec(row_shape=(), dtype="float64")}, timeline="none"
)
SPECS = (CLIP, REGIONS, WORDS, FREE)

GRID = TimeGrid(Fraction(32, 15), Fraction(1, 2), Fraction(-49, 60))
NUM_ROWS = {"P01_01": 5, "P01_02": 3, "sous-sol/été.mp4": 2}
TEXTS = ("open the fridge", "ouvre le réfrigérateur", "冷蔵庫を開ける")


def expected_rows(stream: str, item: str) -> Rows:
    """What the archive holds for an item, by arithmetic alone."""
    count = NUM_ROWS[item]
    base = 10 * list(NUM_ROWS).index(item)
    number = np.arange(count)
    if stream == "clip":
        return Rows.dense(features=(base + number[:, None] + np.arange(4) / 8).astype(np.float16))
    if stream == "regions":
        sizes = number % 3  # the first row has none
        entries = np.arange(sizes.sum())
        return Rows(
            count,
            {
                "boxes": (base + entries[:, None] + np.arange(4) / 4).astype(np.float32),
                "labels": (entries % 3).astype(np.int32),
                "image_size": np.stack([456 + number, 256 - number], axis=1).astype(np.int32),
            },
            {"regions": sizes.astype(np.int64)},
            {"boxes": "regions", "labels": "regions"},
        )
    if stream == "words":
        vectors = (base + number[:, None] + np.array([0.5, 0.25])).astype(np.float32)
        return Rows.joined(Rows.dense(features=vectors), Rows.texts("bytes", text=[TEXTS[k % 3] for k in range(count)]))
    return Rows.dense(level=base + number / 3)


def expected_timeline(stream: str, item: str) -> TimeGrid | Spans | None:
    """Times of those rows."""
    if stream == "words":
        starts = np.arange(NUM_ROWS[item]) * 0.75
        return Spans(np.stack([starts, starts + 1.5], axis=1))
    return None if stream == "free" else GRID


def expected_info(item: str) -> ItemInfo:
    """Facts of an item's source."""
    return ItemInfo(item_id=item, duration_s=NUM_ROWS[item] / 2, fps_nominal="30000/1001", source_sha256="ab" * 32)


def write_archive(path: Path) -> None:
    """One store with every sort of stream, timeline and status, and one entry that was superseded."""
    with create_store(path) as writer:
        for spec in SPECS:
            writer.add_stream(spec)
        _write(writer, "P01_01", "clip", Rows.dense(features=np.zeros((2, 4), np.float16)))
        writer.commit("P01_01")
        for item in NUM_ROWS:
            writer.set_info(expected_info(item))
            for spec in SPECS:
                _write(writer, item, spec.name, expected_rows(spec.name, item))
            if item == "P01_02":
                writer.mark("clip", item, "partial", "frames after 1.5 s cannot be decoded")
            writer.commit(item)
        writer.mark("clip", "silent.m4a", "absent", "no video track")
        writer.mark("regions", "broken.mp4", "failed", "the file ends before its index")
        writer.commit("silent.m4a")
        writer.commit("broken.mp4")


def _write(writer: FeatureWriter, item: str, stream: str, rows: Rows) -> None:
    writer.write(stream, item, rows, expected_timeline(stream, item), extent=(0.0, 2.5) if stream == "clip" else None)


if __name__ == "__main__":
    for archive in PATHS:
        if not archive.exists():
            write_archive(archive)
