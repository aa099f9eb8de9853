"""`vidloc store`: look at, verify, merge and mend feature stores; `store_making` makes new ones of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from vidloc.cli import EXIT_FAILURES, console, echo_json
from vidloc.commands.progress import progress_bar, size_text
from vidloc.commands.storage import STORAGE_OPTION, STORE
from vidloc.commands.store_making import MAKING
from vidloc.commands.store_sharing import SHARING
from vidloc.stores import operations
from vidloc.stores.base import FeatureStore, ItemEntry, open_store
from vidloc.stores.card import card_of
from vidloc.stores.comparing import StoreDiff
from vidloc.stores.comparing import diff as compare_stores
from vidloc.stores.facts import StoreFacts, StreamFacts, facts_of
from vidloc.stores.format import one_line
from vidloc.stores.merging import merge as merge_stores
from vidloc.stores.preview import FieldPreview, ItemPreview, head_of
from vidloc.stores.remote_files import is_remote
from vidloc.stores.signing import verify_signature
from vidloc.stores.statistics import Moments, StoreStatistics, StreamStatistics, statistics_of
from vidloc.stores.tables import STATUSES

_PATH = click.Path(path_type=Path)
_MOST_NAMED = 10
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(short_help="Look at, verify, merge and mend feature stores.")
def store() -> None:
    """Look at, verify, merge and mend feature stores.

    \b
    vidloc store info feats.zarr
    vidloc store ls feats.zarr --status failed
    vidloc store head feats.zarr P01_01
    vidloc store verify feats.zarr
    vidloc store stats feats.zarr
    vidloc store merge all.zarr part1.zarr part2.zarr
    vidloc store subset small.zarr feats.zarr --items "P01_*" --streams slowfast_r50
    vidloc store convert feats.h5 feats.zarr
    vidloc store pull s3://lab/feats.zarr mine.zarr --items "P01_*"
    vidloc store derive feats.zarr --stream "slow=pool(slowfast_r50,stride=1)"
    vidloc store card feats.zarr --out README.md
    """


@store.command()
@click.argument("path", metavar="STORE", type=STORE)
@STORAGE_OPTION
@_AS_JSON
def info(path: str | Path, *, as_json: bool) -> None:
    """Say what a store holds: streams, rows, times, weights, size, content id.

    \b
    vidloc store info feats.zarr
    """
    facts = facts_of(path)
    if as_json:
        echo_json(facts.as_json())
        return
    out = console()
    where = "of arrays" if is_remote(facts.path) else "on disk"
    out.print(
        f"{facts.path}: {facts.backend} store, {facts.num_items} items, {size_text(facts.disk_bytes)} {where}",
        markup=False,
    )
    out.print(f"content id {facts.digest}")
    if facts.writer:
        out.print(f"being written by {facts.writer}", markup=False)
    if not facts.streams:
        out.print("no streams yet")
        return
    out.print(_stream_table(facts))
    for stream in facts.streams:
        for line in _origin_lines(stream):
            out.print(line, markup=False)


@store.command()
@click.argument("path", metavar="STORE", type=STORE)
@click.option("--stream", help="Only this stream.")
@click.option("--status", type=click.Choice(STATUSES), help="Only items with this status in some stream.")
@STORAGE_OPTION
@_AS_JSON
def ls(path: str | Path, *, stream: str | None, status: str | None, as_json: bool) -> None:
    """List items with their rows per stream, and why a stream of an item is not done.

    \b
    vidloc store ls feats.zarr
    vidloc store ls feats.zarr --stream vggish --status absent
    """
    with open_store(path) as opened:
        items = dict(_listing(opened, stream, status))
    if as_json:
        echo_json({item: {name: asdict(entry) for name, entry in entries.items()} for item, entries in items.items()})
        return
    for item, entries in items.items():
        click.echo(item)
        for name, entry in entries.items():
            reason = f": {entry.reason}" if entry.reason else ""
            click.echo(f"  {name}  {entry.status}  {entry.num_rows} rows{reason}")
    click.echo(f"{len(items)} items", err=True)


@store.command()
@click.argument("path", metavar="STORE", type=STORE)
@click.argument("item")
@click.option("--stream", "streams", metavar="NAME", multiple=True, help="Only this stream; may be repeated.")
@click.option(
    "--rows", "num_rows", type=click.IntRange(min=1, max=10_000), default=3, show_default=True, help="Rows per stream."
)
@STORAGE_OPTION
@_AS_JSON
def head(path: str | Path, item: str, *, streams: tuple[str, ...], num_rows: int, as_json: bool) -> None:
    """Show the first rows of an item with their times: first numbers, boxes, names of classes, texts.

    \b
    vidloc store head feats.zarr P01_01
    vidloc store head feats.zarr P01_01 --stream objects --rows 10
    """
    found = head_of(path, item, streams, num_rows)
    if as_json:
        echo_json(found.as_json())
        return
    for line in _head_lines(found):
        click.echo(line)


@store.command()
@click.argument("path", metavar="STORE", type=STORE)
@click.option(
    "--quick/--full",
    default=False,
    help="Look at lengths and metadata only (stores of this machine), or at every row. [default: full]",
)
@click.option("--signature", is_flag=True, help="Also make sure who signed it.")
@click.option(
    "--allowed-signers", type=_PATH, help="Names and public keys, as ssh-keygen takes them; with --signature."
)
@STORAGE_OPTION
@_AS_JSON
@click.pass_context
def verify(
    ctx: click.Context, path: str | Path, *, quick: bool, signature: bool, allowed_signers: Path | None, as_json: bool
) -> None:
    """Read every row and compare it with the digest that was committed; damage is named by stream and item.

    \b
    vidloc store verify feats.zarr
    vidloc store verify feats.zarr --quick
    vidloc store verify feats.zarr --signature --allowed-signers allowed_signers

    An HDF5 file is also opened as other programs do, and has to be the same store for them.

    Exit codes: 0 sound, 3 damage found, 1 the store cannot be opened at all, or its signature does not hold.
    """
    if signature != (allowed_signers is not None):
        raise click.UsageError("--signature and --allowed-signers FILE go together.")
    signed = None if allowed_signers is None else verify_signature(path, allowed_signers)
    with progress_bar("verify") as progress:
        report = operations.verify(path, quick=quick, progress=progress)
    if as_json:
        echo_json(asdict(report) | {"signature": None if signed is None else asdict(signed)})
    else:
        if signed is not None:
            part = "all" if signed.is_whole else f"{signed.num_entries} of {signed.num_signed} entries"
            click.echo(f"Signed by {signed.signer}: {part} of content id {signed.content}")
        for damage in report.damages:
            click.echo(f"DAMAGED {damage}")
        looked = "lengths and metadata of" if report.quick else "every row of"
        click.echo(f"Looked at {looked} {report.num_entries} entries ({report.num_rows:,} rows).")
        click.echo(f"{len(report.damages)} are damaged." if report.damages else f"Sound. Content id {report.digest}")
    ctx.exit(EXIT_FAILURES if report.damages else 0)


@store.command()
@click.argument("path", metavar="STORE", type=STORE)
@click.option("--stream", "streams", metavar="NAME", multiple=True, help="Only this stream; may be repeated.")
@STORAGE_OPTION
@_AS_JSON
def stats(path: str | Path, *, streams: tuple[str, ...], as_json: bool) -> None:
    """Read the rows once and say how they are distributed, which are all zero, and which items are the same.

    \b
    vidloc store stats feats.zarr
    vidloc store stats feats.zarr --stream slowfast_r50 --json

    Norms are L2 norms of rows; in fields with any number of entries per row, such as regions, of entries. Values that
    are NaN or infinite are counted and left out. Needs dask (vidloc[dask]); memory does not grow with the rows.
    """
    with progress_bar("stats") as progress:
        found = statistics_of(path, streams or None, progress)
    if as_json:
        echo_json(found.as_json())
        return
    out = console()
    out.print(_statistics_table(found))
    for name, stream in found.streams.items():
        for line in _finding_lines(name, stream):
            out.print(line, markup=False)
    if not any(numbers.num_nonfinite for stream in found.streams.values() for numbers in stream.fields.values()):
        out.print("no value is NaN or infinite")


@store.command()
@click.argument("first", metavar="A", type=_PATH)
@click.argument("second", metavar="B", type=_PATH)
@_AS_JSON
@click.pass_context
def diff(ctx: click.Context, first: Path, second: Path, *, as_json: bool) -> None:
    """Compare two stores by the digests of their rows: what is the same, what differs, what only one of them has.

    \b
    vidloc store diff ours.zarr theirs.h5

    Backends, library versions and facts of items make no difference. Exit codes: 0 the same rows of the same origins,
    3 they differ, 1 a store cannot be opened.
    """
    found = compare_stores(first, second)
    if as_json:
        echo_json(found.as_json())
    else:
        for line in _diff_lines(found):
            click.echo(line)
        same = f"The same rows. Content id {found.digests[0]}"
        click.echo(same if found.is_same else f"Content ids {found.digests[0]} and {found.digests[1]}.")
    ctx.exit(0 if found.is_same else EXIT_FAILURES)


@store.command()
@click.argument("path", metavar="STORE", type=_PATH)
@click.option("--out", type=_PATH, help="File to write, such as README.md; it must not exist. [default: print it]")
def card(path: Path, *, out: Path | None) -> None:
    """Write a README for the people a store is given to: what, whose weights and licence, how to cite and to load it.

    \b
    vidloc store card feats.zarr --out README.md
    """
    text = card_of(path)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise click.FileError(str(out), hint=error.strerror) from error
    click.echo(f"Wrote {out}.")


@store.command()
@click.argument("out", type=_PATH)
@click.argument("parts", metavar="PART...", nargs=-1, required=True, type=_PATH)
@_AS_JSON
def merge(out: Path, parts: tuple[Path, ...], *, as_json: bool) -> None:
    """Join part stores, in any order, into OUT: a new store, or one that holds some of the parts already.

    \b
    vidloc extract ... --part 1/2 --store part1.zarr
    vidloc extract ... --part 2/2 --store part2.zarr
    vidloc store merge feats.zarr part1.zarr part2.zarr

    Parts may be Zarr or HDF5, as OUT may (.zarr, .h5). Parts whose streams have different origins, or that hold
    different rows of one item, are refused before anything is written.
    """
    with progress_bar("merge") as progress:
        report = merge_stores(out, parts, progress=progress)
    if as_json:
        echo_json(asdict(report))
        return
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(
        f"{out}: {report.num_items} items; {report.num_copied} of {report.num_entries} entries copied from "
        f"{len(parts)} parts. Content id {report.digest}"
    )


@store.command()
@click.argument("path", metavar="STORE", type=_PATH)
@click.option("--yes", is_flag=True, help="Do not ask.")
def unlock(path: Path, *, yes: bool) -> None:
    """Remove the lock of a writer that is gone for sure, such as a job of another host that was killed.

    \b
    vidloc store unlock feats.zarr

    Two writers at once would spoil each other's commits. A dead writer of this host needs no unlocking.
    """
    holder = operations.writer_of(path)
    if holder and not yes:
        click.confirm(f"{path} is locked by {holder}. Is that process gone for sure?", abort=True, err=True)
    click.echo(f"Removed the lock of {operations.unlock(path)}.")


@store.command()
@click.argument("path", metavar="STORE", type=_PATH)
def finish(path: Path) -> None:
    """Fold what a stopped writer had committed, so that plain zarr and h5py clients see it.

    \b
    vidloc store finish feats.h5

    vidloc itself shows such items at once; for an .h5 store they lie in a folder beside it until this is done or the
    next extraction ends.
    """
    click.echo(f"{path} is complete in itself. Content id {operations.finish(path)}")


def _listing(
    opened: FeatureStore, stream: str | None, status: str | None
) -> Iterator[tuple[str, dict[str, ItemEntry]]]:
    names = [stream] if stream else list(opened.streams())
    tables = {name: opened.entries(name) for name in names}
    for item in opened.items():
        found = {name: table[item] for name, table in tables.items() if item in table}
        if found and (status is None or any(entry.status == status for entry in found.values())):
            yield item, found


def _diff_lines(found: StoreDiff) -> Iterator[str]:
    for name, stream in found.streams.items():
        lists = (("differ", stream.differing), ("only in A", stream.only_first), ("only in B", stream.only_second))
        counts = [f"{len(items):,} {what}" for what, items in lists if items]
        yield f"{name}: {', '.join([f'{stream.num_same:,} items are the same', *counts])}"
        for line in stream.origin:
            yield f"  origin: {one_line(line)}"
        for what, items in lists:
            more = ", ..." if len(items) > _MOST_NAMED else ""
            if items:
                yield f"  {what}: {', '.join(items[:_MOST_NAMED])}{more}"


def _head_lines(found: ItemPreview) -> Iterator[str]:
    facts = found.info.model_dump(exclude={"item_id", "source_sha256"}, exclude_none=True)
    said = one_line(", ".join(f"{name} {value}" for name, value in facts.items()))
    yield f"{found.item_id}: {said or 'no facts kept'}"
    for name, stream in found.streams.items():
        reason = f": {stream.reason}" if stream.reason else ""
        yield f"{name}: {stream.status}, {stream.num_rows:,} rows{reason}"
        for row in stream.rows:
            yield f"  row {row.row}" + ("" if row.span_s is None else f"  {row.span_s[0]:.3f} to {row.span_s[1]:.3f} s")
            for field, shown in row.fields.items():
                yield f"    {field} {list(shown.shape)}  {_field_text(shown)}".rstrip()


def _field_text(shown: FieldPreview) -> str:
    if shown.text is not None:
        return shown.text
    values = [_value_text(value) for value in shown.values]
    if shown.names:
        values = [f"{name} ({value})" for name, value in zip(shown.names, values, strict=True)]
    total = shown.shape[0] if isinstance(next(iter(shown.values), None), tuple) else prod(shown.shape)
    return ", ".join(values) + (", ..." if len(values) < total else "")


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_value_text, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stream_table(facts: StoreFacts) -> Table:
    table = Table(box=None, pad_edge=False)
    for title, justify in (("stream", "left"), ("kind", "left"), ("items", "right"), ("rows", "right")):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for title in ("size", "window and stride", "statuses"):
        table.add_column(title)
    for stream in facts.streams:
        statuses = ", ".join(f"{count:,} {status}" for status, count in stream.statuses.items() if count)
        counts = (f"{stream.num_items:,}", f"{stream.num_rows:,}", size_text(stream.num_bytes))
        table.add_row(stream.spec.name, stream.spec.kind, *counts, stream.times, statuses)
    return table


def _statistics_table(found: StoreStatistics) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("stream", "field"):
        table.add_column(title, overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("of", no_wrap=True)
    for title in ("mean", "std", "min", "max"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, stream in found.streams.items():
        head = (name, f"{stream.num_rows:,}")
        for field, numbers in stream.fields.items():
            table.add_row(head[0], field, head[1], "values", *_numbers(numbers.values))
            entries = f"{numbers.num_vectors:,} entries" if numbers.is_ragged else ""
            table.add_row("", "", entries, "norms", *_numbers(numbers.norms))
            head = ("", "")
        if not stream.fields:
            table.add_row(head[0], "(texts only)", head[1])
    return table


def _numbers(moments: Moments) -> list[str]:
    numbers = (moments.mean, moments.std, moments.min, moments.max)
    return ["-" if number is None else f"{number:.4g}" for number in numbers]


def _finding_lines(name: str, stream: StreamStatistics) -> Iterator[str]:
    for field, numbers in stream.fields.items():
        if numbers.num_nonfinite:
            yield f"{name}, {field}: {numbers.num_nonfinite:,} values are NaN or infinite"
        if numbers.num_zero:
            what = "entries" if numbers.is_ragged else "rows"
            yield f"{name}, {field}: {numbers.num_zero:,} of {numbers.num_vectors:,} {what} are all zero"
    for items in stream.duplicates:
        yield f"{name}: the same rows in {', '.join(items)}"


def _origin_lines(stream: StreamFacts) -> Iterator[str]:
    spec = stream.spec
    fields = ", ".join(f"{name}{field}" for name, field in spec.fields.items())
    yield f"{spec.name}: {fields}"
    made_by = f"  by {one_line(spec.encoder) or 'an encoder not stated'}"
    if stream.random_weights:
        yield f"{made_by}, RANDOM WEIGHTS ({one_line(spec.weights_sha256)}): the network was never trained"
        return
    licence = spec.source.licence or "licence not stated"
    weights = one_line(f"{spec.weights or 'not stated'} (sha256 {spec.weights_sha256[:12] or '-'}; {licence})")
    yield f"{made_by}, weights {weights}"


for command in (*MAKING, *SHARING):
    store.add_command(command)
