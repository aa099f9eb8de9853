"""What the store commands share on a terminal: a bar with the time left, and sizes as people read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vidloc.cli import console
from vidloc.stores import operations

_UNITS = ("B", "KB", "MB", "GB", "TB")


@contextmanager
def progress_bar(title: str) -> Iterator[operations.Progress]:
    """A bar on stderr, told how many of how many are through; it goes when the work is done."""
    columns: tuple[Any, ...] = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield told


def size_text(num_bytes: int) -> str:
    """Bytes in the largest unit of a thousand."""
    size = float(num_bytes)
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_UNITS[-1]}"
