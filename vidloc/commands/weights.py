"""`vidloc weights`: what is published for the encoders, what is here, and fetching it."""

from __future__ import annotations

from typing import Any

import click

from vidloc.cli import echo_json
from vidloc.extract import weights as checkpoints
from vidloc.extract.published import PUBLISHED, Published, published

_NO_HASH = "no hash is published; it is pinned at the first fetch"


@click.group()
def weights() -> None:
    """Fetch published checkpoints and say where they are kept.

    \b
    vidloc weights list
    vidloc weights fetch slowfast_r50

    They are kept in $VIDLOC_CACHE/weights, or else ~/.cache/vidloc/weights. On a machine without network, put the file
    there under the name that `vidloc weights list` shows, or give its path: --encoder slowfast_r50:weights=FILE.
    """


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_weights(*, as_json: bool) -> None:
    """List the published checkpoints, and which of them are here."""
    found = [_described(entry) for entry in PUBLISHED.values()]
    if as_json:
        echo_json({"folder": str(checkpoints.cache_folder()), "checkpoints": found})
        return
    for entry in found:
        known = [f"{kind} {entry[key]}" for kind, key in (("sha256", "sha256"), ("git blob", "git_blob")) if entry[key]]
        click.echo(f"{entry['name']:<20} {'here' if entry['here'] else 'missing':<8} {entry['file']}")
        click.echo(f"{'':<24}{entry['url']}\n{'':<24}{', '.join(known) or _NO_HASH}\n{'':<24}{entry['licence']}")
    click.echo(f"\nFolder: {checkpoints.cache_folder()}\nGet one: vidloc weights fetch NAME")


@weights.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def fetch(names: tuple[str, ...], *, as_json: bool) -> None:
    """Download checkpoints and check their SHA-256; those already here are only checked."""
    for name in names:
        published(name)
    fetched = []
    for name in names:
        entry = published(name)
        checkpoint = checkpoints.fetch(name, progress=not as_json)
        fetched.append({**_described(entry), "sha256": checkpoint.sha256, "path": str(checkpoint.path)})
        if not as_json:
            click.echo(f"{checkpoint.path}\n  sha256 {checkpoint.sha256}\n  licence: {entry.licence}")
            click.echo(f"  please cite: {entry.citation}")
    if as_json:
        echo_json(fetched)


def _described(entry: Published) -> dict[str, Any]:
    return {
        "name": entry.name,
        "here": (checkpoints.cache_folder() / entry.file_name).is_file(),
        "file": entry.file_name,
        "url": entry.url,
        "sha256": checkpoints.known_hash(entry),
        "git_blob": entry.git_blob,
        "licence": entry.licence,
        "citation": entry.citation,
    }
