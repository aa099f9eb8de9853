"""The instructions that pickles are made of: how each is told, how the value beside it is read, which are refused.

Values are read by the standard library's `pickletools`, but for Python 2's quoted text, whose bytes beyond ASCII it
refuses, and the names of globals.
"""

from __future__ import annotations

import mmap
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}

_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"), "an object of some class"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), "an entry of copyreg's extension registry"),
    **dict.fromkeys(("PERSID", "BINPERSID"), "an object kept outside the file"),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), "a buffer kept outside the file"),
    **dict.fromkeys(("EMPTY_SET", "ADDITEMS", "FROZENSET"), "a set"),
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One kind of instruction.

    Attributes:
        name: what pickletools calls it.
        reader: of the value that stands beside it in a file; `None` where there is none.
        refused: what it asks for, where that is no plain data.
    """

    name: str
    reader: Callable[[Any], Any] | None
    refused: str


def _line(source: mmap.mmap) -> bytes:
    line = source.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a line without its end")
    return line[:-1]


def _read_global(source: mmap.mmap) -> tuple[str, str]:
    return _line(source).decode("ascii"), _line(source).decode("ascii")


def _read_quoted(source: mmap.mmap) -> str:
    # Python 2's repr of its str, whose bytes beyond ASCII pickletools would refuse.
    text = _line(source)
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise ValueError("a text without its quotes")
    return _ESCAPE.sub(_unescaped, text[1:-1]).decode("latin-1")


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPED[code]


_OWN_READERS: Mapping[str, Callable[[mmap.mmap], Any]] = {"STRING": _read_quoted, "GLOBAL": _read_global}

UNKNOWN = Instruction("", None, "an instruction that pickle does not have")
INSTRUCTIONS: Mapping[bytes, Instruction] = {
    op.code.encode("latin-1"): Instruction(
        op.name, _OWN_READERS.get(op.name, op.arg.reader if op.arg else None), _REFUSED.get(op.name, "")
    )
    for op in pickletools.opcodes
}
