"""Lengths of time as people write them: seconds (`0.96`, `16/30`, `0.96s`), or frames of some rate (`16f`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

SECONDS_SHOWN = "seconds such as 0.5 or 16/30, or frames such as 16f"

_LENGTH = re.compile(r"(-?[\d./]+)([fs]?)", re.ASCII)


@dataclass(frozen=True)
class Length:
    """A stretch of time in seconds, or in frames of a rate that is said elsewhere."""

    value: Fraction
    in_frames: bool = False

    def __str__(self) -> str:
        return f"{self.value}f" if self.in_frames else str(self.value)


def read_length(value: object) -> Length:
    """A length from `0.5`, `0.5s`, `16/30` or `16f`; numbers are seconds.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, Length):
        return value
    found = _LENGTH.fullmatch(str(value).strip())
    try:
        if found is None:
            raise ValueError
        return Length(Fraction(found[1]), in_frames=found[2] == "f")
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"not {SECONDS_SHOWN}") from None
