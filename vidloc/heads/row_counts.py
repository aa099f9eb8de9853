"""Numbers that a paper counts in rows, at another stride: converted, kept, or refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from vidloc.errors import OptionError

Way = Literal["convert", "keep", "refuse"]
_SAME = 1e-3  # strides that differ by less are one stride written in other digits


@dataclass(frozen=True)
class RowCounts:
    """How many rows labels grow to either side, a crop has in odd and in even steps, and a segment has at least."""

    radius: int
    crop: int
    crop_even: int
    min_rows: int


def converted(counts: RowCounts, meant_s: float, stride_s: float, *, way: Way) -> RowCounts:
    """The same lengths of time in rows of another stride, each at least one row; a radius of 0 stays.

    Raises:
        OptionError: the strides differ, and that is to be refused.
    """
    if way == "keep" or math.isclose(meant_s, stride_s, rel_tol=_SAME):
        return counts
    if way == "refuse":
        raise OptionError(
            f"rows are {stride_s:.4g} s apart, and radius, crop, crop_even and min_rows are meant for {meant_s:.4g} s. "
            "Use --row-counts convert or keep, or give numbers of your own with their --paper-stride-s."
        )
    factor = meant_s / stride_s
    return RowCounts(**{name: max(round(rows * factor), 1) if rows else 0 for name, rows in vars(counts).items()})


def conversion(before: RowCounts, after: RowCounts, meant_s: float, stride_s: float) -> str:
    """What a conversion did, in words."""
    changes = ", ".join(f"{name} {rows} to {getattr(after, name)}" for name, rows in vars(before).items())
    return (
        f"rows are {stride_s:.4g} s apart, and the numbers of rows are meant for {meant_s:.4g} s; converted are "
        f"{changes}. Convolutions are not: the actionness of a row sees 5 rows, {5 * stride_s:.3g} s."
    )
