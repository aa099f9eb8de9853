"""Contract checks of stores: what `stores.base` promises, for a backend on made-up rows and for a store that exists.

`BackendCase` makes new stores of one backend in a folder of its own; each check of it writes, closes, reopens and
compares bit by bit. `StoreCase` is a store that lies somewhere; its checks only read.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from vidloc.core.records import Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans
from vidloc.errors import ProvenanceError, StoreError, StreamNotFoundError
from vidloc.stores.base import FeatureStore, FeatureWriter, append_to_store, create_store, open_store
from vidloc.stores.operations import VerifyReport, verify
from vidloc.testing.checking import CheckFailed, require
from vidloc.testing.synthetic_store import ITEMS, Written, made_up, specs, write_all

_SHOWN = 3
_UNFINISHED: tuple[tuple[str, Status, str], ...] = (
    ("silent.mp4", "absent", "the file has no sound track"),
    ("broken.mp4", "failed", "moov atom not found"),
)


@dataclass
class BackendCase:
    """A backend, with a folder to write stores into."""

    backend: Literal["zarr", "hdf5"]
    folder: Path
    _made: list[Path] = field(default_factory=list)

    def new(self) -> Path:
        """A path where no store is yet."""
        suffix = {"zarr": ".zarr", "hdf5": ".h5"}[self.backend]
        self._made.append(self.folder / f"store_{len(self._made)}{suffix}")
        return self._made[-1]

    @contextmanager
    def written(self, items: tuple[str, ...] = ITEMS) -> Iterator[FeatureStore]:
        """A store with all made-up streams, closed after writing and opened again."""
        path = self.new()
        with create_store(path, backend=self.backend) as writer:
            write_all(writer, items)
        with open_store(path) as store:
            yield store


@dataclass
class StoreCase:
    """A store that exists."""

    path: Path

    @cached_property
    def verified(self) -> VerifyReport:
        """Every row compared with the digest that was committed."""
        return verify(self.path)


def rows_come_back(case: BackendCase) -> str:
    """Every row of every shape is read as it was written: whole items, ranges, single fields, into an array."""
    with case.written() as store:
        for spec in specs():
            for item in ITEMS:
                where, made = f"stream {spec.name!r}, item {item!r}", made_up(spec, item)
                _same_rows(made.rows, store.read(spec.name, item), where)
                for rows in (slice(0, 0), slice(1, 4), slice(5, 10_000)):
                    _same_rows(made.rows[rows], store.read(spec.name, item, rows), f"{where}, rows {rows}")
                _same_fields(store, spec.name, item, made)
    return f"{len(specs())} streams of {len(ITEMS)} items come back bit by bit, whole and in ranges"


def times_come_back(case: BackendCase) -> str:
    """Grids, spans and extents are read exactly."""
    with case.written() as store:
        for spec in specs():
            for item in ITEMS:
                made, entry = made_up(spec, item), store.entry(spec.name, item)
                found = store.timeline(spec.name, item)
                require(
                    found == made.timeline, f"stream {spec.name!r}, item {item!r}: timeline {found} != {made.timeline}."
                )
                require(
                    entry is not None and entry.extent == made.extent, f"{item!r}: the extent is not {made.extent}."
                )
        _require_equal(sorted(ITEMS, key=str.encode), store.items(), "items()")
        duration = store.info(ITEMS[0]).duration_s
        require(duration == made_up(specs()[0], ITEMS[0]).rows.num_rows / 7, f"info() gives the duration {duration}.")
    return "grids, spans, extents and facts of items come back exactly"


def statuses_come_back(case: BackendCase) -> str:
    """Absent, failed and partial items are kept with their reason, and an empty item is no missing one."""
    path, spec = case.new(), specs()[0]
    with create_store(path, backend=case.backend) as writer:
        writer.add_stream(spec)
        for item, status, reason in _UNFINISHED:
            writer.mark(spec.name, item, status, reason)
            writer.commit(item)
        made = made_up(spec, ITEMS[0])
        for item, part in (("cut.mp4", made.rows), ("empty.mp4", made.rows[0:0])):
            writer.write(spec.name, item, part, made.timeline)
            if item == "cut.mp4":
                writer.mark(spec.name, item, "partial", "the last 3 s do not decode")
            writer.commit(item)
    with open_store(path) as store:
        for item, status, reason in (*_UNFINISHED, ("cut.mp4", "partial", "the last 3 s do not decode")):
            entry = store.entry(spec.name, item)
            found = None if entry is None else (entry.status, entry.reason)
            _require_equal((status, reason), found, f"status of {item!r}")
        empty = store.entry(spec.name, "empty.mp4")
        require(
            empty is not None and (empty.status, empty.num_rows) == ("done", 0), "an item of no rows is not 'done'."
        )
        _require_equal(0, len(store.read(spec.name, "empty.mp4")), "rows of an empty item")
        require(store.entry(spec.name, "untried.mp4") is None, "an item that was never tried has an entry.")
    return "absent, failed, partial and empty items are kept apart, with reasons"


def digest_of_content_alone(case: BackendCase) -> str:
    """The content id depends on rows, not on the order or the pieces in which they were written."""
    with case.written() as store:
        expected = store.digest()
    with case.written(ITEMS[::-1]) as store:
        _require_equal(expected, store.digest(), "content id after writing items in another order")
    path = case.new()
    with create_store(path, backend=case.backend) as writer:
        write_all(writer, ())
        for item in ITEMS:
            for spec in specs():
                _write_in_pieces(writer, spec.name, item, made_up(spec, item))
            writer.commit(item)
    with open_store(path) as store:
        _require_equal(expected, store.digest(), "content id after writing rows piece by piece")
    with case.written(ITEMS[:1]) as store:
        require(store.digest() != expected, "the content id is the same with fewer items.")
    return "the content id depends on the rows alone"


def second_writer_refused(case: BackendCase) -> str:
    """One writer at a time."""
    path = case.new()
    with create_store(path, backend=case.backend) as writer:
        write_all(writer, ITEMS[:1])
        try:
            second = append_to_store(path)
        except StoreError as error:
            return f"a second writer is refused: {error}"
        second.close()
    raise CheckFailed("a second writer was let in while the first one was open.")


def only_commits_remain(case: BackendCase) -> str:
    """Rows without a commit, and discarded ones, are gone; a new writer adds rows and changes none."""
    path, spec = case.new(), specs()[0]
    made, more = made_up(spec, ITEMS[0]), made_up(spec, ITEMS[2])
    with _without_warnings(), create_store(path, backend=case.backend) as writer:
        writer.add_stream(spec)
        for item in ("kept", "discarded", "left"):
            writer.write(spec.name, item, made.rows, made.timeline)
        writer.commit("kept")
        writer.discard("discarded")
    with open_store(path) as store:
        _require_equal(["kept"], store.items(spec.name), "items after one commit")
    with append_to_store(path) as writer:
        _same_rows(made.rows, writer.read(spec.name, "kept"), "a writer reading what is committed")
        writer.write(spec.name, "added", more.rows, more.timeline)
        writer.commit("added")
    with open_store(path) as store:
        _require_equal(["added", "kept"], store.items(spec.name), "items after reopening")
        _same_rows(made.rows, store.read(spec.name, "kept"), "an item after another was added")
        _same_rows(more.rows, store.read(spec.name, "added"), "an added item")
    return "a store holds its committed items, and reopening keeps them"


def other_origin_refused(case: BackendCase) -> str:
    """Rows of other weights or options are never mixed into a stream; the same origin with newer libraries is."""
    path, spec = case.new(), specs()[0]
    with create_store(path, backend=case.backend) as writer:
        writer.add_stream(spec)
        writer.add_stream(spec.model_copy(update={"versions": {"torch": "99"}}))
        for change in ({"weights_sha256": "random:1"}, {"options": {"gain": 2.0}}, {"encoder_version": "2"}):
            try:
                writer.add_stream(spec.model_copy(update=change))
            except ProvenanceError:
                continue
            raise CheckFailed(f"a stream was continued although its origin differs in {next(iter(change))}.")
    with open_store(path) as store:
        _require_equal(spec.origin(), store.streams()[spec.name].origin(), "the stream's spec")
    return "rows of another origin are refused"


def unfit_rows_refused(case: BackendCase) -> str:
    """Rows of another shape, field or kind of number, and values that are infinite or too large, are refused."""
    spec = specs()[0]
    good = made_up(spec, ITEMS[0])
    array = good.rows.fields["features"]
    broken = array.copy()
    broken[1, 2] = np.inf
    unfit = {
        "another width": Rows.dense(features=array[:, :-1]),
        "whole numbers": Rows.dense(features=np.ones(array.shape, np.int32)),
        "a value too large": Rows.dense(features=np.full(array.shape, 1e6, np.float32)),
        "another field": Rows.dense(other=array),
        "an infinite value": Rows.dense(features=broken),
    }
    with create_store(case.new(), backend=case.backend) as writer:
        writer.add_stream(spec)
        for what, rows in unfit.items():
            try:
                writer.write(spec.name, ITEMS[0], rows, good.timeline)
            except StoreError:
                continue
            raise CheckFailed(f"rows with {what} were taken.")
    return f"rows with {', '.join(unfit)} are refused"


def unknown_names_refused(case: BackendCase) -> str:
    """Asking for a stream, item or field that is not there says what is."""
    with case.written(ITEMS[:1]) as store:
        asked: dict[str, Callable[[], object]] = {
            "stream": lambda: store.read("nothing", ITEMS[0]),
            "item": lambda: store.read("vectors", "nothing"),
            "field": lambda: store.read_field("vectors", ITEMS[0], "nothing"),
            "facts": lambda: store.info("nothing"),
        }
        for what, ask in asked.items():
            try:
                ask()
            except StreamNotFoundError:
                continue
            raise CheckFailed(f"an unknown {what} raises no StreamNotFoundError.")
    return "unknown streams, items and fields are refused by name"


def pickles_as_its_path(case: BackendCase) -> str:
    """A store travels to worker processes as its path."""
    with case.written() as store:
        data = pickle.dumps(store)
        again = pickle.loads(data)  # noqa: S301  (made in the line above)
        with again:
            _require_equal(store.digest(), again.digest(), "content id of an unpickled store")
        size = sum(array.nbytes for array in made_up(specs()[0], ITEMS[2]).rows.fields.values())
        require(len(data) < size, f"a pickled store takes {len(data)} bytes, as if it held rows.")
    return f"pickles as {len(data)} bytes and reads the same"


BACKEND_CHECKS = (
    rows_come_back,
    times_come_back,
    statuses_come_back,
    digest_of_content_alone,
    second_writer_refused,
    only_commits_remain,
    other_origin_refused,
    unfit_rows_refused,
    unknown_names_refused,
    pickles_as_its_path,
)


def digests_match(case: StoreCase) -> str:
    """Every stored row is what was committed."""
    report = case.verified
    shown = "; ".join(str(damage) for damage in report.damages[:_SHOWN])
    more = f"; and {len(report.damages) - _SHOWN} more" if len(report.damages) > _SHOWN else ""
    require(not report.damages, f"{len(report.damages)} damaged: {shown}{more}.")
    return f"{report.num_rows:,} rows of {report.num_entries:,} entries match their digests; content id {report.digest}"


def counts_match(case: StoreCase) -> str:
    """Items, entries and timelines agree with each other."""
    with open_store(case.path) as store:
        for name in store.streams():
            entries, listed = store.entries(name), store.items(name)
            expected = sorted((i for i, e in entries.items() if e.status in ("done", "partial")), key=str.encode)
            _require_equal(expected, listed, f"items of stream {name!r}")
            for item, entry in entries.items():
                known = entry.status == "done" or entry.reason
                require(known, f"stream {name!r} does not say why item {item!r} is {entry.status}.")
            for item in listed:
                timeline = store.timeline(name, item)
                covered = entries[item].num_rows if timeline is None else len(timeline.spans(entries[item].num_rows))
                _require_equal(entries[item].num_rows, covered, f"rows with times in stream {name!r}, item {item!r}")
        return f"{len(store.streams())} streams, {len(store.items())} items: entries, items and times agree"


def provenance_stated(case: StoreCase) -> str:
    """Every stream says which encoder and weights made it."""
    with open_store(case.path) as store:
        for name, spec in store.streams().items():
            lacking = [part for part in ("encoder", "weights_sha256") if not getattr(spec, part)]
            require(not lacking, f"stream {name!r} does not state its {' and '.join(lacking)}; nobody could repeat it.")
        return f"all {len(store.streams())} streams state encoder and weights"


STORE_CHECKS = (digests_match, counts_match, provenance_stated)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without the notice that uncommitted items are dropped at close, which is what is being checked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _write_in_pieces(writer: FeatureWriter, stream: str, item: str, made: Written) -> None:
    cut = len(made.rows) // 2
    for rows in (slice(0, cut), slice(cut, len(made.rows))):
        timeline = made.timeline
        if isinstance(timeline, Spans):
            timeline = Spans(timeline.array[rows])
        writer.write(stream, item, made.rows[rows], timeline, extent=made.extent)


def _same_fields(store: FeatureStore, stream: str, item: str, made: Written) -> None:
    for name, expected in made.rows.fields.items():
        out = np.empty_like(expected)
        found = store.read_field(stream, item, name, out=out)
        require(
            found is out or np.shares_memory(found, out),
            f"read_field of {name!r} does not fill the array it was given.",
        )
        where = f"stream {stream!r}, item {item!r}, field {name!r} by read_field"
        require(np.array_equal(out, expected), f"{where}: other values than were written.")


def _same_rows(expected: Rows, found: Rows, where: str) -> None:
    _require_equal(len(expected), len(found), f"{where}: rows")
    _require_equal(sorted(expected.fields), sorted(found.fields), f"{where}: fields")
    for name, array in expected.fields.items():
        other = found.fields[name]
        _require_equal(
            (array.shape, array.dtype), (other.shape, other.dtype), f"{where}, field {name!r}: shape and dtype"
        )
        require(array.tobytes() == np.ascontiguousarray(other).tobytes(), f"{where}, field {name!r}: other values.")
    for axis, counts in expected.counts.items():
        require(np.array_equal(counts, found.counts[axis]), f"{where}: other counts along {axis!r}.")


def _require_equal(expected: object, found: object, what: str) -> None:
    require(expected == found, f"{what}: found {found!r}, expected {expected!r}.")
