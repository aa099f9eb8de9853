"""Which windows the rows of one item take: a regular grid, and what becomes of the last windows at the item's end.

Published feature sets differ in where row 0 starts, in whether a window that reaches beyond the end is left out
(`drop`), padded (`pad`, `cover`) or moved back (`backpad`), and in whether frames are those of the file or of a
constant rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from vidloc.core.timeline import Seconds, TimeGrid

Tail = Literal["drop", "pad", "backpad", "cover"]


@dataclass(frozen=True)
class Windows:
    """The windows of an item, given how long it is.

    Args:
        grid: where regular windows lie.
        tail: `pad` keeps windows centred before the end, at least one; `drop` keeps windows that end by the end;
            `backpad` moves a last incomplete window back so that it ends at the end; `cover` keeps windows that begin
            before the end, so that the last one may be centred after it. An item shorter than the window has one row,
            none with `drop`.
        slack_s: how far beyond the end a whole window may reach, for `drop` and `backpad`: half a frame gap.
        spare_s: time that must follow a window for `drop` to keep it (some tools read one frame more than they use).
        rate: frames per second of the constant rate that frames are taken from, `None` for those of the file. The
            item then ends with its last frame at that rate, as if it had been re-encoded.
    """

    grid: TimeGrid
    tail: Tail = "pad"
    slack_s: Fraction = Fraction(0)
    spare_s: Fraction = Fraction(0)
    rate: Fraction | None = None

    def end(self, duration_s: Seconds) -> Fraction:
        """End of an item of some duration: at a constant rate it has `round(duration * rate)` frames."""
        duration = Fraction(duration_s)
        if self.rate is None:
            return duration
        return math.floor(duration * self.rate + Fraction(1, 2)) / self.rate

    def num_rows(self, duration_s: Seconds) -> int:
        """Rows of an item of some duration."""
        end = self.end(duration_s)
        if self.tail in ("pad", "cover"):
            return max(math.ceil((end - self.must_precede(self.grid.span(0))) / self.grid.stride_s), 1)
        whole = self._num_whole(end)
        return whole if self.tail == "drop" or self._reaches(whole, end) else whole + 1

    def must_precede(self, span: tuple[Fraction, Fraction]) -> Fraction:
        """The time of a window that lies before the end of an item that has it, unless it has no other one."""
        start, end = span
        return start if self.tail == "cover" else (start + end) / 2

    def span(self, row: int, duration_s: Seconds | None = None) -> tuple[Fraction, Fraction]:
        """Exact start and end of one row's window.

        Args:
            duration_s: decides which row of `backpad` is the one moved back; `None` while it is not known.
        """
        regular = self.grid.span(row)
        if self.tail != "backpad" or duration_s is None:
            return regular
        end = self.end(duration_s)
        if row == 0 or row < self._num_whole(end):
            return regular
        return end - self.grid.window_s, end

    def _num_whole(self, end: Fraction) -> int:
        """Windows that end by the item's end."""
        reach = end + self.slack_s - (self.spare_s if self.tail == "drop" else 0)
        return max(math.floor((reach - self.grid.span(0)[1]) / self.grid.stride_s) + 1, 0)

    def _reaches(self, num_rows: int, end: Fraction) -> bool:
        """Whether the first `num_rows` windows come up to the end."""
        return num_rows > 0 and self.grid.span(num_rows - 1)[1] >= end


@dataclass(frozen=True)
class ListedWindows:
    """Windows wherever they are wanted, overlapping or not, in the order in which they are complete.

    Args:
        spans: exact start and end of each, all equally long or each seen at its centre alone; by ascending centre.
    """

    spans: tuple[tuple[Fraction, Fraction], ...]

    def num_rows(self, duration_s: Seconds) -> int:
        """All of them, however long the item is."""
        del duration_s
        return len(self.spans)

    def span(self, row: int, duration_s: Seconds | None = None) -> tuple[Fraction, Fraction]:
        """Exact start and end of one window."""
        del duration_s
        return self.spans[row]
