"""Whether a checkpoint fits an encoder's network, and if not, which names are in the way and what it does fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vidloc.core.grammar import EncoderPlan, parse_encoder
from vidloc.core.registry import Loaded, entries, load
from vidloc.errors import MisfitError, OptionError, VidlocError


@dataclass(frozen=True)
class Fit:
    """What loading a file into a network found.

    Attributes:
        encoder: as it was asked for.
        missing: names of the network that the file lacks.
        unknown: names of the file that the network lacks.
        mismatched: sentences, one for each tensor of another shape.
        relatives: other encoders of the same family that the file does fit.
    """

    encoder: str
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    relatives: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every name and shape agrees."""
        return not (self.missing or self.unknown or self.mismatched)


def fit(path: Path, encoder: str) -> Fit:
    """Load a file into an encoder's network, as a run would, and run nothing.

    Args:
        encoder: `NAME[:option=value,...]`, as after `--encoder`.

    Raises:
        UnknownNameError: no such encoder.
        OptionError: a bad option, or `weights` among them.
        WeightsError: the file is not there, or is no checkpoint at all.
    """
    plan = parse_encoder(encoder)
    if "weights" in plan.options:
        raise OptionError(f"encoder {encoder!r}: the file is what is checked; leave weights= out.")
    found = load("encoders", plan.name)
    try:
        _built(found, plan, path)
    except MisfitError as error:
        return Fit(encoder, error.missing, error.unknown, error.mismatched, tuple(_relatives(found, plan, path)))
    return Fit(encoder)


def _built(found: Loaded, plan: EncoderPlan, path: Path) -> None:
    options = found.target.Options.parse({**plan.options, "weights": str(path)}, where=f"encoder {found.name!r}")
    found.target.check_weights(options, name=found.name)
    found.target(options, name=found.name, device=torch.device("cpu"))


def _relatives(found: Loaded, plan: EncoderPlan, path: Path) -> list[str]:
    fitting = []
    for name, entry in entries("encoders").items():
        if name == found.name or entry.module is None or entry.module != found.target.__module__:
            continue
        try:
            _built(load("encoders", name), plan, path)
        except VidlocError:
            continue
        fitting.append(name)
    return fitting
