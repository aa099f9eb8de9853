"""Made-up clips with sound and pictures whose events are known, in AVE's own files: what event heads can learn.

    make_events(folder)     an event is where an object sounds and is somewhere in the picture, beside a silent one
    make_matching(folder)   an event is told by its seconds together; no two of them tell that they belong to one event

Both write `folder/feats.zarr` with the streams `sound` (audio) and `pictures` (clip, maps), ten rows a clip, and
`folder/annotations`, whose two files of splits are the same. Nothing is decoded and no encoder is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import center_grid
from vidloc.stores.base import StreamSpec, create_store
from vidloc.testing.planted import Planted

CATEGORIES = ("Bell", "Dog, barking", "Horn", "Train", "Clock", "Flute", "Goat")
SECONDS, WIDTH = 10, 12
_NUM_EVENTS = 4  # of the categories, for event localization
_EVENT_SIDE, _MATCHING_SIDE = 7, 2
_LINE = np.array([0, 1, 3])  # the Fano plane: line k holds the points k, k + 1 and k + 3, modulo 7

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int, int], tuple[Array, Array]]


def make_events(folder: Path, *, num_training: int = 96, num_held_out: int = 32, seed: int = 0) -> Planted:
    """Clips for event localization: only where the object that sounds is in the picture is the second an event."""
    codes = _codes(seed)
    return _make(
        folder,
        lambda random, *event: _seen_and_heard(codes, random, *event),
        num_training,
        num_held_out,
        seed,
        num_classes=_NUM_EVENTS,
        side=_EVENT_SIDE,
    )


def make_matching(folder: Path, *, num_training: int = 96, num_held_out: int = 32, seed: int = 0) -> Planted:
    """Clips for matching: each second of an event shows one of its class's three parts at random.

    Classes and parts are the lines and points of the Fano plane: any two parts belong to exactly one class together, so
    that one second of sound beside one of pictures tells next to nothing. Sound and picture draw their parts apart from
    each other. The seconds beside the event show parts that its class does not have.
    """
    codes = _codes(seed)
    return _make(
        folder,
        lambda random, *event: _parts(codes, random, *event),
        num_training,
        num_held_out,
        seed,
        num_classes=len(CATEGORIES),
        side=_MATCHING_SIDE,
    )


def _codes(seed: int) -> tuple[Array, Array]:
    """What each category sounds and looks like."""
    random = np.random.default_rng((seed, 1))
    shape = (len(CATEGORIES), WIDTH)
    return random.normal(size=shape), random.normal(size=shape)


def _make(
    folder: Path, draw: Draw, num_training: int, num_held_out: int, seed: int, *, num_classes: int, side: int
) -> Planted:
    random = np.random.default_rng((seed, 2))
    grid, count = center_grid(1, Fraction(1)), num_training + 2 * num_held_out
    lines = []
    store = folder / "feats.zarr"
    with create_store(store) as writer:
        writer.add_stream(_spec("sound", "audio", (WIDTH,)))
        writer.add_stream(_spec("pictures", "clip", (side, side, WIDTH)))
        for k in range(count):
            label, length = int(random.integers(num_classes)), int(random.integers(3, 7))
            start = int(random.integers(SECONDS - length + 1))
            lines.append(f"{CATEGORIES[label]}&clip_{k:06d}&good&{start}&{start + length}")
            sound, pictures = draw(random, label, start, length)
            writer.set_info(ItemInfo(item_id=f"clip_{k:06d}", duration_s=SECONDS))
            for name, rows in (("sound", sound), ("pictures", pictures)):
                dense = Rows.dense(features=rows.astype(np.float16))
                writer.write(name, f"clip_{k:06d}", dense, grid, extent=(0.0, float(SECONDS)))
            writer.commit(f"clip_{k:06d}")
    annotations = folder / "annotations"
    annotations.mkdir()
    (annotations / "Annotations.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (annotations / "categories.txt").write_text("\n".join(CATEGORIES) + "\n", encoding="utf-8")
    borders = [0, num_training, num_training + num_held_out, count]
    splits = {
        name: list(range(a, b)) for name, a, b in zip(("train", "val", "test"), borders, borders[1:], strict=False)
    }
    for name in ("splits.json", "splits_cross_modality.json"):
        (annotations / name).write_text(json.dumps(splits), encoding="utf-8")
    return Planted(store, annotations)


def _seen_and_heard(
    codes: tuple[Array, Array], random: np.random.Generator, label: int, start: int, length: int
) -> tuple[Array, Array]:
    sounds, looks = codes
    times = np.arange(SECONDS)
    event = (times >= start) & (times < start + length)
    alone = random.integers(3, size=SECONDS)  # beside the event: only heard, only seen, neither
    heard, seen = event | (alone == 0), event | (alone == 1)
    sound = 0.5 * random.normal(size=(SECONDS, WIDTH)) + heard[:, None] * sounds[label]
    pictures = 0.5 * random.normal(size=(SECONDS, _EVENT_SIDE**2, WIDTH))
    silent = (label + int(random.integers(1, _NUM_EVENTS))) % _NUM_EVENTS
    for t in times:
        here, there = random.choice(_EVENT_SIDE**2, 2, replace=False)
        pictures[t, here] += 4 * seen[t] * looks[label]
        pictures[t, there] += 4 * looks[silent]
    return sound, pictures.reshape(SECONDS, _EVENT_SIDE, _EVENT_SIDE, WIDTH)


def _parts(
    codes: tuple[Array, Array], random: np.random.Generator, label: int, start: int, length: int
) -> tuple[Array, Array]:
    times = np.arange(SECONDS)
    event = (times >= start) & (times < start + length)
    own = (label + _LINE) % len(CATEGORIES)
    others = np.setdiff1d(np.arange(len(CATEGORIES)), own)
    shown = [code[np.where(event, random.choice(own, SECONDS), random.choice(others, SECONDS))] for code in codes]
    sound = shown[0] + 0.3 * random.normal(size=(SECONDS, WIDTH))
    noise = 0.3 * random.normal(size=(SECONDS, _MATCHING_SIDE, _MATCHING_SIDE, WIDTH))
    return sound, shown[1][:, None, None, :] + noise


def _spec(name: str, kind: str, row_shape: tuple[int, ...]) -> StreamSpec:
    return StreamSpec(
        name=name, kind=kind, fields={"features": FieldSpec(row_shape=row_shape, dtype="float16")}, encoder="planted"
    )
