"""A report's page: one HTML file that holds all of its scripts, and may load or run nothing else.

A content security policy in the page forbids every address and every script but its own, by their hashes: even text of
a run that were taken for HTML could neither run nor call home. All text goes through Jinja's escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bokeh.embed import components
from bokeh.models import UIElement
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted by.

    Attributes:
        head: titles of the columns.
        rows: shares are floats, shown in percent; counts are ints.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure with the words above it.

    Attributes:
        badge: one word of why it is there.
        legend: what the colours mean: names and colours.
    """

    title: str
    figure: UIElement
    badge: str = ""
    said: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything on a page, in order.

    Attributes:
        cards: the first numbers to see: name, value, what guessing scores.
        facts: what the run is, name and value each.
        more: facts that are folded away, by title.
    """

    title: str
    subtitle: str
    cards: tuple[tuple[str, str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    more: Mapping[str, Table] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    footer: str = ""


def rendered(page: Page) -> str:
    """The page as HTML."""
    pictures = [picture for section in page.sections for picture in section.pictures]
    scripts: list[str] = [(_FOLDER / "page.js").read_text(encoding="utf-8")]
    divs: dict[int, Markup] = {}
    if pictures:
        script, found = components(
            tuple(picture.figure for picture in pictures), wrap_script=False, wrap_plot_info=True
        )
        scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw, script, *scripts]
        # Bokeh's own divs hold ids alone.
        divs = {id(picture): Markup(div) for picture, div in zip(pictures, found, strict=True)}  # noqa: S704
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.filters["cell"] = shown_cell
    values: dict[str, Any] = {
        "page": page,
        "div": lambda picture: divs[id(picture)],
        "style": Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),  # noqa: S704  (ours)
        "scripts": [Markup(script) for script in scripts],  # noqa: S704  (Bokeh escapes what it carries)
        "policy": _policy(scripts),
    }
    return environment.get_template("page.html").render(values)


def shown_cell(value: Cell) -> str:
    """A share in percent, anything else as it is."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if isinstance(value, float) else str(value)


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
