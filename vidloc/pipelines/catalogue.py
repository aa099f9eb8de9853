"""What there is to choose from: every encoder, head, dataset and import layout, and all that is known of one of them.

Listing imports nothing of what is listed; describing imports that one alone. Options are read from the pydantic model
that also validates them, so what is shown here is what is accepted.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vidloc.core.options import Options
from vidloc.core.records import Source
from vidloc.core.registry import Entry, Group, entries, load
from vidloc.extract.published import PUBLISHED


@dataclass(frozen=True)
class OptionLine:
    """One option as a user sees it.

    Attributes:
        type: such as `int`, `text`, or the choices in words.
        range: such as `at least 0, below 1`; empty where every value of the type is taken.
    """

    name: str
    type: str
    default: Any
    range: str
    help: str


@dataclass(frozen=True)
class Description:
    """All that is known of one encoder, head, dataset or import layout.

    Attributes:
        origin: module, package or file that provides it.
        text: docstring of its file (of its class where the file has none).
        options: in the order they were declared.
        layout: words about the windows of rows that encoders of pictures or sound take beside them.
        source: paper, code and licence, by what they are.
        weights: name, address and licence of the published checkpoint, by what they are; empty where there is none.
    """

    group: Group
    name: str
    origin: str
    text: str
    options: tuple[OptionLine, ...]
    layout: tuple[OptionLine, ...]
    source: Mapping[str, str]
    weights: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return asdict(self)


def catalogue(group: Group) -> tuple[Entry, ...]:
    """All registered names of a group with origin and summary, sorted."""
    return tuple(entries(group).values())


def describe(group: Group, name: str) -> Description:
    """One of them, by name or by the path of a Python file.

    Raises:
        UnknownNameError: no such name or file.
    """
    found = load(group, name)
    module = sys.modules[found.target.__module__]
    source = getattr(found.target, "source", None)
    return Description(
        group=group,
        name=found.name,
        origin=found.origin,
        text=inspect.cleandoc(module.__doc__ or found.target.__doc__ or ""),
        options=_option_lines(found.target.Options),
        layout=_layout_lines() if group == "encoders" else (),
        source={k: v for k, v in source.model_dump().items() if v} if isinstance(source, Source) else {},
        weights=_published(found.name) if group == "encoders" else {},
    )


def _layout_lines() -> tuple[OptionLine, ...]:
    # Brings torch, which describing an encoder needs anyway, and describing a head or a dataset may not.
    from vidloc.pipelines.extraction.layout import Layout

    return _option_lines(Layout)


def _published(name: str) -> dict[str, str]:
    entry = PUBLISHED.get(name)
    if entry is None:
        return {}
    return {
        "url": entry.url,
        "licence": entry.licence,
        "paper": entry.citation,
        "get": entry.by_hand or f"vidloc weights fetch {name}",
    }


def _option_lines(options: type[Options]) -> tuple[OptionLine, ...]:
    schema = options.model_json_schema()
    return tuple(
        OptionLine(
            name=name,
            type=_type(field),
            default=field.get("default"),
            range=_range(field),
            help=field.get("description", ""),
        )
        for name, field in schema.get("properties", {}).items()
    )


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return " | ".join(str(choice) for choice in field["enum"])
    if "const" in field:
        return str(field["const"])
    if "anyOf" in field:
        return " | ".join(_type(choice) for choice in field["anyOf"])
    words = {"integer": "int", "number": "float", "boolean": "yes or no", "string": "text", "null": "none"}
    if field.get("type") == "array":
        element: Mapping[str, Any] = field.get("items") or next(iter(field.get("prefixItems", ())), {})
        return f"{_type(element)},..."
    return words.get(field.get("type", ""), "text")


def _range(field: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    sources = [field, *field.get("anyOf", ())]
    limits = [f"{word} {part[key]:g}" for part in sources for key, word in words.items() if key in part]
    return ", ".join(limits)
