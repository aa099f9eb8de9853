"""What there is to see over time in one sample: bars, marks and curves, which heads hand out and reports draw.

Times are seconds from the first video frame. Names and labels are for people and may hold any text. NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidloc.core.timeline import Span


@dataclass(frozen=True)
class Bar:
    """A span with what it is called, a class where classes are meant, and how sure that is."""

    span: Span
    label: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Bars:
    """Spans under one name; they may overlap."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Mark:
    """One time with what it is called."""

    time_s: float
    label: str = ""


@dataclass(frozen=True)
class Marks:
    """Single times under one name."""

    name: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, eq=False)
class Curves:
    """Numbers over time on one scale.

    Attributes:
        times_s: `(times,)` float64, ascending.
        values: `(times,)` of each curve, by what it is of: a class where classes are meant.
        level: a value that matters, such as a threshold; drawn as a line across.

    Raises:
        ValueError: a curve that has another number of values than there are times.
    """

    name: str
    times_s: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]
    level: float | None = None

    def __post_init__(self) -> None:
        wrong = [name for name, values in self.values.items() if values.shape != self.times_s.shape]
        if wrong or self.times_s.ndim != 1:
            raise ValueError(f"{self.name!r}: {', '.join(wrong) or 'times'} are not one number for each time")


Lane = Bars | Marks | Curves


def class_curves(
    name: str, times_s: NDArray[np.float64], scores: NDArray[np.float64], classes: tuple[str, ...]
) -> Curves:
    """A curve for each class.

    Args:
        scores: `(times, classes)`.
    """
    return Curves(name, times_s, {label: scores[:, k] for k, label in enumerate(classes)})
