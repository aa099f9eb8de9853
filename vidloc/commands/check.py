"""`vidloc check`: the shipped contract checks on a head, an encoder, a storage backend or a store."""

from __future__ import annotations

import sys

import click

from vidloc.cli import EXIT_FAILURES, echo_json
from vidloc.testing import checks


@click.command()
@click.argument("target", metavar="NAME|PATH")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(target: str, *, as_json: bool) -> None:
    """Check that a head, an encoder or a store keeps its contract.

    \b
    vidloc check sapnet                     # a registered head or encoder, on made-up input
    vidloc check ./my_head.py               # a file that assigns HEAD or ENCODER
    vidloc check fasterrcnn:min_size=160    # with options, as after --encoder
    vidloc check feats.zarr                 # a store: every row against its digest
    vidloc check zarr                       # a storage backend: zarr or hdf5

    Encoders are checked with untrained weights, so none need be fetched. Exit code 3 where a check fails.
    """
    report = checks.check(target)
    if as_json:
        echo_json(report.as_json())
    else:
        click.echo(f"{report.target}: {report.what} ({report.origin})")
        for outcome in report.outcomes:
            mark = "ok  " if outcome.passed else "FAIL"
            click.echo(f"  {mark}  {outcome.check.replace('_', ' ')}: {outcome.sentence}")
        failed = sum(not outcome.passed for outcome in report.outcomes)
        click.echo(f"{len(report.outcomes) - failed} of {len(report.outcomes)} checks passed.")
    if not report.passed:
        sys.exit(EXIT_FAILURES)
