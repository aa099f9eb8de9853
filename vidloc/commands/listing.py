"""`vidloc list`: what encoders, heads, datasets, imports and recipes there are, and all about one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import click

from vidloc.cli import echo_json
from vidloc.core.registry import Entry, Group
from vidloc.pipelines.catalogue import Description, OptionLine, catalogue, describe
from vidloc.pipelines.extraction.recipes import RECIPES, Recipe, find_recipe

_RECIPES: Literal["recipes"] = "recipes"


@click.command("list", short_help="List encoders, heads, datasets, imports and recipes, or describe one.")
@click.argument(
    "group", type=click.Choice((*get_args(Group), _RECIPES)), metavar="encoders|heads|datasets|imports|recipes"
)
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(group: Group | Literal["recipes"], name: str | None, *, as_json: bool) -> None:
    """List encoders, heads, datasets, imports or recipes; with a NAME, or the path of a Python file, show all about it.

    \b
    vidloc list encoders
    vidloc list encoders vggish
    vidloc list heads ./my_head.py
    vidloc list recipes thumos14
    vidloc list imports npy
    """
    if group == _RECIPES:
        _show_recipes(name, as_json=as_json)
        return
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
    _print_names({entry.name: entry.summary or entry.origin for entry in found})


def _print_names(found: Mapping[str, str]) -> None:
    # Not a rich table: outside a terminal it would cut the text at 80 columns.
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        click.echo(f"{name:{width}}  {summary}")


def _show_recipes(name: str | None, *, as_json: bool) -> None:
    if name is not None:
        recipe = find_recipe(name, dataset=None)
        if as_json:
            echo_json(recipe.as_json())
        else:
            click.echo("\n".join(_recipe_lines(recipe)))
    elif as_json:
        echo_json([recipe.as_json() for recipe in RECIPES.values()])
    else:
        _print_names({recipe.name: recipe.summary for recipe in RECIPES.values()})


def _recipe_lines(recipe: Recipe) -> tuple[str, ...]:
    further = {"Source": recipe.source, "Differs": recipe.differs, "Datasets": ", ".join(recipe.datasets)}
    return (
        f"{recipe.name}: {recipe.summary}\n",
        "Encoders:",
        *(f"  --encoder {text}" for text in recipe.encoders),
        *(f"\n{title}:\n  {text}" for title, text in further.items() if text),
    )


def _print_description(found: Description) -> None:
    click.echo(f"{found.name} ({found.origin})\n\n{found.text}\n")
    for title, facts in (("Source", found.source), ("Published weights", found.weights)):
        if facts:
            click.echo("\n".join([f"{title}:", *(f"  {name}: {value}" for name, value in facts.items())]) + "\n")
    click.echo("Options:" if found.options else "It has no options.")
    for option in found.options:
        click.echo(_option_text(option))
    if found.layout:
        click.echo("\nWords for the layout of rows, given like options (encoders of pictures and sound):")
    for word in found.layout:
        click.echo(_option_text(word))


def _option_text(option: OptionLine) -> str:
    default = "empty" if option.default == "" else option.default
    limits = f", {option.range}" if option.range else ""
    return f"  {option.name}: {option.type}{limits} [default: {default}]\n      {option.help}"


list = show  # noqa: A001  (a command is found by its own name)
