"""An extraction on one device, in this process: decoding ahead and writing behind, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vidloc.pipelines.extraction.background import RunAhead, RunBehind
from vidloc.pipelines.extraction.decoding import Arrived, Ended, decode_items, size_of
from vidloc.pipelines.extraction.encoders import StreamEncoder
from vidloc.pipelines.extraction.encoding import Encoding, Finished, Piece
from vidloc.pipelines.extraction.interrupts import Interrupts
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.progress import Progress
from vidloc.pipelines.extraction.report import Timing
from vidloc.pipelines.extraction.session import Session

# Samples decoded ahead: some forty SlowFast clips at 256 pixels, enough to keep a GPU fed between two videos.
AHEAD_BYTES = 256 * 2**20
# Rows that may wait for the disk.
BEHIND_BYTES = 64 * 2**20
# How often a loop that waits looks whether it was interrupted.
POLL_S = 0.2


def row_bytes(message: object) -> int:
    """Bytes that wait with a message; what holds no rows weighs nothing."""
    return message.num_bytes if isinstance(message, Piece) else 0


def run_in_process(
    work: Sequence[ItemWork],
    session: Session,
    progress: Progress,
    interrupts: Interrupts,
    *,
    encoders: Sequence[StreamEncoder],
) -> Timing:
    """Decode, encode and commit until all is done or a signal ends it; returns where the time went."""
    by_name = {encoder.stream: encoder for encoder in encoders}
    encoding = Encoding(by_name)
    behind = RunBehind[Piece | Finished](session.take, size_of=row_bytes, capacity_bytes=BEHIND_BYTES)
    ahead = RunAhead(decode_items(work, by_name), size_of=size_of, capacity_bytes=AHEAD_BYTES)
    timing = Timing()
    try:
        with behind, ahead:
            _feed(ahead, encoding, behind.put, session, progress, interrupts, timing)
    finally:
        # After an error of the store, too: what is half done is not to be committed by closing it.
        session.discard()
        progress.items(session.news())
    timing.decode_s, timing.wait_s, timing.write_wait_s = ahead.busy_s - timing.prepare_s, ahead.wait_s, behind.wait_s
    timing.encode_s, timing.write_s = encoding.encode_s, session.write_s
    return timing


def _feed(
    ahead: RunAhead[Arrived | Ended],
    encoding: Encoding,
    put: Callable[[Piece | Finished], None],
    session: Session,
    progress: Progress,
    interrupts: Interrupts,
    timing: Timing,
) -> None:
    at_hand: set[str] | None = None
    while not ahead.exhausted:
        if interrupts.signal is not None and at_hand is None:
            at_hand = encoding.under_way
            progress.say(f"Stopping: {len(at_hand)} items at hand are finished if that takes only seconds.")
        if at_hand is not None and (interrupts.expired or not at_hand & encoding.under_way):
            return
        event = ahead.take(POLL_S)
        if event is None:
            continue
        if at_hand is not None and event.item_id not in at_hand:
            break
        for message in encoding.feed(event):
            put(message)
        progress.items(session.news())
        if isinstance(event, Arrived):
            progress.rows(1)
        else:
            timing.prepare_s += event.prepare_s
    for message in encoding.finish():
        put(message)
