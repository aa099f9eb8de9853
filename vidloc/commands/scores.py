"""How the light stage talks to a terminal: a line per epoch with the time left, and the table of scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vidloc.cli import console
from vidloc.pipelines.evaluate import Scores
from vidloc.pipelines.metric_table import flat, shown

_SECONDS_BETWEEN_LINES = 10.0  # where the output is not a terminal, such as a scheduler's log


class EpochLine:
    """Progress over epochs: a bar on a terminal, a line now and then in a log."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._bar = Progress(
            TextColumn("epoch {task.completed}"), BarColumn(), TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(), console=target, transient=True, disable=not target.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=None, shown="reading rows")
        self._last = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, epoch: int, num_epochs: int, values: Mapping[str, float]) -> None:
        """One epoch's numbers."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._console.is_terminal:
            self._bar.update(self._task, completed=epoch, total=num_epochs, shown=shown)
        elif time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._console.print(f"epoch {epoch} of {num_epochs}: {shown}")


def print_scores(scores: Scores) -> None:
    """The metrics as a table, beside guessing, under a line that says what they are of."""
    out = console()
    source = f", trained on split {scores.trained_on!r}" if scores.trained_on else ""
    kept = f"; weights: {scores.chosen}" if scores.chosen else ""
    prior = f", action prior {scores.prior}" if scores.prior != "none" else ""
    out.print(f"{scores.head} on {scores.dataset}, split {scores.split!r}{source}{prior}{kept}.")
    if scores.num_lacking:
        out.print(
            f"{scores.num_lacking} of {scores.num_annotations} annotations lack rows and were not predicted "
            "(listed in the account beside the predictions)."
        )
    for note in scores.notes:
        out.print(f"Note: {note}")
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for name in (scores.head, *scores.baselines):
        table.add_column(name.replace("_", " "), justify="right")
    others = [flat(metrics) for metrics in scores.baselines.values()]
    for name, value in flat(scores.metrics).items():
        table.add_row(name, shown(value), *(shown(other.get(name)) for other in others))
    out.print(table)


def print_metrics(metrics: Mapping[str, Any], title: str) -> None:
    """Metrics of one file as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column(title, justify="right")
    for name, value in flat(metrics).items():
        table.add_row(name, shown(value))
    console().print(table)
