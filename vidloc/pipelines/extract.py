"""Videos in, a feature store out: one decode pass per video feeds every encoder, one commit per item.

    from vidloc.pipelines.extract import Selection, extract
    report = extract("feats.zarr", ["slowfast_r50:weights=random:0"], Selection(videos=Path("list.csv")))

The steps are files of `vidloc.pipelines.extraction`: which items (`items`), which encoders (`encoders`), what is left
to do (`plan`), decoding (`decoding`, ahead of the encoders by `background`), batches (`batching`), rows gathered
(`encoding`), commits (`session`, behind the encoders).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import MappingProxyType

from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.extract.base import FlowInput
from vidloc.pipelines.extraction.devices import choose_devices
from vidloc.pipelines.extraction.encoders import StreamLayout, build_encoders, check_encoders, preview_encoders
from vidloc.pipelines.extraction.in_process import run_in_process
from vidloc.pipelines.extraction.interrupts import Interrupts
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.items import Items, Selection, find_items
from vidloc.pipelines.extraction.layout import DEFAULT_STRIDE_S
from vidloc.pipelines.extraction.plan import ExtractPlan, make_plan
from vidloc.pipelines.extraction.progress import Progress, Silent
from vidloc.pipelines.extraction.report import ExtractReport, Timing
from vidloc.pipelines.extraction.segment_views import SegmentLayout, Views
from vidloc.pipelines.extraction.session import Session
from vidloc.pipelines.extraction.workers import Workers
from vidloc.stores.backends import store_exists
from vidloc.stores.base import FeatureStore, append_to_store, open_store
from vidloc.stores.fitting import check_same_origin

__all__ = ["DEFAULT_STRIDE_S", "ExtractPlan", "ExtractReport", "Selection", "extract", "plan_extraction"]

Run = Callable[[Sequence[ItemWork], Session, Progress, Interrupts], Timing]


def extract(
    store: str | Path,
    encoders: Sequence[str | EncoderPlan],
    selection: Selection,
    *,
    stride_s: Fraction = DEFAULT_STRIDE_S,
    layout: Mapping[str, str] = MappingProxyType({}),
    views: Views | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> ExtractReport:
    """Run encoders over videos and append the rows to a store, which is made where there is none.

    Items that the store holds are skipped stream by stream, so the same call resumes after a stop, and a call with one
    more encoder does the work of that encoder alone. Ctrl-C and SIGTERM end the run in order; the report tells.

    Args:
        store: path of the store; its suffix (`.zarr`, `.h5`) names the backend of a new one.
        encoders: `[STREAM=]NAME[:option=value,...]` each, or the same parsed.
        selection: which items.
        stride_s: seconds between neighbouring rows, for encoders that do not say otherwise.
        layout: further words of `vidloc.pipelines.extraction.layout` for the same: `{"align": "start"}`.
        views: a row per annotated segment with these views, in place of windows over the whole item.
        device: `auto`, `cpu`, `cuda` or `cuda:NUMBER`; or several, as `choose_devices` reads them, with a worker
            process each.
        progress: told of the plan and of each step; says nothing by default.

    Raises:
        OptionError, UnknownNameError, WeightsError, AnnotationError: a wrong request, before any work.
        MediaError: there is nothing to work on. A file that cannot be read is no error; it is reported.
        StoreError: the store is locked, damaged, or cannot be written.
        ProvenanceError: the store holds rows of another origin under one of the stream names.
        DeviceError: the device, or the last worker, was lost; what was committed is safe.
    """
    devices = choose_devices(device)
    plans = _parsed(encoders)
    where = ", ".join(map(str, devices))
    told = progress or Silent()
    if len(devices) == 1:
        ready = build_encoders(plans, stride_s=stride_s, layout=layout, views=views, device=devices[0])
        return _extract(store, ready, selection, partial(run_in_process, encoders=ready), where, told)
    check_encoders(plans, stride_s=stride_s, layout=layout, views=views)
    with Workers(devices, plans, stride_s=stride_s, layout=layout, views=views) as workers:
        return _extract(store, workers.streams(), selection, workers.run, where, told)


def plan_extraction(
    store: str | Path,
    encoders: Sequence[str | EncoderPlan],
    selection: Selection,
    *,
    stride_s: Fraction = DEFAULT_STRIDE_S,
    layout: Mapping[str, str] = MappingProxyType({}),
    views: Views | None = None,
    device: str = "auto",
) -> ExtractPlan:
    """What `extract` would do with the same arguments; writes nothing and takes no lock.

    Weights that are missing do not end it: the plan says which, and how to get them.

    Raises:
        VidlocError: as `extract`, apart from missing weights and a locked store.
    """
    devices = choose_devices(device)
    ready, missing = preview_encoders(
        _parsed(encoders), stride_s=stride_s, layout=layout, views=views, device=devices[0]
    )
    items = items_of(selection, ready)
    where = ", ".join(map(str, devices))
    if not store_exists(store):
        return make_plan(items, ready, None, path=str(store), device=where, missing_weights=missing)
    with open_store(store) as reader:
        _refuse_other_origin(reader, [encoder for encoder in ready if encoder.stream not in missing])
        return make_plan(items, ready, reader, path=str(store), device=where, missing_weights=missing)


def _extract(
    store: str | Path, streams: Sequence[StreamLayout], selection: Selection, run: Run, where: str, progress: Progress
) -> ExtractReport:
    """Plan, run and report, whoever does the work."""
    items = items_of(selection, streams)
    begun = time.perf_counter()
    with append_to_store(store) as writer:
        for stream in streams:
            writer.add_stream(stream.spec)
        plan = make_plan(items, streams, writer, path=str(store), device=where)
        session = Session(writer, [stream.stream for stream in streams], plan.work)
        progress.start(plan)
        with Interrupts() as interrupts:
            timing = run(plan.work, session, progress, interrupts)
        signal = interrupts.signal
        if signal is not None:
            writer.stop()  # rewriting a large HDF5 file would outlast the patience of a scheduler
    timing.wall_s = time.perf_counter() - begun
    return ExtractReport(
        store=str(store),
        outcomes=tuple(sorted((*plan.earlier, *session.outcomes), key=lambda o: (o.item_id, o.stream))),
        already_done=plan.already_done,
        missing=plan.missing,
        not_reached=len(plan.work) - len({o.item_id for o in session.outcomes}),
        rows=session.rows,
        video_s=session.video_s,
        timing=timing,
        interrupted_by=signal,
        staged=signal is not None and writer.backend == "hdf5",
    )


def _parsed(encoders: Sequence[str | EncoderPlan]) -> list[EncoderPlan]:
    return [parse_encoder(text) if isinstance(text, str) else text for text in encoders]


def items_of(selection: Selection, streams: Sequence[StreamLayout]) -> Items:
    """The items of a run, with what its streams need to know of them; see `find_items` for errors."""
    return find_items(
        selection,
        text_only=bool(streams) and all(stream.rows is None for stream in streams),
        per_segment=any(isinstance(stream.rows, SegmentLayout) for stream in streams),
        released_flow=any(stream.rows is not None and isinstance(stream.rows.wanted, FlowInput) for stream in streams),
    )


def _refuse_other_origin(store: FeatureStore, encoders: Sequence[StreamLayout]) -> None:
    known = store.streams()
    for encoder in encoders:
        if encoder.stream in known:
            check_same_origin(known[encoder.stream], encoder.spec, store=Path(store.path))
