"""Made-up videos whose actions are told by what was shown long before: what a long-term feature bank can be used for.

    make_recall(folder)   folder/feats.zarr with the streams `clips` (clip, a row a second) and `things` (objects), and
                          folder/annotations in EPIC-KITCHENS-55's own files

Of every minute, three seconds show three cues, each with a verb (in `clips`) and a noun (in one region of `things`),
and 16 to 20 s later the three cues come again, each alone in a segment whose verb and noun are the ones it was shown
with. Verbs and nouns are drawn anew each minute. So a clip by itself tells nothing, a window as a whole tells which
verbs and nouns there were, and only who looks for the clip's own cue knows which one is meant.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import center_grid
from vidloc.stores.base import StreamSpec, create_store
from vidloc.testing.planted import Planted
from vidloc.testing.synthetic_annotations import AnnotatedSegment, AnnotatedVideo, write_epic55

VERBS, NOUNS = ("take", "put", "open"), ("knife", "pan", "lid")
CUES, WIDTH, REGIONS = 3, 16, 2
SHOWN_S, ASKED_S, MINUTE_S = 10, 28, 60
_SCALE, _NOISE = 4.0, 0.3

Array = NDArray[np.float64]


def make_recall(
    folder: Path, *, num_training: int = 8, num_held_out: int = 4, minutes: int = 6, seed: int = 0
) -> Planted:
    """Videos of so many minutes, each minute with three segments; the last items are the evaluation split's."""
    random = np.random.default_rng(seed)
    codes = {
        name: _SCALE * random.normal(size=(count, WIDTH)) / WIDTH**0.5
        for name, count in (("cue", CUES), ("verb", len(VERBS)), ("thing", CUES), ("noun", len(NOUNS)))
    }
    duration, grid = minutes * MINUTE_S, center_grid(1, 1)
    segments: list[AnnotatedSegment] = []
    videos: list[AnnotatedVideo] = []
    store = folder / "feats.zarr"
    with create_store(store) as writer:
        for spec in _specs():
            writer.add_stream(spec)
        for k in range(num_training + num_held_out):
            item = f"P{k + 1 if k < num_training else 26 + k - num_training:02d}_01"
            clips, things = _noise(random, duration, WIDTH), _noise(random, duration, REGIONS, WIDTH)
            for start in range(0, duration, MINUTE_S):
                segments.extend(_minute(item, start, codes, clips, things, random))
            videos.append(AnnotatedVideo(item, "456x256", Fraction(duration), Fraction(30)))
            writer.set_info(ItemInfo(item_id=item, duration_s=duration))
            extent = (0.0, float(duration))
            writer.write("clips", item, Rows.dense(features=clips.astype(np.float16)), grid, extent=extent)
            regions = Rows.ragged(
                "regions",
                features=list(things.astype(np.float16)),
                boxes=list(np.tile(np.array([0, 0, 8, 8], np.float32), (duration, REGIONS, 1))),
                scores=[np.sort(random.random(REGIONS).astype(np.float32))[::-1] for _ in range(duration)],
            )
            writer.write("things", item, regions, grid, extent=extent)
            writer.commit(item)
    annotations = folder / "annotations"
    write_epic55(annotations, segments, videos, verbs=VERBS, nouns=NOUNS)
    return Planted(store, annotations)


def _minute(
    item: str, start: int, codes: dict[str, Array], clips: Array, things: Array, random: np.random.Generator
) -> list[AnnotatedSegment]:
    """Show and ask all cues in the minute that begins at `start`, each time in an order of its own."""
    verbs, nouns = random.integers(len(VERBS), size=CUES), random.integers(len(NOUNS), size=CUES)
    for second, cue in enumerate(random.permutation(CUES), start + SHOWN_S):
        clips[second] += codes["cue"][cue] + codes["verb"][verbs[cue]]
        things[second, random.integers(REGIONS)] += codes["thing"][cue] + codes["noun"][nouns[cue]]
    found = []
    for second, cue in enumerate(random.permutation(CUES), start + ASKED_S):
        clips[second] += codes["cue"][cue]
        verb, noun = VERBS[verbs[cue]], NOUNS[nouns[cue]]
        found.append(AnnotatedSegment(item, verb, noun, Fraction(second), Fraction(second + 1), f"{verb} {noun}"))
    return found


def _noise(random: np.random.Generator, *shape: int) -> Array:
    return _NOISE * random.normal(size=shape)


def _specs() -> tuple[StreamSpec, StreamSpec]:
    clips = {"features": FieldSpec(row_shape=(WIDTH,), dtype="float16")}
    things = {
        "features": FieldSpec(row_shape=("regions", WIDTH), dtype="float16"),
        "boxes": FieldSpec(row_shape=("regions", 4), dtype="float32"),
        "scores": FieldSpec(row_shape=("regions",), dtype="float32"),
    }
    return (
        StreamSpec(name="clips", kind="clip", fields=clips, encoder="planted"),
        StreamSpec(name="things", kind="objects", fields=things, encoder="planted"),
    )
