"""Options from text, and what a wrong one says."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from vidloc.core.options import Options
from vidloc.errors import OptionError


class Toy(Options):
    """A few options of every sort."""

    rate: float = Field(0.5, ge=0, description="A rate.")
    stride_s: Fraction = Field(Fraction(1, 2), description="A stride.")
    mode: Literal["a", "b"] = Field("a", description="A choice.")
    deep: bool = Field(default=False, description="A switch.")


def test_text_becomes_typed_values() -> None:
    toy = Toy.parse({"rate": "1.5", "stride_s": "16/30", "deep": "true"}, where="toy")
    assert (toy.rate, toy.stride_s, toy.deep) == (1.5, Fraction(8, 15), True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, r"toy has no option 'rat'\. Did you mean rate\?"),
        ({"rate": -1}, r"toy: option 'rate': .*greater than or equal to 0"),
        ({"mode": "c"}, r"option 'mode': .*'a' or 'b'"),
        ({"rate": "nan"}, r"option 'rate': .*finite"),
    ],
)
def test_wrong_values_say_what_is_accepted(values: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Toy.parse(values, where="toy")


def test_options_are_frozen_and_survive_json() -> None:
    toy = Toy.parse({"stride_s": "1001/30000"}, where="toy")
    assert Toy.model_validate_json(toy.model_dump_json()) == toy
    with pytest.raises(ValidationError, match="frozen"):
        toy.rate = 2.0
