"""Progress of an extraction on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from vidloc.pipelines.extraction.plan import ExtractPlan
from vidloc.pipelines.extraction.report import Outcome, duration

_FIRST_LINE_S, _LINE_EVERY_S = 5.0, 30.0


class Progress(Protocol):
    """What a run tells its audience; a program that embeds `extract` brings its own."""

    def start(self, plan: ExtractPlan) -> None:
        """Work begins."""

    def rows(self, count: int) -> None:
        """So many samples went to encoders, all streams counted."""

    def items(self, outcomes: Sequence[Outcome]) -> None:
        """Items were committed with these outcomes."""

    def say(self, text: str) -> None:
        """Something a person should read."""


class Silent:
    """Says nothing."""

    def start(self, plan: ExtractPlan) -> None:
        """Nothing."""

    def rows(self, count: int) -> None:
        """Nothing."""

    def items(self, outcomes: Sequence[Outcome]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class ConsoleProgress:
    """Progress for people.

    The share of the work done is that of rows; the estimate made from headers is corrected as items end, so that
    the time left comes out right for videos of unlike lengths.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._begun = self._next_line = 0.0
        self._num_items = self._items_done = 0
        self._rows_done = self._rows_expected = 0
        self._failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, plan: ExtractPlan) -> None:
        """Say the plan, then show the bar or prepare the first line."""
        self.say("\n".join(plan.lines()))
        self._begun = time.monotonic()
        self._next_line = self._begun + _FIRST_LINE_S
        self._num_items = len(plan.work)
        self._rows_expected = plan.num_samples
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("videos"),
                TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
                console=self._console,
            )  # fmt: skip
            self._bar.start()
            self._bar.add_task("extract", total=self._num_items, rate="", left="")

    def rows(self, count: int) -> None:
        """Count rows and refresh."""
        self._rows_done += count
        self._refresh()

    def items(self, outcomes: Sequence[Outcome]) -> None:
        """Count items; failures are shown as they happen."""
        self._items_done += len({o.item_id for o in outcomes})
        for outcome in outcomes:
            if outcome.status in ("failed", "partial"):
                self._failed += 1
                self.say(f"{outcome.status}: {outcome.item_id}, {outcome.stream}: {outcome.reason}")
        self._refresh()

    def say(self, text: str) -> None:
        """Print above the bar."""
        self._console.print(text, markup=False)

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0],
                completed=self._items_done,
                rate=f"{self._rate(now):.2f} clips/s",
                left=self._left(now),
            )
        elif now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self.say(
                f"{self._items_done} of {self._num_items} videos, {self._rate(now):.2f} clips/s, {self._left(now)}"
                + (f", {self._failed} failed or partial" if self._failed else "")
            )

    def _rate(self, now: float) -> float:
        return self._rows_done / max(now - self._begun, 1e-6)

    def _left(self, now: float) -> str:
        rate = self._rate(now)
        rows = self._rows_expected - self._rows_done
        if rate <= 0 or now - self._begun < 1.0 or rows <= 0:
            return "time left not known yet" if rows > 0 else "about to end"
        return f"about {duration(rows / rate)} left"
