"""Whether a store and a dataset's annotations belong together, found out before a head is trained on both.

The costliest mistake with features that others made is a wrong frame rate: everything runs, and every label lies beside
its rows. It shows in where the rows end. An item whose last row is centred at c, on a stride s with windows w, was made
from a video that ends between `c - max(s, w)/2` and `c + w/2 + 3s/2` (a last window may be padded or dropped). Divided
by the stated duration that is a range of ratios, and 1 lies in it if the times are right. Where instead another ratio
lies in nearly all items' ranges, the rows were made at another rate than they were imported with, and it can be said.
Rates closer to each other than a row in a video, such as 29.97 and 30, are not told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from vidloc.core.records import Segment
from vidloc.core.timeline import TimeGrid, Timeline
from vidloc.datasets.base import Annotations
from vidloc.errors import OptionError, StreamNotFoundError, did_you_mean
from vidloc.pipelines.extraction.report import named
from vidloc.stores.base import FeatureStore, StreamSpec
from vidloc.stores.imports.timing import parse_fps
from vidloc.stores.tables import WITH_ROWS

# Rates at which videos are made, and those at which frames are often cut.
_COMMON_FPS = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    12,
    12.5,
    15,
    16,
    20,
    23.976,
    24,
    25,
    29.97,
    30,
    48,
    50,
    59.94,
    60,
    90,
    100,
    120,
)
_AGREEING = 0.9


@dataclass(frozen=True)
class Ending:
    """Where the rows of one item end, against its duration; seconds."""

    item_id: str
    rows_end_s: float
    duration_s: float

    @property
    def ratio(self) -> float:
        """1 where both are the same."""
        return self.rows_end_s / self.duration_s


@dataclass(frozen=True)
class Outside:
    """An annotation that no row describes, or that ends after the last row; `beyond_s` says by how much."""

    item_id: str
    annotation_id: str
    beyond_s: float


@dataclass(frozen=True)
class StreamCheck:
    """What was found of one stream.

    Attributes:
        store: path of the store that holds it.
        num_matched: items of the annotations that have rows.
        missing: items of the annotations without rows, sorted, with the reason.
        num_others: items with rows that the annotations do not name.
        num_timed: items of which a duration is known, so that times could be checked.
        ratio: range of (time that the rows tell / duration) that suits nearly all of them; `None` if there is none.
        off: items whose rows end elsewhere than their videos, the worst first.
        without_rows: annotations that no row describes, the worst first.
        beyond: annotations that end after the last row of their item, the worst first.
        problems: what should be seen to before training, one sentence each.
    """

    stream: str
    store: str
    num_matched: int
    missing: Mapping[str, str]
    num_others: int
    num_timed: int
    ratio: tuple[float, float] | None
    off: tuple[Ending, ...]
    without_rows: tuple[Outside, ...]
    beyond: tuple[Outside, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class PreflightReport:
    """Result of `check_dataset`.

    Attributes:
        num_items: items of the annotations that were looked for.
        classes: number of annotations by class, by split, by task.
        notes: what the annotations' reader wants to be known.
    """

    dataset: str
    num_items: int
    streams: tuple[StreamCheck, ...]
    classes: Mapping[str, Mapping[str, Mapping[str, int]]]
    notes: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """Everything that should be seen to before training."""
        return [f"{check.stream}: {problem}" for check in self.streams for problem in check.problems]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {**asdict(self), "problems": self.problems}

    def lines(self) -> list[str]:
        """The same for people."""
        text = [f"{self.dataset}: {self.num_items} items in the annotations."]
        for check in self.streams:
            text += _stream_lines(check)
        for task, splits in self.classes.items():
            text += [_class_line(task, split, counts) for split, counts in splits.items()]
        text += [f"Note: {note}" for note in self.notes]
        text += [f"PROBLEM {problem}" for problem in self.problems]
        found = len(self.problems)
        return [*text, f"{found} problem{'s' * (found > 1)} found." if found else "Nothing speaks against training."]


def check_dataset(
    annotations: Annotations,
    stores: Sequence[FeatureStore],
    *,
    streams: Sequence[str] = (),
    splits: Sequence[str] = (),
    durations_s: Mapping[str, float] | None = None,
) -> PreflightReport:
    """Compare annotations with streams, without reading any row.

    Args:
        streams: names; all streams of all stores if empty.
        splits: splits whose items and segments count; all if empty.
        durations_s: durations by item, over those that annotations or stores state.

    Raises:
        OptionError: there is no stream to check.
        StreamNotFoundError: no store has a stream of that name.
        UnknownNameError: no such split.
    """
    names = list(splits) or list(annotations.splits)
    segments = [segment for split in names for segment in annotations.split(split)]
    items = {item for split in names for item in annotations.items_of(split)} if splits else set(annotations.items)
    chosen = _streams(stores, streams)
    stated = {**annotations.durations_s, **(durations_s or {})}
    return PreflightReport(
        dataset=annotations.dataset,
        num_items=len(items),
        streams=tuple(_check(store, spec, sorted(items), segments, stated) for store, spec in chosen),
        classes={
            task: {split: _counts(annotations.split(split), task, classes) for split in names}
            for task, classes in annotations.classes.items()
        },
        notes=annotations.notes,
    )


def _streams(stores: Sequence[FeatureStore], wanted: Sequence[str]) -> list[tuple[FeatureStore, StreamSpec]]:
    found = [(store, spec) for store in stores for spec in store.streams().values()]
    known = [spec.name for _, spec in found]
    for name in wanted:
        if name not in known:
            raise StreamNotFoundError(f"no store has a stream {name!r}. {did_you_mean(name, known)}")
    if not found:
        raise OptionError("the store has no streams yet: run vidloc extract or vidloc import first.")
    return [(store, spec) for store, spec in found if not wanted or spec.name in wanted]


def _check(
    store: FeatureStore,
    spec: StreamSpec,
    items: Sequence[str],
    segments: Sequence[Segment],
    stated: Mapping[str, float],
) -> StreamCheck:
    entries = store.entries(spec.name)
    rows = {item: entry.num_rows for item, entry in entries.items() if entry.status in WITH_ROWS and entry.num_rows}
    missing = {
        item: entries[item].reason or entries[item].status if item in entries else "the store does not know it"
        for item in items
        if item not in rows
    }
    problems = _missing_problems(missing, items, list(rows))
    timelines = _timelines(store, spec, [item for item in items if item in rows])
    ends, ratio, off, num_timed = _endings(store, timelines, rows, stated)
    problems += _time_problems(spec, ratio, off, num_timed)
    without, beyond = _outside(segments, timelines, rows, ends)
    if without:
        worst = without[0]
        problems.append(
            f"{len(without)} of {len(segments)} annotations have no row at all, such as "
            f"{worst.annotation_id or 'one'} of {worst.item_id!r}, {worst.beyond_s:.1f} s away from the nearest."
        )
    return StreamCheck(
        stream=spec.name,
        store=store.path,
        num_matched=len(items) - len(missing),
        missing=missing,
        num_others=len(rows) - (len(items) - len(missing)),
        num_timed=num_timed,
        ratio=ratio,
        off=off,
        without_rows=without,
        beyond=beyond,
        problems=tuple(problems),
    )


def _missing_problems(missing: Mapping[str, str], items: Sequence[str], stored: Sequence[str]) -> list[str]:
    if not missing:
        return []
    reason = f"{named(list(missing), most=3)} (the first: {next(iter(missing.values()))})"
    text = f"{len(missing)} of {len(items)} items have no rows: {reason}."
    bare = {PurePosixPath(item).stem: item for item in stored}
    lost = [item for item in missing if item in bare or PurePosixPath(item).stem in bare]
    if lost:
        other = bare.get(lost[0]) or bare[PurePosixPath(lost[0]).stem]
        text += (
            f" The store has {other!r} where the annotations say {lost[0]!r}: ids must be the same to the letter; "
            "'vidloc import' makes them by --ids."
        )
    return [text]


def _timelines(store: FeatureStore, spec: StreamSpec, items: Iterable[str]) -> dict[str, Timeline]:
    # Sentences lie where annotations are, and not where videos end.
    if spec.timeline == "none" or spec.kind == "text":
        return {}
    found = ((item, store.timeline(spec.name, item)) for item in items)
    return {item: timeline for item, timeline in found if timeline is not None}


def _endings(
    store: FeatureStore,
    timelines: Mapping[str, Timeline],
    rows: Mapping[str, int],
    stated: Mapping[str, float],
) -> tuple[dict[str, float], tuple[float, float] | None, tuple[Ending, ...], int]:
    """End of rows by item; the range of ratios that suits nearly all; items that 1 does not suit; number timed."""
    ends: dict[str, float] = {}
    ranges: list[tuple[float, float]] = []
    off: list[Ending] = []
    for item, timeline in timelines.items():
        spans = timeline.spans(rows[item])
        ends[item] = float(spans[:, 1].max())
        duration_s = stated.get(item) or store.info(item).duration_s
        if not duration_s:
            continue
        low, high = (end / duration_s for end in _possible_ends(timeline, rows[item]))
        ranges.append((low, high))
        if not low <= 1 <= high:
            off.append(Ending(item, ends[item], duration_s))
    off.sort(key=lambda ending: -abs(np.log(max(ending.ratio, 1e-9))))
    return ends, _agreed(ranges), tuple(off), len(ranges)


def _possible_ends(timeline: Timeline, num_rows: int) -> tuple[float, float]:
    """Between which times the video ends that such rows were made from."""
    spans = timeline.spans(num_rows)
    last = int(spans[:, 1].argmax())
    window = float(spans[last, 1] - spans[last, 0])
    if isinstance(timeline, TimeGrid):
        stride = float(timeline.stride_s)
    else:
        stride = float(np.median(np.diff(np.sort(spans[:, 0])))) if num_rows > 1 else window
    center = float(spans[last].mean())
    return center - max(stride, window) / 2, center + window / 2 + 1.5 * stride


def _agreed(ranges: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """What nearly all ranges share: the part around 1 if they share that, else the one that the most share."""
    if not ranges:
        return None
    lows, highs = np.sort(np.array(ranges), axis=0).T
    with_one = [(low, high) for low, high in ranges if low <= 1 <= high]
    if len(with_one) >= _AGREEING * len(ranges):
        return max(low for low, _ in with_one), min(high for _, high in with_one)
    edges = np.unique(np.concatenate([lows, highs]))
    middles = (edges[1:] + edges[:-1]) / 2
    support = np.searchsorted(lows, middles, "right") - np.searchsorted(highs, middles, "left")
    best = np.flatnonzero(support == support.max())
    if support[best[0]] < _AGREEING * len(ranges):
        return None
    # Only the first of several parts: between them the support is lower.
    last = best[int(np.argmax(np.diff(best, append=best[-1] + 2) > 1))]
    return float(edges[best[0]]), float(edges[last + 1])


def _time_problems(
    spec: StreamSpec, ratio: tuple[float, float] | None, off: Sequence[Ending], num_timed: int
) -> list[str]:
    if not off:
        return []
    worst = off[0]
    text = (
        f"the rows of {len(off)} of {num_timed} items end elsewhere than their videos, the worst {worst.item_id!r}: "
        f"rows to {worst.rows_end_s:.1f} s, duration {worst.duration_s:.1f} s."
    )
    if ratio is not None and not ratio[0] <= 1 <= ratio[1]:
        return [f"{text} {_advice(spec, ratio)}"]
    if ratio is None:
        text += (
            " No single rate explains them: if the features were made at each video's own rate, import them again with "
            "--facts FILE.csv, columns item_id,fps."
        )
    else:
        text += " The others agree, so that these files or the durations stated for them may be wrong."
    return [text]


def _advice(spec: StreamSpec, ratio: tuple[float, float]) -> str:
    """What the rows look like, and how to import them again."""
    middle = (ratio[0] + ratio[1]) / 2
    said = f"All rows together last about {middle:.3g} times as long as the videos."
    if not spec.encoder.startswith("import:"):
        return f"{said} Are these the videos that the annotations are of?"
    if spec.timeline == "grid" and str(spec.options.get("stride", "")).endswith("s"):
        return f"{said} Import them again with --window and --stride divided by that."
    fps = _given_fps(spec)
    if fps is None:
        return f"{said} Import them again with the frame rates of the items multiplied by that."
    likely = _likely_fps(fps, ratio)
    return (
        f"The rows look as if made at {likely:g} frames per second, not {float(fps):g}: import them again with "
        f"--fps {likely:g}."
    )


def _given_fps(spec: StreamSpec) -> Fraction | None:
    try:
        return parse_fps(str(spec.sampling.get("fps", "")))
    except OptionError:  # each item had its own
        return None


def _likely_fps(fps: Fraction, ratio: tuple[float, float]) -> float:
    low, high = float(fps) * ratio[0], float(fps) * ratio[1]
    middle = (low + high) / 2
    fitting = [rate for rate in _COMMON_FPS if low <= rate <= high]
    return min(fitting, key=lambda rate: abs(rate - middle)) if fitting else round(middle, 2)


def _outside(
    segments: Sequence[Segment], timelines: Mapping[str, Timeline], rows: Mapping[str, int], ends: Mapping[str, float]
) -> tuple[tuple[Outside, ...], tuple[Outside, ...]]:
    """Annotations without any row; and those that end after the last row."""
    without: list[Outside] = []
    beyond: list[Outside] = []
    for segment in segments:
        timeline = timelines.get(segment.item_id)
        if timeline is None:
            continue
        num_rows = rows[segment.item_id]
        late = segment.span.end_s - ends[segment.item_id]
        found = timeline.rows_in(segment.span, num_rows)
        empty = found.start >= found.stop if isinstance(found, slice) else not len(found)
        if empty:
            spans = timeline.spans(num_rows)
            away = np.maximum(spans[:, 0] - segment.span.end_s, segment.span.start_s - spans[:, 1]).min()
            without.append(Outside(segment.item_id, segment.id, float(max(away, 0.0))))
        elif late > 0:
            beyond.append(Outside(segment.item_id, segment.id, late))
    for found_outside in (without, beyond):
        found_outside.sort(key=lambda one: -one.beyond_s)
    return tuple(without), tuple(beyond)


def _counts(segments: Iterable[Segment], task: str, classes: Sequence[str]) -> dict[str, int]:
    counts = Counter(segment.labels[task] for segment in segments if task in segment.labels)
    return {name: counts[index] for index, name in enumerate(classes)}


def _stream_lines(check: StreamCheck) -> list[str]:
    others = f"; {check.num_others} items of the store are not in the annotations" if check.num_others else ""
    text = [
        f"{check.stream} ({check.store}): {check.num_matched} items have rows, {len(check.missing)} lack them{others}."
    ]
    if check.num_timed:
        right = check.num_timed - len(check.off)
        text.append(f"  rows end where videos do in {right} of {check.num_timed} items of known duration")
    else:
        text.append(
            "  no duration is known, so that rates cannot be checked: give --durations FILE.csv (item_id,duration_s)"
        )
    if check.beyond:
        worst = check.beyond[0]
        text.append(
            f"  {len(check.beyond)} annotations end after the last row, the worst by {worst.beyond_s:.2f} s "
            f"({worst.annotation_id or 'one'} of {worst.item_id})"
        )
    return text


def _class_line(task: str, split: str, counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    absent = [name for name, count in ordered if not count]
    shown = ", ".join(f"{name} {count}" for name, count in ordered[:5] if count)
    text = (
        f"{task}, {split}: {sum(counts.values()):,} annotations of {len(counts)} classes; most often {shown or 'none'}"
    )
    return text + (f"; never: {named(absent, most=5)}" if absent else "")
