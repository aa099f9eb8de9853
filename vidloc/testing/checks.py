"""The shipped contract checks: from a name or a path to the outcomes of all checks that fit it.

    check("sapnet")           a registered head or encoder
    check("./my_head.py")     a file that assigns HEAD or ENCODER
    check("feats.zarr")       a store: its rows, digests and provenance
    check("zarr")             a storage backend

Options follow the grammar of `--encoder`: `check("fasterrcnn:min_size=160")` builds the encoder with them.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vidloc.core.grammar import parse_encoder
from vidloc.core.registry import entries, entry_of, load
from vidloc.errors import UnknownNameError, VidlocError, did_you_mean
from vidloc.testing.checking import Outcome, run_checks

Backend = Literal["zarr", "hdf5"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
What = Literal["head", "encoder", "backend", "store"]


@dataclass(frozen=True)
class CheckReport:
    """Outcomes of all checks of one thing.

    Attributes:
        what: what the target was taken for.
        origin: module, package, file or path that provides it.
    """

    target: str
    what: What
    origin: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(outcome.passed for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "target": self.target,
            "what": self.what,
            "origin": self.origin,
            "passed": self.passed,
            "checks": [vars(outcome) for outcome in self.outcomes],
        }


def check(target: str) -> CheckReport:
    """Run the checks that fit a name or path.

    Raises:
        UnknownNameError: nothing of that name, and no such file or store.
        VidlocError: the name means both a head and an encoder, or a file assigns neither.
    """
    if Path(target).suffix != ".py" and (Path(target).exists() or target in BACKENDS):
        return check_store(Path(target)) if Path(target).exists() else check_backend(cast("Backend", target))
    name, options = _named(target)
    if _group(name) == "heads":
        return check_head(name, options)
    return check_encoder(name, options)


def check_head(name: str, options: Mapping[str, Any] | None = None) -> CheckReport:
    """Check a head by registered name or path of its file, on made-up rows."""
    from vidloc.testing.head_checks import HEAD_CHECKS, HeadCase

    found = load("heads", name)
    case = HeadCase(found.target, options)
    return CheckReport(name, "head", found.origin, tuple(run_checks(HEAD_CHECKS, case)))


def check_encoder(name: str, options: Mapping[str, Any] | None = None) -> CheckReport:
    """Check an encoder by registered name or path of its file, with untrained weights unless options say otherwise."""
    from vidloc.testing.encoder_checks import ENCODER_CHECKS, EncoderCase

    found = load("encoders", name)
    case = EncoderCase(found.target, found.name, options)
    return CheckReport(name, "encoder", found.origin, tuple(run_checks(ENCODER_CHECKS, case)))


def check_backend(backend: Backend) -> CheckReport:
    """Check a storage backend on made-up rows, in a temporary folder."""
    from vidloc.testing.store_checks import BACKEND_CHECKS, BackendCase

    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_checks(BACKEND_CHECKS, BackendCase(backend, Path(folder)))
    return CheckReport(backend, "backend", "vidloc.stores", tuple(outcomes))


def check_store(path: Path) -> CheckReport:
    """Check a store that exists: every row is read and compared with its digest.

    Raises:
        StoreError: the path holds no store.
    """
    from vidloc.stores.base import open_store
    from vidloc.testing.store_checks import STORE_CHECKS, StoreCase

    with open_store(path) as store:
        origin = f"{store.backend} store"
    return CheckReport(str(path), "store", origin, tuple(run_checks(STORE_CHECKS, StoreCase(path))))


def _named(target: str) -> tuple[str, dict[str, str]]:
    # A stream name is put in front because the grammar takes one from the file's name, which may not fit.
    plan = parse_encoder(f"checked={target}")
    return plan.name, plan.options


def _group(name: str) -> Literal["heads", "encoders"]:
    if name.endswith(".py"):
        return _group_of_file(Path(name))
    groups: tuple[Literal["heads", "encoders"], ...] = ("heads", "encoders")
    found = [group for group in groups if entry_of(group, name) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise VidlocError(f"{name!r} is both a head and an encoder; give the path of its file.")
    known = [*entries("heads"), *entries("encoders"), *BACKENDS]
    raise UnknownNameError(f"there is no head, encoder, backend or store {name!r}. {did_you_mean(name, known)}")


def _group_of_file(path: Path) -> Literal["heads", "encoders"]:
    if not path.is_file():
        raise UnknownNameError(f"there is no file {str(path)!r}; give a registered name or the path of a Python file.")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise VidlocError(f"{path} is not Python: {error}") from error
    assigned = {
        target.id
        for node in tree.body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    }
    if "HEAD" in assigned:
        return "heads"
    if "ENCODER" in assigned:
        return "encoders"
    raise VidlocError(f"{path} assigns neither HEAD nor ENCODER at top level; end it with 'HEAD = YourClass'.")
