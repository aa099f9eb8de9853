"""Videos in, a feature store out: one decode pass per video feeds every encoder, one commit per item.

    from vidloc.pipelines.extract import Selection, extract
    report = extract("feats.zarr", ["slowfast_r50:weights=random:0"], Selection(videos=Path("list.csv")))

The steps are files of `vidloc.pipelines.extraction`: which items (`items`), which encoders (`encoders`), what is left
to do (`plan`), decoding (`decoding`, ahead of the encoders by `background`), batches (`batching`), commits (`session`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.extract.base import TextInput
from vidloc.pipelines.extraction.background import RunAhead
from vidloc.pipelines.extraction.decoding import Arrived, Ended, decode_items, size_of
from vidloc.pipelines.extraction.encoders import StreamEncoder, build_encoders, choose_device
from vidloc.pipelines.extraction.interrupts import Interrupts
from vidloc.pipelines.extraction.items import Items, Selection, find_items
from vidloc.pipelines.extraction.plan import ExtractPlan, make_plan
from vidloc.pipelines.extraction.progress import Progress, Silent
from vidloc.pipelines.extraction.report import ExtractReport, Timing
from vidloc.pipelines.extraction.session import Session
from vidloc.stores.backends import store_exists
from vidloc.stores.base import FeatureStore, append_to_store, open_store
from vidloc.stores.fitting import check_same_origin

__all__ = ["DEFAULT_STRIDE_S", "ExtractPlan", "ExtractReport", "Selection", "extract", "plan_extraction"]

DEFAULT_STRIDE_S = Fraction(1, 2)
# Samples decoded ahead: some forty SlowFast clips at 256 pixels, enough to keep a GPU fed between two videos.
_AHEAD_BYTES = 256 * 2**20
# How often the main loop looks whether it was interrupted while the decoder is slow.
_POLL_S = 0.2


def extract(
    store: str | Path,
    encoders: Sequence[str | EncoderPlan],
    selection: Selection,
    *,
    stride_s: Fraction = DEFAULT_STRIDE_S,
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
        stride_s: seconds between the centres of neighbouring rows, for all encoders.
        device: `auto`, `cpu`, `cuda` or `cuda:NUMBER`.
        progress: told of the plan and of each step; says nothing by default.

    Raises:
        OptionError, UnknownNameError, WeightsError, AnnotationError: a wrong request, before any work.
        MediaError: there is nothing to work on. A file that cannot be read is no error; it is reported.
        StoreError: the store is locked, damaged, or cannot be written.
        ProvenanceError: the store holds rows of another origin under one of the stream names.
    """
    ready, items = _prepare(encoders, selection, stride_s, device)
    begun = time.perf_counter()
    with append_to_store(store) as writer:
        for encoder in ready:
            writer.add_stream(encoder.spec)
        plan = make_plan(items, ready, writer, path=str(store), device=str(ready[0].encoder.device))
        session = Session(writer, {encoder.stream: encoder for encoder in ready}, plan.work)
        timing = Timing()
        signal = _run(plan, items, ready, session, progress or Silent(), timing)
        if signal is not None:
            writer.stop()  # rewriting a large HDF5 file would outlast the patience of a scheduler
    timing.encode_s = session.encode_s
    timing.write_s = session.write_s
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


def plan_extraction(
    store: str | Path,
    encoders: Sequence[str | EncoderPlan],
    selection: Selection,
    *,
    stride_s: Fraction = DEFAULT_STRIDE_S,
    device: str = "auto",
) -> ExtractPlan:
    """What `extract` would do with the same arguments; writes nothing and takes no lock.

    Raises:
        VidlocError: as `extract`, apart from the store being locked.
    """
    ready, items = _prepare(encoders, selection, stride_s, device)
    where = str(ready[0].encoder.device)
    if not store_exists(store):
        return make_plan(items, ready, None, path=str(store), device=where)
    with open_store(store) as reader:
        _refuse_other_origin(reader, ready)
        return make_plan(items, ready, reader, path=str(store), device=where)


def _prepare(
    encoders: Sequence[str | EncoderPlan], selection: Selection, stride_s: Fraction, device: str
) -> tuple[list[StreamEncoder], Items]:
    plans = [parse_encoder(text) if isinstance(text, str) else text for text in encoders]
    ready = build_encoders(plans, stride_s=stride_s, device=choose_device(device))
    text_only = all(isinstance(encoder.encoder.input, TextInput) for encoder in ready)
    return ready, find_items(selection, text_only=text_only)


def _refuse_other_origin(store: FeatureStore, encoders: Sequence[StreamEncoder]) -> None:
    known = store.streams()
    for encoder in encoders:
        if encoder.stream in known:
            check_same_origin(known[encoder.stream], encoder.spec, store=Path(store.path))


def _run(
    plan: ExtractPlan,
    items: Items,
    encoders: Sequence[StreamEncoder],
    session: Session,
    progress: Progress,
    timing: Timing,
) -> int | None:
    """Decode, encode and commit until all is done or a signal ends it; returns the signal's number."""
    progress.start(plan)
    source = decode_items(plan.work, {encoder.stream: encoder for encoder in encoders}, items.narrations)
    with (
        Interrupts() as interrupts,
        RunAhead(source, size_of=size_of, capacity_bytes=_AHEAD_BYTES) as ahead,
    ):
        try:
            _feed(ahead, session, interrupts, progress)
        finally:
            # After an error of the store, too: what is half done is not to be committed by closing it.
            session.discard()
            timing.decode_s, timing.wait_s = ahead.busy_s, ahead.wait_s
    return interrupts.signal


def _feed(ahead: RunAhead[Arrived | Ended], session: Session, interrupts: Interrupts, progress: Progress) -> None:
    at_hand: set[str] | None = None
    while not ahead.exhausted:
        if interrupts.signal is not None and at_hand is None:
            at_hand = session.under_way
            progress.say(f"Stopping: {len(at_hand)} items at hand are finished if that takes only seconds.")
        if at_hand is not None and (interrupts.expired or not at_hand & session.under_way):
            return
        event = ahead.take(_POLL_S)
        if event is None:
            continue
        if at_hand is not None and event.item_id not in at_hand:
            break
        progress.items(session.feed(event))
        if isinstance(event, Arrived):
            progress.rows(1)
    progress.items(session.finish())
