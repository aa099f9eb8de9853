"""Made-up stores whose rows carry their labels: what the light stage can learn is known beforehand.

    make_recognition(folder)   folder/feats.zarr with streams `motion`, `looks` (clip) and `things` (objects), and
                               folder/annotations in EPIC-KITCHENS-55's own files
    make_detection(folder)     folder/feats.zarr with the stream `frames` (clip), and folder/labels.csv
    make_single_frames(folder) the same, in segments whose look changes from start to end, amid background of many
                               looks; and folder/points.csv with one time of each training segment

A row of a verb's segment is that verb's code plus noise; one region of each frame is its noun's code, the others are
noise. Nothing is decoded and no encoder is run, so it takes well under a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import TimeGrid, center_grid, num_center_rows
from vidloc.stores.base import FeatureWriter, StreamSpec, create_store
from vidloc.testing.synthetic_annotations import AnnotatedSegment, AnnotatedVideo, write_epic55

VERBS = ("take", "put", "open")
NOUNS = ("knife", "pan", "lid", "cup")
LABELS = ("wave", "jump")
STRIDE_S = Fraction(1, 2)
WIDTH, REGION_WIDTH, REGIONS = 12, 10, 6
_DURATION_S = 24
_LONG_S = 60
_CLUTTER = 5
_SCENE_S = 3


@dataclass(frozen=True)
class Planted:
    """Where a made-up corpus lies; `points` is the file of single frames, where it has one."""

    store: Path
    annotations: Path
    points: Path | None = None


def make_recognition(folder: Path, *, num_training: int = 6, num_held_out: int = 2, seed: int = 0) -> Planted:
    """Segments of verb and noun in EPIC-KITCHENS-55's files, with rows from which both can be read."""
    random = np.random.default_rng(seed)
    verb_codes, noun_codes = random.normal(size=(len(VERBS), WIDTH)), random.normal(size=(len(NOUNS), REGION_WIDTH))
    segments: list[AnnotatedSegment] = []
    videos: list[AnnotatedVideo] = []
    store = folder / "feats.zarr"
    with create_store(store) as writer:
        for name, width in (("motion", WIDTH), ("looks", WIDTH + 2)):
            writer.add_stream(_clip_spec(name, width))
        writer.add_stream(_objects_spec())
        for k in range(num_training + num_held_out):
            participant = k + 1 if k < num_training else 26 + k - num_training
            item = f"P{participant:02d}_01"
            own = _scenes(item, random)
            segments.extend(own)
            videos.append(AnnotatedVideo(item, "456x256", Fraction(_DURATION_S), Fraction(30)))
            _write_item(writer, item, own, verb_codes, noun_codes, random)
    annotations = folder / "annotations"
    annotations.mkdir(parents=True)
    write_epic55(annotations, segments, videos, verbs=VERBS, nouns=NOUNS)
    return Planted(store, annotations)


def make_detection(folder: Path, *, num_items: int = 8, seed: int = 0) -> Planted:
    """Two classes of segments amid background; the last quarter of the items is split `test`."""
    random = np.random.default_rng(seed)
    codes = 2 * random.normal(size=(len(LABELS) + 1, WIDTH))
    lines = ["item_id,start_s,end_s,label,split"]
    store = folder / "feats.zarr"
    grid = center_grid(1, STRIDE_S)
    num_rows = num_center_rows(STRIDE_S, _DURATION_S)
    with create_store(store) as writer:
        writer.add_stream(_clip_spec("frames", WIDTH))
        for k in range(num_items):
            item, split = f"video_{k:02d}.mp4", "train" if k < num_items * 3 / 4 else "test"
            classes = np.full(num_rows, len(LABELS))
            for start in (2, 10, 18):
                end, label = start + int(random.integers(2, 6)), int(random.integers(len(LABELS)))
                lines.append(f"{item},{start},{end},{LABELS[label]},{split}")
                classes[2 * start : 2 * end] = label
            rows = codes[classes] + 0.3 * random.normal(size=(num_rows, WIDTH))
            writer.set_info(ItemInfo(item_id=item, duration_s=_DURATION_S))
            _write_rows(writer, "frames", item, rows, grid)
            writer.commit(item)
    labels = folder / "labels.csv"
    labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Planted(store, labels)


