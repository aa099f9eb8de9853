"""The commands of `vidloc store` that make a new store, or files, of a store's rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from vidloc.cli import EXIT_FAILURES, echo_json
from vidloc.commands.progress import progress_bar, size_text
from vidloc.core.grammar import parse_derivation, parse_pairs
from vidloc.errors import OptionError
from vidloc.pipelines.extraction.items import open_dataset
from vidloc.pipelines.item_choice import ChosenItems, ItemChoice, choose_items
from vidloc.stores import rewriting
from vidloc.stores.base import FeatureStore
from vidloc.stores.components import add_fitted, add_projected
from vidloc.stores.deriving import DeriveReport
from vidloc.stores.deriving import derive as derive_stream
from vidloc.stores.export import FORMATS, Format
from vidloc.stores.export import export as export_stream

_PATH = click.Path(path_type=Path)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_OUT = click.argument("out", type=_PATH)
_STORE = click.argument("path", metavar="STORE", type=_PATH)
_INTO = click.option("--out", type=_PATH, help="Store to append to; made if absent. [default: STORE itself]")
_MOST_NAMED = 5

C = TypeVar("C", bound=Callable[..., Any])


def item_flags(command: C) -> C:
    """The flags that choose items, which `chosen_items` takes."""
    for flag in (
        click.option("--annotations", type=_PATH, help="The corpus's annotations, with --split."),
        click.option("--dataset", metavar="NAME[:option=value,...]", help="Corpus of the split."),
        click.option("--split", help="Only the items of this split of the annotations."),
        click.option(
            "--items",
            "patterns",
            multiple=True,
            metavar="PATTERN",
            help="Only these ids, those like P01_*, or @FILE with one id per line; repeatable.",
        ),
    ):
        command = flag(command)
    return command


@click.command()
@_OUT
@_STORE
@click.option("--streams", metavar="NAME,...", help="Only these streams. [default: all]")
@item_flags
@_AS_JSON
@click.pass_context
def subset(ctx: click.Context, /, out: Path, path: Path, *, streams: str | None, as_json: bool, **flags: Any) -> None:
    """Copy some items or streams of STORE into OUT, a new store; rows keep their digests.

    \b
    vidloc store subset small.zarr feats.zarr --items "P01_*" --streams slowfast_r50,vggish
    vidloc store subset val.h5 feats.zarr --split val --dataset epic --annotations epic-annotations/
    vidloc store subset mine.zarr feats.zarr --items @ids.txt

    The suffix of OUT names its backend. The same command goes on after a stop. Exit code 3: items of the split are
    not in STORE (they are listed).
    """
    chosen = chosen_items(path, flags)
    names = None if streams is None else stream_names(streams)
    with progress_bar("subset") as progress:
        items = None if chosen is None else set(chosen.items)
        report = rewriting.subset(out, path, streams=names, items=items, progress=progress)
    _print(out, report, as_json=as_json, missing=() if chosen is None else chosen.missing)
    ctx.exit(EXIT_FAILURES if chosen is not None and chosen.missing else 0)


@click.command()
@_OUT
@_STORE
@click.option("--streams", metavar="NAME,...", help="Without these streams.")
@click.option(
    "--items",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Without these ids, those like P01_*, or those in @FILE; repeatable. With --streams: only in these streams.",
)
@_AS_JSON
def drop(out: Path, path: Path, *, streams: str | None, patterns: tuple[str, ...], as_json: bool) -> None:
    """Copy STORE without some streams or items into OUT, a new store.

    \b
    vidloc store drop public.zarr feats.zarr --items P08_09
    vidloc store drop public.zarr feats.zarr --streams fasterrcnn

    Rows are never deleted in place, so that a content id goes on naming what was published under it.
    """
    chosen = chosen_items(path, {"patterns": patterns})
    names = [] if streams is None else stream_names(streams)
    with progress_bar("drop") as progress:
        items = None if chosen is None else set(chosen.items)
        report = rewriting.without(out, path, streams=names, items=items, progress=progress)
    _print(out, report, as_json=as_json)


@click.command()
@_OUT
@_STORE
@_AS_JSON
def compact(out: Path, path: Path, *, as_json: bool) -> None:
    """Copy the live rows of STORE into OUT, a new store: without those of items that were extracted again since.

    \b
    vidloc store compact small.zarr feats.zarr

    The content id stays.
    """
    with progress_bar("compact") as progress:
        report = rewriting.compact(out, path, progress)
    _print(out, report, as_json=as_json)
    if not as_json:
        won = report.source_bytes - report.disk_bytes
        click.echo(f"{size_text(abs(won))} {'less' if won >= 0 else 'more'} on disk than {path}.")


@click.command()
@_OUT
@_STORE
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    metavar="[STREAM=]DTYPE",
    help="Keep the features of this stream (or of all that have any) as float16 or float32; repeatable.",
)
@_AS_JSON
def convert(out: Path, path: Path, *, dtypes: tuple[str, ...], as_json: bool) -> None:
    """Copy STORE into OUT in another backend (.zarr, .h5) or with features of another dtype.

    \b
    vidloc store convert feats.h5 feats.zarr
    vidloc store convert half.zarr feats.zarr --dtype float16
    vidloc store convert mixed.zarr feats.zarr --dtype slowfast_r50=float16

    Another backend changes no digest. Another dtype does: the stream then names by digest the one it was made of, and
    a value that the dtype cannot hold is an error before anything is written. Format 1 stores are uncompressed, with
    chunks of a size that the format sets, so neither can be chosen.
    """
    with progress_bar("convert") as progress:
        report = rewriting.convert(out, path, _dtypes(dtypes), progress=progress)
    _print(out, report, as_json=as_json)


@click.command()
@_OUT
@_STORE
@click.option("--stream", required=True, help="Stream to export.")
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="Format of the files.")
@item_flags
@_AS_JSON
@click.pass_context
def export(
    ctx: click.Context, /, out: Path, path: Path, *, stream: str, kind: Format, as_json: bool, **flags: Any
) -> None:
    """Write a stream's rows as files of other programs into OUT, a new folder: one per item, times beside the rows.

    \b
    vidloc store export npys/ feats.zarr --stream slowfast_r50 --format npy
    vidloc store export shards/ feats.zarr --stream slowfast_r50 --format webdataset --items "P01_*"

    \b
    npy          FIELD/NAME.npy, and spans/NAME.npy with each row's start and end in seconds
    npz, h5      NAME.npz, NAME.h5: the same arrays in one file
    parquet      NAME.parquet: a line per row (needs pyarrow: vidloc[parquet])
    webdataset   shard-NNNNNN.tar of about 1 GB: NAME.FIELD.npy, NAME.spans.npy, NAME.json

    NAME is the item id with everything but letters, digits, _, - and dots escaped; index.csv says which file holds
    which item and is written last. stream.json keeps where the rows come from. Exit code 3: items of the split are
    not in STORE, or failed when they were extracted (both are listed).
    """
    chosen = chosen_items(path, flags)
    with progress_bar("export") as progress:
        items = None if chosen is None else set(chosen.items)
        report = export_stream(out, path, stream, kind, items=items, progress=progress)
    missing = () if chosen is None else chosen.missing
    if as_json:
        echo_json({**asdict(report), "missing": missing})
    else:
        say_missing(missing)
        for item, reason in report.without_rows.items():
            click.echo(f"No rows: {item}: {reason}")
        click.echo(f"{out}: {report.num_items} items, {report.num_rows:,} rows of {stream} as {kind}.")
    failed = any(not reason.startswith("absent") for reason in report.without_rows.values())
    ctx.exit(EXIT_FAILURES if missing or failed else 0)


@click.command()
@_STORE
@click.option(
    "--stream",
    "texts",
    multiple=True,
    required=True,
    metavar="NEW=OPERATION(STREAM,...,option=value,...)",
    help="Stream to make; repeatable, and a later one may use an earlier one (without --out).",
)
@_INTO
@_AS_JSON
@click.pass_context
def derive(ctx: click.Context, /, path: Path, *, texts: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Make streams of the streams of STORE, and append them to it or to another store.

    \b
    vidloc store derive feats.zarr --stream "flat=mean(resnet50)"
    vidloc store derive feats.zarr --stream "slow=pool(slowfast_r50,stride=1)"
    vidloc store derive feats.zarr --stream "av=concat(slowfast_r50,vggish)"
    vidloc store derive feats.zarr --stream "unit=normalise(slowfast_r50)" --out unit.zarr

    \b
    mean(S)                             maps, or the regions of a row, to one vector per row
    pool(S,stride=SECONDS,window=...)   on the grid of centres at stride/2 + k*stride: mean of the rows whose centres
                                        lie in the window (as long as the stride, unless given); else the nearest row
    concat(A,B,...,within=SECONDS)      each row of A beside the row of B with the nearest centre; they belong together
                                        if the centre of one lies in the window of the other, or within SECONDS
    normalise(S,how=l2|standard)        vectors of length 1, or channels of mean 0 and deviation 1 over the stream

    A derived stream has features alone. It names its parents by content id and weights; statuses carry over. Exit code
    3: items failed, are partial, or lack a stream (they are listed).
    """
    reports = []
    for derivation in [parse_derivation(text) for text in texts]:
        with progress_bar(f"derive {derivation.stream}") as progress:
            reports.append(derive_stream(path, derivation, out=out, progress=progress))
    if as_json:
        echo_json([asdict(report) for report in reports])
    else:
        for report in reports:
            _print_derived(out or path, report)
    ctx.exit(EXIT_FAILURES if any(map(_has_failures, reports)) else 0)


