"""Files that lie elsewhere, read by ranges of bytes over anything fsspec speaks (`s3://`, `https://`, `hf://`, ...).

Many ranges are asked for at once: neighbours are merged, long ones divided, and all travel in parallel. A range that
is refused for the moment, cut off or too short is asked for again, with waits that double; too few bytes are never
taken for an answer. A server that does not know ranges is noticed: its files are fetched whole, once each, into a
temporary folder, and a warning says so before.
"""

from __future__ import annotations

import logging
import random
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from vidloc.errors import OptionError, StoreError

ATTEMPTS = 6
FIRST_WAIT_S = 0.25  # doubled after every attempt that brought nothing
_MAX_REQUEST_BYTES = 16 * 1024**2
# A gap is read along where it is short beside the range before it, so that all of them together stay below a tenth.
_GAP_SHARE = 0.1
_MAX_GAP_BYTES = 1024**2
_LATER = (408, 425, 429)
_TIMEOUT_S = 60.0
_BY_REMOTE_EXTRA = ("http", "https", "s3")
_LASTING_KINDS = (
    *(FileNotFoundError, PermissionError, IsADirectoryError),
    *(TypeError, ValueError, ImportError, NotImplementedError),
)
# Named, since their package need not be installed: nothing that time would mend.
_LASTING = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError")

T = TypeVar("T")

logger = logging.getLogger("vidloc")
_process_options: dict[str, Any] = {}


@dataclass(frozen=True, order=True, slots=True)
class ByteRange:
    """Bytes `start:stop` of a file, named by its path below the address of the store (empty: the address itself)."""

    name: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start


def is_remote(path: str | Path) -> bool:
    """Whether a store is named by an address that is not a file of this machine."""
    return isinstance(path, str) and "://" in path and not path.startswith(("file://", "local://"))


def local_path(path: str | Path) -> Path:
    """Path of a store on this machine, which may be named by a `file://` address."""
    if isinstance(path, str) and path.startswith(("file://", "local://")):
        return Path(fsspec.core.url_to_fs(path)[1])
    return Path(path)


@contextmanager
def storage_options(options: Mapping[str, Any]) -> Iterator[None]:
    """Options of fsspec for all stores that this process opens by address in the meantime, as the CLI takes them."""
    before = dict(_process_options)
    _process_options.update(options)
    try:
        yield
    finally:
        _process_options.clear()
        _process_options.update(before)


