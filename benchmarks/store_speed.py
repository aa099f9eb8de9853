"""Speed of the store: reads over `np.memmap` of the same rows, warm and cold, and durable appends over raw ones.

Ratios of wall time, lower is better, interleaved: in each round the reference comes first, then ours. Every read ends
with the rows in an array of the caller's. `view` asks for the rows as they lie in the page cache and copies them out,
as the reference does, and is the way for warm rows; `out=` has the store read the exact range into the array, and is
the way for cold ones. Cold means that the file's pages were dropped from the page cache (`posix_fadvise`) before each
measurement, which has no effect on a tmpfs. `pread`, beside cold reads, is the floor: a bare pread of the same ranges
from the raw file. Where it is near 1, page faults keep up with the disk, and no store could be faster: a kernel that
reads far ahead (its setting for the disk is printed) serves page faults by large requests too.

Append: every item is written to two streams, with the sha256 of its rows, and committed durably; the journal is folded
as usual (`commits`), and once more at close (`closed`), when HDF5 also writes its file, so all rows a second time. The
reference appends the same bytes to two files with an fdatasync each per item.

    python benchmarks/store_speed.py
    python benchmarks/store_speed.py --gigabytes 4 --folder /scratch --json store_speed.json

Goals (from measurements before the store was built): warm 1.1 (single rows 1.2), cold 0.5, append 1.6.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click
import numpy as np

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import TimeGrid
from vidloc.stores.base import FeatureStore, StreamSpec, create_store, open_store

WIDTHS = (2304, 2048)
GOALS = {"warm": 1.1, "warm rows": 1.2, "cold": 0.5, "append": 1.6}
GRID = TimeGrid(Fraction(32, 15), Fraction(1, 2))
PATTERNS = ("scan", "whole items", "61-row windows", "single rows")


def spec(name: str, width: int) -> StreamSpec:
    return StreamSpec(name=name, kind="clip", fields={"features": FieldSpec(row_shape=(width,), dtype="float16")})


@dataclass(frozen=True)
class Ranges:
    """What one access pattern reads: item, and first and last row in it."""

    name: str
    reads: tuple[tuple[int, int, int], ...]

    @property
    def longest(self) -> int:
        return max(stop - start for _, start, stop in self.reads)


class Corpus:
    """The same rows in a raw file and in a store of each backend."""

    def __init__(self, folder: Path, gigabytes: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        total = int(gigabytes * 1e9 / (2 * WIDTHS[0]))
        num_items = max(total // 580, 4)
        self.counts = np.diff(np.sort(np.concatenate([[0, total], rng.integers(1, total, num_items - 1)]))).clip(1)
        self.firsts = np.concatenate([[0], np.cumsum(self.counts)])
        self.raw = folder / "rows.raw"
        self.stores = {"zarr": folder / "rows.zarr", "hdf5": folder / "rows.h5"}
        with self.raw.open("wb") as file:
            for rows in self._rows():
                rows.tofile(file)
            os.fsync(file.fileno())
        for path in self.stores.values():
            with create_store(path) as writer:
                writer.add_stream(spec("clip", WIDTHS[0]))
                for item, rows in enumerate(self._rows()):
                    writer.write("clip", self.item(item), Rows.dense(features=rows), GRID)
                    writer.commit(self.item(item))

    def _rows(self) -> Iterator[np.ndarray]:
        for item, count in enumerate(self.counts):
            yield np.random.default_rng(item).random((count, WIDTHS[0]), dtype=np.float32).astype(np.float16)

    @staticmethod
    def item(number: int) -> str:
        return f"video_{number:06d}"

    def memmap(self) -> np.memmap:
        return np.memmap(self.raw, np.float16, "r", shape=(int(self.firsts[-1]), WIDTHS[0]))

    def patterns(self) -> list[Ranges]:
        rng = np.random.default_rng(1)
        whole = [(k, 0, int(count)) for k, count in enumerate(self.counts)]
        shuffled = [whole[k] for k in rng.permutation(len(whole))]
        return [
            Ranges(PATTERNS[0], tuple(whole)),
            Ranges(PATTERNS[1], tuple(shuffled)),
            Ranges(PATTERNS[2], self._windows(rng, 61)),
            Ranges(PATTERNS[3], self._windows(rng, 1)),
        ]

    def _windows(self, rng: np.random.Generator, length: int) -> tuple[tuple[int, int, int], ...]:
        fitting = np.flatnonzero(self.counts >= length)
        items = rng.choice(fitting, 1024)
        starts = [int(rng.integers(0, self.counts[k] - length + 1)) for k in items]
        return tuple((int(k), start, start + length) for k, start in zip(items, starts, strict=True))


def read_memmap(corpus: Corpus, ranges: Ranges) -> Callable[[], None]:
    rows = corpus.memmap()
    buffer = np.empty((ranges.longest, WIDTHS[0]), np.float16)

    def run() -> None:
        for item, start, stop in ranges.reads:
            first = corpus.firsts[item]
            np.copyto(buffer[: stop - start], rows[first + start : first + stop])

    return run


def read_plainly(corpus: Corpus, ranges: Ranges) -> float:
    """Seconds that bare preads of the same ranges take, after their pages were dropped."""
    drop_cache(corpus.raw)
    buffer = np.empty((ranges.longest, WIDTHS[0]), np.float16)
    row_bytes = 2 * WIDTHS[0]
    handle = os.open(corpus.raw, os.O_RDONLY)

    def run() -> None:
        for item, start, stop in ranges.reads:
            out = memoryview(buffer[: stop - start]).cast("B")
            offset = (int(corpus.firsts[item]) + start) * row_bytes
            while out:
                done = os.preadv(handle, [out], offset)
                out, offset = out[done:], offset + done

    seconds = timed(run)
    os.close(handle)
    return seconds


def read_store(store: FeatureStore, ranges: Ranges, *, into: bool) -> Callable[[], None]:
    store.entries("clip")  # tables are read when a store is opened; rows are what is measured
    buffer = np.empty((ranges.longest, WIDTHS[0]), np.float16)
    names = {item: Corpus.item(item) for item, _, _ in ranges.reads}

    def run() -> None:
        for item, start, stop in ranges.reads:
            out = buffer[: stop - start]
            if into:
                store.read_field("clip", names[item], "features", slice(start, stop), out=out)
            else:
                np.copyto(out, store.read_field("clip", names[item], "features", slice(start, stop)))

    return run


def drop_cache(path: Path) -> None:
    """Drop a file's, or a folder's files', pages; they must not be mapped."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_ahead(folder: Path) -> str:
    """How far the kernel reads ahead on the folder's disk, where it says so."""
    device = folder.stat().st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition has no queue of its own; its disk, one folder up, has.
    for queue in (place / "queue", place.resolve().parent / "queue"):
        if (queue / "read_ahead_kb").is_file():
            return f"{int((queue / 'read_ahead_kb').read_text())} KiB"
    return "not stated"


