"""One file from its publisher's address, whatever the network does on the way.

What has arrived lies in `NAME.part`; after a cut, of the network or of the process, the next request asks for the rest
(`Range`), and begins anew where the server does not know ranges or has another file by now. Processes that want the
same file take turns, and the later ones find it there. It gets its name when it is whole and its content has been
judged, never before.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import ipaddress
import json
import logging
import re
import shutil
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from vidloc import __version__
from vidloc.errors import WeightsError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the bytes of the whole file, `None` where the server does not say."""

ATTEMPTS = 5
FIRST_WAIT_S = 1.0  # doubled after every attempt that brought nothing
_TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_LATER = (408, 425, 429, 500, 502, 503, 504)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger("vidloc")


def download(
    url: str, target: Path, *, judge: Callable[[Path], object], resume_unknown: bool, progress: Progress | None = None
) -> bool:
    """Put the file of an address at `target`, unless it is there.

    Args:
        url: `https:`, `file:`, or `http:` of this machine itself.
        judge: called with the whole file before it gets its name; raises where it is not the right one.
        resume_unknown: go on with a part whose server does not say which version of the file it sends, since `judge`
            would notice a mixture of two.
        progress: told after every piece.

    Returns:
        Whether anything was fetched; `False` where the file was there, or another process fetched it meanwhile.

    Raises:
        WeightsError: it did not come, or is not the right one. A part that may be continued is kept, a wrong file not.
    """
    if target.is_file():
        return False
    _check_scheme(url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if target.is_file():
                return False
            part = _Part(target)
            _fill(part, url, resume_unknown=resume_unknown, progress=progress)
            try:
                judge(part.path)
            except WeightsError:
                part.remove()
                raise
            part.path.replace(target)
            part.remove()
    except OSError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{target} cannot be written: {error.strerror or error}") from error
    return True


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    # Held by the operating system, so that a killed process leaves none behind.
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another process is fetching %s; waiting for it.", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Part:
    # What has arrived, and beside it which version of the file that is.
    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._facts = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self, url: str) -> str | None:
        # The server's mark of the version that was begun; empty if it gave none, `None` if nothing is known.
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
            return str(facts["version"]) if facts["url"] == url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, url: str, version: str) -> None:
        self.path.write_bytes(b"")
        self._facts.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Reply:
    # `start`: where its bytes belong; `total`: size of the whole file where it is known.
    body: Any
    start: int
    total: int | None
    version: str


