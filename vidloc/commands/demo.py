"""`vidloc demo`: the whole way on a made-up corpus, every step an ordinary `vidloc` command that is shown."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.table import Table

from vidloc.cli import console, vidloc
from vidloc.pipelines.demo import HEADS, HONESTY, DemoReport, next_commands, run_demo


@click.command(short_help="Make a small labelled set of videos and run the whole way on it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for everything; an earlier demo there is made anew.",
)
def demo(*, out: Path) -> None:
    """Make a small labelled corpus, extract five streams, train and evaluate two heads, build an index and search.

    \b
    vidloc demo
    vidloc demo --out /tmp/demo

    Takes some minutes on two cores, downloads nothing, and prints each command it runs. All networks but the sentence
    encoder have random weights, so the numbers are no benchmark.
    """
    begun = time.perf_counter()
    report = run_demo(out, run=_run, say=_say)
    _print(report, time.perf_counter() - begun)


def _say(title: str) -> None:
    click.secho(f"\n== {title}", bold=True)


def _run(arguments: Sequence[str]) -> int:
    line = ["vidloc", *arguments]
    click.secho(f"$ {shlex.join(line)}", fg="cyan")
    with _typed(line):
        # Without click's standalone mode an exit code comes back as the result, and errors reach our own `main`.
        code = vidloc.main(args=list(arguments), prog_name="vidloc", standalone_mode=False)
    return int(code or 0)


@contextmanager
def _typed(line: list[str]) -> Iterator[None]:
    """Have runs record the command line of the step, and not that of the demo."""
    before, sys.argv = sys.argv, line
    try:
        yield
    finally:
        sys.argv = before


def _print(report: DemoReport, seconds: float) -> None:
    out = console()
    columns = (*HEADS, "most_frequent", "chance")
    table = Table(box=None, pad_edge=False)
    table.add_column("held-out top-1")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for metric, values in report.accuracies.items():
        table.add_row(metric.removesuffix(".top1"), *(f"{100 * values[column]:.1f} %" for column in columns))
    _say("What came out")
    out.print(table)
    out.print(HONESTY)
    places = report.places
    out.print(f"\nDone in {seconds:.0f} s. Everything lies in {places.out}:", markup=False)
    for path, what in (
        (places.corpus, "videos and EPIC-style annotations"),
        (places.store, "the feature store: plain Zarr v3"),
        (places.out / "runs", "one folder per trained head"),
    ):
        out.print(f"  {path}  {what}", markup=False)
    out.print("\nWhat to type next:")
    for line in next_commands(places):
        out.print(f"  {line}", markup=False)
