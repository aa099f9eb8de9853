"""What a contract check is: one small function that returns what holds, or raises `CheckFailed` with what does not.

Checks need no pytest, so that a third party can run them over its own head, encoder or store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vidloc.core.options import Options
from vidloc.errors import VidlocError

Subject = TypeVar("Subject")


class CheckFailed(Exception):  # noqa: N818  (it is an outcome rather than an error)
    """A contract is broken; the text says how, in a sentence."""


@dataclass(frozen=True)
class Outcome:
    """Result of one check.

    Attributes:
        check: name of the function.
        sentence: what holds, or what does not.
    """

    check: str
    passed: bool
    sentence: str


def run_checks(checks: Sequence[Callable[[Subject], str]], subject: Subject) -> list[Outcome]:
    """All checks of a subject, in order; one that fails does not keep the others from running."""
    return [_run(check, subject) for check in checks]


def _run(check: Callable[[Any], str], subject: Any) -> Outcome:
    name = check.__name__
    try:
        return Outcome(name, passed=True, sentence=check(subject))
    except CheckFailed as failure:
        return Outcome(name, passed=False, sentence=str(failure))
    except VidlocError as error:
        return Outcome(name, passed=False, sentence=f"stopped with: {error}")
    except Exception as error:  # noqa: BLE001  (what is checked is someone's code, and may raise anything)
        return Outcome(name, passed=False, sentence=f"raised {type(error).__name__}: {error}")


def require(condition: object, sentence: str) -> None:
    """Fail with a sentence unless a condition holds."""
    if not condition:
        raise CheckFailed(sentence)


def options_described(options: type[Options]) -> str:
    """Every option has help."""
    silent = [name for name, info in options.model_fields.items() if not (info.description or "").strip()]
    require(not silent, f"options without a description, so without help: {', '.join(silent)}.")
    return f"all {len(options.model_fields)} options have help"
