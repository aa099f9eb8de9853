"""Which rows of a stream a preview shows: evenly spread ones, chosen while they pass, however many there will be."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from vidloc.core.timeline import Span
from vidloc.extract.base import Sample, Seen


@dataclass(frozen=True)
class Box:
    """One region of a frame: x1 y1 x2 y2 over width and height."""

    label: str
    score: float
    corners: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ShownRow:
    """One row of a stream, as it is shown.

    Attributes:
        number: of the row in its item, from 0.
        seen: what the encoder's network sees of the sample.
        view: which view of an annotated segment it is; `None` where rows are whole.
    """

    number: int
    sample: Sample
    seen: Seen
    boxes: tuple[Box, ...] = ()
    view: int | None = None


class Spread:
    """Keeps at most `2 * num_rows + 1` samples of those it is given in turn.

    Args:
        num_rows: how many to choose in the end.
        span: only rows centred in it count; where there are none, the one nearest to its middle that overlaps it.

    Attributes:
        num_seen: rows that passed.
        covered: start of the first and end of the last one, seconds; `None` before any.
        passed: a row began at or after the end of `span`, so that of rows in order of time no more will count.
    """

    def __init__(self, num_rows: int, span: Span | None) -> None:
        self.num_seen = 0
        self.covered: tuple[Fraction, Fraction] | None = None
        self.passed = False
        self._num_rows, self._span = num_rows, span
        self._kept: list[tuple[int, Sample]] = []
        self._last: tuple[int, Sample] | None = None
        self._nearest: tuple[Fraction, int, Sample] | None = None
        self._num_counted, self._step = 0, 1

    def take(self, sample: Sample) -> None:
        """See the next row."""
        row, (start, end) = self.num_seen, sample.span
        self.num_seen += 1
        first, last = self.covered or (start, end)
        self.covered = (min(first, start), max(last, end))
        if self._span is not None:
            self.passed = self.passed or start >= self._span.end_s
            if not self._span.start_s <= (start + end) / 2 < self._span.end_s:
                self._look_at(row, sample, self._span)
                return
        if self._num_counted % self._step == 0:
            self._kept.append((row, sample))
        self._num_counted += 1
        self._last = (row, sample)
        if len(self._kept) > 2 * self._num_rows:
            self._kept, self._step = self._kept[::2], 2 * self._step

    def chosen(self) -> list[tuple[int, Sample]]:
        """Numbers and samples of the rows chosen, the first and the last among them."""
        if self._last is None:
            return [] if self._nearest is None else [self._nearest[1:]]
        found = [*self._kept, *([self._last] if self._last[0] != self._kept[-1][0] else [])]
        places = np.linspace(0, len(found) - 1, min(self._num_rows, len(found)))
        return [found[round(place)] for place in places]

    def _look_at(self, row: int, sample: Sample, span: Span) -> None:
        start, end = sample.span
        distance = abs((start + end) / 2 - Fraction(span.center_s))
        if start < span.end_s and end > span.start_s and (self._nearest is None or distance < self._nearest[0]):
            self._nearest = (distance, row, sample)
