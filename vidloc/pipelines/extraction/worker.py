"""One worker of an extraction on several devices: a process that decodes and encodes, and sends rows to the one writer.

It asks for an item whenever its decoder has nothing to do, so that a slow video holds nobody up. The parent answers
with a `Task`, with `Drain` (nothing for now: finish what you have, then ask again), or with `None`: all is done.

All messages go over one pipe per worker. A pipe belongs to two processes and has no lock, so that a worker killed in
the middle of a message harms nobody else; and it ends when either side does, which tells the other one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing.connection import Connection

import torch

from vidloc.core.grammar import EncoderPlan
from vidloc.errors import VidlocError
from vidloc.pipelines.extraction.background import RunAhead, RunBehind
from vidloc.pipelines.extraction.decoding import Arrived, decode_items, size_of
from vidloc.pipelines.extraction.encoders import StreamEncoder, StreamLayout, build_encoders
from vidloc.pipelines.extraction.encoding import Encoding, Finished, Piece
from vidloc.pipelines.extraction.in_process import AHEAD_BYTES, BEHIND_BYTES, POLL_S, row_bytes
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.report import Timing, reason_of
from vidloc.pipelines.extraction.segment_views import Views

# Rows fed are counted aloud this often: a bar moves, and a fast encoder does not flood the pipe.
_FED_EVERY_S = 0.5


@dataclass(frozen=True)
class Setup:
    """What a worker is started with.

    Attributes:
        layout: words of `vidloc.pipelines.extraction.layout` for the whole run.
        views: of segments, where rows answer those.
        threads: that it may use for arithmetic, and for decoding.
        folder: where relative paths begin.
    """

    encoders: Sequence[EncoderPlan]
    stride_s: Fraction
    layout: Mapping[str, str]
    views: Views | None
    device: torch.device
    threads: int
    folder: str


@dataclass(frozen=True)
class Task:
    """An item to work on."""

    work: ItemWork


@dataclass(frozen=True)
class Drain:
    """There is nothing more for now."""


@dataclass(frozen=True)
class Ready:
    """The encoders are loaded."""

    streams: tuple[StreamLayout, ...]


@dataclass(frozen=True)
class Refused:
    """The encoders cannot be loaded: an error meant for the user."""

    error: VidlocError


@dataclass(frozen=True)
class Ask:
    """The decoder is free.

    Attributes:
        drained: nothing is at hand any more.
    """

    drained: bool


@dataclass(frozen=True)
class Fed:
    """So many samples went to encoders."""

    count: int


@dataclass(frozen=True)
class Spent:
    """Where the worker's time went since it was started."""

    timing: Timing


@dataclass(frozen=True)
class Lost:
    """The worker cannot go on."""

    reason: str


FromWorker = Ready | Refused | Ask | Fed | Spent | Lost | Piece | Finished


def work(pipe: Connection, setup: Setup) -> None:
    """The process of a worker; it ends when the parent says so, or is gone."""
    try:
        encoders = _built(pipe, setup)
        if encoders is not None:
            _Worker(pipe, encoders, setup.threads).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(1)  # the parent is gone
    except Exception as error:  # noqa: BLE001  (the parent says why; nobody reads a worker's traceback)
        pipe.send(Lost(reason_of(error)))
        sys.exit(1)


def _built(pipe: Connection, setup: Setup) -> list[StreamEncoder] | None:
    os.chdir(setup.folder)
    torch.set_num_threads(min(torch.get_num_threads(), setup.threads))
    if setup.device.index is not None:
        torch.cuda.set_device(setup.device)
    try:
        encoders = build_encoders(
            setup.encoders,
            stride_s=setup.stride_s,
            layout=setup.layout,
            views=setup.views,
            device=setup.device,
        )
    except VidlocError as error:
        pipe.send(Refused(_portable(error)))
        return None
    pipe.send(Ready(tuple(encoder.layout for encoder in encoders)))
    return encoders


def _portable(error: VidlocError) -> VidlocError:
    """The error as the nearest kind of ours that a text is enough for, since not all of them pass through a pipe."""
    for kind in type(error).__mro__:
        if issubclass(kind, VidlocError) and kind.__module__ == VidlocError.__module__:
            try:
                made = kind(str(error))
            except TypeError:
                continue  # it wants more than a text
            for note in getattr(error, "__notes__", ()):
                made.add_note(note)
            return made
    return VidlocError(str(error))


class _Worker:
    def __init__(self, pipe: Connection, encoders: Sequence[StreamEncoder], threads: int) -> None:
        self._pipe = pipe
        self._encoders = {encoder.stream: encoder for encoder in encoders}
        self._threads = threads
        self._encoding = Encoding(self._encoders)
        self._timing = Timing()
        self._idle_s = 0.0
        self._num_fed = 0
        self._fed_at = 0.0
        self._behind = RunBehind[FromWorker](pipe.send, size_of=row_bytes, capacity_bytes=BEHIND_BYTES)

    def run(self) -> None:
        """Stretches of work, each until the parent has nothing more for now."""
        with self._behind:
            while (task := self._answer(drained=True)) is not None:
                self._stretch(task)

    def _answer(self, *, drained: bool) -> Task | None:
        begun = time.perf_counter()
        self._behind.put(Ask(drained))
        answer = self._pipe.recv()
        self._idle_s += time.perf_counter() - begun
        return answer if isinstance(answer, Task) else None

    def _tasks(self, first: Task) -> Iterator[ItemWork]:
        task: Task | None = first
        while task is not None:
            yield task.work
            task = self._answer(drained=False)

    def _stretch(self, first: Task) -> None:
        timing = self._timing
        before_s = self._idle_s + timing.prepare_s
        source = decode_items(self._tasks(first), self._encoders, threads=self._threads)
        with RunAhead(source, size_of=size_of, capacity_bytes=AHEAD_BYTES) as ahead:
            while not ahead.exhausted:
                event = ahead.take(POLL_S)
                if event is None:
                    continue
                self._hand_on(self._encoding.feed(event))
                if isinstance(event, Arrived):
                    self._count()
                else:
                    timing.prepare_s += event.prepare_s
            self._hand_on(self._encoding.finish())
        timing.decode_s += ahead.busy_s - (self._idle_s + timing.prepare_s - before_s)
        timing.wait_s += ahead.wait_s
        timing.encode_s, timing.write_wait_s = self._encoding.encode_s, self._behind.wait_s
        self._say_fed()
        self._behind.put(Spent(replace(timing)))

    def _hand_on(self, messages: Sequence[Piece | Finished]) -> None:
        for message in messages:
            self._behind.put(message)

    def _count(self) -> None:
        self._num_fed += 1
        if time.monotonic() >= self._fed_at + _FED_EVERY_S:
            self._say_fed()

    def _say_fed(self) -> None:
        self._behind.put(Fed(self._num_fed))
        self._num_fed, self._fed_at = 0, time.monotonic()
