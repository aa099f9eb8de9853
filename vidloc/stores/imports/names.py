"""Which files of a folder are features, and which items their names speak of.

A pattern holds `{item}` where the id stands, `{frame}` where a frame number does, and `*` for any other part of a
file's or a folder's name; all else is meant as written. Files that it does not fit are listed, not dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vidloc.errors import OptionError, StoreError
from vidloc.stores.format import check_item_id

_PARTS = re.compile(r"(\{item\}|\{frame\}|\*)")
_MEANINGS = {"{item}": "(?P<item>.+)", "{frame}": r"(?P<frame>\d{1,12})", "*": "[^/]*"}


@dataclass(frozen=True)
class Named:
    """What a name says."""

    item_id: str
    frame: int | None = None


class NamePattern:
    """Reads ids from names.

    Raises:
        OptionError: `{item}` does not occur once, or `{frame}` where it must not or fails to.
    """

    def __init__(self, text: str, *, frames: bool = False) -> None:
        for part, wanted in (("{item}", 1), ("{frame}", int(frames))):
            if text.count(part) != wanted:
                how = "once" if wanted else "not at all"
                raise OptionError(f"--ids holds {part} {how}, such as {_EXAMPLES[frames]}; got {text!r}.")
        self.text = text
        pieces = (_MEANINGS.get(piece) or re.escape(piece) for piece in _PARTS.split(text))
        self._expression = re.compile("".join(pieces), re.DOTALL | re.ASCII)

    def read(self, name: str) -> Named | None:
        """What a name says, `None` where the pattern does not fit it."""
        match = self._expression.fullmatch(name)
        if match is None:
            return None
        frame = match.groupdict().get("frame")
        return Named(match["item"], None if frame is None else int(frame))


@dataclass(frozen=True)
class Files:
    """Feature files found.

    Attributes:
        paths: file by item id, in byte order of the ids.
        ignored: other files, by path below the folder, with the reason.
    """

    paths: Mapping[str, Path]
    ignored: Mapping[str, str] = field(default_factory=dict)


def find_files(root: Path, suffixes: tuple[str, ...], pattern: NamePattern, *, follow_links: bool) -> Files:
    """Feature files below a folder, or a single file.

    Hidden files are passed over. Links are followed where they stay inside the folder; those that lead out of it are
    listed as ignored, unless `follow_links`.

    Raises:
        StoreError: two files stand for one item, or none fits.
    """
    paths: dict[str, Path] = {}
    ignored: dict[str, str] = {}
    for path in [root] if root.is_file() else _walk(root, follow_links=follow_links):
        name = path.name if root.is_file() else path.relative_to(root).as_posix()
        shown = name.encode("utf-8", "backslashreplace").decode()
        reason = _why_not(path, root, suffixes, follow_links=follow_links)
        named = None if reason else pattern.read(name[: len(name) - len(path.suffix)])
        if named is None:
            ignored[shown] = reason or f"its name does not fit --ids {pattern.text!r}"
        elif named.item_id in paths:
            raise StoreError(
                f"{paths[named.item_id]} and {path} both stand for item {named.item_id!r}. Say by --ids how names hold "
                "ids, such as {item}_rgb where another stream's files lie beside these."
            )
        elif unusable := _unusable(named.item_id):
            ignored[shown] = unusable
        else:
            paths[named.item_id] = path
    if not paths:
        raise StoreError(_nothing(root, suffixes, ignored))
    return Files(dict(sorted(paths.items(), key=lambda pair: pair[0].encode())), dict(sorted(ignored.items())))


_EXAMPLES = {False: "'{item}_rgb'", True: "'{item}_frame_{frame}.jpg'"}


def _walk(root: Path, *, follow_links: bool) -> list[Path]:
    found: list[Path] = []
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited or not (follow_links or _inside(Path(folder), root)):
            subfolders.clear()
            if real not in visited:
                found.append(Path(folder))  # told as ignored
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return found


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _why_not(path: Path, root: Path, suffixes: tuple[str, ...], *, follow_links: bool) -> str:
    if root.is_dir() and not follow_links and not _inside(path, root):
        return "it is a link that leads out of the folder (--follow-links reads it)"
    if not path.is_file():
        return "it is no file"
    if path.suffix not in suffixes:
        return f"{path.suffix or 'no extension'} is not an extension of this layout ({', '.join(suffixes)})"
    return ""


def _unusable(item_id: str) -> str:
    try:
        check_item_id(item_id)
    except StoreError as error:
        return str(error)
    return ""


def _nothing(root: Path, suffixes: tuple[str, ...], ignored: Mapping[str, str]) -> str:
    first = next(iter(ignored.items()), None)
    seen = f" It holds {len(ignored)} other files, such as {first[0]}: {first[1]}." if first else " It is empty."
    return f"{root} holds no features of this layout ({', '.join(suffixes)}).{seen}"
