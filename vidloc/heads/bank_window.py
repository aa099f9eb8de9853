"""Which rows of a long-term feature bank lie around a moment, as the LFB release counts them, and they in a batch.

The release (see `lfb`) counts frames at 30 per second. A segment's ends become the frames nearest to them, a moment c
is a frame, and a row of the bank is filed under its key, the number from 1 of the frame at its centre. A window holds,
in order of time, the rows whose keys lie in

    clips, both ways       [c - h, c + h],  h half of the window's frames      the first W of them
    regions, both ways     [l, l + f],      l = c - f / 2, both cut to whole   the first W
    causal                 (c - f, c]                                          the last W

where W is what the window holds where no row is missing: seconds times rows per second, for regions times the most of
them in a frame. What is missing is filled with zeros at the end. Both ends belong to the window, so that a row more may
lie in it than it holds; the latest is then left out. Only the windows that look both ways are in the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidloc.core.timeline import Span
from vidloc.heads.base import RowBatch

CLOCK_HZ = 30
_ROUNDING = 1e-6  # of a frame; times come from fractions as float64


@dataclass(frozen=True, eq=False)
class WindowRows:
    """Rows of a window for each sample, in order of time, then padding.

    Attributes:
        features: `(batch, size, width)` float32; zero where padded.
        mask: `(batch, size)` bool, true for rows.
        spans: `(batch, size, 2)` float64, window of each row in seconds; zero where padded.
    """

    features: Tensor
    mask: Tensor
    spans: Tensor


@dataclass(frozen=True)
class BankWindow:
    """The rule of one bank.

    Attributes:
        seconds: length of the window.
        rate_hz: rows per second that it counts on.
        top: most regions of a row; 0 for a bank of clips.
        causal: look only at the past.
    """

    seconds: float
    rate_hz: float = 1.0
    top: int = 0
    causal: bool = False

    @property
    def size(self) -> int:
        """W, the rows that the window holds."""
        return max(round(self.seconds * self.rate_hz * (self.top or 1)), 1)

    def bounds(self, centers: Tensor) -> tuple[Tensor, Tensor]:
        """First and last key of the window, both inclusive, `(batch,)` int64 each.

        Args:
            centers: `(batch,)` int64 frames.
        """
        frames = self.seconds * CLOCK_HZ
        if self.causal:
            return (centers.double() - frames).floor().long() + 1, centers
        if not self.top:
            half = round(frames) // 2
            return centers - half, centers + half
        lower = (centers.double() - frames / 2).trunc()
        return lower.long(), (lower + frames).trunc().long()

    def rows_in(self, rows: RowBatch, centers: Tensor) -> WindowRows:
        """The window's rows out of those around each sample, which must be in order of time."""
        lower, upper = (bound.unsqueeze(1) for bound in self.bounds(centers))
        keys = frame_keys(rows.spans)
        inside = rows.mask & (keys >= lower) & (keys <= upper)
        rank = inside.cumsum(dim=1) - 1
        if self.causal:
            rank = rank - (inside.sum(dim=1, keepdim=True) - self.size).clamp(min=0)
        kept = inside & (rank >= 0) & (rank < self.size)
        first = torch.arange(len(centers), device=rank.device).unsqueeze(1) * self.size
        return _placed(rows, kept, (first + rank)[kept], self.size)


def segment_frames(spans: Sequence[Span]) -> Tensor:
    """`(segments, 2)` int64, first and last frame of each segment."""
    ends = torch.tensor([tuple(map(float, span)) for span in spans], dtype=torch.float64).reshape(-1, 2)
    return (ends * CLOCK_HZ).round().long()  # halves go to the even frame, as in the release


def frame_keys(spans: Tensor) -> Tensor:
    """Key of each row from its window, `(...)` int64 from `(..., 2)` seconds."""
    return (spans.mean(dim=-1) * CLOCK_HZ + _ROUNDING).floor().long() + 1


def nearest_row(rows: RowBatch, centers: Tensor) -> WindowRows:
    """The row nearest to each moment, of two as near the first, as a window of one row.

    Args:
        centers: `(batch,)` int64 frames.
    """
    away = (rows.spans.mean(dim=-1) - centers.unsqueeze(1) / CLOCK_HZ).abs().masked_fill(~rows.mask, torch.inf)
    near = rows.mask & (away <= away.amin(dim=1, keepdim=True) + _ROUNDING / CLOCK_HZ)
    kept = near & (near.cumsum(dim=1) == 1)
    return _placed(rows, kept, torch.arange(len(centers), device=kept.device), 1)


def _placed(rows: RowBatch, kept: Tensor, places: Tensor, size: int) -> WindowRows:
    """The kept rows, in order, at places of `(batch * size)`."""
    batch = len(kept)
    features = rows.packed.new_zeros(batch * size, *rows.packed.shape[1:])
    features = features.index_copy(0, places, rows.packed[kept[rows.mask]])
    spans = rows.spans.new_zeros(batch * size, 2).index_copy(0, places, rows.spans[kept])
    mask = torch.zeros(batch * size, dtype=torch.bool, device=kept.device)
    mask[places] = True
    return WindowRows(
        features.view(batch, size, *features.shape[1:]), mask.view(batch, size), spans.view(batch, size, 2)
    )
