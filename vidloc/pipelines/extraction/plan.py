"""What an extraction will do, found out before it starts: items, streams, rows, bytes, weights, what is done."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from vidloc.core.numbered_pictures import FrameRate
from vidloc.errors import MediaError
from vidloc.extract import media
from vidloc.extract.track_times import TrackTimes, track_times
from vidloc.pipelines.extraction.encoders import StreamLayout
from vidloc.pipelines.extraction.item_work import ItemWork, work_of
from vidloc.pipelines.extraction.items import Items
from vidloc.pipelines.extraction.layout import RowLayout
from vidloc.pipelines.extraction.report import Outcome, duration, named
from vidloc.pipelines.extraction.segment_views import KEY_FIELD, SegmentLayout
from vidloc.pipelines.extraction.stream_plan import StreamPlan
from vidloc.stores.base import FeatureStore, ItemEntry

# Headers read to estimate the work; of more videos, evenly spread ones stand for all.
_MAX_PROBED = 256
_PROBING_THREADS = 8


@dataclass(frozen=True)
class ExtractPlan:
    """The work of one run.

    Attributes:
        store: path of the store.
        device: where the networks run.
        work: items to do with the streams each lacks, in order.
        num_found: items that can be worked on.
        already_done: those with nothing to do.
        tried_before: items of `work` that failed in an earlier run.
        earlier: what earlier runs left partial.
        missing: items the annotations name for which no file was found.
        ignored: files below the root that were not taken, with the reason.
        streams: one entry per encoder.
        video_s: estimated seconds of video to do; `None` where no file could be read.
        num_probed: how many headers that estimate rests on; 0 where the annotations state durations.
        fps: median frame rate of the probed files.
        notes: what the reader of the annotations or of the corpus's folders wants to be known.
        missing_weights: why weights are missing and how to get them, by stream.
    """

    store: str
    device: str
    work: tuple[ItemWork, ...]
    num_found: int
    already_done: int
    tried_before: tuple[str, ...]
    earlier: tuple[Outcome, ...]
    missing: tuple[str, ...]
    ignored: Mapping[str, str]
    streams: tuple[StreamPlan, ...]
    video_s: float | None
    num_probed: int
    fps: Fraction | None
    notes: tuple[str, ...]
    missing_weights: Mapping[str, str]

    @property
    def num_samples(self) -> int:
        """What all encoders will be fed, estimated."""
        return sum(stream.num_samples for stream in self.streams)

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "store": self.store,
            "device": self.device,
            "items_found": self.num_found,
            "items_already_done": self.already_done,
            "items_to_do": [item.item_id for item in self.work],
            "items_tried_before": list(self.tried_before),
            "missing": list(self.missing),
            "ignored": dict(self.ignored),
            "video_hours": None if self.video_s is None else round(self.video_s / 3600, 6),
            "headers_read": self.num_probed,
            "frame_rates": {
                item.item_id: {"fps": str(item.frame_rate.fps), "basis": item.frame_rate.basis}
                for item in self.work
                if item.frame_rate is not None
            },
            "flow_rates": {
                item.item_id: {"fps": str(item.flow.rate.fps), "basis": item.flow.rate.basis}
                for item in self.work
                if item.flow is not None
            },
            "streams": {plan.spec.name: plan.as_json() for plan in self.streams},
            "notes": list(self.notes),
            "missing_weights": dict(self.missing_weights),
        }

    def lines(self) -> list[str]:
        """The plan for people."""
        partial = len({outcome.item_id for outcome in self.earlier})
        text = [
            f"Store {self.store}, on {self.device}.",
            f"{self.num_found} items found; {self.already_done} done already"
            + (f" ({partial} of all items partial)" if partial else "")
            + f", {len(self.work)} to do"
            + (f" ({len(self.tried_before)} failed before and are tried again)" if self.tried_before else "")
            + ".",
        ]
        if self.missing:
            text.append(f"Missing: {len(self.missing)} videos that the annotations name: {named(self.missing)}.")
        if self.ignored:
            text.append(f"Not taken for videos: {len(self.ignored)} files ({named(list(self.ignored), most=3)}).")
        text += _rate_lines("Numbered pictures", [i.frame_rate for i in self.work if i.frame_rate is not None])
        text += _rate_lines("Released flow", [i.flow.rate for i in self.work if i.flow is not None])
        for plan in self.streams:
            text += plan.lines(self.fps, missing=plan.spec.name in self.missing_weights)
        if self.video_s is not None and self.work:
            basis = f"the headers of {self.num_probed} files" if self.num_probed else "the annotations"
            text.append(
                f"About {duration(self.video_s)} of video (from {basis}); "
                "how long that takes is measured on the first clips and said then."
            )
        text += [f"Weights are missing for {name}: {why}" for name, why in self.missing_weights.items()]
        return [*text, *(f"Note: {note}" for note in self.notes)]


def make_plan(
    items: Items,
    encoders: Sequence[StreamLayout],
    store: FeatureStore | None,
    *,
    path: str,
    device: str,
    missing_weights: Mapping[str, str] = MappingProxyType({}),
) -> ExtractPlan:
    """Compare what is wanted with what the store holds.

    Args:
        store: `None` where nothing has been written yet.
        path: path of the store, to be shown.
        missing_weights: by stream, as `preview_encoders` found it.
    """
    entries = _entries(store, encoders)
    known = set(store.items()) if store is not None else set()
    work, tried_before, earlier = [], [], []
    for item in items.ids:
        states = {name: found.get(item) for name, found in entries.items()}
        lacking = tuple(e.stream for e in encoders if _is_lacking(states[e.stream], e, items, item, store))
        if lacking:
            info = store.info(item) if store is not None and item in known else None
            work.append(work_of(items, item, lacking, info))
        if any((state := states[name]) is not None and state.status == "failed" for name in lacking):
            tried_before.append(item)
        earlier += [
            Outcome(item, name, "partial", state.num_rows, state.reason, earlier=True)
            for name, state in states.items()
            if state is not None and state.status == "partial"
        ]
    lengths = _lengths(work, items, encoders)
    return ExtractPlan(
        store=path,
        device=device,
        work=tuple(work),
        num_found=len(items.ids),
        already_done=len(items.ids) - len(work),
        tried_before=tuple(tried_before),
        earlier=tuple(earlier),
        missing=items.missing,
        ignored=items.ignored,
        streams=tuple(_stream_plan(encoder, work, items, lengths) for encoder in encoders),
        video_s=sum(lengths.seconds.values()) if lengths.seconds else None,
        num_probed=lengths.num_probed,
        fps=lengths.fps,
        notes=items.notes,
        missing_weights=missing_weights,
    )


def _entries(store: FeatureStore | None, encoders: Sequence[StreamLayout]) -> dict[str, Mapping[str, ItemEntry]]:
    known = store.streams() if store is not None else {}
    return {e.stream: store.entries(e.stream) if store is not None and e.stream in known else {} for e in encoders}


def _is_lacking(
    state: ItemEntry | None, encoder: StreamLayout, items: Items, item: str, store: FeatureStore | None
) -> bool:
    if state is None or state.status == "failed":
        return True
    if isinstance(encoder.rows, SegmentLayout):
        # Segments may have come with annotations that an earlier run was not given; those of a damaged video or beyond
        # its end would be missed again.
        wanted = {segment.id for segment in items.segments.get(item, ())}
        if state.status == "done" and store is not None:
            return not wanted <= set(store.read(encoder.stream, item).strings(KEY_FIELD))
        return state.status == "absent" and bool(wanted)
    # Sentences may have come with annotations that an earlier run was not given.
    return state.status == "absent" and encoder.rows is None and bool(items.narrations.get(item))


@dataclass(frozen=True)
class _Lengths:
    """What is known of the items to do before any is decoded.

    Attributes:
        seconds: duration by item.
        rates: frames per second by item, as headers state them.
        fps: the median of those.
        num_probed: how many headers were read for it.
    """

    seconds: Mapping[str, float]
    rates: Mapping[str, Fraction]
    fps: Fraction | None
    num_probed: int

    def times(self, item_id: str) -> TrackTimes | None:
        """An estimate of what the item's packets will tell; `None` where no rate is known."""
        fps = self.rates.get(item_id, self.fps)
        if fps is None:
            return None
        seconds = Fraction(self.seconds[item_id])
        return TrackTimes(round(seconds * fps), seconds, fps)


