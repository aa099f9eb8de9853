"""`vidloc dataset`: labels from annotation tools, and whether a store fits a corpus's annotations."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from vidloc.cli import EXIT_FAILURES, echo_json
from vidloc.errors import AnnotationError

_PATH = click.Path(path_type=Path)


@click.group(short_help="Labels from annotation tools; a store checked against annotations.")
def dataset() -> None:
    """Turn exports of annotation tools into labels, and check a store against a dataset's annotations.

    \b
    vidloc dataset convert annotated/*.eaf --tier actions --out labels.csv
    vidloc dataset check segments --store feats.zarr --annotations labels.csv
    """


@dataset.command(short_help="Labels from the exports of annotation tools (ELAN, VIA).")
@click.argument("files", nargs=-1, required=True, type=_PATH, metavar="FILE...")
@click.option("--out", required=True, type=_PATH, help="Csv file to write.")
@click.option(
    "--tier", "tiers", multiple=True, metavar="NAME", help="Tier (ELAN) or attribute (VIA) of the labels; repeatable."
)
@click.option(
    "--to",
    "target",
    type=click.Choice(["segments", "points"]),
    default="segments",
    show_default=True,
    help="Segments, or single frames: one time of each.",
)
@click.option(
    "--at",
    type=click.Choice(["start", "center"]),
    default="start",
    show_default=True,
    help="With --to points: which time of a span.",
)
@click.option(
    "--ids",
    type=click.Choice(["name", "stem", "document"]),
    default="name",
    show_default=True,
    help="Item ids: the media file's name, that without extension, or the annotation file's without.",
)
@click.option("--shift", "shift_s", type=float, default=0.0, metavar="SECONDS", help="Added to every time.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.pass_context
def convert(
    ctx: click.Context, files: tuple[Path, ...], out: Path, tiers: tuple[str, ...], target: Any, at: Any, ids: Any,
    shift_s: float, as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Turn files of annotation tools into one csv of labels: ELAN (.eaf, tab-delimited .txt), VIA 3 (.json, .csv).

    \b
    vidloc dataset convert annotated/*.eaf --tier actions --out labels.csv
    vidloc dataset convert project.json --tier action --to points --out frames.csv
    vidloc train-head sfnet --store feats.zarr --dataset points --annotations frames.csv --out runs/sf

    Segments are read by --dataset segments --annotations; single frames by --dataset points, or by --points beside the
    segments of a corpus. Whatever is odd in the files is said. Exit code 3 where an annotation became no label.
    """
    from vidloc.pipelines.label_conversion import ConversionPlan, convert_labels, write_labels

    found = convert_labels(ConversionPlan(files, tiers, target, at, ids, shift_s))
    write_labels(found, out)
    if as_json:
        echo_json(found.as_json())
    else:
        click.echo("\n".join((f"Wrote {out}.", *found.lines())))
    ctx.exit(EXIT_FAILURES if found.left_out else 0)


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
