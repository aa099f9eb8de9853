"""`vidloc weights`: what is published for the encoders, what is here, fetching, checking and converting it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from vidloc.cli import EXIT_ERROR, EXIT_FAILURES, console, echo_json
from vidloc.errors import UnknownNameError, WeightsError, did_you_mean
from vidloc.extract import weights as checkpoints
from vidloc.extract.pins import Pin, read_pins
from vidloc.extract.published import PUBLISHED, Published, published

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(short_help="Fetch, check and convert checkpoints, and say where they are kept.")
def weights() -> None:
    """Fetch, check and convert checkpoints, and say where they are kept.

    \b
    vidloc weights list slowfast
    vidloc weights fetch slowfast_r50
    vidloc weights check
    vidloc weights check my.pyth --encoder slowfast_r50
    vidloc weights convert SLOWFAST_8x8_R50.pkl slowfast.safetensors

    They are kept in $VIDLOC_CACHE/weights, or else ~/.cache/vidloc/weights. On a machine without network, put the file
    there under the name that `vidloc weights list` shows, or give its path: --encoder slowfast_r50:weights=FILE.
    """


@weights.command("list", short_help="List the published checkpoints, and which of them are here.")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@_AS_JSON
def list_weights(texts: tuple[str, ...], *, as_json: bool) -> None:
    """List the published checkpoints, and which of them are here; with TEXT, all about those whose name holds it.

    \b
    vidloc weights list
    vidloc weights list s3d i3d_flow
    """
    chosen = [entry for name, entry in PUBLISHED.items() if not texts or any(text in name for text in texts)]
    if not chosen:
        raise UnknownNameError(
            f"no checkpoint has {' or '.join(texts)} in its name. {did_you_mean(texts[0], PUBLISHED)}"
        )
    pins = read_pins(checkpoints.cache_folder())
    if as_json:
        found = [_described(entry, pins.get(entry.name)) for entry in chosen]
        echo_json({"folder": str(checkpoints.cache_folder()), "checkpoints": found})
        return
    if texts:
        for entry in chosen:
            _print_details(entry, pins.get(entry.name))
    else:
        _print_table(chosen)
    more = "" if texts else "\nAll about one: vidloc weights list NAME"
    click.echo(f"Folder: {checkpoints.cache_folder()}\nGet one: vidloc weights fetch NAME{more}")


@weights.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_AS_JSON
def fetch(names: tuple[str, ...], *, as_json: bool) -> None:
    """Download checkpoints and check their hash; those already here are only checked.

    \b
    vidloc weights fetch slowfast_r50 vggish

    A download that was cut goes on where it was. Where the publisher states no hash, that of the first download is
    pinned in pins.json beside the files, and every later one must have it.
    """
    for name in names:
        published(name)
    fetched = []
    for name in names:
        entry = published(name)
        with _bar(entry.file_name) as progress:
            checkpoint = checkpoints.fetch(name, progress=progress)
        described = _described(entry, read_pins(checkpoints.cache_folder()).get(name))
        fetched.append({**described, "sha256": checkpoint.sha256, "path": str(checkpoint.path)})
        if not as_json:
            click.echo(f"{checkpoint.path}\n  sha256 {checkpoint.sha256}\n  licence: {entry.licence}")
            click.echo(f"  please cite: {entry.citation}")
            if entry.note:
                click.echo(f"  note: {entry.note}")
    if as_json:
        echo_json(fetched)


@weights.command(short_help="Compare files with their hashes, or with an encoder's network.")
@click.argument("names", metavar="[NAME...|FILE]", nargs=-1)
@click.option(
    "--encoder",
    metavar="NAME[:option=value,...]",
    help="See whether FILE fits this encoder's network, with the options that the run would have.",
)
@_AS_JSON
@click.pass_context
def check(ctx: click.Context, names: tuple[str, ...], *, encoder: str | None, as_json: bool) -> None:
    """Compare the files of the cache with their published or pinned hashes, or a FILE with an encoder's network.

    \b
    vidloc weights check                                  # all that are here
    vidloc weights check slowfast_r50
    vidloc weights check my.pyth --encoder slowfast_r50   # names and shapes, nothing is run

    A file that is here but has no hash yet, since it was put there by hand, is pinned now.

    Exit codes: 0 sound, or it fits; 3 files of the cache are missing or damaged; 1 the FILE does not fit.
    """
    if encoder is not None:
        if len(names) != 1:
            raise click.UsageError("--encoder takes one FILE.")
        _check_fit(ctx, Path(names[0]), encoder, as_json=as_json)
        return
    chosen = [published(name) for name in names] if names else [e for e in PUBLISHED.values() if _path(e).is_file()]
    found = [_judged(entry) for entry in chosen]
    if as_json:
        echo_json(found)
    else:
        for outcome in found:
            click.echo(f"{'ok  ' if outcome['sound'] else 'FAIL'}  {outcome['name']}: {outcome['sentence']}")
        failed = sum(not outcome["sound"] for outcome in found)
        click.echo(f"{len(found) - failed} of {len(found)} files are sound. Folder: {checkpoints.cache_folder()}")
    ctx.exit(EXIT_FAILURES if not all(outcome["sound"] for outcome in found) else 0)


@weights.command(short_help="Make safetensors of a pickle of NumPy arrays.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT.safetensors", type=click.Path(path_type=Path))
@_AS_JSON
def convert(source: Path, target: Path, *, as_json: bool) -> None:
    """Make safetensors of a checkpoint that is a pickle of NumPy arrays (Caffe2, Detectron, PySlowFast's zoo).

    \b
    vidloc weights convert SLOWFAST_8x8_R50.pkl slowfast.safetensors
    vidloc extract ... --encoder slowfast_r50:weights=slowfast.safetensors

    A pickle can ask to run any code. Only plain data is taken from it: whatever else it asks for is refused and not
    run. Names stay as they are; what a network does not need is left out and listed.
    """
    from vidloc.extract.conversion import convert as convert_checkpoint

    made = convert_checkpoint(source, target)
    if as_json:
        echo_json({**vars(made), "path": str(made.path)})
        return
    click.echo(f"{made.path}: {made.num_tensors} tensors, {made.num_numbers:,} numbers")
    for reason, left in _by_reason(made.left_out):
        click.echo(f"  left out ({reason}): {', '.join(left)}")


def _check_fit(ctx: click.Context, path: Path, encoder: str, *, as_json: bool) -> None:
    from vidloc.pipelines.checkpoint_fit import fit

    found = fit(path, encoder)
    if as_json:
        echo_json({**vars(found), "path": str(path)})
    elif found.fits:
        click.echo(f"{path} fits {found.encoder}: all names and shapes are those of its network.")
    else:
        click.echo(f"{path} does not fit {found.encoder}.")
        for title, names in (
            ("missing (the network has them, the file does not)", found.missing),
            ("left over (the file has them, the network does not)", found.unknown),
            ("of another shape", found.mismatched),
        ):
            if names:
                click.echo("\n".join([f"{len(names)} {title}:", *(f"  {name}" for name in names)]))
        for relative in found.relatives:
            click.echo(f"It fits {relative}.")
    ctx.exit(0 if found.fits else EXIT_ERROR)


def _judged(entry: Published) -> dict[str, Any]:
    pinned = read_pins(checkpoints.cache_folder()).get(entry.name)
    try:
        checkpoint = checkpoints.accept(entry)
    except WeightsError as error:
        return {"name": entry.name, "sound": False, "sha256": None, "sentence": str(error)}
    sentence = f"{entry.file_name} {_known(entry, pinned) or 'is pinned now: sha256 ' + checkpoint.sha256}"
    return {"name": entry.name, "sound": True, "sha256": checkpoint.sha256, "sentence": sentence}


def _known(entry: Published, pinned: Pin | None) -> str:
    if entry.sha256:
        return f"has the published sha256 {entry.sha256}"
    if entry.git_blob:
        return f"has the published git blob {entry.git_blob}"
    return f"has the sha256 pinned at {pinned.seen[:10]}: {pinned.sha256}" if pinned else ""


def _path(entry: Published) -> Path:
    return checkpoints.cache_folder() / entry.file_name


def _described(entry: Published, pinned: Pin | None) -> dict[str, Any]:
    return {
        "name": entry.name,
        "here": _path(entry).is_file(),
        "file": entry.file_name,
        "url": entry.url,
        "by_hand": entry.by_hand,
        "note": entry.note,
        "sha256": entry.sha256,
        "git_blob": entry.git_blob,
        "pinned": pinned.model_dump() if pinned else None,
        "licence": entry.licence,
        "citation": entry.citation,
    }


def _print_table(entries: Sequence[Published]) -> None:
    # Not a rich table, here and below: outside a terminal it would cut or fold addresses at 80 columns.
    rows = [("name", "is", "file", "licence"), *((e.name, _state(e), e.file_name, e.licence) for e in entries)]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    for row in rows:
        click.echo("  ".join([*(f"{text:{width}}" for text, width in zip(row, widths, strict=False)), row[3]]))


def _print_details(entry: Published, pinned: Pin | None) -> None:
    known = f"sha256 {entry.sha256}" if entry.sha256 else f"git blob {entry.git_blob}"
    pin = f"pinned {pinned.seen[:10]}: {pinned.sha256}" if pinned else "pinned when first seen"
    click.echo(f"{entry.name}  ({_state(entry)}: {entry.file_name})")
    for title, fact in (
        ("from", entry.url),
        ("how", entry.by_hand),
        ("hash", known if entry.sha256 or entry.git_blob else f"none is published; {pin}"),
        ("licence", entry.licence),
        ("cite", entry.citation),
        ("note", entry.note),
    ):
        if fact:
            click.echo(f"  {title:8} {fact}")


def _state(entry: Published) -> str:
    return "here" if _path(entry).is_file() else "by hand" if entry.by_hand else "not here"


def _by_reason(left_out: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return list(reasons.items())


@contextmanager
def _bar(title: str) -> Iterator[Any]:
    columns: tuple[Any, ...] = (
        *(TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn()),
        *(TextColumn("ETA"), TimeRemainingColumn()),
    )
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def told(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield told