def _lengths(work: Sequence[ItemWork], items: Items, encoders: Sequence[StreamLayout]) -> _Lengths:
    with_file = [item for item in work if item.path is not None or item.flow is not None]
    stated = {item.item_id: items.durations_s[item.item_id] for item in with_file if item.item_id in items.durations_s}
    known = {item.item_id: rate.fps for item in with_file if (rate := _rate_of(item)) is not None}
    # Annotations state durations, but no frame rates of video files.
    rates_matter = any(isinstance(e.rows, RowLayout) and e.rows.needs_times for e in encoders)
    unknown = [i for i in with_file if i.item_id not in stated or (rates_matter and i.item_id not in known)]
    step = max(len(unknown) // _MAX_PROBED, 1)
    probed = unknown[::step][:_MAX_PROBED]
    with ThreadPoolExecutor(_PROBING_THREADS) as pool:
        found = dict(zip((item.item_id for item in probed), pool.map(_header, probed), strict=True))
    lengths = {item: length for item, (length, _) in found.items() if length is not None}
    rates = known | {item: rate for item, (_, rate) in found.items() if rate is not None}
    typical = statistics.fmean(lengths.values()) if lengths else 0.0
    guessed = {item.item_id: typical for item in unknown}
    return _Lengths(
        guessed | lengths | stated, rates, statistics.median_low(rates.values()) if rates else None, len(probed)
    )


def _rate_of(item: ItemWork) -> FrameRate | None:
    """The rate of an item's pictures, known without a look at them."""
    if item.path is None and item.flow is not None:
        return item.flow.rate
    return item.frame_rate


def _header(item: ItemWork) -> tuple[float | None, Fraction | None]:
    try:
        if item.path is None:
            if item.flow is None:
                return None, None
            times = track_times(item.flow.path, item.flow.rate, pairs=True)
            return float(times.duration_s), times.fps
        if item.frame_rate is not None:
            times = track_times(item.path, item.frame_rate)
            return float(times.duration_s), times.fps
        found = media.probe(item.path)
    except MediaError:
        return None, None  # the run itself meets and reports it
    return found.duration_s, Fraction(found.fps_nominal) if found.fps_nominal else None


def _num_rows(layout: RowLayout, item_id: str, lengths: _Lengths) -> int:
    times = lengths.times(item_id)
    if times is None and layout.needs_times:
        return 0  # no header could be read, or none states a rate
    return layout.windows(times).num_rows(lengths.seconds[item_id])


def _stream_plan(encoder: StreamLayout, work: Sequence[ItemWork], items: Items, lengths: _Lengths) -> StreamPlan:
    mine = [item.item_id for item in work if encoder.stream in item.streams]
    layout = encoder.rows
    num_samples = None
    if layout is None:
        rows = sum(len(items.narrations.get(item, ())) for item in mine)
    elif isinstance(layout, SegmentLayout):
        rows = sum(len(items.segments.get(item, ())) for item in mine)
        num_samples = rows * layout.views.count
    else:
        rows = sum(_num_rows(layout, item, lengths) for item in mine if item in lengths.seconds)
    dense, ragged = 0, dict[str, int]()
    for field in encoder.spec.fields.values():
        size = int(np.prod(field.entry_shape, dtype=np.int64)) * np.dtype(field.dtype).itemsize
        if field.axis is None:
            dense += size
        else:
            ragged[field.axis] = ragged.get(field.axis, 0) + size
    return StreamPlan(encoder.spec, len(mine), rows, dense, ragged, rows if num_samples is None else num_samples)


def _rate_lines(what: str, rates: Sequence[FrameRate]) -> list[str]:
    counted = Counter((rate.fps, rate.basis) for rate in rates)
    return [
        f"{what}: {count} items at {float(fps):.6g} fps ({basis})." for (fps, basis), count in counted.most_common()
    ]