class _CutError(Exception):
    """The connection ended, or the server asks to come back later."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def _fill(part: _Part, url: str, *, resume_unknown: bool, progress: Progress | None) -> None:
    failures = 0
    while True:
        before = part.size()
        try:
            _one_request(part, url, resume_unknown=resume_unknown, progress=progress)
        except _CutError as cut:
            # Whatever brought something does not count: a long file over a bad line comes in many pieces.
            failures = 1 if part.size() > before else failures + 1
            if failures >= ATTEMPTS:
                raise WeightsError(
                    f"{url} could not be fetched: {cut} ({ATTEMPTS} attempts). {part.size():,} bytes are here; run the "
                    f"same again to go on. {_elsewhere(part)}"
                ) from cut
            wait_s = max(FIRST_WAIT_S * 2 ** (failures - 1), cut.wait_s)
            logger.warning("%s: %s; trying again in %.0f s.", url, cut, wait_s)
            time.sleep(wait_s)
        else:
            return


def _one_request(part: _Part, url: str, *, resume_unknown: bool, progress: Progress | None) -> None:
    version = part.version(url)
    have = part.size() if version or (version == "" and resume_unknown) else 0
    with _asked(url, have, version or "", part) as reply:
        if reply.start == 0:
            part.begin(url, reply.version)
        _check_room(part, reply)
        if progress:
            progress(reply.start, reply.total)
        _receive(part, reply, progress)
    if reply.total is not None and part.size() != reply.total:
        raise _CutError(f"the connection ended after {part.size():,} of {reply.total:,} bytes")


def _receive(part: _Part, reply: _Reply, progress: Progress | None) -> None:
    done = reply.start
    # Unbuffered: what a full disk did not take must not be tried again when the file is closed.
    with part.path.open("r+b", buffering=0) as file:
        file.truncate(reply.start)
        file.seek(reply.start)
        while chunk := _network(lambda: reply.body.read(_CHUNK)):
            try:
                _write_all(file, chunk)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise WeightsError(
                    f"no space is left at {part.path.parent} after {done:,} bytes ({error.strerror}). Free some, or "
                    "set VIDLOC_CACHE to a folder elsewhere, and run the same again to go on."
                ) from error
            done += len(chunk)
            if progress:
                progress(done, reply.total)


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _check_room(part: _Part, reply: _Reply) -> None:
    if reply.total is None:
        return
    free, needed = shutil.disk_usage(part.path.parent).free, reply.total - reply.start
    if needed > free:
        raise WeightsError(
            f"the file has {needed:,} more bytes, but {free:,} are free at {part.path.parent}. Free some, or set "
            "VIDLOC_CACHE to a folder elsewhere."
        )


@contextlib.contextmanager
def _asked(url: str, have: int, version: str, part: _Part) -> Iterator[_Reply]:
    if url.startswith("file:"):
        with _opened(url) as file:
            size = file.seek(0, 2)
            start = have if have <= size else 0
            file.seek(start)
            yield _Reply(file, start, size, "")
        return
    request = urllib.request.Request(url, headers={"User-Agent": f"vidloc/{__version__}"})  # noqa: S310  (checked)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version:
            request.add_header("If-Range", version)
    try:
        response = _network(lambda: _OPENER.open(request, timeout=_TIMEOUT_S))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                if error.headers.get("Content-Range") == f"bytes */{have}":  # it was whole already
                    yield _Reply(io.BytesIO(), have, have, version)
                    return
                part.remove()
                raise _CutError("the server has no such range; beginning anew") from error
            if error.code in _LATER:
                raise _CutError(f"the server answers {error.code} {error.reason}", _retry_after(error)) from error
            raise WeightsError(
                f"{url} could not be fetched: the server answers {error.code} {error.reason}. {_elsewhere(part)}"
            ) from error
    except urllib.error.URLError as error:
        raise WeightsError(f"{url} could not be fetched: {_reason(error)}. {_elsewhere(part)}") from error
    with response:
        yield _reply(response, have)


def _reply(response: Any, have: int) -> _Reply:
    headers = response.headers
    etag = headers.get("ETag") or ""
    version = (etag if not etag.startswith("W/") else "") or headers.get("Last-Modified") or ""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
        if found is None or int(found[1]) != have:
            raise WeightsError(f"{response.url} answers another range ({headers.get('Content-Range')}) than asked for.")
        return _Reply(response, have, None if found[2] == "*" else int(found[2]), version)
    length = headers.get("Content-Length")
    return _Reply(response, 0, int(length) if length and length.isdigit() else None, version)


def _network(action: Callable[[], Any]) -> Any:
    # Failures that another attempt may mend; a name that is not known or a certificate that is not valid is none.
    try:
        return action()
    except http.client.IncompleteRead as error:
        raise _CutError("the connection ended early") from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _CutError(str(error) or type(error).__name__) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError | TimeoutError):
            raise _CutError(_reason(error)) from error
        raise


def _reason(error: urllib.error.URLError) -> str:
    if isinstance(error.reason, socket.gaierror):
        return f"no network, or no such host ({error.reason.strerror})"
    return str(error.reason)


def _retry_after(error: urllib.error.HTTPError) -> float:
    seconds = error.headers.get("Retry-After") or ""
    return min(float(seconds), 60.0) if seconds.isdigit() else 0.0


def _elsewhere(part: _Part) -> str:
    return f"On another machine download that file, and put it here as {part.path.with_suffix('')}"


def _opened(url: str) -> BinaryIO:
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    try:
        return path.open("rb")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_scheme(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in ("https", "file") or (parts.scheme == "http" and _is_this_machine(parts.hostname or "")):
        return
    raise WeightsError(f"{url} is not fetched: only https is, since anyone on the way can change what http brings.")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another https address only; urllib itself refuses `file:`."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """See the base class."""
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)
