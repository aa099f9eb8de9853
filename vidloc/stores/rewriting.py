"""A new store of another store's rows: a subset, the rest of one, the live rows alone, another backend or dtype.

A store is never edited in place, so that a content id goes on naming what was published under it. Rows that are not
converted keep their digests. A copy that was stopped is repeated: what the result holds already stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vidloc.core.rows import FieldSpec
from vidloc.errors import OptionError, StoreError, StreamNotFoundError, did_you_mean
from vidloc.stores.backends import store_exists
from vidloc.stores.base import FeatureStore, FeatureWriter, StreamSpec, append_to_store, open_store
from vidloc.stores.copying import being_written, copy_entry
from vidloc.stores.digest import digest_of_stream
from vidloc.stores.facts import disk_bytes
from vidloc.stores.operations import Progress
from vidloc.stores.tables import WITH_ROWS

DTYPES = ("float16", "float32")
_FIELD = "features"
# Rows looked at together when it is checked whether their values fit a narrower dtype.
_CHECKED_ROWS = 4096


@dataclass(frozen=True)
class CopyReport:
    """A store that was made of another.

    Attributes:
        digest: content id of the result.
        num_items: items that the result holds.
        num_copied: (stream, item) pairs copied now, of `num_entries` in the result.
        source_digest: content id of the store that was read.
        source_bytes, disk_bytes: space taken on the disk by that store and by the result.
        notes: what a user should know, such as that the store is still being written.
    """

    digest: str
    num_items: int
    num_copied: int
    num_entries: int
    source_digest: str
    source_bytes: int
    disk_bytes: int
    notes: tuple[str, ...]


_Keep = Callable[[str, str], bool]
"""Whether the entry of a stream and an item belongs to the result."""
_Specs = Callable[[FeatureStore], Mapping[str, StreamSpec]]
"""Streams of the result, as it is to describe them."""


def subset(
    out: str | Path,
    path: str | Path,
    *,
    streams: Sequence[str] | None = None,
    items: Collection[str] | None = None,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy the chosen streams of the chosen items, whatever their status.

    Args:
        out: a new store, whose suffix names the backend, or what an earlier call with the same choice left there.
        streams, items: only these; all where `None`.

    Raises:
        StreamNotFoundError: the store has no such stream or item.
        StoreError: nothing is chosen, `out` holds anything else, or a row is damaged.
    """

    def keep(_stream: str, item: str) -> bool:
        return items is None or item in items

    return _copy(out, path, keep, partial(_chosen, streams, items), progress)


def without(
    out: str | Path,
    path: str | Path,
    *,
    streams: Sequence[str] = (),
    items: Collection[str] | None = None,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy everything but some streams, some items, or (where both are given) those items in those streams.

    Raises:
        OptionError: neither streams nor items are given.
        StreamNotFoundError, StoreError: as for `subset`.
    """
    if not streams and items is None:
        raise OptionError("nothing to drop: name streams, items, or both.")

    def keep(stream: str, item: str) -> bool:
        return not ((not streams or stream in streams) and (items is None or item in items))

    def rest(store: FeatureStore) -> Mapping[str, StreamSpec]:
        specs = _chosen(streams, items, store)  # which must all be there
        return store.streams() if items is not None else {n: s for n, s in store.streams().items() if n not in specs}

    return _copy(out, path, keep, rest, progress)


def compact(out: str | Path, path: str | Path, progress: Progress | None = None) -> CopyReport:
    """Copy the live rows alone: those of superseded entries stay behind. The content id stays.

    Raises:
        StoreError: as for `subset`.
    """
    return _copy(out, path, _everything, partial(_chosen, None, None), progress)


def convert(
    out: str | Path,
    path: str | Path,
    dtypes: Mapping[str, str] | None = None,
    *,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy a store to the backend of `out`'s suffix, with the features of some streams in another dtype.

    Such a stream names the one it was made of in `parents`, by digest, and says what was done in `preprocessing`.
    Values are rounded to the nearest; all are looked at before anything is written.

    Args:
        dtypes: `float16` or `float32` by stream; that of the key `""` is for all streams not named that have
            floating-point features.

    Raises:
        OptionError: another dtype, or a stream without floating-point features.
        StoreError: a value does not fit, named by stream and item; else as for `subset`.
    """
    wanted = partial(_converted, dict(dtypes or {}))
    return _copy(out, path, _everything, wanted, progress)


def _everything(_stream: str, _item: str) -> bool:
    return True


def _copy(out: str | Path, path: str | Path, keep: _Keep, specs_of: _Specs, progress: Progress | None) -> CopyReport:
    source = Path(path)
    if Path(out).resolve() == source.resolve():
        raise StoreError(f"{out} is the store itself; give the result a place of its own.")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(source))
        specs = specs_of(store)
        chosen = _entries(store, specs, keep)
        if not chosen:
            raise StoreError(f"nothing of {path} is chosen, so that no store was made.")
        if store_exists(out):
            with open_store(out) as existing:
                _check_result(existing, specs, chosen)
        digest, note = store.digest(), being_written(source)
        with append_to_store(out) as writer:
            copied = _write(writer, store, specs, chosen, progress)
            result, num_items = writer.digest(), len(writer.items())
    total = sum(map(len, chosen.values()))
    sizes = (disk_bytes(source), disk_bytes(Path(out)))
    return CopyReport(result, num_items, copied, total, digest, *sizes, (note,) if note else ())


