"""Options: declared once as a frozen pydantic model, from which flags, `--help`, `run.json` and docs are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from vidloc.errors import OptionError, did_you_mean


class Options(BaseModel):
    """Base of all options: frozen, unknown names refused, every field with a description.

    Values arrive as text from a command line or a `name:option=value` plan, as JSON from a `run.json`, or as Python
    values; all three are validated by the same model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Options from named values; text is converted to each field's type.

        Args:
            where: what the options belong to, for the message (`encoder 'vggish'`).

        Raises:
            OptionError: an unknown name or a value that does not fit, said in one line with what is accepted.
        """
        for name in values:
            if name not in cls.model_fields:
                raise OptionError(f"{where} has no option {name!r}. {did_you_mean(name, cls.model_fields)}")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise OptionError(f"{where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    return f"option {name!r}: {problem['msg']} (got {problem['input']!r})."
