"""`vidloc dataset`: a corpus's annotations, and whether a store fits them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from vidloc.cli import EXIT_FAILURES, echo_json
from vidloc.errors import AnnotationError

_PATH = click.Path(path_type=Path)


@click.group(short_help="Check a store against a dataset's annotations, before training.")
def dataset() -> None:
    """Check a store against a dataset's annotations, before training.

    \b
    vidloc dataset check segments --store feats.zarr --annotations my.json
    """


@dataset.command()
@click.argument("name", metavar="NAME[:option=value,...]")
@click.option("--store", "stores", multiple=True, required=True, type=_PATH, help="Store to check; repeatable.")
@click.option("--annotations", type=_PATH, help="The corpus's annotations, a file or folder.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Only this stream; repeatable.")
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only this split; repeatable.")
@click.option(
    "--durations",
    type=_PATH,
    help="Csv file item_id,duration_s of the videos, where neither annotations nor store state them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every item and class.")
@click.pass_context
def check(
    ctx: click.Context,
    name: str,
    stores: tuple[Path, ...],
    annotations: Path | None,
    streams: tuple[str, ...],
    splits: tuple[str, ...],
    durations: Path | None,
    *,
    as_json: bool,
) -> None:
    """Say whether rows and annotations belong together: items, times, classes. No row is read.

    \b
    vidloc dataset check epic --store feats.zarr --annotations epic-annotations/
    vidloc dataset check segments --store feats.zarr --annotations my.csv --durations durations.csv

    It compares where rows end with how long videos last: rows that were imported at a wrong frame rate are found, and
    the right one is named. Exit code 3 where there is a problem.
    """
    from vidloc.pipelines.extraction.items import open_dataset
    from vidloc.pipelines.importing import read_facts
    from vidloc.pipelines.preflight import check_dataset
    from vidloc.stores.base import open_store

    read = open_dataset(name).read(annotations)
    stated = {item: fact.duration_s for item, fact in read_facts(durations).items()} if durations else {}
    known = {item: duration_s for item, duration_s in stated.items() if duration_s}
    if durations and not known:
        raise AnnotationError(f"{durations} states no durations: give the columns item_id,duration_s.")
    with ExitStack() as stack:
        opened = [stack.enter_context(open_store(path)) for path in stores]
        report = check_dataset(read, opened, streams=streams, splits=splits, durations_s=known)
    if as_json:
        echo_json(report.as_json())
    else:
        click.echo("\n".join(report.lines()))
    ctx.exit(EXIT_FAILURES if report.problems else 0)
