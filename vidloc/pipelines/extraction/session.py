"""Items under way: rows gathered per (item, stream) as they come back, handed to the store, committed when complete."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from vidloc.core.records import ItemInfo, Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans, Timeline
from vidloc.pipelines.extraction.batching import Batcher, Encoded
from vidloc.pipelines.extraction.decoding import Arrived, Ended, TrackEnd
from vidloc.pipelines.extraction.encoders import StreamEncoder
from vidloc.pipelines.extraction.plan import ItemWork
from vidloc.pipelines.extraction.report import Outcome
from vidloc.stores.base import FeatureWriter
from vidloc.stores.tables import WITH_ROWS

# Rows handed to the store at a time: few enough to cost no memory, enough to make the call worth it.
_PIECE_ROWS = 256
# Items that may wait for a batch to fill before batches are sent off part-filled: bounds what a kill can lose.
_MAX_UNDER_WAY = 32


def crosses_items(encoder: StreamEncoder) -> bool:
    """Whether a part-filled batch waits for the next item: on GPUs; a CPU gains nothing by it."""
    return encoder.encoder.device.type != "cpu"


@dataclass
class _Stream:
    """Rows of one (item, stream) that came back and are not yet with the store."""

    rows: list[Rows] = field(default_factory=list)
    spans: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    num_waiting: int = 0
    num_back: int = 0
    num_made: int = 0
    failure: str = ""


@dataclass
class _Item:
    streams: dict[str, _Stream]
    ended: Ended | None = None

    @property
    def complete(self) -> bool:
        """Whether decoding has ended and every sample was answered."""
        ended = self.ended
        return ended is not None and all(s.num_back >= ended.tracks[name].num_rows for name, s in self.streams.items())


class Session:
    """Feeds encoders, and commits each item once its last row is back.

    Errors of an encoder fail the item's stream; errors of the store end the run, since no later item would fare better.

    Attributes:
        outcomes: of all committed items, in order of commit.
        rows: rows committed, by stream.
        video_s: seconds of video of all committed items.
        write_s: time spent in the store.
    """

    def __init__(self, writer: FeatureWriter, encoders: Mapping[str, StreamEncoder], work: Iterable[ItemWork]) -> None:
        self.outcomes: list[Outcome] = []
        self.rows = dict.fromkeys(encoders, 0)
        self.video_s = 0.0
        self.write_s = 0.0
        self._writer = writer
        self._encoders = encoders
        self._work = {item.item_id: item for item in work}
        self._batchers = {name: Batcher(encoder) for name, encoder in encoders.items()}
        self._under_way: dict[str, _Item] = {}

    @property
    def under_way(self) -> set[str]:
        """Items of which something was fed, and that are not committed."""
        return set(self._under_way)

    @property
    def encode_s(self) -> dict[str, float]:
        """Time spent in each encoder, by stream."""
        return {name: batcher.encode_s for name, batcher in self._batchers.items()}

    def feed(self, event: Arrived | Ended) -> list[Outcome]:
        """Take what the decoder made; returns the outcomes of items that this completed."""
        item = self._item(event.item_id)
        if isinstance(event, Ended):
            item.ended = event
            full = len(self._under_way) >= _MAX_UNDER_WAY
            self._flush(name for name in item.streams if full or not crosses_items(self._encoders[name]))
        elif item.streams[event.stream].failure:
            # The stream of this item is lost already: answered without asking the encoder.
            item.streams[event.stream].num_back += 1
        else:
            self._take(self._batchers[event.stream].add(event.item_id, event.sample))
        return self._commit_complete()

    def finish(self) -> list[Outcome]:
        """Send off part-filled batches and commit what that completes."""
        self._flush(self._batchers)
        return self._commit_complete()

    def discard(self) -> None:
        """Drop all items under way, whole."""
        for item_id in self._under_way:
            for batcher in self._batchers.values():
                batcher.forget(item_id)
            self._writer.discard(item_id)
        self._under_way.clear()

    def _item(self, item_id: str) -> _Item:
        if item_id not in self._under_way:
            self._under_way[item_id] = _Item({name: _Stream() for name in self._work[item_id].streams})
        return self._under_way[item_id]

    def _flush(self, streams: Iterable[str]) -> None:
        for name in streams:
            self._take(self._batchers[name].flush())

    def _take(self, answers: Iterable[Encoded]) -> None:
        for answer in answers:
            stream = self._under_way[answer.item_id].streams[answer.stream]
            stream.num_back += len(answer.spans)
            if answer.rows is None:
                stream.failure = stream.failure or answer.error
            elif not stream.failure:
                stream.rows.append(answer.rows)
                stream.spans += answer.spans
                stream.num_made += len(answer.spans)
                stream.num_waiting += len(answer.spans)
                if stream.num_waiting > _PIECE_ROWS:
                    self._write(answer.item_id, answer.stream, stream, keep=1)

    def _write(
        self, item_id: str, name: str, stream: _Stream, *, keep: int = 0, extent: tuple[float, float] | None = None
    ) -> None:
        """Hand rows to the store; `keep` answers are held back, since the extent is known only at the end."""
        cut = len(stream.rows) - keep
        rows, stream.rows = Rows.concatenated(stream.rows[:cut]), stream.rows[cut:]
        spans, stream.spans = stream.spans[: len(rows)], stream.spans[len(rows) :]
        stream.num_waiting -= len(rows)
        begun = time.perf_counter()
        self._writer.write(name, item_id, rows, self._timeline(name, spans), extent=extent)
        self.write_s += time.perf_counter() - begun

    def _timeline(self, name: str, spans: list[tuple[Fraction, Fraction]]) -> Timeline:
        grid = self._encoders[name].grid
        if grid is not None:
            return grid
        return Spans(np.array([(float(start), float(end)) for start, end in spans], dtype=np.float64))

    def _commit_complete(self) -> list[Outcome]:
        made: list[Outcome] = []
        for item_id in [name for name, item in self._under_way.items() if item.complete]:
            made += self._commit(item_id, self._under_way.pop(item_id))
        self.outcomes += made
        return made

    def _commit(self, item_id: str, item: _Item) -> list[Outcome]:
        ended = item.ended
        if ended is None:
            raise ValueError(f"item {item_id!r} is not complete")
        outcomes = [self._closed(item_id, name, stream, ended.tracks[name]) for name, stream in item.streams.items()]
        if all(o.status == "absent" for o in outcomes) and not self._has_rows(item_id):
            outcomes = [replace(o, status="failed") for o in outcomes]
        changed = self._changed_since(item_id, ended.info)
        if changed:
            outcomes = [
                o if self._encoders[o.stream].grid is None else replace(o, status="failed", num_rows=0, reason=changed)
                for o in outcomes
            ]
        begun = time.perf_counter()
        for outcome in outcomes:
            if outcome.status != "done":
                self._writer.mark(outcome.stream, item_id, outcome.status, outcome.reason)
        if not changed:
            self._writer.set_info(self._info(item_id, ended))
        self._writer.commit(item_id)
        self.write_s += time.perf_counter() - begun
        for outcome in outcomes:
            self.rows[outcome.stream] += outcome.num_rows
        self.video_s += (ended.info.duration_s or 0.0) if ended.info is not None else 0.0
        return outcomes

    def _closed(self, item_id: str, name: str, stream: _Stream, track: TrackEnd) -> Outcome:
        status: Status = track.status
        reason = track.reason
        if stream.failure:
            status, reason = "failed", stream.failure
        elif stream.rows and status in ("done", "partial"):
            self._write(item_id, name, stream, extent=track.extent)
        elif status in ("done", "partial"):
            status, reason = "failed", reason or "the track gave no row"
        return Outcome(item_id, name, status, stream.num_made if status in ("done", "partial") else 0, reason)

    def _changed_since(self, item_id: str, found: ItemInfo | None) -> str:
        """Why rows of the file as it is now may not stand beside those of an earlier run; empty where they may."""
        earlier = self._work[item_id].info
        if earlier is None or found is None or earlier.source_sha256 in (None, found.source_sha256):
            return ""
        # Sentences come from annotations, and not from the file.
        timed = [name for name, spec in self._writer.streams().items() if spec.timeline == "grid"]
        made = [name for name in timed if (entry := self._writer.entry(name, item_id)) and entry.status in WITH_ROWS]
        if not made:
            return ""
        return (
            f"the file is not the one that its rows of {', '.join(made)} were made from: it was changed since. "
            "Put the earlier file back, or extract this item into another store"
        )

    def _has_rows(self, item_id: str) -> bool:
        """Whether an earlier run stored rows of this item, in any stream."""
        entries = (self._writer.entry(name, item_id) for name in self._writer.streams())
        return any(entry is not None and entry.status in WITH_ROWS for entry in entries)

    def _info(self, item_id: str, ended: Ended) -> ItemInfo:
        """Facts found now over those of earlier runs, which may have read other tracks."""
        earlier = self._work[item_id].info
        facts = earlier.model_dump() if earlier is not None else {"item_id": item_id}
        if ended.info is not None:
            facts |= {name: value for name, value in ended.info.model_dump().items() if value is not None}
        return ItemInfo(**facts)
