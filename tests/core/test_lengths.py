"""Lengths in seconds and frames, as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from vidloc.core.lengths import Length, read_length


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0.96", Length(Fraction(24, 25))),
        ("0.96s", Length(Fraction(24, 25))),
        ("16/30", Length(Fraction(8, 15))),
        (" 16f ", Length(Fraction(16), in_frames=True)),
        ("-10f", Length(Fraction(-10), in_frames=True)),
        (2, Length(Fraction(2))),
        (Length(Fraction(3), in_frames=True), Length(Fraction(3), in_frames=True)),
    ],
)
def test_seconds_and_frames(text, length):
    assert read_length(text) == length
    assert read_length(str(length)) == length


@pytest.mark.parametrize("text", ["", "f", "1/0", "1..2", "16 frames", "1e3", "nan", "٣"])
def test_what_is_no_length(text):
    with pytest.raises(ValueError, match=r"seconds such as 0\.5 or 16/30, or frames such as 16f"):
        read_length(text)
