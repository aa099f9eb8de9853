"""Stores that commands read: paths of this machine, or addresses with the options of their file system."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vidloc.core.grammar import parse_pairs
from vidloc.stores.remote_files import is_remote, storage_options

_FLAG = "--storage-option"


class StorePlace(click.ParamType[Any]):
    """A path, or an address such as `s3://bucket/feats.zarr`, which is kept as it is."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """See the base class."""
        return value if is_remote(value) else Path(value)


def _use(ctx: click.Context, _param: click.Parameter, values: Sequence[str]) -> None:
    ctx.with_resource(storage_options({k: _value(v) for k, v in parse_pairs(values, flag=_FLAG).items()}))


def _value(text: str) -> Any:
    """`true`, `3` and `{"endpoint_url": ...}` are what they look like; anything else is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def storage_flag() -> click.Option:
    """The flag, for commands that are made of a list of options."""
    return click.Option([_FLAG, "_storage"], **_SETTINGS)


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be kept in a record: values of storage options, which may be passwords, left out."""
    kept: list[str] = []
    for argument in arguments:
        follows = bool(kept) and kept[-1] == _FLAG
        if follows or argument.startswith(f"{_FLAG}="):
            key = argument.removeprefix(f"{_FLAG}=").partition("=")[0]
            kept.append(f"{key}=..." if follows else f"{_FLAG}={key}=...")
        else:
            kept.append(argument)
    return kept


STORE = StorePlace()
_SETTINGS: dict[str, Any] = {
    "multiple": True,
    "metavar": "KEY=VALUE",
    "expose_value": False,
    "callback": _use,
    "help": "Of stores named by address, as fsspec calls it: anon=true, profile=lab, endpoint_url=...; repeatable.",
}
STORAGE_OPTION = click.option(_FLAG, "_storage", **_SETTINGS)
