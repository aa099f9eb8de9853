"""Ctrl-C and SIGTERM as a request: note it, let the item at hand finish if that takes seconds, and stop in order.

The first signal is only noted, so no commit is ever torn. From then on the earlier handlers are back: a second signal
acts as if nobody had listened (KeyboardInterrupt, or the end of the process), which loses no committed item either.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

# Docker kills 10 s after its SIGTERM, Slurm after 30 s; closing the store takes part of that.
GRACE_S = 6.0


class Interrupts:
    """A context in which SIGINT and SIGTERM set `signal` instead of ending the process.

    Outside the main thread Python allows no handlers; there nothing is noted.

    Attributes:
        signal: number of the signal that arrived, or `None`.
    """

    def __init__(self, *, grace_s: float = GRACE_S) -> None:
        self.signal: int | None = None
        self._grace_s = grace_s
        self._deadline = float("inf")
        self._earlier: dict[int, Any] = {}

    @property
    def expired(self) -> bool:
        """Whether the item at hand has had its time."""
        return time.monotonic() > self._deadline

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._deadline = time.monotonic() + self._grace_s
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier.clear()
