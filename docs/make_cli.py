"""Write docs/cli.md from the commands' own `--help`: python docs/make_cli.py [--check]."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from vidloc.cli import vidloc

TARGET = Path(__file__).parent / "cli.md"


def pages(command: click.Command, parents: list[click.Context], name: str) -> Iterator[tuple[str, str]]:
    """Path and help text of a command and all its subcommands."""
    context = click.Context(command, info_name=name, parent=parents[-1] if parents else None, max_content_width=110)
    context.terminal_width = 110
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from pages(found, [*parents, context], child)


def reference() -> str:
    """The whole page."""
    parts = ["# Command line reference", "", "Made from `--help` by `python docs/make_cli.py`.", ""]
    for path, text in pages(vidloc, [], "vidloc"):
        parts += [f"## {path}", "", "```text", text.strip(), "```", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text(encoding="utf-8") != reference():
            sys.exit("docs/cli.md is stale: run python docs/make_cli.py")
    else:
        TARGET.write_text(reference(), encoding="utf-8")
