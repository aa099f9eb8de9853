"""`vidloc index` and `vidloc search`: FAISS indexes over streams, and moments for a clip, a row, a file or a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vidloc.cli import console, echo_json, given, option_flags
from vidloc.commands.storage import STORAGE_OPTION
from vidloc.core.grammar import parse_excerpt
from vidloc.errors import OptionError
from vidloc.pipelines import indexing
from vidloc.pipelines import search as pipeline
from vidloc.retrieval.index_meta import IndexOptions


@click.group()
def index() -> None:
    """Build and inspect FAISS indexes over the streams of a store.

    \b
    vidloc index build feats.zarr --stream slowfast_r50
    vidloc index build feats.zarr --stream slowfast_r50 --type hnsw --ef-search 256
    vidloc index info feats.zarr

    An index lies beside its store, in STORE.index/STREAM.TYPE, and is refused once the stream has changed.
    """


@index.command()
@click.argument("store", type=click.Path(path_type=str))
@click.option("--stream", required=True, help="Stream to index.")
@click.option(
    "--recall/--no-recall",
    default=None,
    help="Measure how many of the 10 nearest rows it finds, by one more pass. [default: for hnsw and ivfpq]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def build(store: str, stream: str, *, recall: bool | None, as_json: bool, **flags: Any) -> None:
    """Build an index over a stream, in one pass over its rows.

    \b
    vidloc index build feats.zarr --stream slowfast_r50                  # float16, exact but for rounding
    vidloc index build feats.zarr --stream slowfast_r50 --type ivfpq     # 64 bytes per row, approximate

    flat is exact in float32 and the largest; hnsw and ivfpq are approximate, and their recall is measured and printed.
    """
    options = IndexOptions.parse(given(flags), where="index build")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} rows"))
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"indexing {stream}", total=None)
        report = indexing.build(
            store,
            stream,
            options,
            recall=recall,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        echo_json(report.as_json())
        return
    meta = report.meta
    click.echo(
        f"{report.path}: {meta.num_vectors:,} vectors of {meta.dim} ({meta.vectors}), {_bytes(report.num_bytes)}, "
        f"{report.seconds:.1f} s"
    )
    if report.recall is not None:
        click.echo(f"It finds {100 * report.recall:.1f} % of the 10 nearest rows (32 rows of the stream as queries).")
    click.echo(f"Search it: vidloc search {store} --stream {stream} --like ITEM@START-END")


build.params.extend(option_flags(IndexOptions))


@index.command()
@click.argument("store", type=click.Path(path_type=str))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def info(store: str, *, as_json: bool) -> None:
    """List the indexes of a store, and whether they still fit it.

    \b
    vidloc index info feats.zarr
    """
    states = indexing.indexes(store)
    if as_json:
        echo_json([state.as_json() for state in states])
        return
    if not states:
        click.echo(
            f"{store} has no index. Search works without one; to build one: vidloc index build {store} --stream S"
        )
    for state in states:
        size = "" if state.meta is None else f"{state.meta.num_vectors:,} vectors of {state.meta.dim}, "
        click.echo(
            f"{state.stream}  {state.type}  {state.state}  {size}{_bytes(state.num_bytes)}  {state.problem}".rstrip()
        )


@click.command()
@click.argument("store", type=click.Path(path_type=str))
@click.option("--like", metavar="ITEM@START-END", help="An excerpt of an item, in seconds, or ITEM for all of it.")
@click.option("--like-file", type=click.Path(path_type=Path), help="A video or sound file outside the store.")
@click.option("--row", metavar="ITEM:K", help="Row K of an item, counting from 0.")
@click.option(
    "--text",
    metavar="SENTENCE",
    help="A sentence; searches a text stream's sentences, or pictures by an encoder with a text side (clip_image).",
)
@click.option("--stream", help="Stream to search. [default: the only one that fits]")
@STORAGE_OPTION
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Moments wanted.")
@click.option(
    "--type",
    "method",
    type=click.Choice(pipeline.METHODS),
    help="Index to use; exact reads all rows of the store. [default: the most exact index there is, else exact]",
)
@click.option("--include-self", is_flag=True, help="Let the rows of the query itself be answers.")
@click.option(
    "--encoder",
    metavar="NAME[:option=value,...]",
    help="For --text and --like-file: where the stream's encoder has its weights now, as NAME:weights=FILE; for --text "
    "over pictures its text side: clip_text:weights=FOLDER.",
)
@click.option("--device", default="auto", show_default=True, help="Where the encoder runs: auto, cpu, cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def search(
    store: str,
    *,
    stream: str | None,
    k: int,
    method: pipeline.Method | None,
    include_self: bool,
    encoder: str | None,
    device: str,
    as_json: bool,
    **question: Any,
) -> None:
    """Search a store for moments like a clip, a row, a file, or for a sentence.

    \b
    vidloc search feats.zarr --like P01_01@12.0-14.5
    vidloc search feats.zarr --stream vggish --row P01_01:24 -k 5
    vidloc search feats.zarr --like-file my.mp4 --stream slowfast_r50
    vidloc search feats.zarr --text "open the fridge"                        # narrations
    vidloc search feats.zarr --text "an open fridge" --stream clip_image     # pictures

    Scores are cosines. Neighbouring rows become one moment, which reaches as far as the cosine stays above half-way
    between its best row and the mean of the stream. Works without an index, by reading the whole stream.
    """
    options = pipeline.SearchOptions(k=k, method=method, include_self=include_self, encoder=encoder, device=device)
    result = pipeline.search(store, _query(question), stream=stream, options=options)
    if as_json:
        echo_json(result.as_json())
    else:
        _print(result)


def _query(question: dict[str, Any]) -> pipeline.Query:
    asked = {name: value for name, value in question.items() if value is not None}
    if len(asked) != 1:
        raise click.UsageError("give one of --like, --like-file, --row and --text.")
    ((name, value),) = asked.items()
    if name == "like":
        return parse_excerpt(value)
    if name == "like_file":
        return pipeline.FileQuery(value)
    if name == "text":
        return pipeline.TextQuery(value)
    item, colon, row = value.rpartition(":")
    if not colon or not item or not row.isascii() or not row.isdigit():
        raise OptionError(f"--row takes ITEM:K, K counting from 0, got {value!r}.")
    return pipeline.RowQuery(item, int(row))


def _print(result: pipeline.SearchResult) -> None:
    click.echo(f"Like {result.query}, in stream {result.stream} of {result.store}.")
    click.echo(f"Searched {result.num_rows:,} rows of {result.num_items:,} items ({result.searched}); {result.method}.")
    for note in result.notes:
        click.echo(f"Note: {note}")
    if not result.answers:
        click.echo("Nothing found: every row belongs to the query itself (--include-self lets them be answers).")
    width = max((len(answer.item_id) for answer in result.answers), default=4)
    for rank, answer in enumerate(result.answers, 1):
        where = f"row {answer.best_row}" if answer.start_s is None else f"{answer.start_s:9.2f} - {answer.end_s:9.2f} s"
        said = "" if answer.text is None else f"  {answer.text}"
        key = f"  [{answer.key}]" if answer.key else ""
        click.echo(f"{rank:3}  {answer.score:+.3f}  {answer.item_id:{width}}  {where}{said}{key}")


def _bytes(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
