"""Work beside the encoders, in threads with a budget of bytes: decoding runs ahead of them, writing behind them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


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
        self._size_of = size_of
        self._capacity = capacity_bytes
        self._waiting: deque[T] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = self._exhausted = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vidloc-decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        # A daemon thread: a decoder that hangs inside its library must not keep the process from ending.
        self._thread.join(timeout=5.0)

    def take(self, timeout_s: float) -> T | None:
        """The next item, or `None` when none came in time or none is left (see `exhausted`).

        Raises:
            Exception: what the source raised, after all items made before it.
        """
        begun = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._exhausted, timeout=timeout_s)
            self.wait_s += time.perf_counter() - begun
            if self._waiting:
                item = self._waiting.popleft()
                self._bytes -= self._size_of(item)
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left and nothing more will come, not even an error that `take` is to raise."""
        with self._changed:
            return self._exhausted and not self._waiting and self._error is None

    def _run(self) -> None:
        try:
            while (item := self._made()) is not None and self._put(item):
                pass
        except BaseException as error:  # noqa: BLE001  (carried over to the thread that takes)
            self._error = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()

    def _made(self) -> T | None:
        begun = time.perf_counter()
        try:
            return next(self._source, None)
        finally:
            self.busy_s += time.perf_counter() - begun

    def _put(self, item: T) -> bool:
        size = self._size_of(item)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._waiting or self._bytes + size <= self._capacity)
            if self._closed:
                return False
            self._waiting.append(item)
            self._bytes += size
            self._changed.notify_all()
            return True


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
        self._size_of = size_of
        self._capacity = capacity_bytes
        self._waiting: deque[T] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="vidloc-write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def put(self, item: T) -> None:
        """Hand over an item.

        Raises:
            Exception: what the sink raised for an earlier one; nothing is taken any more.
        """
        size = self._size_of(item)
        begun = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._waiting or self._bytes + size <= self._capacity)
            self.wait_s += time.perf_counter() - begun
            if self._error is not None:
                raise self._error
            self._waiting.append(item)
            self._bytes += size
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._sink(item)
        except BaseException as error:  # noqa: BLE001  (carried over to the thread that puts)
            with self._changed:
                self._error = error
                self._waiting.clear()
                self._changed.notify_all()

    def _next(self) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            self._bytes -= self._size_of(item)
            self._changed.notify_all()
            return item
