"""Decoded samples in, pieces of rows out: batches per encoder, rows gathered per (item, stream), each item closed.

What comes out is all that a store needs to be told of an item. The rows of one (item, stream) come in order, and an
item's `Finished` follows its last piece, so that whoever writes has nothing to wait for and nothing to put in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from vidloc.core.records import ItemInfo, Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans, TimeGrid, Timeline
from vidloc.pipelines.extraction.batching import Batcher, Encoded
from vidloc.pipelines.extraction.decoding import Arrived, Ended, TrackEnd
from vidloc.pipelines.extraction.encoders import StreamEncoder
from vidloc.pipelines.extraction.segment_views import SegmentClips, SegmentLayout
from vidloc.stores.tables import WITH_ROWS

# Items that may wait for a batch to fill before batches are sent off part-filled: bounds what a kill can lose.
MAX_UNDER_WAY = 32
# What is handed on at a time: little enough to cost no memory, enough to make the call worth it.
_PIECE_ROWS = 256
_PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of one (item, stream).

    Attributes:
        timeline: the item's grid, or the spans of these rows.
        extent: start and end of the track, seconds; known, where it is, with the last piece.
    """

    item_id: str
    stream: str
    rows: Rows
    timeline: Timeline
    extent: tuple[float, float] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all fields."""
        return _num_bytes(self.rows)


@dataclass(frozen=True)
class StreamEnd:
    """How one stream of an item ended.

    Attributes:
        num_rows: rows of all its pieces; 0 where they are not to be kept.
        reason: why it is not `done`.
        as_asked: absent because of the layout that was asked for, see `TrackEnd`.
    """

    status: Status
    num_rows: int = 0
    reason: str = ""
    as_asked: bool = False


@dataclass(frozen=True)
class Finished:
    """Everything of an item has been said."""

    item_id: str
    streams: Mapping[str, StreamEnd]
    info: ItemInfo | None = None


def crosses_items(encoder: StreamEncoder) -> bool:
    """Whether a part-filled batch waits for the next item: on GPUs; a CPU gains nothing by it."""
    return encoder.encoder.device.type != "cpu"


@dataclass
class _Stream:
    """Rows of one (item, stream) that came back and were not handed on yet."""

    grid: TimeGrid | None = None
    rows: list[Rows] = field(default_factory=list)
    spans: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    num_waiting: int = 0
    num_bytes: int = 0
    num_back: int = 0
    num_made: int = 0
    failure: str = ""


@dataclass
class _Item:
    streams: defaultdict[str, _Stream] = field(default_factory=lambda: defaultdict(_Stream))
    ended: Ended | None = None

    @property
    def complete(self) -> bool:
        """Whether decoding has ended and every sample was answered."""
        ended = self.ended
        return ended is not None and all(self.streams[name].num_back >= t.num_rows for name, t in ended.tracks.items())


class Encoding:
    """Feeds encoders and gathers what comes back. Errors of an encoder fail the item's stream, and nothing else."""

    def __init__(self, encoders: Mapping[str, StreamEncoder]) -> None:
        self._encoders = encoders
        self._batchers = {name: Batcher(encoder) for name, encoder in encoders.items()}
        self._items: dict[str, _Item] = {}

    @property
    def under_way(self) -> set[str]:
        """Items of which something was fed, and that are not finished."""
        return set(self._items)

    @property
    def encode_s(self) -> dict[str, float]:
        """Time spent in each encoder, by stream."""
        return {name: batcher.encode_s for name, batcher in self._batchers.items()}

    def feed(self, event: Arrived | Ended) -> list[Piece | Finished]:
        """Take what the decoder made; returns what this completed."""
        item = self._items.setdefault(event.item_id, _Item())
        made: list[Piece | Finished] = []
        if isinstance(event, Ended):
            item.ended = event
            full = len(self._items) >= MAX_UNDER_WAY
            made += self._flush(name for name in event.tracks if full or not crosses_items(self._encoders[name]))
        elif item.streams[event.stream].failure:
            # The stream of this item is lost already: answered without asking the encoder.
            item.streams[event.stream].num_back += 1
        else:
            item.streams[event.stream].grid = event.grid
            made += self._taken(self._batchers[event.stream].add(event.item_id, event.sample))
        return [*made, *self._finished()]

    def finish(self) -> list[Piece | Finished]:
        """Send off part-filled batches; returns what that completes."""
        return [*self._flush(self._batchers), *self._finished()]

    def _flush(self, streams: Iterable[str]) -> Iterator[Piece]:
        for name in streams:
            yield from self._taken(self._batchers[name].flush())

    def _taken(self, answers: Iterable[Encoded]) -> Iterator[Piece]:
        for answer in answers:
            stream = self._items[answer.item_id].streams[answer.stream]
            stream.num_back += len(answer.spans)
            if answer.rows is None:
                stream.failure = stream.failure or answer.error
            elif not stream.failure:
                stream.rows.append(answer.rows)
                stream.spans += answer.spans
                stream.places += answer.places
                stream.num_made += len(answer.spans)
                stream.num_waiting += len(answer.spans)
                stream.num_bytes += _num_bytes(answer.rows)
                # The last answer is held back: an extent, known only at the end, goes with rows. Views of segments come
                # in order of time, those of one row far apart.
                enough = stream.num_waiting > _PIECE_ROWS or stream.num_bytes > _PIECE_BYTES
                in_order = not isinstance(self._encoders[answer.stream].rows, SegmentLayout)
                if enough and in_order and len(stream.rows) > 1:
                    yield self._piece(answer.item_id, answer.stream, stream, keep=1)

    def _piece(
        self, item_id: str, name: str, stream: _Stream, *, keep: int = 0, extent: tuple[float, float] | None = None
    ) -> Piece:
        cut = len(stream.rows) - keep
        rows, stream.rows = Rows.concatenated(stream.rows[:cut]), stream.rows[cut:]
        spans, stream.spans = stream.spans[: len(rows)], stream.spans[len(rows) :]
        stream.num_waiting -= len(rows)
        stream.num_bytes -= _num_bytes(rows)
        return Piece(item_id, name, rows, _timeline(stream.grid, spans), extent)

    def _finished(self) -> Iterator[Piece | Finished]:
        for item_id in [name for name, item in self._items.items() if item.complete]:
            item = self._items.pop(item_id)
            if item.ended is None:
                raise ValueError(f"item {item_id!r} is not complete")
            ends = {}
            for name, track in item.ended.tracks.items():
                stream = item.streams[name]
                if track.status in WITH_ROWS and stream.rows and not stream.failure:
                    if track.clips is not None:
                        yield _of_segments(item_id, name, stream, track.clips, track.extent)
                    else:
                        yield self._piece(item_id, name, stream, extent=track.extent)
                ends[name] = _end(stream, track)
            yield Finished(item_id, ends, item.ended.info)


def _of_segments(
    item_id: str, name: str, stream: _Stream, clips: SegmentClips, extent: tuple[float, float] | None
) -> Piece:
    """All rows of an item, each put together from the views of its segment."""
    keys = [segment.id for segment in clips.segments]
    rows = clips.layout.rows(Rows.concatenated(stream.rows), stream.places, keys)
    stream.num_made = len(rows)
    return Piece(item_id, name, rows, clips.spans, extent)


def _timeline(grid: TimeGrid | None, spans: list[tuple[Fraction, Fraction]]) -> Timeline:
    if grid is not None:
        return grid
    return Spans(np.array([(float(start), float(end)) for start, end in spans], dtype=np.float64))


def _end(stream: _Stream, track: TrackEnd) -> StreamEnd:
    if stream.failure:
        return StreamEnd("failed", reason=stream.failure)
    if track.status not in WITH_ROWS:
        return StreamEnd(track.status, reason=track.reason, as_asked=track.as_asked)
    if not stream.num_made:
        return StreamEnd("failed", reason=track.reason or "the track gave no row")
    return StreamEnd(track.status, stream.num_made, track.reason)


def _num_bytes(rows: Rows) -> int:
    return sum(array.nbytes for array in rows.fields.values())
