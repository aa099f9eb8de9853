"""Which files below a folder are videos or sounds: told by extension, never by trying to open them.

The rule: hidden files and folders (names that begin with a dot) and feature stores (`*.zarr`) are passed over; files
with an extension listed here, in upper or lower case, are media, whatever they contain (a broken one then fails with
its reason); every other file is listed as ignored. A file left out by the rule can still be named in a `--videos` list.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vidloc.errors import MediaError

VIDEO_EXTENSIONS = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m1v", ".m2ts", ".m2v", ".m4v",
    ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".rm", ".rmvb",
    ".ts", ".vob", ".webm", ".wmv", ".y4m",
))  # fmt: skip
AUDIO_EXTENSIONS = frozenset((
    ".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".caf", ".eac3", ".flac", ".m4a", ".m4b", ".mka", ".mp2",
    ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma", ".wv",
))  # fmt: skip
MAX_ID_BYTES = 1024


@dataclass(frozen=True)
class MediaFiles:
    """Files below a folder.

    Attributes:
        paths: media files by path below the folder, POSIX style with extension, in byte order.
        ignored: all other files, with the reason.
    """

    paths: dict[str, Path]
    ignored: dict[str, str]


def media_files(root: Path) -> MediaFiles:
    """Media files below `root`, folder by folder; links to folders are followed, each folder once.

    Raises:
        MediaError: no such folder.
    """
    if not root.is_dir():
        raise MediaError(f"there is no folder {root}. Give --root the folder that holds the videos.")
    paths: dict[str, Path] = {}
    ignored: dict[str, str] = {}
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and not s.endswith(".zarr"))
        for name in names:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            item = path.relative_to(root).as_posix()
            reason = _why_not(path, item)
            if reason:
                ignored[item.encode("utf-8", "backslashreplace").decode()] = reason
            else:
                paths[item] = path
    return MediaFiles(_in_byte_order(paths), dict(sorted(ignored.items())))


def by_stem(
    root: Path, files: MediaFiles, why_not: Callable[[Path], str], *, what: str
) -> tuple[dict[str, Path], dict[str, str]]:
    """Files by their names without extension, and those left out with the reason.

    Args:
        why_not: why a file is not taken, empty if it is.
        what: what such a name names, for the message.

    Raises:
        MediaError: two different files of one name.
    """
    ignored, found = dict(files.ignored), dict[str, Path]()
    for name, path in files.paths.items():
        if reason := why_not(path):
            ignored[name] = reason
            continue
        other = found.setdefault(path.stem, path)
        if other != path and not other.samefile(path):
            raise MediaError(
                f"{what} {path.stem} lies below {root} twice: {other.relative_to(root)} and {name}. "
                "Give --root the folder that holds the copy you mean."
            )
    return found, dict(sorted(ignored.items()))


def unusable_id(item_id: str) -> str:
    """Why a text cannot name an item (empty where it can)."""
    try:
        length = len(item_id.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in item_id):
        return "its name holds control characters"
    return f"its name is longer than {MAX_ID_BYTES} bytes" if length > MAX_ID_BYTES else ""


def _why_not(path: Path, item: str) -> str:
    if path.suffix.lower() not in VIDEO_EXTENSIONS | AUDIO_EXTENSIONS:
        return f"{path.suffix or 'no extension'} is not an extension of a video or sound file"
    return unusable_id(item)


def _in_byte_order(paths: dict[str, Path]) -> dict[str, Path]:
    return dict(sorted(paths.items(), key=lambda pair: pair[0].encode()))