def make_single_frames(folder: Path, *, num_items: int = 16, seed: int = 0) -> Planted:
    """Segments that begin as one thing and end as another, with one labelled time of each; half the items are `test`.

    A row of a segment is its class's code plus a share of two codes, for its start and its end, that go over into each
    other. So a labelled row tells little of the rows farther off, and the background, which changes its look as well,
    is known to a head only if it looks for it.
    """
    random = np.random.default_rng(seed)
    classes, starts, ends = (random.normal(size=(len(LABELS), WIDTH)) for _ in range(3))
    clutter = random.normal(size=(_CLUTTER, WIDTH))
    lines, points = ["item_id,start_s,end_s,label,split"], ["item_id,time_s,label"]
    store = folder / "feats.zarr"
    num_rows = num_center_rows(STRIDE_S, _LONG_S)
    with create_store(store) as writer:
        writer.add_stream(_clip_spec("frames", WIDTH))
        for k in range(num_items):
            item, split = f"video_{k:02d}.mp4", "train" if k < num_items / 2 else "test"
            rows = clutter[np.repeat(random.integers(_CLUTTER, size=num_rows // 6 + 1), 6)[:num_rows]]
            for place in range(0, _LONG_S - 10, 10):
                start, label = place + float(random.uniform(0, 3)), int(random.integers(len(LABELS)))
                end = start + float(random.uniform(3, 6))
                own = np.arange(round(2 * start), round(2 * end))
                passed = np.linspace(0, 1, len(own))[:, None]
                rows[own] = classes[label] + 1.2 * ((1 - passed) * starts[label] + passed * ends[label])
                lines.append(f"{item},{own[0] / 2},{own[-1] / 2 + 0.5},{LABELS[label]},{split}")
                if split == "train":
                    points.append(f"{item},{random.uniform(own[0] / 2, own[-1] / 2):.3f},{LABELS[label]}")
            rows = rows + 0.4 * random.normal(size=rows.shape)
            writer.set_info(ItemInfo(item_id=item, duration_s=_LONG_S))
            _write_rows(writer, "frames", item, rows, center_grid(1, STRIDE_S), duration_s=_LONG_S)
            writer.commit(item)
    places = []
    for name, text in (("labels.csv", lines), ("points.csv", points)):
        places.append(folder / name)
        places[-1].write_text("\n".join(text) + "\n", encoding="utf-8")
    return Planted(store, *places)


def _scenes(item: str, random: np.random.Generator) -> list[AnnotatedSegment]:
    found = []
    for start in range(0, _DURATION_S - _SCENE_S, _SCENE_S):
        verb, noun = VERBS[random.integers(len(VERBS))], NOUNS[random.integers(len(NOUNS))]
        begin = Fraction(start) + Fraction(1, 4)
        found.append(AnnotatedSegment(item, verb, noun, begin, begin + Fraction(5, 2), f"{verb} {noun}"))
    return found


def _write_item(
    writer: FeatureWriter,
    item: str,
    segments: list[AnnotatedSegment],
    verb_codes: NDArray[np.float64],
    noun_codes: NDArray[np.float64],
    random: np.random.Generator,
) -> None:
    grid = center_grid(1, STRIDE_S)
    num_rows = num_center_rows(STRIDE_S, _DURATION_S)
    motion = 0.5 * random.normal(size=(num_rows, WIDTH))
    regions = [0.5 * random.normal(size=(REGIONS, REGION_WIDTH)) for _ in range(num_rows)]
    for row, center in enumerate(grid.centers(num_rows)):
        for segment in segments:
            if segment.start_s <= center < segment.stop_s:
                motion[row] += verb_codes[VERBS.index(segment.verb)]
                regions[row][random.integers(REGIONS)] += 3 * noun_codes[NOUNS.index(segment.noun)]
    writer.set_info(ItemInfo(item_id=item, duration_s=_DURATION_S))
    _write_rows(writer, "motion", item, motion, grid)
    _write_rows(writer, "looks", item, random.normal(size=(num_rows, WIDTH + 2)), grid)
    boxes = [np.tile(np.array([0, 0, 8, 8], np.float32), (REGIONS, 1)) for _ in range(num_rows)]
    scores = [np.sort(random.random(REGIONS).astype(np.float32))[::-1] for _ in range(num_rows)]
    features = [region.astype(np.float16) for region in regions]
    writer.write("things", item, Rows.ragged("regions", features=features, boxes=boxes, scores=scores), grid)
    writer.commit(item)


def _write_rows(
    writer: FeatureWriter,
    stream: str,
    item: str,
    rows: NDArray[np.float64],
    grid: TimeGrid,
    *,
    duration_s: float = _DURATION_S,
) -> None:
    writer.write(stream, item, Rows.dense(features=rows.astype(np.float16)), grid, extent=(0.0, float(duration_s)))


def _clip_spec(name: str, width: int) -> StreamSpec:
    return StreamSpec(
        name=name, kind="clip", fields={"features": FieldSpec(row_shape=(width,), dtype="float16")}, encoder="planted"
    )


def _objects_spec() -> StreamSpec:
    fields = {
        "features": FieldSpec(row_shape=("regions", REGION_WIDTH), dtype="float16"),
        "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
        "scores": FieldSpec(row_shape=("regions",), dtype="float32"),
    }
    return StreamSpec(name="things", kind="objects", fields=fields, encoder="planted")