@click.command()
@_STORE
@click.option("--stream", required=True, help="Stream of vectors, or of maps (each position is a vector).")
@click.option("--components", "count", type=click.IntRange(min=1), help="How many to fit and keep.")
@click.option("--name", help="Name of the new stream. [default: STREAM_pca]")
@click.option("--whiten", is_flag=True, help="Divide each component by its standard deviation.")
@click.option("--save", type=_PATH, help="File for the components. [default: beside the store, STORE.NAME.safetensors]")
@click.option("--fitted", type=_PATH, help="Use the components of this file in place of fitting any.")
@_INTO
@item_flags
@_AS_JSON
@click.pass_context
def pca(ctx: click.Context, /, path: Path, *, stream: str, as_json: bool, out: Path | None, **flags: Any) -> None:
    """Project a stream on its principal components: a stream of fewer channels.

    \b
    vidloc store pca feats.zarr --stream slowfast_r50 --components 256
    vidloc store pca feats.zarr --stream slowfast_r50 --components 256 --split train \\
        --dataset epic --annotations epic-annotations/ --save pca.safetensors
    vidloc store pca test.zarr --stream slowfast_r50 --fitted pca.safetensors

    --items and --split choose what is fitted to; all items are projected. Reads the rows in pieces (scikit-learn's
    IncrementalPCA) and draws nothing at random. The stream keeps the sha256 of the components. Exit codes as for
    'vidloc store derive'.
    """
    count, fitted, save = flags["count"], flags["fitted"], flags["save"]
    if (count is None) == (fitted is None):
        raise click.UsageError("give either --components, to fit some, or --fitted, to use some.")
    name = flags["name"] or f"{stream}_pca"
    common = {"whiten": flags["whiten"], "out": out}
    chosen = chosen_items(path, flags)
    with progress_bar("pca") as progress:
        if fitted is not None:
            if chosen is not None or save is not None:
                raise click.UsageError("--items, --split and --save belong to a fit; --fitted makes none.")
            report = add_projected(path, stream, name, fitted, progress=progress, **common)
        else:
            items = None if chosen is None else chosen.items
            target = save or Path(f"{out or path}.{name}.safetensors")
            report = add_fitted(path, stream, name, count, save=target, items=items, progress=progress, **common)
    missing = () if chosen is None else chosen.missing
    if as_json:
        echo_json({**report.as_json(), "missing": missing})
    else:
        say_missing(missing)
        ratios = report.components.explained_variance_ratio
        click.echo(
            f"{len(ratios)} components explain {100 * ratios.sum():.2f} % of the variance; kept in {report.file}"
        )
        _print_derived(out or path, report.derived)
    ctx.exit(EXIT_FAILURES if missing or _has_failures(report.derived) else 0)


