"""What is done to a finished store: verify its rows, remove a stale lock, fold what a stopped writer left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vidloc.errors import StoreError
from vidloc.stores.backends import lock_folder
from vidloc.stores.base import FeatureStore, ItemEntry, StreamSpec, append_to_store, expect, open_store
from vidloc.stores.digest import digest_of_rows
from vidloc.stores.hdf5_store import Hdf5Store
from vidloc.stores.lock import LOCK_NAME, holder_of, remove_lock
from vidloc.stores.remote_store import RemoteStore
from vidloc.stores.tables import WITH_ROWS

Progress = Callable[[int, int], None]
"""Called with how many (stream, item) pairs are through, and how many there are."""

# Items handed to the threads of `verify` at once, so that a million of them are not planned ahead.
_WAVE = 256


@dataclass(frozen=True)
class Damage:
    """One (stream, item) whose rows are not those that were committed.

    `item` is empty for damage of a stream as a whole; `stream` is `(items)` for facts of an item, and `(file)` for an
    HDF5 file that HDF5 programs cannot read, or read otherwise.
    """

    stream: str
    item: str
    problem: str

    def __str__(self) -> str:
        place = f"stream {self.stream!r}, item {self.item!r}" if self.item else f"stream {self.stream!r}"
        return f"{place}: {self.problem}"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        num_entries: (stream, item) pairs with rows that were looked at.
        num_rows: their rows.
        digest: content id that the store states.
        damages: in order of stream and item; empty for a sound store.
        quick: whether only lengths and metadata were looked at.
    """

    num_entries: int
    num_rows: int
    digest: str
    damages: tuple[Damage, ...]
    quick: bool


def verify(path: str | Path, *, quick: bool = False, progress: Progress | None = None) -> VerifyReport:
    """Read every live row of a store and compare it with the digest that was committed.

    Rows that were superseded, and bytes that no entry refers to, belong to no item and are not looked at. An HDF5 file
    is also opened as other programs would, and has to be the same store for them. A few items are hashed at a time, on
    threads; their rows are mapped and not copied, so that memory does not grow with the store.

    Args:
        quick: look only at metadata, and whether every file is long enough to hold its rows; of a store elsewhere
            all rows are read in any case.

    Raises:
        StoreError: nothing can be verified, since the path holds no store or its tables cannot be read.
    """
    damages: list[Damage] = []
    num_rows = done = 0
    with open_store(path) as store:
        quick = quick and not isinstance(store, RemoteStore)
        specs = store.streams()
        entries = {name: _with_rows(store, name) for name in specs}
        total = sum(map(len, entries.values()))
        for name in () if quick else specs:
            expect(store, name, list(entries[name]))
        pairs = ((spec, item, entry) for name, spec in specs.items() for item, entry in entries[name].items())
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="vidloc-verify") as threads:
            while wave := list(islice(pairs, _WAVE)):
                problems = threads.map(lambda pair: _problem(store, *pair, quick=quick), wave)
                for (spec, item, entry), problem in zip(wave, problems, strict=True):
                    if problem:
                        damages.append(Damage(spec.name, item, problem))
                    num_rows += entry.num_rows
                    done += 1
                    if progress is not None:
                        progress(done, total)
        damages.extend(_facts_problems(store))
        if isinstance(store, Hdf5Store) and not quick and (problem := store.tree_problem()):
            damages.append(Damage("(file)", "", problem))
        return VerifyReport(total, num_rows, store.digest(), tuple(damages), quick)


def writer_of(path: str | Path) -> str:
    """Who holds a store's lock, empty where nobody does."""
    folder = lock_folder(path)
    holder = holder_of(folder)
    if holder is not None:
        return str(holder)
    return "a writer unknown (its lock file is not readable)" if (folder / LOCK_NAME).exists() else ""


def unlock(path: str | Path) -> str:
    """Remove a store's lock, whoever made it, and say whose it was.

    Only for a writer that is gone for sure: two writers at once would spoil each other's commits.

    Raises:
        StoreError: the store is not locked.
    """
    holder = writer_of(path)
    if not remove_lock(lock_folder(path)):
        raise StoreError(f"store {path} is not locked; there is nothing to remove.")
    return holder


def finish(path: str | Path) -> str:
    """Fold what was committed but is not in the tables yet (HDF5: in the file), and give the content id.

    After it plain zarr and h5py clients see every committed item. A store without such commits stays as it is.

    Raises:
        StoreError: another writer holds the store, or there is none.
    """
    with open_store(path):
        pass  # `append_to_store` would make a new store where there is none
    with append_to_store(path) as writer:
        return writer.digest()


def _with_rows(store: FeatureStore, stream: str) -> dict[str, ItemEntry]:
    # An entry with only one of both is damaged, which is found when its rows are looked for.
    return {item: e for item, e in store.entries(stream).items() if e.digest or e.status in WITH_ROWS}


def _problem(store: FeatureStore, spec: StreamSpec, item: str, entry: ItemEntry, *, quick: bool) -> str:
    try:
        rows = store.read(spec.name, item)
        timeline = store.timeline(spec.name, item)
    except StoreError as error:
        return str(error)
    if rows.num_rows != entry.num_rows:
        return f"its table states {entry.num_rows} rows, {rows.num_rows} were read"
    if not entry.digest:
        return "its table states no digest: bytes changed since it was committed"
    if quick:
        return ""
    found = digest_of_rows(spec, rows, timeline, entry.extent)
    if found == entry.digest:
        return ""
    return f"its rows have digest {found[:12]}..., {entry.digest[:12]}... was committed: bytes changed since"


def _facts_problems(store: FeatureStore) -> list[Damage]:
    problems = []
    for item in store.items():
        try:
            store.info(item)
        except StoreError as error:
            problems.append(Damage("(items)", item, str(error)))
    return problems
