"""`vidloc report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from vidloc.cli import console, echo_json
from vidloc.commands.storage import STORAGE_OPTION
from vidloc.pipelines.report import DEFAULT_ITEMS
from vidloc.pipelines.report import report as run_report

_PATH = click.Path(path_type=Path)


@click.command(short_help="Write a run as one HTML page: metrics, curves, classes, timelines.")
@click.argument("run", type=_PATH)
@click.option("--out", type=_PATH, help="File to write [default: report.html in the run's folder].")
@click.option(
    "--items",
    type=click.IntRange(min=0),
    default=DEFAULT_ITEMS,
    show_default=True,
    help="Most samples of a split shown over time: the worst, the best, others at random; 0 needs no rows.",
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Split whose samples are shown; repeatable [default: evaluation, and training where that tells more].",
)
@click.option(
    "--store", "stores", multiple=True, metavar="PATH", help="Where the rows lie now [default: as in training]."
)
@STORAGE_OPTION
@click.option("--annotations", type=_PATH, help="Annotations, where they have moved.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def report(
    run: Path, out: Path | None, items: int, splits: tuple[str, ...], stores: tuple[str, ...],
    annotations: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Write a run as one HTML page that opens from disk and loads nothing.

    \b
    vidloc report runs/sf
    vidloc report runs/sf --items 30 --split test --out sf.html

    It holds the facts of the run, its metrics beside guessing, training curves, a table of the classes, which are
    confused, and what the head says over time, beside the truth.
    """
    written = run_report(
        run,
        out=out,
        items=items,
        splits=splits,
        stores=stores,
        annotations=annotations,
        notice=lambda text: click.echo(f"Note: {text}", err=True),
    )
    if as_json:
        echo_json(written.as_json())
        return
    timelines = " and ".join(f"{count} timelines of split {split!r}" for split, count in written.timelines.items())
    console().print(f"Wrote {written.path} ({written.num_bytes / 1e6:.1f} MB): {timelines or 'no timelines'}.")