def timed(run: Callable[[], None]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def measure_reads(corpus: Corpus, backend: str, ranges: Ranges, rounds: int, *, cold: bool) -> dict[str, object]:
    """Ratios of both ways of reading; cold reads open everything anew, for mapped pages cannot be dropped."""
    path = corpus.stores[backend]
    ratios: dict[str, list[float]] = {"view": [], "out=": []}
    floor: list[float] = []
    for _ in range(rounds):
        if cold:
            gc.collect()
            drop_cache(corpus.raw)
        reference = read_memmap(corpus, ranges)
        base = timed(reference) if cold else min(timed(reference) for _ in range(2))
        if cold:
            del reference
            gc.collect()
            floor.append(read_plainly(corpus, ranges) / base)
        for way in ratios:
            with open_store(path) as store:
                run = read_store(store, ranges, into=way == "out=")
                if cold:
                    gc.collect()
                    drop_cache(path)
                ours = timed(run) if cold else min(timed(run) for _ in range(2))
                del run
            ratios[way].append(ours / base)
    goal = GOALS["cold" if cold else "warm rows" if ranges.name == PATTERNS[3] else "warm"]
    return {
        "what": ranges.name,
        "backend": backend,
        "cache": "cold" if cold else "warm",
        "goal": goal,
        "judged": "out=" if cold else "view",
        "ratios": ratios | ({"pread": floor} if cold else {}),
    }


def append_raw(folder: Path, items: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    handles = [os.open(folder / f"{k}.raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for k in range(len(WIDTHS))]
    for item in items:
        for handle, rows in zip(handles, item, strict=True):
            os.write(handle, rows.data)
            os.fdatasync(handle)
    for handle in handles:
        os.close(handle)


def append_store(path: Path, items: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Append all items; returns the seconds until the last was committed, the store being closed after that."""
    begun = time.perf_counter()
    with create_store(path) as writer:
        for k, width in enumerate(WIDTHS):
            writer.add_stream(spec(f"s{k}", width))
        for number, item in enumerate(items):
            for k, rows in enumerate(item):
                writer.write(f"s{k}", Corpus.item(number), Rows.dense(features=rows), GRID)
            writer.commit(Corpus.item(number))
        return time.perf_counter() - begun


def measure_appends(folder: Path, backend: str, num_items: int, rounds: int) -> dict[str, object]:
    rng = np.random.default_rng(2)
    base = [rng.random((200, width), dtype=np.float32).astype(np.float16) for width in WIDTHS]
    items = [tuple(rows[: 20 + k % 180] for rows in base) for k in range(num_items)]
    suffix = {"zarr": ".zarr", "hdf5": ".h5"}[backend]
    ratios: dict[str, list[float]] = {"commits": [], "closed": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            raw = timed(lambda: append_raw(Path(place), items))
            begun = time.perf_counter()
            ratios["commits"].append(append_store(Path(place) / f"s{suffix}", items) / raw)
            ratios["closed"].append((time.perf_counter() - begun) / raw)
    what = f"append {num_items} items"
    return {
        "what": what,
        "backend": backend,
        "cache": "",
        "goal": GOALS["append"],
        "judged": "closed",
        "ratios": ratios,
    }


def show(row: dict) -> None:
    for way, ratios in row["ratios"].items():
        median = statistics.median(ratios)
        spread = f"{median:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        verdict = f"goal {row['goal']:.1f} {'met' if median <= row['goal'] else 'missed'}"
        line = f"{row['what']:18} {row['backend']:7} {row['cache']:5} {way:7} {spread:>20}"
        click.echo(f"{line}  {verdict}" if way == row["judged"] else line)


@click.command()
@click.option("--gigabytes", default=1.0, show_default=True, help="Rows to read.")
@click.option("--items", default=1200, show_default=True, help="Items to append; the journal is folded every 1,000.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Disk to measure. [default: the temporary folder]")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write results with the machine's description."
)
def main(gigabytes: float, items: int, rounds: int, folder: Path | None, json_path: Path | None) -> None:
    """Measure and print a table of ratios."""
    results: list[dict] = []
    click.echo(f"{gigabytes:g} GB of float16 rows, {rounds} rounds; median ratio (range), lower is better")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        click.echo(f"the kernel reads ahead: {read_ahead(Path(place))}")
        corpus = Corpus(Path(place), gigabytes)
        for cold in (False, True):
            for ranges in corpus.patterns():
                for backend in corpus.stores:
                    results.append(measure_reads(corpus, backend, ranges, rounds, cold=cold))
                    show(results[-1])
        for backend in corpus.stores:
            results.append(measure_appends(Path(place), backend, items, rounds))
            show(results[-1])
    if json_path is not None:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "kernel": platform.release()}
        document = {"command": " ".join(sys.argv), "machine": machine, "rows": results}
        json_path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