def current_options(options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of this process, and over them those given."""
    return {**_process_options, **(options or {})}


def merged(wanted: Sequence[ByteRange]) -> list[ByteRange]:
    """The runs of bytes that cover all ranges, neighbours in one; sorted."""
    runs: list[ByteRange] = []
    gap = 0.0
    for part in sorted(wanted):
        last = runs[-1] if runs else None
        if last is not None and last.name == part.name and part.start - last.stop <= gap:
            runs[-1] = ByteRange(last.name, last.start, max(last.stop, part.stop))
        else:
            runs.append(part)
        gap = min(_GAP_SHARE * part.size, _MAX_GAP_BYTES)
    return runs


def requests_of(wanted: Sequence[ByteRange]) -> list[ByteRange]:
    """What is asked for to bring some ranges: merged, and divided where a run is long."""
    return [
        ByteRange(run.name, start, min(start + _MAX_REQUEST_BYTES, run.stop))
        for run in merged(wanted)
        for start in range(run.start, run.stop, _MAX_REQUEST_BYTES)
    ]


class RemoteFiles:
    """Files below one address.

    Args:
        url: as fsspec writes it, chained with `::` where files lie inside others.
        options: of the file system, as fsspec names them.

    Raises:
        StoreError: no such protocol, or its package is not installed.
        OptionError: an option that its file system does not take.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url.rstrip("/")
        _check_address(self.url)
        self._fs, self._root = _file_system(self.url, dict(options))
        self._ranges: bool | None = None if _protocol(self.url) in ("http", "https") else True
        self._whole: dict[str, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._fetching = threading.Lock()

    @property
    def serves_ranges(self) -> bool:
        """Whether the server answers a range with that range, as far as `probe` has found out."""
        return self._ranges is not False

    def probe(self, name: str) -> bool:
        """Find out whether ranges are served, by the first byte of a file, and say so where they are not."""
        if self._ranges is None:
            self._ranges = self._retried(
                name, lambda: bool(sync(self._fs.loop, _knows_ranges, self._fs, self.at(name)))
            )
            if not self._ranges:
                logger.warning(
                    "%s does not serve ranges of bytes: every file that rows are read from is fetched whole, once, "
                    "into a temporary folder. To keep what is fetched: vidloc store pull (--dry-run says the cost).",
                    self.url,
                )
        return self._ranges

    def at(self, name: str) -> str:
        """Path of a file as its file system knows it."""
        return f"{self._root}/{name}" if name else self._root

    def read(self, name: str) -> bytes:
        """A small file, whole.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: it may not be read, or did not come.
        """
        return self._retried(name, lambda: bytes(self._fs.cat_file(self.at(name))))

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            FileNotFoundError: it is not there.
            StoreError: the server does not say.
        """
        size = self._facts(name).get("size")
        if not isinstance(size, int):
            raise StoreError(f"{self.url}: the server does not say how long {name or 'the file'} is.")
        return size

    def etag(self, name: str) -> tuple[int | None, str] | None:
        """Size of a file and the server's mark of its content, empty where it gives none; `None` for no such file."""
        try:
            self._fs.invalidate_cache()
            facts = self._facts(name)
        except FileNotFoundError:
            return None
        return facts.get("size"), str(facts.get("ETag") or "").strip('"')

    def put(self, source: Path, name: str) -> None:
        """Send a file.

        Raises:
            StoreError: the place takes none, or it did not arrive.
        """
        try:
            self._retried(name, lambda: self._fs.put_file(str(source), self.at(name)))
        except FileNotFoundError as error:
            raise StoreError(f"{self.at(name)} cannot be written: there is no such place ({error}).") from error

    def fetch(self, wanted: Sequence[ByteRange]) -> list[memoryview]:
        """Bytes of some ranges, in their order.

        Raises:
            StoreError: a file is missing, or some bytes did not come after several attempts.
        """
        runs = merged(wanted)
        bodies = self._bodies(runs)
        starts = [(run.name, run.start) for run in runs]
        found = []
        for part in wanted:
            place = bisect_right(starts, (part.name, part.start)) - 1
            first = part.start - runs[place].start
            found.append(memoryview(bodies[place])[first : first + part.size])
        return found

    def close(self) -> None:
        """Let go of files that were fetched whole."""
        self._whole.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _facts(self, name: str) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self._retried(name, lambda: self._fs.info(self.at(name)))
        if facts.get("type") == "directory":  # of an object store: other names begin with this one
            raise FileNotFoundError(self.at(name))
        return facts

    def _bodies(self, runs: Sequence[ByteRange]) -> list[bytes]:
        if not self.serves_ranges:
            return [self._from_whole(run) for run in runs]
        parts = {run: requests_of([run]) for run in runs}
        answers = self._answers([part for run in runs for part in parts[run]])
        return [b"".join(answers[part] for part in parts[run]) for run in runs]

    def _answers(self, parts: Sequence[ByteRange]) -> dict[ByteRange, bytes]:
        answers: dict[ByteRange, bytes] = {}
        failures = 0
        todo = list(parts)
        while todo:
            names, starts, stops = [self.at(p.name) for p in todo], [p.start for p in todo], [p.stop for p in todo]
            replies = self._fs.cat_ranges(names, starts, stops, on_error="return")
            problem: object = ""
            failed = []
            for part, reply in zip(todo, replies, strict=True):
                if isinstance(reply, bytes) and len(reply) == part.size:
                    answers[part] = reply
                    continue
                failed.append(part)
                problem = reply if isinstance(reply, Exception) else f"{len(reply)} of {part.size} bytes came"
                if isinstance(reply, Exception) and _is_lasting(reply):
                    raise self._refused(part.name, reply) from reply
            failures = failures + 1 if len(failed) == len(todo) else 1
            todo = failed
            if todo:
                self._wait(failures, todo[-1].name, problem)
        return answers

    def _from_whole(self, run: ByteRange) -> bytes:
        with self._fetching:
            if run.name not in self._whole:
                if self._folder is None:
                    self._folder = tempfile.TemporaryDirectory(prefix="vidloc-")
                path = Path(self._folder.name) / str(len(self._whole))
                self._retried(run.name, lambda: self._fs.get_file(self.at(run.name), str(path)))
                self._whole[run.name] = path
        with self._whole[run.name].open("rb") as file:
            file.seek(run.start)
            data = file.read(run.size)
        if len(data) < run.size:
            raise StoreError(f"{self.url}: {run.name} has no bytes {run.start} to {run.stop}; the store is damaged.")
        return data

    def _retried(self, name: str, action: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return action()
            except FileNotFoundError:
                raise
            except Exception as error:  # each file system has errors of its own
                if _is_lasting(error):
                    raise self._refused(name, error) from error
                failures += 1
                self._wait(failures, name, error)

    def _wait(self, failures: int, name: str, problem: object) -> None:
        said = str(problem) or type(problem).__name__
        if failures >= ATTEMPTS:
            raise StoreError(
                f"{self.url}: {name or 'the file'} did not come after {ATTEMPTS} attempts ({said}). Run the same again "
                "later; what was pulled stays."
            ) from (problem if isinstance(problem, Exception) else None)
        wait_s = FIRST_WAIT_S * 2 ** (failures - 1) * random.uniform(0.75, 1.25)  # noqa: S311  (not for secrets)
        logger.info("%s: %s: %s; trying again in %.1f s.", self.url, name, said, wait_s)
        time.sleep(wait_s)

    def _refused(self, name: str, error: Exception) -> StoreError:
        if isinstance(error, FileNotFoundError):
            return StoreError(f"{self.url}: {name or 'the file'} is missing; the store is damaged, or no store.")
        said = str(error) or type(error).__name__
        return StoreError(
            f"{self.url}: {name or 'the file'} cannot be had: {said}. Credentials, a profile, an endpoint or "
            "anonymous access are given as fsspec names them: --storage-option profile=lab, anon=true, ..."
        )


async def _knows_ranges(fs: Any, url: str) -> bool:
    session = await fs.set_session()
    # The body is not read: a server that ignores the range would send all of the file.
    async with session.get(fs.encode_url(url), headers={"Range": "bytes=0-0"}) as reply:
        if reply.status == HTTPStatus.NOT_FOUND:
            raise FileNotFoundError(url)
        reply.raise_for_status()
        return bool(reply.status == HTTPStatus.PARTIAL_CONTENT)


def _file_system(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    if _protocol(url) in ("http", "https"):
        options = _with_timeout(url, options)
    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise _not_installed(url, error) from error
    except TypeError as error:
        raise OptionError(
            f"{url}: {error}. --storage-option takes what fsspec's file system of that name does."
        ) from error
    except ValueError as error:
        raise StoreError(f"store {url} cannot be opened: {error}.") from error
    return fs, root.rstrip("/")


def _with_timeout(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """A server that says nothing for a minute is asked again."""
    try:
        from aiohttp import ClientTimeout
    except ImportError as error:
        raise _not_installed(url, error) from error
    timeout = ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=_TIMEOUT_S)
    return {**options, "client_kwargs": {"timeout": timeout, **options.get("client_kwargs", {})}}


def _not_installed(url: str, error: ImportError) -> StoreError:
    # Of other places, the package is named by fsspec's own message.
    advice = " pip install 'vidloc[remote]'" if _protocol(url) in _BY_REMOTE_EXTRA else ""
    return StoreError(f"store {url} needs a package that is not installed: {str(error).rstrip('.')}.{advice}")


def _check_address(url: str) -> None:
    if _protocol(url) not in ("http", "https"):
        return
    parts = urlsplit(url)
    if parts.query or parts.username or parts.password:
        raise OptionError(
            f"an address with a query or a password cannot name a store, since it is kept in records of runs: "
            f"{parts.scheme}://{parts.hostname}{parts.path}. Give headers by --storage-option headers='{{...}}'."
        )


def _protocol(url: str) -> str:
    return url.partition("://")[0].rpartition("::")[2]


def _is_lasting(error: Exception) -> bool:
    """Whether another attempt would end the same."""
    if isinstance(error, _LASTING_KINDS):
        return True
    status = getattr(error, "status", None)
    return type(error).__name__ in _LASTING or (
        isinstance(status, int) and 400 <= status < 500 and status not in _LATER
    )
