"""The one writer of a Zarr store: a commit per item that survives `kill -9`, and no rewriting of committed bytes.

A commit appends an item's rows by position to the chunk files, makes them durable, and adds a line to the journal:
that line is the commit. Every 1,000 commits or 60 s, and at close, the journal is folded: entries go to the table
arrays, and the root's metadata is replaced in one step by one that states the new lengths and names a new journal.
So a process that stops at any moment leaves exactly the committed items; plain Zarr clients see the last fold.

Chunk files have their full length while a writer is open. A clean close trims arrays of a single chunk; opening for
writing undoes that, and thereby mends a trim cut short.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.records import ItemInfo, Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Spans, TimeGrid, Timeline
from vidloc.errors import StoreError
from vidloc.stores.base import Extent, StreamSpec
from vidloc.stores.catalog import Catalog, apply_commit, arrays_of_items, arrays_of_stream, load_contents
from vidloc.stores.digest import little_endian
from vidloc.stores.durable import disk_errors, make_folder, replace_file
from vidloc.stores.fitting import check_same_origin, check_times, fitted
from vidloc.stores.format import (
    METADATA_NAME,
    SPEC_ATTRIBUTE,
    ArrayLayout,
    Root,
    axes,
    check_item_id,
    check_spec,
    dump_json,
    group_metadata,
    one_line,
    root_metadata,
)
from vidloc.stores.journal import Journal, journal_name, journal_number, read_journal
from vidloc.stores.lock import Lock
from vidloc.stores.packed import GrowingArray
from vidloc.stores.pending import PendingItem, PendingItems, PendingRows
from vidloc.stores.reading import Contents, LocalReader, Part, StoreReader, StreamState
from vidloc.stores.tables import WITH_ROWS, Commit, Entry, StreamTable
from vidloc.stores.zarr_store import ZarrStore, read_catalog

FOLD_COMMITS = 1000
FOLD_SECONDS = 60.0
_COMMIT_THREADS = 4

_EMPTY = Catalog(Root(journal=journal_name(0), items=0, streams={}), {}, arrays_of_items())

logger = logging.getLogger("vidloc")


@dataclass
class _Appended:
    """Rows of one stream that lie beyond the committed ones, and the lengths their commit will state."""

    entry: Entry
    lengths: Mapping[str, int]


class ZarrWriter(LocalReader):
    """A Zarr store open for appending; see `FeatureWriter` for what the methods promise.

    Args:
        path: folder of an existing store, or of a new one.
        store: what the user calls the store, where that is not the folder.

    Raises:
        StoreError: another writer holds it, or it is damaged.
    """

    backend = "zarr"

    def __init__(self, path: str | Path, *, store: Path | None = None) -> None:
        super().__init__(path)
        self._store = store or self._path
        self._arrays: dict[str, GrowingArray] = {}
        self._written: dict[str, dict[str, Any]] = {}
        self._pending = PendingItems(self._path)
        # Hashing and waiting for the disk, both of which let other threads run.
        self._workers = ThreadPoolExecutor(_COMMIT_THREADS, thread_name_prefix="vidloc-commit")
        self._folded: dict[str, int] = {}
        self._folded_at = time.monotonic()
        with disk_errors(self._store):
            self._path.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self._path, store=self._store)
            try:
                self._open()
            except BaseException:
                self.lock.release()
                raise

    @classmethod
    def reader_class(cls) -> Callable[[str], StoreReader]:
        """A writer is copied as a reader."""
        return ZarrStore

    def load(self) -> Contents:
        """Refuse: a closed writer stays closed."""
        raise StoreError(f"store {self._store} was closed; open it again to go on.")

    def add_stream(self, spec: StreamSpec) -> None:
        """See `FeatureWriter`."""
        check_spec(spec, where=f"store {self._store}")
        state = self.contents.streams.get(spec.name)
        if state is not None:
            check_same_origin(state.spec, spec, store=self._store)
            return
        with disk_errors(self._store):
            self.lock.check()
            arrays = {
                path: self._array(path, layout, f"array {path} in {self._store}")
                for path, layout in arrays_of_stream(spec).items()
            }
            prefix = f"streams/{spec.name}/"
            rows = {path.removeprefix(prefix): array for path, array in arrays.items()}
            self.contents.streams[spec.name] = StreamState(spec, [Part(StreamTable(), rows)])
            self._folded[spec.name] = 0
            try:
                self._roll_journal()
            except OSError:
                del self.contents.streams[spec.name], self._folded[spec.name]
                for path in arrays:
                    del self._arrays[path]
                raise

    def set_info(self, info: ItemInfo) -> None:
        """See `FeatureWriter`."""
        self._check_open()
        check_item_id(info.item_id)
        self._pending.item(info.item_id).info = info

    def write(
        self, stream: str, item_id: str, rows: Rows, timeline: Timeline | None, *, extent: Extent | None = None
    ) -> None:
        """See `FeatureWriter`."""
        spec = self._state(stream).spec
        check_item_id(item_id)
        where = f"stream {stream!r}, item {item_id!r}"
        rows = fitted(spec, rows, where=where)
        check_times(spec, timeline, rows.num_rows, extent, where=where)
        pending = self._pending.rows(item_id, spec)
        if pending.marked is not None and pending.marked[0] not in WITH_ROWS:
            raise StoreError(f"{where} was marked {pending.marked[0]}; discard the item before rows of it are written.")
        with disk_errors(self._store):
            try:
                pending.append(rows, timeline, extent, where=where)
                self._pending.limit_memory()
            except StoreError:
                raise
            except OSError:  # only part of the rows may be in the file: the item cannot go on
                self._pending.drop(item_id)
                raise

    def mark(self, stream: str, item_id: str, status: Status, reason: str) -> None:
        """See `FeatureWriter`."""
        spec = self._state(stream).spec
        check_item_id(item_id)
        begin = self._pending.rows if status in WITH_ROWS else self._pending.restart
        begin(item_id, spec).marked = (status, one_line(reason))

    def commit(self, item_id: str) -> None:
        """See `FeatureWriter`."""
        self._check_open()
        pending = self._pending.get(item_id)
        if pending is None:
            raise StoreError(f"nothing was said of item {item_id!r} since it was last committed to {self._store}.")
        with disk_errors(self._store):
            self.lock.check()
            appended = self._append_all(pending, item_id)
            entries = {name: rows.entry for name, rows in appended.items()}
            commit = Commit(item_id=item_id, info=pending.info, streams=entries)
            self._journal.append(commit)
            for rows in appended.values():
                self._set_lengths(rows.lengths)
            apply_commit(self.contents, commit, store=str(self._store))
            self.forget(item_id)
            self._pending.drop(item_id)
            if self._journal.num_commits >= FOLD_COMMITS or time.monotonic() - self._folded_at >= FOLD_SECONDS:
                self._roll_journal()

    def discard(self, item_id: str) -> None:
        """See `FeatureWriter`."""
        self._check_open()
        self._pending.drop(item_id)

    def flush(self) -> None:
        """See `FeatureWriter`."""
        self._check_open()
        with disk_errors(self._store):
            self.lock.check()
            if self._journal.num_commits:
                self._roll_journal()

    def stop(self) -> None:
        """See `FeatureWriter`."""
        self.close()

    def close(self) -> None:
        """Drop what was not committed, fold the journal, trim small arrays, and let the next writer in."""
        if self._contents is None:
            return
        try:
            self.flush()
            with disk_errors(self._store):
                for array in self._arrays.values():
                    array.trim()
                self._write_metadata(self._journal.path.name, {})
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the next writer in as after a crash: what was committed stays in the journal."""
        dropped = self._pending.drop_all()
        if dropped:
            logger.warning("store %s: closed with %d items not committed; they are dropped.", self._store, len(dropped))
        self._workers.shutdown()
        self._journal.close()
        for array in self._arrays.values():
            array.close()
        self.lock.release()
        super().close()

    def _check_open(self) -> None:
        if self._contents is None:
            self.load()

    def _array(self, path: str, layout: ArrayLayout, where: str) -> GrowingArray:
        array = GrowingArray(self._path / path, layout, self._pool, where=where, root=self._path)
        self._arrays[path] = array
        return array

    def _open(self) -> None:
        """Load the store, or begin a new one, and fold what an earlier writer left in the journal."""
        exists = (self._path / METADATA_NAME).exists()
        catalog = read_catalog(self._path) if exists else _EMPTY
        journal = self._path / catalog.root.journal
        try:
            commits = read_journal(journal) if exists else []
        except FileNotFoundError:
            raise StoreError(f"store {self._store} is damaged: its journal {journal} is missing.") from None
        self._contents = load_contents(catalog, commits, self._array, store=str(self._store))
        self._folded = {"items": catalog.root.items, **catalog.root.streams}
        for state in self._contents.streams.values():
            self._set_lengths(_lengths(state))
        for array in self._arrays.values():
            array.check(max(array.length - 1, 0), array.length)
            array.restore_chunk_length()
            array.sync()
        self._journal = self._fold(journal_number(catalog.root.journal) + 1)
        for stray in self._path.glob(
            "journal-*.jsonl"
        ):  # the one folded, or left by a kill between two steps of a fold
            if stray != self._journal.path:
                stray.unlink()

    def _append_all(self, pending: PendingItem, item_id: str) -> dict[str, _Appended]:
        """Put an item's rows behind the committed ones, durably; they do not exist until the journal says so."""
        appended: dict[str, _Appended] = {}
        digests: dict[str, Future[str]] = {}
        synced: list[Future[None]] = []
        try:
            for name, rows in pending.streams.items():
                if rows.has_rows:
                    digests[name] = self._workers.submit(rows.digest)
                appended[name] = self._append(rows, item_id)
                # All at once: a disk makes several files durable in little more time than one.
                synced += [self._workers.submit(self._arrays[path].sync) for path in appended[name].lengths]
            for done in synced:
                done.result()
        finally:
            # Before anybody drops the rows.
            wait(digests.values())
            wait(synced)
        for name, digest in digests.items():
            appended[name].entry = appended[name].entry.model_copy(update={"digest": digest.result()})
        return appended

    def _append(self, rows: PendingRows, item_id: str) -> _Appended:
        """Put an item's rows of one stream behind the committed ones, their digest left open."""
        status, reason = rows.marked or ("done", "")
        if status not in WITH_ROWS:
            return _Appended(Entry(status=status, reason=reason), {})
        spec = rows.spec
        if not rows.has_rows:
            raise StoreError(f"stream {spec.name!r}, item {item_id!r} was marked {status}, but no rows were written.")
        table = self.contents.streams[spec.name].parts[-1].table
        first, timeline, counts = table.num_rows, rows.timeline, rows.counts
        lengths = dict.fromkeys(_row_paths(spec), first + rows.num_rows)
        for name, field in sorted(spec.fields.items()):
            path = f"streams/{spec.name}/{name}"
            start = first if field.axis is None else self._arrays[path].length
            count = rows.num_rows if field.axis is None else int(counts[field.axis].sum())
            offset = start * self._arrays[path].entry_bytes
            for block in rows.buffers[name].blocks():
                self._arrays[path].write(offset, block)
                offset += block.nbytes
            lengths[path] = start + count
            if field.axis is not None:
                ends = self._arrays[f"streams/{spec.name}/{field.axis}_end"]
                ends.write(first * ends.entry_bytes, little_endian(start + np.cumsum(counts[field.axis])))
        if isinstance(timeline, Spans):
            spans = self._arrays[f"streams/{spec.name}/spans"]
            spans.write(first * spans.entry_bytes, little_endian(timeline.array))
        entry = Entry(
            status=status,
            reason=reason,
            first_row=first,
            num_rows=rows.num_rows,
            extent=rows.extent,
            grid=timeline.as_integers() if isinstance(timeline, TimeGrid) else None,
        )
        return _Appended(entry, lengths)

    def _set_lengths(self, lengths: Mapping[str, int]) -> None:
        for path, length in lengths.items():
            self._arrays[path].commit(length)

    def _fold(self, number: int) -> Journal:
        """Move commits from the journal to the tables, all at once by replacing the root, and begin a new journal.

        Args:
            number: of the new journal.
        """
        items = self.contents.items[-1]
        lengths = self._write_columns("items", items.columns(self._folded["items"]))
        for name, state in self.contents.streams.items():
            grid = state.spec.timeline == "grid"
            columns = state.parts[-1].table.columns(self._folded[name], items.position, grid=grid)
            lengths |= self._write_columns(f"streams/{name}/table", columns)
        journal = Journal(self._path / journal_name(number))
        try:
            self._write_metadata(journal.path.name, lengths)
        except OSError:
            journal.close()
            journal.path.unlink()
            raise
        self._set_lengths(lengths)
        self._folded = {"items": len(items)} | self._entry_counts()
        self._folded_at = time.monotonic()
        return journal

    def _roll_journal(self) -> None:
        old = self._journal
        self._journal = self._fold(journal_number(old.path.name) + 1)
        old.close()
        old.path.unlink()

    def _write_columns(self, group: str, columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Append to table arrays, durably, and say what their lengths are to be."""
        lengths = {}
        for name, column in columns.items():
            array = self._arrays[f"{group}/{name}"]
            data = little_endian(column)
            array.write(array.length * array.entry_bytes, data)
            array.sync()
            lengths[f"{group}/{name}"] = array.length + data.nbytes // array.entry_bytes
        return lengths

    def _write_metadata(self, journal: str, lengths: Mapping[str, int]) -> None:
        """State new lengths: first in each array's own metadata, then, which alone counts, in the root."""
        members: dict[str, dict[str, Any]] = {"items": group_metadata({}), "streams": group_metadata({})}
        for name, state in self.contents.streams.items():
            attributes = {SPEC_ATTRIBUTE: state.spec.model_dump(mode="json")}
            members[f"streams/{name}"] = group_metadata(attributes)
            members[f"streams/{name}/table"] = group_metadata({})
        for path, array in self._arrays.items():
            members[path] = array.layout.resized(lengths.get(path, array.length)).metadata()
        for path, metadata in members.items():
            if self._written.get(path) != metadata:
                make_folder(self._path / path, root=self._path)
                replace_file(self._path / path / METADATA_NAME, dump_json(metadata), sync=False)
                self._written[path] = metadata
        root = Root(journal=journal, items=len(self.contents.items[-1]), streams=self._entry_counts())
        replace_file(self._path / METADATA_NAME, dump_json(root_metadata(root, members)))

    def _entry_counts(self) -> dict[str, int]:
        return {name: len(state.parts[-1].table) for name, state in self.contents.streams.items()}


def _row_paths(spec: StreamSpec) -> list[str]:
    """Arrays of a stream that have one entry per row."""
    names = [f"{axis}_end" for axis in axes(spec)] + (["spans"] if spec.timeline == "spans" else [])
    names += [name for name, field in spec.fields.items() if field.axis is None]
    return [f"streams/{spec.name}/{name}" for name in names]


def _lengths(state: StreamState) -> dict[str, int]:
    """Lengths of a stream's arrays by its table, which the journal may have taken beyond those of the last fold."""
    part, spec = state.parts[-1], state.spec
    num_rows = part.table.num_rows
    lengths = dict.fromkeys(_row_paths(spec), num_rows)
    for name, field in spec.fields.items():
        if field.axis is not None:
            ends = part.arrays[f"{field.axis}_end"]
            lengths[f"streams/{spec.name}/{name}"] = int(ends.view(num_rows - 1, num_rows)[0]) if num_rows else 0
    return lengths
