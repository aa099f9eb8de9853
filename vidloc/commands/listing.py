"""`vidloc list`: what encoders, heads and datasets there are, and all about one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import click

from vidloc.cli import echo_json
from vidloc.core.registry import Entry, Group
from vidloc.pipelines.catalogue import Description, OptionLine, catalogue, describe


@click.command("list", short_help="List encoders, heads and datasets, or describe one.")
@click.argument("group", type=click.Choice(get_args(Group)), metavar="encoders|heads|datasets")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(group: Group, name: str | None, *, as_json: bool) -> None:
    """List encoders, heads or datasets; with a NAME, or the path of a Python file, show all about it.

    \b
    vidloc list encoders
    vidloc list encoders vggish
    vidloc list heads ./my_head.py
    """
    if name is None:
        found = catalogue(group)
        if as_json:
            echo_json([_entry_json(entry) for entry in found])
        else:
            _print_entries(found)
        return
    description = describe(group, name)
    if as_json:
        echo_json(description.as_json())
    else:
        _print_description(description)


def _entry_json(entry: Entry) -> dict[str, str]:
    return {"name": entry.name, "summary": entry.summary, "origin": entry.origin}


def _print_entries(found: Sequence[Entry]) -> None:
    # Not a rich table: outside a terminal it would cut the text at 80 columns.
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        click.echo(f"{entry.name:{width}}  {entry.summary or entry.origin}")


def _print_description(found: Description) -> None:
    click.echo(f"{found.name} ({found.origin})\n\n{found.text}\n")
    for title, facts in (("Source", found.source), ("Published weights", found.weights)):
        if facts:
            click.echo("\n".join([f"{title}:", *(f"  {name}: {value}" for name, value in facts.items())]) + "\n")
    click.echo("Options:" if found.options else "It has no options.")
    for option in found.options:
        click.echo(_option_text(option))


def _option_text(option: OptionLine) -> str:
    default = "empty" if option.default == "" else option.default
    limits = f", {option.range}" if option.range else ""
    return f"  {option.name}: {option.type}{limits} [default: {default}]\n      {option.help}"


list = show  # noqa: A001  (a command is found by its own name)
