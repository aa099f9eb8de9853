"""The HDF5 backend: one file that is replaced whole, with a Zarr staging folder beside it while it is written to.

HDF5 cannot promise that a process which dies while it writes leaves a readable file. So new rows go to the staging
folder `<name>.staging`, with the journal, the lock and the promises of the Zarr backend; at close the file is written
anew from its old rows and the staged ones, put in place in one step, and the folder goes. Until then, and after a
crash, file and folder are read as one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from vidloc.core.records import ItemInfo, Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Timeline
from vidloc.errors import StoreError
from vidloc.stores.base import Extent, StreamSpec
from vidloc.stores.durable import disk_errors, sync_folder
from vidloc.stores.format import METADATA_NAME
from vidloc.stores.hdf5_file import load_file, tree_problem, write_file
from vidloc.stores.mapped import HeldFolder
from vidloc.stores.reading import Contents, LocalReader, StoreReader, StreamState
from vidloc.stores.zarr_store import load_folder
from vidloc.stores.zarr_writer import ZarrWriter

_ATTEMPTS = 20


def staging_of(path: Path) -> Path:
    """The folder where rows wait until the file is written."""
    return path.with_name(f"{path.name}.staging")


class Hdf5Store(LocalReader):
    """An HDF5 store open for reading, together with what its staging folder holds."""

    backend = "hdf5"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._folder: HeldFolder | None = None

    @property
    def contents(self) -> Contents:
        """Tables and arrays; loaded anew once the staging folder was folded into the file."""
        if self._folder is not None and not self._folder.is_there():
            self.close()
        return super().contents

    def load(self) -> Contents:
        """Tables of the file, superseded by those of the staging folder."""
        staging = staging_of(self._path)
        for attempt in range(_ATTEMPTS):
            self._folder = None
            try:
                if (staging / METADATA_NAME).exists():
                    self._folder = HeldFolder(staging)
                contents = load_file(self._path) if self._path.exists() else Contents()
                if self._folder is None:
                    return contents
                return joined(contents, load_folder(staging, self._pool, store=self._path), store=self._path)
            except FileNotFoundError:  # replaced between two steps
                pass
            except StoreError:
                if self._folder is None or self._folder.is_there():
                    raise  # damage, and not a folder that was folded into the file meanwhile
            time.sleep(0.01 * attempt)
        raise StoreError(f"store {self._path} changes too often to be read; wait for its writer.")

    def tree_problem(self) -> str:
        """What is wrong with the file as HDF5 programs see it, empty where nothing is."""
        return tree_problem(self._path) if self._path.exists() else ""

    def close(self) -> None:
        """See `FeatureStore`."""
        super().close()
        self._folder = None


class Hdf5Writer(LocalReader):
    """An HDF5 store open for appending; see `FeatureWriter` for what the methods promise.

    Leaving a `with` block by an error keeps the staging folder, so that a stop is quick; the next `close` folds it.

    Args:
        path: the file, or where it is to be.

    Raises:
        StoreError: another writer holds it, or it is damaged.
    """

    backend = "hdf5"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._staging = ZarrWriter(staging_of(self._path), store=self._path)
        try:
            with disk_errors(self._path):
                self._file = load_file(self._path) if self._path.exists() else Contents()
            for state in self._file.streams.values():
                self._staging.add_stream(state.spec)
        except BaseException:
            self._staging.abandon()
            raise
        self._contents = joined(self._file, self._staging.contents, store=self._path)

    @classmethod
    def reader_class(cls) -> Callable[[str], StoreReader]:
        """A writer is copied as a reader."""
        return Hdf5Store

    def load(self) -> Contents:
        """Refuse: a closed writer stays closed."""
        raise StoreError(f"store {self._path} was closed; open it again to go on.")

    def add_stream(self, spec: StreamSpec) -> None:
        """See `FeatureWriter`."""
        self._staging.add_stream(spec)
        self._contents = joined(self._file, self._staging.contents, store=self._path)

    def set_info(self, info: ItemInfo) -> None:
        """See `FeatureWriter`."""
        self._staging.set_info(info)

    def write(
        self, stream: str, item_id: str, rows: Rows, timeline: Timeline | None, *, extent: Extent | None = None
    ) -> None:
        """See `FeatureWriter`."""
        self._staging.write(stream, item_id, rows, timeline, extent=extent)

    def mark(self, stream: str, item_id: str, status: Status, reason: str) -> None:
        """See `FeatureWriter`."""
        self._staging.mark(stream, item_id, status, reason)

    def commit(self, item_id: str) -> None:
        """See `FeatureWriter`."""
        self._staging.commit(item_id)
        self.forget(item_id)

    def discard(self, item_id: str) -> None:
        """See `FeatureWriter`."""
        self._staging.discard(item_id)

    def flush(self) -> None:
        """Fold the staging folder's journal; plain h5py clients see new rows only after `close`."""
        self._staging.flush()

    def stop(self) -> None:
        """See `FeatureWriter`."""
        if self._contents is not None:
            self._staging.close()
            super().close()

    def close(self) -> None:
        """Drop what was not committed, write the file anew where there is something new, and remove the folder."""
        if self._contents is None:
            return
        try:
            with disk_errors(self._path):
                self._staging.lock.check()
                if self._has_news():
                    self._write_file()
                self._remove_staging()
        finally:
            self._staging.abandon()
            super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.stop()

    def _has_news(self) -> bool:
        staged = self._staging.contents
        return (
            not self._path.exists()
            or set(staged.streams) != set(self._file.streams)
            or any(len(table) for table in staged.items)
            or any(len(part.table) for state in staged.streams.values() for part in state.parts)
        )

    def _write_file(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)  # never through a link that a store came with
            write_file(temporary, self.contents)
            temporary.replace(self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            error.add_note(
                f"The rows are in {staging_of(self._path)}; to write the file: vidloc store finish {self._path}"
            )
            raise
        sync_folder(self._path.parent)

    def _remove_staging(self) -> None:
        # Renamed first: the folder goes in one step for readers, and the lock with it.
        staging = staging_of(self._path)
        trash = staging.with_name(f".{staging.name}.{os.getpid()}.old")
        staging.rename(trash)
        shutil.rmtree(trash)


def joined(file: Contents, staged: Contents, *, store: Path) -> Contents:
    """File and staging folder as one store; the tables are shared, so that later commits show.

    Raises:
        StoreError: they contradict each other.
    """
    streams = dict(file.streams)
    for name, state in staged.streams.items():
        if name in streams:
            if streams[name].spec.origin() != state.spec.origin():
                raise StoreError(
                    f"store {store} is damaged: stream {name!r} is described otherwise in {staging_of(store)}, where "
                    "its newest rows lie."
                )
            streams[name] = StreamState(state.spec, [*streams[name].parts, *state.parts])
        else:
            streams[name] = state
    return Contents([*file.items, *staged.items], streams)
