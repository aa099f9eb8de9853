"""Work beside the encoders, in threads with a budget of bytes: decoding runs ahead of them, writing behind them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class _Room(Generic[T]):
    """Where items wait, in order, between the thread that makes them and the one that takes them.

    Args:
        size_of: bytes that an item holds.
        capacity_bytes: `put` waits while more than this is waiting; one item always fits.

    Attributes:
        changed: held while the room, or what its waits are given up for, is looked at or changed.
    """

    def __init__(self, *, size_of: Callable[[T], int], capacity_bytes: int) -> None:
        self.changed = threading.Condition()
        self._size_of = size_of
        self._capacity = capacity_bytes
        self._items: deque[T] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, *, given_up: Callable[[], object]) -> bool:
        """Wait until the item fits and leave it here; false where that was given up."""
        size = self._size_of(item)
        with self.changed:
            self.changed.wait_for(lambda: given_up() or not self._items or self._bytes + size <= self._capacity)
            if given_up():
                return False
            self._items.append(item)
            self._bytes += size
            self.changed.notify_all()
            return True

    def take(self, *, given_up: Callable[[], object], timeout_s: float | None = None) -> T | None:
        """Wait for the next item; `None` where none came in time, or none is left and waiting was given up."""
        with self.changed:
            self.changed.wait_for(lambda: self._items or given_up(), timeout=timeout_s)
            if not self._items:
                return None
            item = self._items.popleft()
            self._bytes -= self._size_of(item)
            self.changed.notify_all()
            return item

    def clear(self) -> None:
        """Throw away what is waiting."""
        with self.changed:
            self._items.clear()
            self._bytes = 0
            self.changed.notify_all()


class RunAhead(Generic[T]):
    """Items of an iterator, made in a background thread.

    Args:
        source: what to iterate over; a generator is closed in the thread that ran it.
        size_of: bytes that an item holds.
        capacity_bytes: the thread waits while more than this is waiting to be taken; one item always fits.

    Attributes:
        busy_s: seconds the thread spent making items.
        wait_s: seconds the taker waited for them.
    """

    def __init__(self, source: Iterator[T], *, size_of: Callable[[T], int], capacity_bytes: int) -> None:
        self.busy_s = 0.0
        self.wait_s = 0.0
        self._source = source
        self._room = _Room(size_of=size_of, capacity_bytes=capacity_bytes)
        self._closed = self._exhausted = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vidloc-decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._room.changed:
            self._closed = True
            self._room.clear()
        # A daemon thread: a decoder that hangs inside its library must not keep the process from ending.
        self._thread.join(timeout=5.0)

    def take(self, timeout_s: float) -> T | None:
        """The next item, or `None` when none came in time or none is left (see `exhausted`).

        Raises:
            Exception: what the source raised, after all items made before it.
        """
        begun = time.perf_counter()
        # Held throughout: an error is told only when nothing that was made before it is left.
        with self._room.changed:
            item = self._room.take(given_up=lambda: self._exhausted, timeout_s=timeout_s)
            self.wait_s += time.perf_counter() - begun
            if item is None and self._error is not None:
                raise self._error
            return item

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left and nothing more will come, not even an error that `take` is to raise."""
        with self._room.changed:
            return self._exhausted and not len(self._room) and self._error is None

    def _run(self) -> None:
        try:
            while (item := self._made()) is not None and self._room.put(item, given_up=lambda: self._closed):
                pass
        except BaseException as error:  # noqa: BLE001  (carried over to the thread that takes)
            self._error = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            with self._room.changed:
                self._exhausted = True
                self._room.changed.notify_all()

    def _made(self) -> T | None:
        begun = time.perf_counter()
        try:
            return next(self._source, None)
        finally:
            self.busy_s += time.perf_counter() - begun


class RunBehind(Generic[T]):
    """Calls a function for each item that is put, in order, in a background thread.

    Leaving the context waits until all was taken, whatever the reason for leaving: what was put is finished work.

    Args:
        sink: what to call.
        size_of: bytes that an item holds.
        capacity_bytes: `put` waits while more than this is waiting to be taken; one item always fits.

    Attributes:
        wait_s: seconds that `put` waited.
    """

    def __init__(self, sink: Callable[[T], object], *, size_of: Callable[[T], int], capacity_bytes: int) -> None:
        self.wait_s = 0.0
        self._sink = sink
        self._room = _Room(size_of=size_of, capacity_bytes=capacity_bytes)
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vidloc-write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._room.changed:
            self._closed = True
            self._room.changed.notify_all()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def put(self, item: T) -> None:
        """Hand over an item.

        Raises:
            Exception: what the sink raised for an earlier one; nothing is taken any more.
        """
        begun = time.perf_counter()
        taken = self._room.put(item, given_up=lambda: self._error)
        self.wait_s += time.perf_counter() - begun
        if not taken and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (item := self._room.take(given_up=lambda: self._closed)) is not None:
                self._sink(item)
        except BaseException as error:  # noqa: BLE001  (carried over to the thread that puts)
            with self._room.changed:
                self._error = error
                self._room.clear()
