"""What every feature store can do, whatever its backend: the reader and writer protocols, and how one is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from vidloc.core.records import ItemInfo, Record, Source, Status
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Timeline

TimelineKind = Literal["grid", "spans", "none"]
Extent = tuple[float, float]


class StreamSpec(Record):
    """What one stream is: the shape of its rows, how they were sampled, and where they come from.

    Attributes:
        name: `[a-z][a-z0-9_]{0,63}`, unique in the store.
        kind: what a row is made of (`core.records.Kind`); roles of heads are matched by it. A kind that only a later
            version knows is listed and read, and fits no role.
        fields: shape and dtype by field name; a vector stream has one, `features`.
        timeline: how row times are kept: `grid` (three fractions per item), `spans` (one span per row) or `none`.
        sampling: the rule by which rows were laid out (`align`, `stride_s`, `window_s`, `num_frames`, `tail`, ...).
        encoder: name of the encoder that made the rows.
        encoder_version: raised by the encoder whenever the same input gives other rows; of a file, its sha256.
        options: all options of the encoder, after defaults.
        weights: file name of the checkpoint, or `random:SEED`.
        weights_sha256: sha256 of the checkpoint, or `random:SEED`; rows of other weights are never mixed in.
        source: paper, code and licence of network and weights.
        preprocessing: resize, crop, normalisation and decoder, in words a person can repeat.
        vocabulary: names of the classes that `labels` or `scores` number, empty where there are none.
        versions: versions of the libraries that took part (torch, av, ...); informative, not compared.
        parents: digests of the streams a derived stream was made from.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    kind: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    fields: Mapping[str, FieldSpec] = Field(min_length=1)
    timeline: TimelineKind = "grid"
    sampling: Mapping[str, JsonValue] = Field(default_factory=dict)
    encoder: str = ""
    encoder_version: str = ""
    options: Mapping[str, JsonValue] = Field(default_factory=dict)
    weights: str = ""
    weights_sha256: str = ""
    source: Source = Source()
    preprocessing: Mapping[str, JsonValue] = Field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    versions: Mapping[str, str] = Field(default_factory=dict)
    parents: Mapping[str, str] = Field(default_factory=dict)

    def origin(self) -> dict[str, Any]:
        """The part that must agree before rows are appended: everything but library versions and file names."""
        return self.model_dump(mode="json", exclude={"versions", "weights"})


@dataclass(frozen=True)
class ItemEntry:
    """State of one (stream, item).

    Attributes:
        status: `done`; `partial` (rows of what decodes); `absent` (no such track); `failed` (no rows).
        num_rows: rows stored.
        digest: sha256 over fields, timeline and extent in hex; empty without rows.
        reason: why it is not `done`, in a sentence.
        extent: start and end of the track in seconds; rows reaching beyond it are partly made of padding.
    """

    status: Status
    num_rows: int
    digest: str
    reason: str
    extent: Extent | None


