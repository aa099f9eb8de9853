"""What an extraction will do, found out before it starts: items, streams, rows, bytes, weights, what is done."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

from vidloc.core.records import ItemInfo, Narration
from vidloc.core.timeline import num_center_rows
from vidloc.errors import MediaError
from vidloc.extract import media
from vidloc.pipelines.extraction.encoders import StreamLayout
from vidloc.pipelines.extraction.items import Items
from vidloc.pipelines.extraction.report import Outcome, duration, named
from vidloc.stores.base import FeatureStore, ItemEntry, StreamSpec

# Headers read to estimate the work; of more videos, evenly spread ones stand for all.
_MAX_PROBED = 256
_PROBING_THREADS = 8


@dataclass(frozen=True)
class ItemWork:
    """One item, and the streams that lack it.

    Attributes:
        path: its file; `None` for items of text alone.
        info: what an earlier run found of it.
        narrations: its sentences, for text streams.
    """

    item_id: str
    path: Path | None
    streams: tuple[str, ...]
    info: ItemInfo | None = None
    narrations: tuple[Narration, ...] = ()

    @property
    def path_name(self) -> str:
        """Name of the file, empty where there is none."""
        return self.path.name if self.path is not None else ""


@dataclass(frozen=True)
class StreamPlan:
    """What one stream will get.

    Attributes:
        num_items: items to do.
        num_rows: estimated rows; exact for text.
        dense_bytes_per_row: bytes of the fields that every row has once.
        ragged_bytes: bytes per entry, by ragged axis (the regions of a frame); how many there will be is not known.
    """

    spec: StreamSpec
    num_items: int
    num_rows: int
    dense_bytes_per_row: int
    ragged_bytes: Mapping[str, int]


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
        notes: what the annotations' reader wants to be known.
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
    fps: float | None
    notes: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        """Estimated rows of all streams."""
        return sum(stream.num_rows for stream in self.streams)

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
            "streams": {plan.spec.name: _stream_json(plan) for plan in self.streams},
            "notes": list(self.notes),
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
        text += [line for plan in self.streams for line in _stream_lines(plan, self.fps)]
        if self.video_s is not None and self.work:
            basis = f"the headers of {self.num_probed} files" if self.num_probed else "the annotations"
            text.append(
                f"About {duration(self.video_s)} of video (from {basis}); "
                "how long that takes is measured on the first clips and said then."
            )
        return [*text, *(f"Note: {note}" for note in self.notes)]


def make_plan(
    items: Items, encoders: Sequence[StreamLayout], store: FeatureStore | None, *, path: str, device: str
) -> ExtractPlan:
    """Compare what is wanted with what the store holds.

    Args:
        store: `None` where nothing has been written yet.
        path: path of the store, to be shown.
    """
    entries = _entries(store, encoders)
    known = set(store.items()) if store is not None else set()
    work, tried_before, earlier = [], [], []
    for item in items.ids:
        states = {name: found.get(item) for name, found in entries.items()}
        lacking = tuple(e.stream for e in encoders if _is_lacking(states[e.stream], e, items, item))
        if lacking:
            info = store.info(item) if store is not None and item in known else None
            work.append(ItemWork(item, items.paths.get(item), lacking, info, items.narrations.get(item, ())))
        if any((state := states[name]) is not None and state.status == "failed" for name in lacking):
            tried_before.append(item)
        earlier += [
            Outcome(item, name, "partial", state.num_rows, state.reason, earlier=True)
            for name, state in states.items()
            if state is not None and state.status == "partial"
        ]
    durations, fps, num_probed = _durations(work, items)
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
        streams=tuple(_stream_plan(encoder, work, items, durations) for encoder in encoders),
        video_s=sum(durations.values()) if durations else None,
        num_probed=num_probed,
        fps=fps,
        notes=items.notes,
    )


def _entries(store: FeatureStore | None, encoders: Sequence[StreamLayout]) -> dict[str, Mapping[str, ItemEntry]]:
    known = store.streams() if store is not None else {}
    return {e.stream: store.entries(e.stream) if store is not None and e.stream in known else {} for e in encoders}


def _is_lacking(state: ItemEntry | None, encoder: StreamLayout, items: Items, item: str) -> bool:
    if state is None or state.status == "failed":
        return True
    # Sentences may have come with annotations that an earlier run was not given.
    return state.status == "absent" and encoder.grid is None and bool(items.narrations.get(item))


def _durations(work: Sequence[ItemWork], items: Items) -> tuple[dict[str, float], float | None, int]:
    """Seconds by item to do, the median frame rate, and how many headers were read for it."""
    with_file = [item for item in work if item.path is not None]
    stated = {item.item_id: items.durations_s[item.item_id] for item in with_file if item.item_id in items.durations_s}
    unknown = [item for item in with_file if item.item_id not in stated]
    if not unknown:
        return stated, None, 0
    step = max(len(unknown) // _MAX_PROBED, 1)
    probed = unknown[::step][:_MAX_PROBED]
    with ThreadPoolExecutor(_PROBING_THREADS) as pool:
        found = list(pool.map(_header, probed))
    lengths = [length for length, _ in found if length is not None]
    rates = [rate for _, rate in found if rate is not None]
    typical = statistics.fmean(lengths) if lengths else 0.0
    by_item = {item.item_id: length for item, (length, _) in zip(probed, found, strict=True) if length is not None}
    guessed = {item.item_id: typical for item in unknown}
    return stated | guessed | by_item, statistics.median(rates) if rates else None, len(probed)


def _header(item: ItemWork) -> tuple[float | None, float | None]:
    if item.path is None:
        return None, None
    try:
        found = media.probe(item.path)
    except MediaError:
        return None, None  # the run itself meets and reports it
    rate = Fraction(found.fps_nominal) if found.fps_nominal else None
    return found.duration_s, float(rate) if rate else None


def _stream_plan(
    encoder: StreamLayout, work: Sequence[ItemWork], items: Items, durations: Mapping[str, float]
) -> StreamPlan:
    mine = [item.item_id for item in work if encoder.stream in item.streams]
    if encoder.grid is None:
        rows = sum(len(items.narrations.get(item, ())) for item in mine)
    else:
        stride = encoder.grid.stride_s
        rows = sum(num_center_rows(stride, durations[item]) for item in mine if item in durations)
    dense, ragged = 0, dict[str, int]()
    for field in encoder.spec.fields.values():
        size = int(np.prod(field.entry_shape, dtype=np.int64)) * np.dtype(field.dtype).itemsize
        if field.axis is None:
            dense += size
        else:
            ragged[field.axis] = ragged.get(field.axis, 0) + size
    return StreamPlan(encoder.spec, len(mine), rows, dense, ragged)


def _stream_json(plan: StreamPlan) -> dict[str, Any]:
    spec = plan.spec
    return {
        "encoder": spec.encoder,
        "items": plan.num_items,
        "rows": plan.num_rows,
        "bytes": plan.num_rows * plan.dense_bytes_per_row,
        "bytes_per_entry": dict(plan.ragged_bytes),
        "sampling": dict(spec.sampling),
        "weights": spec.weights,
        "weights_sha256": spec.weights_sha256,
        "licence": spec.source.licence,
        "fields": {name: f.model_dump(mode="json") for name, f in spec.fields.items()},
    }


def _stream_lines(plan: StreamPlan, fps: float | None) -> list[str]:
    spec = plan.spec
    stored = ", ".join(f"{name}{f}" for name, f in spec.fields.items())
    halved = any(f.dtype == "float16" for f in spec.fields.values())
    size = f", {plan.num_rows * plan.dense_bytes_per_row / 1e6:,.1f} MB" if plan.dense_bytes_per_row else ""
    size += "".join(f", and {size:,} bytes per entry of {axis}" for axis, size in plan.ragged_bytes.items() if size > 1)
    text = [
        f"  {spec.name} ({spec.encoder}): {plan.num_items} items, about {plan.num_rows:,} rows{size}",
        f"    {_window(spec, fps)}",
        f"    stored as {stored}" + (" (option dtype=float32 keeps full precision)" if halved else ""),
    ]
    if spec.weights_sha256.startswith("random:"):
        text.append(
            f"    WEIGHTS ARE RANDOM ({spec.weights_sha256}): an untrained network, good for trying things out."
        )
    elif spec.weights_sha256:
        licence = spec.source.licence or "not stated"
        text.append(f"    weights {spec.weights} (sha256 {spec.weights_sha256[:12]}); licence: {licence}")
    flow = spec.preprocessing.get("flow")
    return [*text, _flow_line(flow)] if isinstance(flow, Mapping) else text


def _flow_line(flow: Mapping[str, JsonValue]) -> str:
    sha256 = str(flow.get("weights_sha256", ""))
    if sha256.startswith("random:"):
        return f"    optical flow by {flow['algorithm']}, WHOSE WEIGHTS ARE RANDOM ({sha256})"
    learned = f", weights {flow['weights']} (sha256 {sha256[:12]}); licence: {flow['licence']}" if sha256 else ""
    return f"    optical flow by {flow['algorithm']}{learned}"


def _window(spec: StreamSpec, fps: float | None) -> str:
    rule = spec.sampling
    if "stride_s" not in rule:
        return "one row per annotated sentence"
    stride, window = Fraction(str(rule["stride_s"])), Fraction(str(rule["window_s"]))
    stride_frames = f" ({float(stride) * fps:.4g} frames at {fps:.4g} fps)" if fps else ""
    every = f"every {float(stride):g} s{stride_frames}"
    if "num_samples" in rule:
        made_of = f"{rule['num_samples']} samples at {rule['sample_rate_hz']} Hz"
    elif rule["num_frames"] == 1:
        return f"one frame {every}"
    else:
        made_of = f"{rule['num_frames']} frames"
        made_of += f" and {rule['frames_after_window']} after" if "frames_after_window" in rule else ""
    return f"windows of {float(window):.4g} s ({made_of}) {every}"
