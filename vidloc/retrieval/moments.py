"""From ranked rows to moments: neighbouring windows of one item are one place in a video, not ten results.

The best row is a peak. Its moment reaches to both sides over neighbouring rows (windows that overlap or touch) for as
long as their cosine stays above half-way between the peak's and the mean of the whole stream: the half-height width of
the peak. Rows that touch a moment found already begin no other and do not widen one, so moments never overlap. The
cosines that decide are read from the store's rows: scores are exact whatever an index rounded, and the first moments
of a search are the same for any `k`. A moment's score is that of its best row.

Rows that answer annotations (text streams with keys) are never joined: two overlapping narrations are two answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidloc.core.timeline import Span, TimeGrid, valid_share
from vidloc.errors import StoreError
from vidloc.retrieval.exact import Searcher
from vidloc.retrieval.vectors import Vectors, read_vectors, searchable_spec
from vidloc.stores.base import FeatureStore, StreamSpec

_TOUCH_S = 1e-9  # spans are float64 seconds; neighbours computed in fractions may differ in the last digit
_TIE = 1e-6  # cosines of equal float16 rows differ by this much between two orders of summing
_READ_ROWS = 256

Excluded = Callable[[str, int], bool]


@dataclass(frozen=True)
class Moment:
    """A place in an item that answers the query.

    Attributes:
        span: seconds, cut to the track; `None` in streams without times.
        score: cosine of the best row.
        best_row: row of the item with that score.
        rows: all rows joined into it, ascending.
    """

    item_id: str
    span: Span | None
    score: float
    best_row: int
    rows: tuple[int, ...]


def find_moments(
    store: FeatureStore,
    stream: str,
    searcher: Searcher,
    query: Vectors,
    k: int,
    *,
    excluded: Excluded = lambda _item, _row: False,
    joined: bool = True,
) -> list[Moment]:
    """The `k` best moments for a query, best first; fewer where the stream has fewer.

    Args:
        excluded: says of an item's row whether it is left out (the query itself).
        joined: whether neighbouring rows become one moment.
    """
    spec = searchable_spec(store, stream)
    fetch = max(8 * k, 64)
    items: dict[str, _Item] = {}
    while True:
        ranked = searcher.search(query, fetch)
        found: dict[str, list[_Found]] = {}
        for number in ranked.rows.tolist():
            item_id, row = searcher.table.locate(number)
            if item_id not in items:
                items[item_id] = _Item(store, spec, item_id, query, excluded, joined=joined)
            item, here = items[item_id], found.setdefault(item_id, [])
            if not item.usable(row) or any(item.touches(each, row) for each in here):
                continue
            here.append(item.around(row, ranked.mean_score, here))
            if sum(map(len, found.values())) == k:
                return _moments(items, found)
        if len(ranked.rows) < fetch:
            return _moments(items, found)
        fetch *= 4


def _moments(items: Mapping[str, _Item], found: Mapping[str, list[_Found]]) -> list[Moment]:
    made = [items[item_id].moment(each) for item_id, here in found.items() for each in here]
    return sorted(made, key=lambda m: (-m.score, m.item_id, m.best_row))


@dataclass(frozen=True)
class _Found:
    """Rows of a moment, and the time their windows cover, padding included; without times the rows' own numbers."""

    rows: frozenset[int]
    start_s: float
    end_s: float


class _Item:
    """One item's rows as a query sees them: their times, their cosines (read when asked for), their neighbours."""

    def __init__(
        self, store: FeatureStore, spec: StreamSpec, item_id: str, query: Vectors, excluded: Excluded, *, joined: bool
    ) -> None:
        entry, timeline = store.entry(spec.name, item_id), store.timeline(spec.name, item_id)
        if entry is None:
            raise StoreError(f"stream {spec.name!r} of {store.path} lists item {item_id!r}, but has no entry for it.")
        self._store, self._spec, self._id, self._query = store, spec, item_id, query
        self._excluded = excluded
        self._num_rows = entry.num_rows
        self._extent = entry.extent
        self._cosines: dict[int, NDArray[np.float32]] = {}
        self._timed = timeline is not None
        numbers = np.arange(entry.num_rows, dtype=np.float64)
        self._times = np.stack([numbers, numbers], 1) if timeline is None else timeline.spans(entry.num_rows)
        self._joined = joined and self._timed
        self._in_time = np.lexsort((self._times[:, 1], self._times[:, 0]))
        self._place = np.argsort(self._in_time)
        # A window wholly outside its track was made of padding; it answers nothing.
        self._valid = None
        if timeline is not None and entry.extent is not None:
            self._valid = valid_share(timeline, entry.num_rows, entry.extent) > 0
        self._gap_s = _TOUCH_S
        if isinstance(timeline, TimeGrid):
            # Windows shorter than the stride leave gaps; neighbouring rows are adjacent all the same.
            self._gap_s += max(float(timeline.stride_s - timeline.window_s), 0.0)

    def usable(self, row: int) -> bool:
        """Whether a row may answer at all."""
        return (self._valid is None or bool(self._valid[row])) and not self._excluded(self._id, row)

    def touches(self, found: _Found, row: int) -> bool:
        """Whether a row is part of what was found, or its neighbour."""
        return row in found.rows or (self._joined and self._meets(found, *self._times[row].tolist()))

    def around(self, peak: int, mean_score: float, here: Sequence[_Found]) -> _Found:
        """What belongs together around a row, and to nothing found `here` before."""
        found = _Found(frozenset([peak]), *self._times[peak].tolist())
        if not self._joined:
            return found
        least = (self._cosine(peak) + mean_score) / 2 - _TIE
        place = int(self._place[peak])
        found = self._grown(found, range(place + 1, self._num_rows), least, here)
        return self._grown(found, range(place - 1, -1, -1), least, here)

    def moment(self, found: _Found) -> Moment:
        """What was found, as it is handed out."""
        rows = tuple(sorted(found.rows))
        best = max(rows, key=self._cosine)
        start, end = found.start_s, found.end_s
        if self._extent is not None:
            start, end = max(start, self._extent[0]), min(end, self._extent[1])
        return Moment(self._id, Span(start, end) if self._timed else None, self._cosine(best), best, rows)

    def _meets(self, found: _Found, start_s: float, end_s: float) -> bool:
        return start_s <= found.end_s + self._gap_s and end_s >= found.start_s - self._gap_s

    def _grown(self, found: _Found, places: range, least: float, here: Sequence[_Found]) -> _Found:
        """Widened on one side, up to the first row that is too unlike the query or too far."""
        rows, start, end = [], found.start_s, found.end_s
        for place in places:
            row = int(self._in_time[place])
            first, last = self._times[row].tolist()
            apart = first > end + self._gap_s or last < start - self._gap_s
            taken = any(self._meets(each, first, last) for each in here)
            if apart or taken or not self.usable(row) or self._cosine(row) < least:
                break
            rows.append(row)
            start, end = min(start, first), max(end, last)
        return _Found(found.rows.union(rows), start, end)

    def _cosine(self, row: int) -> float:
        """Of a row's vectors the nearest one's."""
        block, within = divmod(row, _READ_ROWS)
        if block not in self._cosines:
            rows = slice(block * _READ_ROWS, min((block + 1) * _READ_ROWS, self._num_rows))
            vectors, counts = read_vectors(self._store, self._spec, self._id, rows)
            best = np.full(len(counts), -np.inf, dtype=np.float32)
            np.maximum.at(best, np.repeat(np.arange(len(counts)), counts), vectors @ self._query)
            self._cosines[block] = best
        return float(self._cosines[block][within])