def _print_derived(store: Path, report: DeriveReport) -> None:
    for item, name in report.left_out.items():
        click.echo(f"Left out: {item}: it was never tried in stream {name!r}")
    for item, reason in report.reasons.items():
        click.echo(f"Not whole: {item}: {reason}")
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items() if count)
    click.echo(
        f"{store}: stream {report.stream}: {report.num_rows:,} rows; items: {statuses or 'none'}. "
        f"Content id {report.digest}"
    )


def _has_failures(report: DeriveReport) -> bool:
    return bool(report.reasons or report.left_out)


def _dtypes(texts: tuple[str, ...]) -> dict[str, str]:
    everywhere = [text for text in texts if "=" not in text]
    if len(everywhere) > 1:
        raise OptionError(f"--dtype is given for all streams twice ({everywhere[0]!r} and {everywhere[1]!r}).")
    named = parse_pairs([text for text in texts if "=" in text], flag="--dtype")
    return named | ({"": everywhere[0]} if everywhere else {})


def stream_names(text: str) -> list[str]:
    """What `--streams` names."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise OptionError(f"--streams takes NAME,NAME,..., got {text!r}.")
    return names


def chosen_items(path: Path | FeatureStore, flags: dict[str, Any]) -> ChosenItems | None:
    """The items that `item_flags` choose; `None` where all are meant."""
    dataset = flags.get("dataset")
    choice = ItemChoice(
        patterns=flags["patterns"],
        dataset=open_dataset(dataset) if dataset else None,
        annotations=flags.get("annotations"),
        split=flags.get("split"),
    )
    return choose_items(path, choice)


def _print(out: Path, report: rewriting.CopyReport, *, as_json: bool, missing: tuple[str, ...] = ()) -> None:
    if as_json:
        echo_json({**asdict(report), "missing": missing})
        return
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    say_missing(missing)
    click.echo(
        f"{out}: {report.num_items} items, {size_text(report.disk_bytes)}; {report.num_copied} of "
        f"{report.num_entries} entries copied. Content id {report.digest}"
    )


def say_missing(missing: tuple[str, ...]) -> None:
    """List items of a split that a store lacks."""
    if missing:
        more = ", ..." if len(missing) > _MOST_NAMED else ""
        click.echo(f"Not in the store: {len(missing)} items of the split: {', '.join(missing[:_MOST_NAMED])}{more}")


MAKING = (subset, drop, compact, convert, derive, pca, export)
