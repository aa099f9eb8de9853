"""libhdf5 in a process of its own, for HDF5 files that bring no index: those of other programs, or changed by one.

libhdf5 is C and trusts a file more than we may. A few changed bytes make it read in a circle for ever (a text in a
global heap whose size overflows), or beyond its memory; tests/stores/test_fuzz.py finds such files by the dozen. So it
never sees a file in the process of the user. Another one asks for the bytes it wants through a pipe, within limits of
memory and processor time, and answers with an index (`hdf5_index`), which is validated like one that came with the
file. However it ends, ours has the answer or a `StoreError`.

It costs a start of Python, 0.4 s where a store with an index opens in milliseconds, which is why vidloc puts the index
into the files that it writes. A process kept for the next file, or forked from one that is, would be faster still; but
then a library starts processes that outlive a call, and its user forks them along.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from typing import IO, Any, cast

import h5py

from vidloc.errors import FormatVersionError, StoreError
from vidloc.stores.format import MAX_DOCUMENT_BYTES, dump_json, one_line, parse_json
from vidloc.stores.hdf5_index import Read, dump_layout, parse_layout
from vidloc.stores.hdf5_tree import FileLayout, hdf5_errors, read_tree

CPU_SECONDS = 60  # metadata of a million chunks take some seconds
_ADDRESS_SPACE = 4 * 1024**3
_BLOCK_BYTES = 16 * 1024  # of metadata at a time
# Metadata may be read more than once, but not over and over.
_MAX_READ_SHARE = 4
_SPARE_BYTES = 64 * 1024**2
_PIPE_BYTES = 1024**2

# What the process says: a range of bytes that it wants, or, beginning with -1, the length of the answer that follows.
_MESSAGE = struct.Struct("<qq")
_ANSWER = -1
_PROGRAM = "from vidloc.stores.hdf5_apart import main; main()"


def layout_apart(read: Read, size: int, *, where: str) -> FileLayout:
    """What libhdf5 says of a file.

    Args:
        read: gives bytes of the file.
        size: how many it has.

    Raises:
        StoreError: it is no store of vidloc's, or damaged, whatever that does to libhdf5.
        FormatVersionError: it is that of a newer version.
    """
    answer = parse_json(_answer_apart(read, size, where), where=where)
    if "newer" in answer:
        raise FormatVersionError(answer["newer"])
    if "damaged" in answer:
        raise StoreError(answer["damaged"])
    return parse_layout(answer["layout"], size=size, where=where)


def answer_of(read: Read, size: int, where: str) -> bytes:
    """What libhdf5, in this process, says of a file: JSON with its `layout`, or a sentence that tells what is wrong."""
    file = io.BufferedReader(_RangeFile(read, size), _BLOCK_BYTES)
    try:
        with hdf5_errors(where), h5py.File(file, "r") as opened:
            layout = dump_layout(read_tree(opened, where=where))
    except FormatVersionError as error:
        return dump_json({"newer": str(error)})
    except StoreError as error:
        return dump_json({"damaged": str(error)})
    if len(layout) > MAX_DOCUMENT_BYTES:
        return dump_json({"damaged": f"{where}: its arrays lie in too many pieces. Rewrite the file with h5repack."})
    return b'{"layout":' + layout + b"}"


def main() -> None:
    """Run in the other process: `python -c PROGRAM NAME SIZE CPU_SECONDS`."""
    where, size, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Whatever prints is not to be taken for a message.
    replies, messages = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    _limit(resource.RLIMIT_AS, _ADDRESS_SPACE)
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_CORE, 0)

    def read(start: int, stop: int) -> bytes:
        _send(messages, _MESSAGE.pack(start, stop))
        data = _exactly(replies, stop - start)
        if data is None:  # nobody waits for an answer any more
            os._exit(1)
        return data

    answer = answer_of(read, size, where)
    _send(messages, _MESSAGE.pack(_ANSWER, len(answer)) + answer)


def _answer_apart(read: Read, size: int, where: str) -> bytes:
    """Let another process run `answer_of`."""
    # Not the working directory, which -c would add: a store from elsewhere may lie beside an h5py.py.
    command = [sys.executable, "-P", "-c", _PROGRAM, where, str(size), str(CPU_SECONDS)]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(  # noqa: S603 (our own code; the name is an argument)
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0
        ) as process:
            pipes = cast("IO[bytes]", process.stdout).fileno(), cast("IO[bytes]", process.stdin).fileno()
            try:
                answer = _serve(*pipes, read, size, where)
            except BaseException:
                process.kill()
                raise
        if answer is None:
            said.seek(0)
            raise StoreError(f"{where} cannot be read: {_ending(process.returncode, said.read())}")
    return answer


def _serve(messages: int, replies: int, read: Read, size: int, where: str) -> bytes | None:
    """Hand out bytes until the answer comes; `None` where the process ends without one."""
    left = _MAX_READ_SHARE * size + _SPARE_BYTES
    while (message := _exactly(messages, _MESSAGE.size)) is not None:
        start, stop = _MESSAGE.unpack(message)
        if start == _ANSWER:
            return _exactly(messages, stop) if stop <= 2 * MAX_DOCUMENT_BYTES else None
        left -= stop - start
        if not 0 <= start <= stop <= size or left < 0:
            raise StoreError(f"{where} is damaged: libhdf5 reads its metadata over and over.")
        try:
            _send(replies, read(start, stop))
        except BrokenPipeError:
            break
    return None


def _ending(code: int, said: bytes) -> str:
    if code == -signal.SIGXCPU:
        return f"it is damaged, and libhdf5 does not come to an end with it within {CPU_SECONDS} s of processor time."
    if code < 0:
        return f"it is damaged, and a process that was to read it with libhdf5 ended by signal {-code}."
    last = one_line(said.decode(errors="replace").strip().rpartition("\n")[2])
    return f"a process that was to read it with libhdf5 ended by exit code {code} ({last[:300]})."


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, hard))


def _send(pipe: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def _exactly(pipe: int, length: int) -> bytes | None:
    """So many bytes; `None` where the pipe ends before."""
    parts = []
    while length > 0:
        data = os.read(pipe, min(length, _PIPE_BYTES))
        if not data:
            return None
        parts.append(data)
        length -= len(data)
    return b"".join(parts)


class _RangeFile(io.RawIOBase):
    """A file that is read by ranges, as h5py takes it."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._read(self._position, stop)
        buffer[: len(data)] = data
        self._position = stop
        return len(data)
