"""The plain files in a tar archive, where they lie and how long they are, by headers that are not trusted.

Nothing is unpacked, so that no name can lead anywhere; an archive that holds a link, a device, a sparse file or a name
that would lead out of a folder is refused all the same: it was not made by packing pictures. What is read at once is
bounded whatever a header claims, and a member that is said to reach beyond the end of the file counts as cut off.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from vidloc.errors import MediaError
from vidloc.extract.media import one_line

# Extended headers hold a long name or two.
_MAX_HEADER_BYTES = 2**20
_BLOCK_BYTES = tarfile.BLOCKSIZE
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class TarMember:
    """One plain file of an archive.

    Attributes:
        offset: where its content begins, in the (unzipped) archive.
        size: bytes.
    """

    name: str
    offset: int
    size: int


class TarMembers:
    """Iterates once over the plain files of a `.tar` or `.tar.gz`, in the order they were packed.

    Attributes:
        zipped: whether it is compressed, so that content can be read in packed order only.
        cut_off: why reading ended before the archive's own end mark, `None` where it did not.

    Raises (while iterating too):
        MediaError: it cannot be opened, is no such archive, or holds something other than plain files and folders.

    Example:
        with TarMembers(Path("P01_01.tar")) as members:
            for member in members: content = members.read(member)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cut_off: str | None = None
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise MediaError(f"{path} cannot be opened: {one_line(error)}.") from error
        self.zipped = self._raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        self._raw.seek(0)
        self._num_bytes = None if self.zipped else path.stat().st_size
        content: Any = gzip.GzipFile(fileobj=self._raw) if self.zipped else self._raw
        self._file = _Headers(content)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def __iter__(self) -> Iterator[TarMember]:
        try:
            archive: Any = tarfile.TarFile(fileobj=self._file, mode="r")  # type: ignore[arg-type]  # is never written
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise MediaError(f"{self._path} is no tar archive, or cut off at once ({one_line(error)}).") from error
        last = "the archive"
        while (member := self._next(archive, after=last)) is not None:
            self._check(member)
            last = member.name
            if self._num_bytes is not None and member.offset_data + member.size > self._num_bytes:
                self.cut_off = f"the archive is cut off in {last!r}"
                return
            if member.isreg():
                yield TarMember(member.name, member.offset_data, member.size)

    def read(self, member: TarMember) -> bytes:
        """Content of a member; of a zipped archive, only that of the one that was yielded last.

        Raises:
            OSError: it cannot be read, or not whole.
        """
        try:
            content = self._file.content(member.offset, member.size)
        except (EOFError, zlib.error) as error:
            raise OSError(one_line(error)) from error
        if len(content) < member.size:
            raise OSError("the archive is cut off in it")
        return content

    def _next(self, archive: Any, *, after: str) -> tarfile.TarInfo | None:
        try:
            member: tarfile.TarInfo | None = archive.next()
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            if isinstance(error, MediaError):
                raise
            self.cut_off = f"the archive is cut off or damaged after {after!r} ({one_line(error)})"
            return None
        archive.members = []  # it would keep them all
        if member is None and self._file.last != bytes(_BLOCK_BYTES):
            # The library ends without a word where a header is no header.
            self.cut_off = f"the archive is cut off or damaged after {after!r}"
        return member

    def _check(self, member: tarfile.TarInfo) -> None:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise MediaError(f"{self._path} holds the name {member.name!r}, which leads out of the archive.")
        if member.size < 0:
            raise MediaError(f"{self._path} states {member.size} bytes for {member.name!r}.")
        if not (member.isreg() or member.isdir()) or member.issparse():
            kind = "a link" if member.issym() or member.islnk() else "no plain file"
            raise MediaError(f"{self._path} holds {member.name!r}, which is {kind}. Pack the pictures themselves.")


class _Headers:
    """A file as `tarfile` may read it: never much at once.

    Attributes:
        last: what was read last.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise MediaError(f"the archive has a header of {size} bytes, which is no length for a name.")
        self.last = self._file.read(size)
        return self.last

    def content(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int) -> Any:
        if offset < 0:
            raise MediaError("the archive has a header that leads to before its beginning.")
        return self._file.seek(offset)