def _chosen(
    streams: Sequence[str] | None, items: Collection[str] | None, store: FeatureStore
) -> Mapping[str, StreamSpec]:
    specs = store.streams()
    for name in streams or ():
        if name not in specs:
            raise StreamNotFoundError(f"store {store.path} has no stream {name!r}. {did_you_mean(name, specs)}")
    known = set(store.items())
    unknown = sorted(set(items or ()) - known)
    if unknown:
        raise StreamNotFoundError(
            f"store {store.path} lacks {len(unknown)} of the {len(items or ())} items asked for, such as "
            f"{unknown[0]!r}. Run: vidloc store ls {store.path}"
        )
    return {name: spec for name, spec in specs.items() if streams is None or name in streams}


def _entries(store: FeatureStore, specs: Mapping[str, StreamSpec], keep: _Keep) -> dict[str, list[str]]:
    """Streams to copy by item, in order of items."""
    found: dict[str, list[str]] = {}
    for name in specs:
        for item in store.entries(name):
            if keep(name, item):
                found.setdefault(item, []).append(name)
    return dict(sorted(found.items(), key=lambda pair: pair[0].encode()))


def _check_result(existing: FeatureStore, specs: Mapping[str, StreamSpec], chosen: Mapping[str, list[str]]) -> None:
    """Make sure that the result so far is a part of what it is to be."""
    for name in existing.streams():
        stray = next((item for item in existing.entries(name) if name not in chosen.get(item, ())), None)
        if name not in specs or stray is not None:
            what = f"item {stray!r} in stream {name!r}" if name in specs else f"stream {name!r}"
            raise StoreError(
                f"{existing.path} exists and holds {what}, which is not chosen now. Choose another path, or join the "
                "two stores by: vidloc store merge"
            )


def _write(
    writer: FeatureWriter,
    store: FeatureStore,
    specs: Mapping[str, StreamSpec],
    chosen: Mapping[str, list[str]],
    progress: Progress | None,
) -> int:
    for spec in specs.values():
        writer.add_stream(spec)
    source = store.streams()
    copied = done = 0
    total = sum(map(len, chosen.values()))
    for item, names in chosen.items():
        missing = [name for name in names if not _is_there(writer, store, specs[name], source[name], item)]
        if missing:
            writer.set_info(store.info(item))
            for name in missing:
                copy_entry(writer, store, specs[name], item)
            writer.commit(item)
        copied += len(missing)
        done += len(names)
        if progress is not None:
            progress(done, total)
    return copied


def _is_there(writer: FeatureWriter, store: FeatureStore, spec: StreamSpec, source: StreamSpec, item: str) -> bool:
    found, wanted = writer.entry(spec.name, item), store.entry(spec.name, item)
    if found is None or wanted is None:
        return False
    if spec.fields != source.fields:  # other bytes, thus another digest; the stream's parent is the same
        return (found.status, found.num_rows, found.reason) == (wanted.status, wanted.num_rows, wanted.reason)
    if found.digest and wanted.digest and found.digest != wanted.digest:
        raise StoreError(
            f"stream {spec.name!r}, item {item!r}: {writer.path} and {store.path} hold different rows. "
            "Choose another path for the result."
        )
    return found == wanted


def _converted(dtypes: Mapping[str, str], store: FeatureStore) -> Mapping[str, StreamSpec]:
    _chosen([name for name in dtypes if name], None, store)  # which must all be there
    specs = store.streams()
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise OptionError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}.")
        if name and not _has_float_features(specs[name]):
            raise OptionError(f"stream {name!r} of {store.path} has no floating-point features to convert.")
    found = {}
    for name, spec in specs.items():
        dtype = dtypes.get(name) or (dtypes.get("", "") if _has_float_features(spec) else "")
        found[name] = spec if dtype in ("", _dtype(spec)) else _with_dtype(store, spec, dtype)
        if np.dtype(_dtype(found[name])).itemsize < np.dtype(_dtype(spec)).itemsize:
            _check_range(store, spec, dtype)
    return found


def _dtype(spec: StreamSpec) -> str:
    return spec.fields[_FIELD].dtype if _FIELD in spec.fields else "uint8"


def _has_float_features(spec: StreamSpec) -> bool:
    return _dtype(spec).startswith("float")


def _with_dtype(store: FeatureStore, spec: StreamSpec, dtype: str) -> StreamSpec:
    said = f"features cast from {_dtype(spec)} to {dtype}"
    before = spec.preprocessing.get("converted")
    return spec.model_copy(
        update={
            "fields": {**spec.fields, _FIELD: FieldSpec(row_shape=spec.fields[_FIELD].row_shape, dtype=dtype)},
            "options": {**spec.options, **({"dtype": dtype} if "dtype" in spec.options else {})},
            "preprocessing": {**spec.preprocessing, "converted": f"{before}; {said}" if before else said},
            "parents": {**spec.parents, spec.name: digest_of_stream(store, spec.name)},
        }
    )


def _check_range(store: FeatureStore, spec: StreamSpec, dtype: str) -> None:
    for item, count in _with_rows(store, spec.name):
        for start in range(0, count, _CHECKED_ROWS):
            block = store.read_field(spec.name, item, _FIELD, slice(start, start + _CHECKED_ROWS))
            with np.errstate(over="ignore"):
                fits = np.isfinite(block.astype(dtype))
            if not fits.all():
                raise StoreError(
                    f"stream {spec.name!r}, item {item!r}: the value {block[~fits][0]:g} is beyond what {dtype} holds "
                    f"(up to {float(np.finfo(dtype).max):g}); nothing was written. Name the streams that are to be "
                    f"converted: --dtype STREAM={dtype}."
                )


def _with_rows(store: FeatureStore, stream: str) -> Iterator[tuple[str, int]]:
    for item, entry in store.entries(stream).items():
        if entry.status in WITH_ROWS:
            yield item, entry.num_rows
