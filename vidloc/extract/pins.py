"""Hashes of downloaded files whose publishers state none: the one seen first counts ever after.

They are kept in one readable file, `pins.json` in the cache folder, so that they can be compared with a colleague's,
kept in git, or copied to another machine before anything is fetched there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError

from vidloc.core.records import Record
from vidloc.errors import WeightsError

PINS_NAME = "pins.json"


class Pin(Record):
    """What a file was when it was first seen.

    Attributes:
        file: its name in the cache folder.
        sha256: SHA-256 in hex.
        num_bytes: its size.
        url: where it came from.
        seen: UTC date and time.
    """

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: int = Field(ge=0)
    url: str
    seen: str


_PINS = TypeAdapter(dict[str, Pin])


def read_pins(folder: Path) -> Mapping[str, Pin]:
    """All pins of a cache folder, by the checkpoint's name.

    Raises:
        WeightsError: the file is damaged.
    """
    path = folder / PINS_NAME
    try:
        return _PINS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise WeightsError(
            f"{path} cannot be read: {reason}. Mend it, or move it away and run 'vidloc weights check' to pin the "
            "files that are here anew."
        ) from error


def pin(folder: Path, name: str, *, file: str, sha256: str, num_bytes: int, url: str) -> Pin:
    """Write down what the file of a checkpoint is; others' pins stay, whoever writes at the same time.

    Raises:
        WeightsError: the pins that are there are damaged, or the folder cannot be written.
    """
    made = Pin(
        file=file, sha256=sha256, num_bytes=num_bytes, url=url, seen=datetime.now(UTC).isoformat(timespec="seconds")
    )
    path = folder / PINS_NAME
    try:
        with FileLock(folder / f".{PINS_NAME}.lock"):
            pins = {**read_pins(folder), name: made}
            text = json.dumps({key: pins[key].model_dump() for key in sorted(pins)}, indent=2) + "\n"
            temporary = path.with_name(f".{PINS_NAME}.{os.getpid()}")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} cannot be written: {error.strerror or error}") from error
    return made
