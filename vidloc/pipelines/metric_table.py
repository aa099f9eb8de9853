"""Nested metrics as lines of a table, for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as dotted names."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def shown(value: Any) -> str:
    """A count as it is, a share in percent."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{100 * value:.2f} %"
