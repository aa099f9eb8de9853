"""The files of a video kept as numbered pictures, in the order of their numbers, from a folder or a tar archive.

Nothing is unpacked. Of a folder, the pictures right in it are read, whatever else it holds; of an archive, those of any
one folder in it. A `.tar` is indexed first, by its headers alone, and then read by number: front to back where it was
packed in order. A `.tar.gz` can only be read from front to back, and must have been packed in order.

Released flow is read as pairs: of the folders `u` and `v`, the two pictures of one number. An archive of it has to be a
plain `.tar`, whose two halves can be read side by side.

That an archive is cut off is damage; what leaves open which picture is meant is an error.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from vidloc.core.numbered_pictures import archive_stem, is_picture, series_and_number
from vidloc.errors import MediaError
from vidloc.extract.tar_members import TarMember, TarMembers

_HORIZONTAL, _VERTICAL = "u", "v"
# Above any video frame: a PNG of 8192 x 4320 pixels of noise has 106 MB.
_MAX_FILE_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class PictureFile:
    """One picture, or the two of one pair, not read yet.

    Attributes:
        read: gives its content, of a pair both, horizontal first; raises `OSError` where that cannot be read or is too
            large. To be called, if at all, before the next picture is asked for.
    """

    number: int
    read: Callable[[], tuple[bytes, ...]]


class PictureFiles(Protocol):
    """Iterates once over pictures, ascending by number.

    Attributes:
        cut_off: why there may be more than could be read; `None` where all was read.
    """

    @property
    def cut_off(self) -> str | None:
        """See above; known once all were asked for."""

    def __iter__(self) -> Iterator[PictureFile]: ...


@contextmanager
def open_pictures(path: str | Path, *, pairs: bool = False) -> Iterator[PictureFiles]:
    """The pictures of a folder or of a tar archive.

    Args:
        pairs: they are flow, two pictures per number in the folders `u` and `v`.

    Raises (while iterating too):
        MediaError: it cannot be read; it holds no numbered picture, several series of them, one number twice, or a
            picture without a number; or `TarMembers` refuses it.
    """
    path = Path(path)
    if path.is_dir():
        yield _Pairs(_Folder(path / _HORIZONTAL), _Folder(path / _VERTICAL)) if pairs else _Folder(path)
    elif archive_stem(path) is not None and path.is_file():
        with TarMembers(path) as members:
            if not pairs:
                yield _Zipped(path, members) if members.zipped else _Indexed(path, members)
                return
            if members.zipped:
                raise MediaError(
                    f"{path} is compressed, and the two halves of its flow cannot be read side by side. Unzip it to a "
                    ".tar, which needs no unpacking."
                )
            with TarMembers(path) as again:
                yield _Pairs(_Indexed(path, members, of=_HORIZONTAL), _Indexed(path, again, of=_VERTICAL))
    else:
        found = "that is neither" if path.exists() else "there is nothing of that name"
        raise MediaError(f"{path} should be a folder or a tar archive (.tar, .tar.gz) of pictures, but {found}.")


@dataclass(frozen=True)
class Numbers:
    """Which numbers a series has.

    Attributes:
        first, last: lowest and highest.
        count: how many.
    """

    first: int
    last: int
    count: int


def numbers_of(path: str | Path, *, pairs: bool = False) -> Numbers:
    """The numbers of a series; its pictures are not read, of a `.tar.gz` all is unzipped.

    Args:
        pairs: as in `open_pictures`; a number counts where either picture is there.

    Raises:
        MediaError: as `open_pictures`.
    """
    first, last, count = -1, -1, 0
    with open_pictures(path, pairs=pairs) as files:
        for file in files:
            first, last, count = (first if count else file.number), file.number, count + 1
    return Numbers(first, last, count)


class _Folder:
    cut_off = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[PictureFile]:
        try:
            with os.scandir(self._path) as entries:
                names = [entry.name for entry in entries if is_picture(entry.name)]
        except OSError as error:
            raise MediaError(f"{self._path} cannot be read: {error.strerror}.") from error
        series = _Series(self._path)
        names.sort(key=series.number)
        series.require_pictures()
        for name in names:
            number = series.number(name)
            series.require_next(number)
            yield PictureFile(number, partial(_content, self._path / name))


class _Indexed:
    """Of a plain tar archive: all headers first, then picture by picture.

    Args:
        of: name of the folder, wherever it lies, that pictures are taken from; `None` takes all.
    """

    def __init__(self, path: Path, members: TarMembers, *, of: str | None = None) -> None:
        self._path = path if of is None else path / of
        self._members = members
        self._of = of

    @property
    def cut_off(self) -> str | None:
        return self._members.cut_off

    def __iter__(self) -> Iterator[PictureFile]:
        series = _Series(self._path)
        # Three numbers a picture and no name: an hour at 60 frames per second has 216,000.
        found = array("q")
        for member in _pictures(self._members):
            if self._of not in (None, PurePosixPath(member.name).parent.name):
                continue
            found.extend((series.number(member.name), member.offset, member.size))
        series.require_pictures(self.cut_off)
        places = np.frombuffer(found, dtype=np.int64).reshape(-1, 3)
        for row in np.argsort(places[:, 0], kind="stable"):
            number, offset, size = (int(value) for value in places[row])
            series.require_next(number)
            yield PictureFile(number, partial(_member_content, self._members, TarMember("", offset, size)))


class _Zipped:
    """Of a compressed tar archive: pictures as they come."""

    def __init__(self, path: Path, members: TarMembers) -> None:
        self._path = path
        self._members = members

    @property
    def cut_off(self) -> str | None:
        return self._members.cut_off

    def __iter__(self) -> Iterator[PictureFile]:
        series = _Series(self._path)
        for member in _pictures(self._members):
            number = series.number(member.name)
            series.require_next(number)
            yield PictureFile(number, partial(_member_content, self._members, member))
        series.require_pictures(self.cut_off)


class _Pairs:
    """Pictures of two series by number; one that lacks its other half cannot be read."""

    def __init__(self, horizontal: PictureFiles, vertical: PictureFiles) -> None:
        self._sides = (horizontal, vertical)

    @property
    def cut_off(self) -> str | None:
        return self._sides[0].cut_off

    def __iter__(self) -> Iterator[PictureFile]:
        sides = [_on_side(side, files) for side, files in enumerate(self._sides)]
        # No two entries agree in number and side, so that files are never compared.
        for number, found in groupby(merge(*sides), key=lambda entry: entry[0]):
            yield PictureFile(number, partial(_both, {side: file for _, side, file in found}))


class _Series:
    """Makes sure that pictures are of one series, each of its own number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name: str | None = None
        self._last = -1

    def number(self, name: str) -> int:
        found = series_and_number(name)
        if found is None:
            raise MediaError(
                f"{self._path} holds the picture {name!r}, whose name has no number. Frames are numbered from 1, as in "
                "frame_0000000001.jpg; move other pictures away."
            )
        series, number = found
        if self._name not in (None, series):
            raise MediaError(
                f"{self._path} holds several series of pictures: {self._name!r} and {series!r} before the number. "
                "Each video needs a folder or archive of its own."
            )
        self._name = series
        return number

    def require_next(self, number: int) -> None:
        if number == self._last:
            raise MediaError(f"{self._path} holds two pictures of number {number}. Remove one of them.")
        if number < self._last:
            raise MediaError(
                f"{self._path} is compressed and not in order: picture {number} comes after {self._last}. Unzip it to "
                "a .tar, of which the order does not matter."
            )
        self._last = number

    def require_pictures(self, cut_off: str | None = None) -> None:
        if self._name is None:
            because = f" ({cut_off})" if cut_off else ""
            raise MediaError(
                f"{self._path} holds no numbered pictures such as frame_0000000001.jpg (.jpg, .jpeg or .png){because}."
            )


def _pictures(members: Iterable[TarMember]) -> Iterator[TarMember]:
    return (member for member in members if is_picture(member.name))


def _content(path: Path) -> tuple[bytes]:
    if not path.is_file():
        raise OSError("it is no plain file")
    _require_size(path.stat().st_size)
    return (path.read_bytes(),)


def _member_content(members: TarMembers, member: TarMember) -> tuple[bytes]:
    _require_size(member.size)
    return (members.read(member),)


def _on_side(side: int, files: PictureFiles) -> Iterator[tuple[int, int, PictureFile]]:
    return ((file.number, side, file) for file in files)


def _both(sides: Mapping[int, PictureFile]) -> tuple[bytes, ...]:
    for side, name in enumerate((_HORIZONTAL, _VERTICAL)):
        if side not in sides:
            raise OSError(f"there is no picture of it in {name}")
    return sides[0].read() + sides[1].read()


def _require_size(size: int) -> None:
    if size > _MAX_FILE_BYTES:
        raise OSError(f"it has {size:,} bytes, more than any video frame ({_MAX_FILE_BYTES:,})")
