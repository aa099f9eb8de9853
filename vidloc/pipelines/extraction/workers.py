"""An extraction on several devices: a worker process for each, items handed out as they ask, one writer in the middle.

    with Workers(devices, encoders, stride_s=stride_s) as workers:
        streams = workers.streams()
        timing = workers.run(plan.work, session, progress, interrupts)

A worker that dies takes no committed row along. What it had at hand is tried again by itself: alone in a worker, and
not in the same one while there is another, so that an item which kills workers is found out and fails after its second
victim, and its neighbours are not blamed. The dead worker is replaced, unless that seems to be of no use.

Rows are those of one worker, bit for bit, where the network's arithmetic is the same: on equal GPUs. On the CPU some
sums depend in their last bit on the number of threads, and workers share the cores; with OMP_NUM_THREADS=1 none do.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import Literal, Self

import torch
from torch import multiprocessing

from vidloc.core.grammar import EncoderPlan
from vidloc.errors import DeviceError
from vidloc.pipelines.extraction.devices import num_cores
from vidloc.pipelines.extraction.encoders import StreamLayout
from vidloc.pipelines.extraction.encoding import MAX_UNDER_WAY, Finished, Piece
from vidloc.pipelines.extraction.in_process import POLL_S
from vidloc.pipelines.extraction.interrupts import Interrupts
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.progress import Progress
from vidloc.pipelines.extraction.report import Timing, named
from vidloc.pipelines.extraction.segment_views import Views
from vidloc.pipelines.extraction.session import Session
from vidloc.pipelines.extraction.worker import (
    Ask,
    Drain,
    Fed,
    FromWorker,
    Lost,
    Ready,
    Refused,
    Setup,
    Spent,
    Task,
    work,
)

# CUDA does not survive a fork.
START_METHOD: Literal["spawn"] = "spawn"
# Processes that a device may lose in a row, without one item finished in between, before it is given up.
_MAX_LOSSES = 3
# One item is encoded while the next is decoded; GPUs fill their batches from several.
_AT_HAND_ON_CPU = 2
_END_S = 5.0


@dataclass(eq=False)
class _Worker:
    """One device's worker, as the parent sees it.

    Attributes:
        at_hand: items it was given that are not finished, in order.
        asks: it waits for an answer.
        lost_in_a_row: processes lost since an item was last finished here.
        said: what the process said of its end.
    """

    setup: Setup
    process: BaseProcess
    pipe: Connection
    at_hand: dict[str, ItemWork] = field(default_factory=dict)
    asks: Ask | None = None
    lost_in_a_row: int = 0
    said: str = ""
    refused: Refused | None = None
    streams: tuple[StreamLayout, ...] = ()
    timing: Timing = field(default_factory=Timing)

    @property
    def device(self) -> str:
        """Its device by name."""
        return str(self.setup.device)


@dataclass(frozen=True)
class _Suspect:
    """An item at hand when a worker died."""

    work: ItemWork
    worker: _Worker


class Workers:
    """Worker processes, from their start until the context is left.

    Args:
        devices: one worker is started for each.
        encoders: what each of them loads.
        stride_s: seconds between neighbouring rows, for encoders that do not say otherwise.
        layout: further words of `vidloc.pipelines.extraction.layout` for the same.
        views: of segments, where rows answer those.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        encoders: Sequence[EncoderPlan],
        *,
        stride_s: Fraction,
        layout: Mapping[str, str] = MappingProxyType({}),
        views: Views | None = None,
    ) -> None:
        self._context = multiprocessing.get_context(START_METHOD)
        # The cores are shared: each worker taking all of them would be slower than one alone.
        threads = max(num_cores() // len(devices), 1)
        folder = str(Path.cwd())
        self._setups = [
            Setup(tuple(encoders), stride_s, dict(layout), views, device, threads, folder) for device in devices
        ]
        self._workers: list[_Worker] = []
        self._waiting: deque[ItemWork] = deque()
        self._suspects: list[_Suspect] = []
        self._losses: dict[str, int] = {}
        self._timing = Timing()

    def __enter__(self) -> Self:
        with _starting():
            self._workers = [self._started(setup) for setup in self._setups]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def streams(self) -> list[StreamLayout]:
        """The streams that will be written, once every worker has loaded its encoders.

        Raises:
            VidlocError: the encoders cannot be loaded; what the first device's worker says of it.
            DeviceError: no worker lived to say anything.
        """
        loading = list(self._workers)
        while loading:
            for worker in self._reported(loading, timeout_s=None):
                message = self._received(worker)
                if message is None:
                    worker.said = _epitaph(worker)
                if not isinstance(message, Lost):
                    loading.remove(worker)
        for worker in self._workers:
            if worker.refused is not None:
                raise worker.refused.error
        ready = [worker for worker in self._workers if worker.streams]
        if not ready:
            raise DeviceError(f"no worker could be started. {self._obituaries(self._workers)}")
        return list(ready[0].streams)

    def run(self, items: Sequence[ItemWork], session: Session, progress: Progress, interrupts: Interrupts) -> Timing:
        """Have all items worked on, and commit them, until all is done or a signal ends it.

        Returns:
            Where the time went, summed over the workers; what one that died spent is not known.

        Raises:
            DeviceError: no worker is left. What was committed is safe.
            StoreError: the store cannot be written.
        """
        self._waiting.extend(items)
        for worker in [w for w in self._workers if not w.streams]:
            self._give_up(worker, progress)
        stopping = False
        try:
            while self._busy(stopping=stopping):
                if interrupts.signal is not None and not stopping:
                    stopping = True
                    num_at_hand = sum(len(worker.at_hand) for worker in self._workers)
                    progress.say(f"Stopping: {num_at_hand} items at hand are finished if that takes only seconds.")
                if stopping and interrupts.expired:
                    break
                for worker in self._reported(self._workers, timeout_s=POLL_S):
                    self._take(worker, session, progress, stopping=stopping)
                for worker in self._workers:
                    self._answer(worker, stopping=stopping)
                progress.items(session.news())
            self._dismiss(progress)
        finally:
            session.discard()
        self._timing.write_s = session.write_s
        return self._timing

    def _started(self, setup: Setup) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work, args=(theirs, setup), name=f"vidloc-worker-{setup.device}", daemon=True
        )
        process.start()
        theirs.close()  # the worker's end alone is left: the pipe ends with the worker
        return _Worker(setup, process, ours)

    def _busy(self, *, stopping: bool) -> bool:
        if any(worker.at_hand for worker in self._workers):
            return True
        return bool(self._waiting or self._suspects) and not stopping

    def _reported(self, workers: Sequence[_Worker], *, timeout_s: float | None) -> list[_Worker]:
        """Workers that have said something, or died."""
        by_pipe = {worker.pipe: worker for worker in workers}
        return [by_pipe[pipe] for pipe in wait(list(by_pipe), timeout_s) if isinstance(pipe, Connection)]

    def _received(self, worker: _Worker) -> FromWorker | None:
        """The next message, taken note of; `None` where the worker is dead."""
        try:
            message: FromWorker = worker.pipe.recv()
        except (EOFError, OSError):
            return None
        match message:
            case Ready():
                worker.streams = message.streams
            case Refused():
                worker.refused = message
                worker.said = str(message.error)
            case Lost():
                worker.said = message.reason
            case Ask():
                worker.asks = message
            case Spent():
                worker.timing = message.timing
        return message

    def _take(self, worker: _Worker, session: Session, progress: Progress, *, stopping: bool) -> None:
        message = self._received(worker)
        match message:
            case None:
                self._bury(worker, session, progress, stopping=stopping)
            case Fed():
                progress.rows(message.count)
            case Piece():
                session.take(message)
            case Finished():
                session.take(message)
                worker.at_hand.pop(message.item_id)
                worker.lost_in_a_row = 0

    def _answer(self, worker: _Worker, *, stopping: bool) -> None:
        if worker.asks is None:
            return
        item = None if stopping else self._next_for(worker)
        if item is None and (worker.asks.drained or self._is_full(worker)):
            return  # answered when there is something, or when it has finished something
        worker.asks = None
        if item is not None:
            worker.at_hand[item.item_id] = item
        self._tell(worker, Drain() if item is None else Task(item))

    def _tell(self, worker: _Worker, answer: Task | Drain | None) -> None:
        try:
            worker.pipe.send(answer)
        except OSError:
            return  # it died just now, which its pipe will say

    def _next_for(self, worker: _Worker) -> ItemWork | None:
        """The item that a worker is to have next."""
        if any(item_id in self._losses for item_id in worker.at_hand):
            return None  # a suspect is alone
        if not worker.at_hand:
            for suspect in self._suspects:
                if suspect.worker is not worker or len(self._workers) == 1:
                    self._suspects.remove(suspect)
                    return suspect.work
        return self._waiting.popleft() if self._waiting and not self._is_full(worker) else None

    def _is_full(self, worker: _Worker) -> bool:
        if any(item_id in self._losses for item_id in worker.at_hand):
            return False
        most = _AT_HAND_ON_CPU if worker.setup.device.type == "cpu" else MAX_UNDER_WAY
        return len(worker.at_hand) >= most

    def _bury(self, worker: _Worker, session: Session, progress: Progress, *, stopping: bool) -> None:
        """A worker is dead: drop what it had not finished, have that tried again, and replace the worker."""
        worker.said = _epitaph(worker)
        self._timing.add(worker.timing)
        items, worker.at_hand = worker.at_hand, {}
        session.discard(items)
        if items:
            at_work = f" while {named(list(items), most=3)} {'was' if len(items) == 1 else 'were'} at hand"
            progress.say(f"The worker on {worker.device} died{at_work}: {worker.said}.")
        if not stopping:
            for item in items.values():
                self._suspect(item, worker, session)
        worker.lost_in_a_row += 1
        if stopping or not items or worker.lost_in_a_row >= _MAX_LOSSES:
            self._give_up(worker, progress)
        else:
            with _starting():
                fresh = self._started(worker.setup)
            worker.pipe.close()
            progress.say("It is replaced, and what it had at hand is tried again.")
            worker.process, worker.pipe, worker.said = fresh.process, fresh.pipe, ""
            worker.asks, worker.timing = None, Timing()

    def _suspect(self, item: ItemWork, worker: _Worker, session: Session) -> None:
        losses = self._losses[item.item_id] = self._losses.get(item.item_id, 0) + 1
        if losses == 1:
            self._suspects.append(_Suspect(item, worker))
        else:
            session.fail(item.item_id, f"two workers died while they worked on it (on {worker.device}: {worker.said})")

    def _give_up(self, worker: _Worker, progress: Progress) -> None:
        """Go on without a worker.

        Raises:
            DeviceError: it was the last one, and there is work left.
        """
        self._workers.remove(worker)
        worker.pipe.close()
        left = len(self._workers)
        if not left and (self._waiting or self._suspects):
            raise DeviceError(
                f"no worker is left. {self._obituaries([worker])} What was committed is safe: the same command goes on "
                "from there. Fewer --devices take less memory."
            )
        go_on = "1 worker goes on" if left == 1 else f"{left} workers go on"
        progress.say(f"{self._obituaries([worker])} It is not replaced; {go_on}.")

    def _obituaries(self, workers: Sequence[_Worker]) -> str:
        return " ".join(f"The worker on {worker.device} died: {worker.said}." for worker in workers)

    def _dismiss(self, progress: Progress) -> None:
        """Let idle workers end by themselves, having said where their time went."""
        for worker in self._workers:
            while not worker.at_hand:  # one that is still at work is not waited for
                if worker.asks is not None:
                    self._tell(worker, None if worker.asks.drained else Drain())
                    worker.asks = None
                message = self._received(worker) if worker.pipe.poll(_END_S) else None
                if message is None:
                    break
                if isinstance(message, Fed):
                    progress.rows(message.count)
            self._timing.add(worker.timing)


def _epitaph(worker: _Worker) -> str:
    """Why a worker is dead."""
    worker.process.join(_END_S)
    code = worker.process.exitcode
    if worker.said:
        return worker.said
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", which is what happens where memory runs out" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint}"
    return f"ended with exit code {code} and without a word"


@contextmanager
def _starting() -> Iterator[None]:
    """Where processes are started.

    They never see Ctrl-C or SIGTERM, which reach a whole group: what follows from them is decided here. A process
    inherits what is blocked; signals that come meanwhile are delivered at the end. Nor do they run the program that
    started them once more: they need nothing of it, and not every program is made to be imported.
    """
    resource_tracker.ensure_running()  # which unblocks signals when it has to start
    program = sys.modules["__main__"]
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