@runtime_checkable
class FeatureStore(Protocol):
    """A store open for reading. It pickles as its path and opens on first use.

    Items are listed in byte order of their ids. All methods raise `StreamNotFoundError` for a stream, item or field
    that the store lacks, naming what it has, and `StoreError` for damage.
    """

    @property
    def path(self) -> str:
        """Where the store lies, as it was opened."""

    @property
    def backend(self) -> str:
        """`zarr` or `hdf5`."""

    def streams(self) -> dict[str, StreamSpec]:
        """All streams by name."""

    def items(self, stream: str | None = None) -> list[str]:
        """Items with rows in `stream` (status done or partial); without a stream all items that the store knows."""

    def info(self, item_id: str) -> ItemInfo:
        """Facts of an item's source."""

    def entry(self, stream: str, item_id: str) -> ItemEntry | None:
        """Status, digest and row count; `None` where the item was never tried for this stream."""

    def entries(self, stream: str) -> dict[str, ItemEntry]:
        """All tried items of a stream."""

    def timeline(self, stream: str, item_id: str) -> Timeline | None:
        """Which seconds each row covers; `None` for streams without times."""

    def read(self, stream: str, item_id: str, rows: slice | None = None) -> Rows:
        """Rows of an item with all fields; `rows` is a range of the item's rows, clipped to them."""

    def read_field(
        self,
        stream: str,
        item_id: str,
        field: str = "features",
        rows: slice | None = None,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """One field of a range of rows, packed; `out` is filled and returned instead of a new or mapped array."""

    def num_bytes(self, stream: str, item_id: str) -> int:
        """Bytes of an item's rows, all fields together; the rows are not read for it."""

    def recomputed_digest(self, stream: str, item_id: str) -> str:
        """Digest of an item's rows as they are on disk now; it differs from the entry's where they were damaged."""

    def digest(self) -> str:
        """Content id: sha256 of the sorted list of (stream, item, digest); equal for equal rows in any backend."""

    def close(self) -> None:
        """Release files; a later use opens the store again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class FeatureWriter(FeatureStore, Protocol):
    """A store open for appending, by one writer at a time. It reads what it has committed.

    `write` and `mark` gather what is to be said of an item; `commit` makes all of it durable at once. After a crash
    a store holds exactly its committed items.
    """

    def add_stream(self, spec: StreamSpec) -> None:
        """Declare a stream; declaring it again is checked.

        Raises:
            ProvenanceError: the stream exists with another origin; the differing entries are named.
        """

    def set_info(self, info: ItemInfo) -> None:
        """Facts of an item, durable with its next commit."""

    def write(
        self,
        stream: str,
        item_id: str,
        rows: Rows,
        timeline: Timeline | None,
        *,
        extent: Extent | None = None,
    ) -> None:
        """Append rows to an item that is not committed yet; several calls add up, in order.

        `Spans` given piece by piece are joined; a grid must be the same at each call. The item's status becomes
        `done` unless `mark` says otherwise.

        Raises:
            StoreError: fields, shapes or dtypes differ from the spec, or a value is not finite or does not fit
                the dtype (the message names the option that widens it).
        """

    def mark(self, stream: str, item_id: str, status: Status, reason: str) -> None:
        """State why an item has no rows (`absent`, `failed`; those written so far go) or only some (`partial`)."""

    def commit(self, item_id: str) -> None:
        """Make everything said of this item durable, all streams at once."""

    def discard(self, item_id: str) -> None:
        """Forget what was said of an item since its last commit."""

    def stop(self) -> None:
        """Close in a moment, whatever the size: HDF5 leaves new rows in its staging folder, Zarr stores are whole.

        What was committed stays and is read; the next writer, or `vidloc store finish`, folds it.
        """

    def flush(self) -> None:
        """Fold the journal, so that plain zarr or h5py clients see all commits (HDF5: at `close` only)."""


def open_store(path: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> FeatureStore:
    """Open a store for reading; the backend is recognised by content, not by name.

    Args:
        path: on this machine, or the address of a store elsewhere, as fsspec writes it: `s3://bucket/feats.zarr`.
        storage_options: of an address: credentials, endpoint and the like, as fsspec's file system names them.

    Raises:
        StoreError: nothing there, or no store; the message says what was found.
        FormatVersionError: written by a newer version.
    """
    from vidloc.stores import backends

    return backends.open_store(path, storage_options=storage_options)


def create_store(path: str | Path, *, backend: Literal["zarr", "hdf5"] | None = None) -> FeatureWriter:
    """Create a new store; the backend follows the suffix (`.zarr`, `.h5`, `.hdf5`) unless named.

    Raises:
        StoreError: something is already there, or the suffix tells no backend.
    """
    from vidloc.stores import backends

    return backends.create_store(path, backend=backend)


def append_to_store(path: str | Path) -> FeatureWriter:
    """Open an existing store, or create a new one, for appending.

    Raises:
        StoreError: another writer holds it (who and since when is said), or it is damaged.
    """
    from vidloc.stores import backends

    return backends.append_to_store(path)


def expect(store: FeatureStore, stream: str, items: Sequence[str], fields: Sequence[str] | None = None) -> None:
    """Tell a store which items will be read next, in this order, and which fields (`None`: all) of them.

    A store that lies elsewhere then brings many at a time; others need not know.
    """
    told = getattr(store, "expect", None)
    if told is not None:
        told(stream, items, fields)


def gather(store: FeatureStore, stream: str, items: Sequence[str], field: str = "features") -> NDArray[Any]:
    """One field of several items, all rows one after another, read straight into one new array."""
    entries = store.entries(stream)
    counts = [entries[item].num_rows for item in items]
    spec = store.streams()[stream].fields[field]
    out = np.empty((sum(counts), *spec.entry_shape), dtype=spec.dtype)
    expect(store, stream, items, [field])
    start = 0
    for item, count in zip(items, counts, strict=True):
        store.read_field(stream, item, field, out=out[start : start + count])
        start += count
    return out
