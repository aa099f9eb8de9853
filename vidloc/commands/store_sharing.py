"""The commands of `vidloc store` by which labs exchange stores: pull, push, sign."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vidloc.cli import EXIT_FAILURES, echo_json
from vidloc.commands.progress import progress_bar, size_text
from vidloc.commands.storage import STORAGE_OPTION, STORE
from vidloc.commands.store_making import chosen_items, item_flags, say_missing, stream_names
from vidloc.errors import OptionError
from vidloc.stores import pulling
from vidloc.stores.base import open_store
from vidloc.stores.pushing import push as push_store
from vidloc.stores.remote_store import RemoteStore
from vidloc.stores.signing import sign as sign_store

_PATH = click.Path(path_type=Path)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@click.argument("source", metavar="ADDRESS", type=STORE)
@click.argument("out", type=_PATH)
@click.option("--streams", metavar="NAME,...", help="Only these streams. [default: all]")
@item_flags
@click.option("--dry-run", is_flag=True, help="Say what would be transferred, and write nothing.")
@STORAGE_OPTION
@_AS_JSON
@click.pass_context
def pull(
    ctx: click.Context,
    /,
    source: str | Path,
    out: Path,
    *,
    streams: str | None,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Take items of a store elsewhere into OUT: the bytes of their rows travel, and no others.

    \b
    vidloc store pull s3://lab/feats.zarr mine.zarr --items "P01_*" --streams slowfast_r50 --dry-run
    vidloc store pull https://lab.example/feats.zarr val.h5 --split val --dataset epic --annotations epic-annotations/
    vidloc store pull s3://lab/feats.zarr mine.zarr --storage-option anon=true

    What it costs, and under which licence the rows stand, is said before. Every item is compared with its digest before
    it is kept; the same command goes on after a stop. Exit code 3: items of the split are not in the store.
    """
    with open_store(source) as store:
        if not isinstance(store, RemoteStore):
            raise OptionError(f"{source} is on this machine; to copy a part of it: vidloc store subset OUT {source}")
        chosen = chosen_items(store, flags)
        items = None if chosen is None else set(chosen.items)
        names = None if streams is None else stream_names(streams)
        plan = pulling.plan_pull(store, out, streams=names, items=items)
        missing = () if chosen is None else chosen.missing
        if as_json and dry_run:
            echo_json(_plan_json(plan) | {"missing": missing})
        if not as_json:
            _say_plan(store, plan)
            say_missing(missing)
        if not dry_run:
            with progress_bar("pull") as progress:
                report = pulling.pull(store, out, plan, progress=progress)
            if as_json:
                echo_json(_plan_json(plan) | asdict(report) | {"missing": missing})
            else:
                signed = " Its signature came along." if report.signed else ""
                click.echo(
                    f"{out}: {report.num_items} items, {report.num_pulled} entries pulled. Content id {report.digest}."
                    + signed
                )
    ctx.exit(EXIT_FAILURES if missing else 0)


@click.command()
@click.argument("path", metavar="STORE", type=_PATH)
@click.argument("address")
@STORAGE_OPTION
@_AS_JSON
def push(path: Path, address: str, *, as_json: bool) -> None:
    """Send a finished store to an address, the root last, so that nobody ever sees half of it.

    \b
    vidloc store push feats.zarr s3://lab/feats.zarr
    vidloc store push feats.zarr s3://lab/feats.zarr --storage-option endpoint_url=https://minio.lab.example

    Files whose size and checksum the server confirms are not sent again. To read every row back: vidloc store verify.
    """
    with progress_bar("push") as progress:
        report = push_store(path, address, progress=progress)
    if as_json:
        echo_json(asdict(report))
        return
    checked = "size and checksum" if report.is_checked else "size"
    sent = f"{report.num_sent} sent ({size_text(report.num_bytes)})"
    click.echo(f"{address}: {report.num_files} files, {sent}, each of the right {checked}. Content id {report.digest}")


@click.command()
@click.argument("path", metavar="STORE", type=_PATH)
@click.option("--key", type=_PATH, required=True, help="Private ssh key, or a public one that an agent answers for.")
def sign(path: Path, *, key: Path) -> None:
    """Sign a store's content id and manifest with an ssh key; needs ssh-keygen.

    \b
    vidloc store sign feats.zarr --key ~/.ssh/id_ed25519
    vidloc store verify feats.zarr --signature --allowed-signers allowed_signers

    The signature travels with the store, and proves what is pulled of it to be a part of it. A line of the file of
    allowed signers is a name and a public key. Rows are not read: verify the store first.
    """
    content = sign_store(path, key)
    click.echo(f"{path} is signed. Content id {content}")


def _say_plan(store: RemoteStore, plan: pulling.PullPlan) -> None:
    for name, terms in plan.terms().items():
        click.echo(f"{name}: {terms}")
    how = f"in {plan.num_requests} requests" if plan.has_ranges else f"as {plan.num_requests} whole files (no ranges)"
    there = f"; {plan.num_there} entries are there already" if plan.num_there else ""
    click.echo(
        f"{store.path}: {plan.num_entries} entries of {len(plan.entries)} items to pull, "
        f"{size_text(plan.num_row_bytes)} of rows, transferring {size_text(plan.num_bytes)} {how}{there}."
    )


def _plan_json(plan: pulling.PullPlan) -> dict[str, Any]:
    names = ("num_entries", "num_there", "num_row_bytes", "num_requests", "num_bytes", "has_ranges")
    return {name: getattr(plan, name) for name in names} | {"terms": plan.terms(), "planned_items": len(plan.entries)}


SHARING = (pull, push, sign)
