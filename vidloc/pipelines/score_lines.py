"""Lines of the two files that `vidloc evaluate --task` compares: read, checked, and refused by file and number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidloc.core.timeline import Span
from vidloc.errors import OptionError


class Line(BaseModel):
    """One line of either file; keys that are not needed are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    item_id: str = Field(min_length=1)
    label: str | None = Field(None, min_length=1)
    start_s: float | None = None
    end_s: float | None = None
    span: Span | None = None
    time_s: float | None = None
    score: float | None = None

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if (self.start_s is None) != (self.end_s is None):
            raise ValueError("start_s and end_s belong together")
        if self.ends is not None and self.ends[0] > self.ends[1]:
            raise ValueError(f"it ends at {self.ends[1]} s, before its start at {self.ends[0]} s")
        return self

    @property
    def ends(self) -> tuple[float, float] | None:
        """Start and end, however they are given."""
        if self.start_s is not None and self.end_s is not None:
            return self.start_s, self.end_s
        return self.span


AnyLine = TypeVar("AnyLine", bound=Line)


def read_lines(path: Path, kind: type[AnyLine]) -> list[AnyLine]:
    """Lines of a file of JSON lines; empty ones are passed over.

    Raises:
        OptionError: no such file, or a line that is not as described, by its number.
    """
    if not path.is_file():
        raise OptionError(f"there is no file {path}.")
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            found.append(kind.model_validate_json(text))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            raise OptionError(f"{path}, line {number}: {where}{problem['msg']}.") from None
    return found


def read_truth(path: Path, kind: type[AnyLine]) -> list[AnyLine]:
    """Lines of a file that predictions are compared with.

    Raises:
        OptionError: as `read_lines`, or there are none.
    """
    lines = read_lines(path, kind)
    if not lines:
        raise OptionError(f"{path} is empty, so there is nothing to compare with.")
    return lines


def require(lines: Sequence[AnyLine], path: Path, what: str, has: Callable[[AnyLine], bool]) -> None:
    """Make sure that every line has what a task needs.

    Args:
        what: its name, for the message.

    Raises:
        OptionError: lines lack it.
    """
    lacking = [line for line in lines if not has(line)]
    if lacking:
        raise OptionError(
            f"{path}: {len(lacking)} of {len(lines)} lines have no {what.removeprefix('a ')}, such as that of item "
            f"{lacking[0].item_id!r}, label {lacking[0].label!r}. Every line needs {what}."
        )
