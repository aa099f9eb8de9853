"""`vidloc import LAYOUT PATH`: features that others made, from their files into a feature store.

Each layout is a subcommand whose flags are made from its typed options.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import click

from vidloc.cli import EXIT_FAILURES, echo_json, given, option_flags
from vidloc.commands.progress import progress_bar
from vidloc.core import registry
from vidloc.core.options import Options
from vidloc.core.records import Source
from vidloc.errors import did_you_mean

_PATH = click.Path(path_type=Path)


class LayoutGroup(click.Group):
    """One subcommand per layout, made when it is asked for; a path to a Python file is a name too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all layouts; nothing is imported for it."""
        return list(registry.entries("imports"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of a layout, with a hint at the nearest name."""
        if args and not args[0].startswith("-") and not args[0].endswith(".py"):
            known = self.list_commands(ctx)
            if args[0] not in known:
                ctx.fail(f"no layout {args[0]!r}. {did_you_mean(args[0], known)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a layout."""
        return _layout_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The layouts with a line each, without importing them."""
        with formatter.section("Layouts"):
            formatter.write_dl([(name, entry.summary) for name, entry in registry.entries("imports").items()])


@click.group(
    "import",
    cls=LayoutGroup,
    short_help="Read features of other files into a feature store.",
    subcommand_metavar="LAYOUT PATH --store STORE --stream NAME [FLAGS]...",
)
def import_() -> None:
    """Read features that others made, from their files into a feature store.

    \b
    vidloc import npy i3d_thumos/ --store feats.zarr --fps 30 --window 16f --stride 4f \\
        --stream i3d_rgb:channels=0:1024 --stream i3d_flow:channels=1024:2048
    vidloc import npy vggish/ --store feats.zarr --stream vggish:kind=audio --window 0.96s --stride 0.96s
    vidloc import npy --help       all flags of a layout, its sample and its time rule

    What files do not say is given by flags; where one is missing the error names it. The same command resumes: what the
    store holds is skipped, items that failed are tried again. 'vidloc dataset check' then tells whether times fit.

    Exit codes: 0 all done, 1 an error before or while writing, 2 wrong usage, 3 some items failed (listed at the end),
    130 or 143 stopped by Ctrl-C or SIGTERM, with everything so far kept.
    """


def _layout_command(name: str) -> click.Command:
    found = registry.load("imports", name)
    options: type[Options] = found.target.Options
    text = inspect.cleandoc(sys.modules[found.target.__module__].__doc__ or "")
    summary, _, rest = text.partition("\n\n")
    params: list[click.Parameter] = [
        click.Argument(["path"], metavar="PATH", type=_PATH),
        click.Option(["--store"], required=True, type=_PATH, help="Store to append to; made if absent (.zarr or .h5)."),
        click.Option(
            ["--stream", "streams"],
            multiple=True,
            required=True,
            metavar="NAME[:option=value,...]",
            help="Stream to make; repeat for several. Options: kind=clip|audio|objects|text, channels=FIRST:STOP, "
            "key=ARRAY, dtype=float16|float32, network=WORDS.",
        ),
        *option_flags(options),
        click.Option(
            ["--facts"],
            type=_PATH,
            help="Csv file of what is known of items: item_id and any of fps, duration_s, width_px, height_px.",
        ),
        click.Option(["--paper"], default="", help="Who made the features: a citation, kept in the store."),
        click.Option(["--url"], default="", help="Where they are published, kept in the store."),
        click.Option(["--licence"], default="", help="Their licence, kept in the store."),
        click.Option(
            ["--allow-failures"],
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            metavar="N",
            help="Exit 0 although up to N items failed.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report as one JSON document."),
    ]
    return click.Command(
        name,
        params=params,
        callback=click.pass_context(lambda ctx, **flags: _run(ctx, name, options, flags)),
        help=f"{summary}\n\n\b\n{rest}",
        short_help=summary,
    )


def _run(ctx: click.Context, name: str, options: type[Options], flags: dict[str, Any]) -> None:
    from vidloc.pipelines.importing import ImportRequest, import_features, parse_stream, read_facts

    request = ImportRequest(
        layout=name,
        path=flags["path"],
        streams=tuple(parse_stream(text) for text in flags["streams"]),
        options=given({field: flags[field] for field in options.model_fields}),
        facts=read_facts(flags["facts"]) if flags["facts"] else {},
        source=Source(paper=flags["paper"], code=flags["url"], licence=flags["licence"]),
    )
    with progress_bar("import") as progress:
        report = import_features(flags["store"], request, progress=progress)
    if flags["as_json"]:
        echo_json(report.as_json())
    else:
        click.echo("\n".join(report.lines()))
    if report.interrupted_by is not None:
        ctx.exit(128 + report.interrupted_by)
    ctx.exit(EXIT_FAILURES if len(report.failures) > flags["allow_failures"] else 0)
