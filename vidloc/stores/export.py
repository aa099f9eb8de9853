"""A stream as files that other programs read: one file per item, named safely, with times beside the rows.

    npy          OUT/FIELD/NAME.npy, OUT/spans/NAME.npy, and for ragged fields OUT/AXIS_counts/NAME.npy
    npz, h5      OUT/NAME.npz, OUT/NAME.h5: the same arrays under the same names
    parquet      OUT/NAME.parquet: one line per row, `start_s`, `end_s` and a column per field (a list per row)
    webdataset   OUT/shard-NNNNNN.tar: NAME.FIELD.npy and NAME.spans.npy, with NAME.json for the item

`OUT/index.csv` says which file holds which item, and `OUT/stream.json` where the rows come from. The index is written
last: a folder without one was not finished. Dense fields are `(rows, ...)`; a ragged one holds the entries of all rows
one after another, `AXIS_counts` saying how many each row owns; texts are an array of strings, one per row. `spans` is
`(rows, 2)` float64 seconds. No file holds pickled objects.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import FeatureStore, ItemEntry, StreamSpec, open_store
from vidloc.stores.durable import disk_errors
from vidloc.stores.operations import Progress
from vidloc.stores.tables import WITH_ROWS

Format = Literal["npy", "npz", "h5", "parquet", "webdataset"]
FORMATS: tuple[Format, ...] = get_args(Format)

# Most file systems take names of 255 bytes; the rest is left to suffixes.
_MAX_NAME = 180
_SHARD_BYTES = 10**9

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote: items with rows, their rows, and items of the stream without any, with the reason."""

    num_items: int
    num_rows: int
    without_rows: dict[str, str]


def export(
    out: str | Path,
    path: str | Path,
    stream: str,
    kind: Format,
    *,
    items: set[str] | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a stream's rows into a new folder.

    Args:
        items: only these; all where `None`.

    Raises:
        OptionError: pyarrow is not installed and `kind` is `parquet`.
        StreamNotFoundError: no such stream.
        StoreError: something lies at `out`, the disk is full, or the store is damaged.
    """
    folder = Path(out)
    make = _WRITERS[kind]
    with open_store(path) as store:
        entries = {item: e for item, e in store.entries(stream).items() if items is None or item in items}
        spec = store.streams()[stream]
        with_rows = {item: entry for item, entry in entries.items() if entry.status in WITH_ROWS}
        with disk_errors(folder):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise StoreError(f"{folder} exists and is not an empty folder; choose another place.")
            files = make(folder, spec)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "stream.json").write_text(
                json.dumps(spec.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            names = safe_names(list(with_rows), dots=files.dots)
            index = []
            for done, (item, entry) in enumerate(with_rows.items(), 1):
                file = files.add(names[item], item, entry, _arrays(store, spec, item))
                index.append(_index_line(item, file, entry))
                if progress is not None:
                    progress(done, len(with_rows))
            files.close()
            _write_index(folder / "index.csv", index)
    without = {item: f"{e.status}: {e.reason}" for item, e in entries.items() if e.status not in WITH_ROWS}
    return ExportReport(len(with_rows), sum(entry.num_rows for entry in with_rows.values()), without)


def safe_names(items: list[str], *, dots: bool = True) -> dict[str, str]:
    """A file name (without suffix) for each item id; no two are equal, be it in a file system that ignores case.

    Letters, digits, `_`, `-` and inner dots stay, everything else becomes `%XX`; a name that is too long, or already
    taken, is cut and ends in the sha256 of the id.

    Args:
        dots: whether dots may stay; webdataset takes what follows the first one for the suffix.
    """
    taken: set[str] = set()
    names: dict[str, str] = {}
    kept = rb"[^A-Za-z0-9_.-]" if dots else rb"[^A-Za-z0-9_-]"
    for item in items:
        name = re.sub(kept, lambda byte: b"%%%02X" % byte[0][0], item.encode()).decode()
        name = f"%2E{name[1:]}" if name.startswith(".") else name
        if len(name) > _MAX_NAME or name.lower() in taken:
            name = f"{name[: _MAX_NAME - 65]}-{sha256(item.encode()).hexdigest()}"
        taken.add(name.lower())
        names[item] = name
    return names


def _arrays(store: FeatureStore, spec: StreamSpec, item: str) -> Arrays:
    rows = store.read(spec.name, item)
    arrays: Arrays = {}
    for name, field in spec.fields.items():
        arrays[name] = np.array(rows.strings(name), dtype=np.str_) if field.is_text else rows.fields[name]
        if field.axis is not None and not field.is_text:
            counts = f"{field.axis}_counts"
            if counts in spec.fields:
                raise StoreError(f"stream {spec.name!r} has a field {counts!r}, a name that the export needs itself.")
            arrays[counts] = rows.counts[field.axis]
    timeline = store.timeline(spec.name, item)
    if timeline is not None:
        arrays["spans"] = timeline.spans(rows.num_rows)
    return arrays


class _Files(ABC):
    """Where one export's arrays go."""

    dots = True

    def __init__(self, folder: Path, spec: StreamSpec) -> None:
        self._folder, self._spec = folder, spec

    @abstractmethod
    def add(self, name: str, item: str, entry: ItemEntry, arrays: Arrays) -> str:
        """Write an item and return the file it is in, as a path below the folder (`*` stands for each field)."""

    @abstractmethod
    def close(self) -> None:
        """Finish what is open."""


class _FilePerItem(_Files):
    """Nothing stays open between two items."""

    def close(self) -> None:
        pass


class _Npy(_FilePerItem):
    def add(self, name: str, item: str, entry: ItemEntry, arrays: Arrays) -> str:
        for field, array in arrays.items():
            (self._folder / field).mkdir(exist_ok=True)
            np.save(self._folder / field / f"{name}.npy", array, allow_pickle=False)
        return f"*/{name}.npy"


class _Npz(_FilePerItem):
    def add(self, name: str, item: str, entry: ItemEntry, arrays: Arrays) -> str:
        # Not by np.savez, whose own arguments have names that a field may have.
        with zipfile.ZipFile(self._folder / f"{name}.npz", "w") as archive:
            for field, array in arrays.items():
                with archive.open(f"{field}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        return f"{name}.npz"


class _Hdf5(_FilePerItem):
    def add(self, name: str, item: str, entry: ItemEntry, arrays: Arrays) -> str:
        with h5py.File(self._folder / f"{name}.h5", "w") as file:
            file.attrs["item_id"] = item
            for field, array in arrays.items():
                if array.dtype.kind == "U":
                    file.create_dataset(field, data=array.astype(object), dtype=h5py.string_dtype())
                else:
                    file.create_dataset(field, data=array)
        return f"{name}.h5"


class _Parquet(_FilePerItem):
    def __init__(self, folder: Path, spec: StreamSpec) -> None:
        super().__init__(folder, spec)
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ModuleNotFoundError as error:
            raise OptionError(
                "parquet files need the package 'pyarrow', which is not installed. pip install 'vidloc[parquet]'"
            ) from error
        self._arrow, self._parquet = pa, parquet

    def add(self, name: str, item: str, entry: ItemEntry, arrays: Arrays) -> str:
        columns: dict[str, Any] = {}
        if "spans" in arrays:
            columns = {"start_s": arrays["spans"][:, 0], "end_s": arrays["spans"][:, 1]}
        columns |= {field: self._column(field, arrays) for field in self._spec.fields}
        table = self._arrow.table(columns).replace_schema_metadata({"item_id": item})
        self._parquet.write_table(table, self._folder / f"{name}.parquet")
        return f"{name}.parquet"

    def _column(self, name: str, arrays: Arrays) -> Any:
        """One value per row: a number, a text, a list of numbers (a map is one flat list), or a list of entries."""
        field, array = self._spec.fields[name], arrays[name]
        if field.is_text:
            return self._arrow.array(array.tolist(), self._arrow.string())
        values = self._arrow.array(np.ascontiguousarray(array).reshape(-1))
        if field.entry_shape:
            values = self._arrow.FixedSizeListArray.from_arrays(values, prod(field.entry_shape))
        if field.axis is None:
            return values
        ends = np.concatenate([[0], np.cumsum(arrays[f"{field.axis}_counts"])]).astype(np.int64)
        return self._arrow.LargeListArray.from_arrays(ends, values)


class _WebDataset(_Files):
    dots = False

    def __init__(self, folder: Path, spec: StreamSpec) -> None:
        super().__init__(folder, spec)
        self._number = -1
        self._tar: tarfile.TarFile | None = None

    def add(self, name: str, item: str, entry: ItemEntry, arrays: Arrays) -> str:
        if self._tar is None or self._tar.offset > _SHARD_BYTES:
            self.close()
            self._number += 1
            self._tar = tarfile.open(self._folder / self._shard, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        facts = {"item_id": item, "num_rows": entry.num_rows, "status": entry.status, "extent": entry.extent}
        _add_member(self._tar, f"{name}.json", json.dumps(facts, ensure_ascii=False).encode())
        for field, array in arrays.items():
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            _add_member(self._tar, f"{name}.{field}.npy", data.getvalue())
        return f"{self._shard}:{name}"

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()

    @property
    def _shard(self) -> str:
        return f"shard-{self._number:06}.tar"


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)  # of no time and no owner, so that the same rows give the same bytes
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


_WRITERS: dict[Format, Callable[[Path, StreamSpec], _Files]] = {
    "npy": _Npy,
    "npz": _Npz,
    "h5": _Hdf5,
    "parquet": _Parquet,
    "webdataset": _WebDataset,
}


def _index_line(item: str, file: str, entry: ItemEntry) -> dict[str, Any]:
    start, end = entry.extent or ("", "")
    return {
        "item_id": item,
        "file": file,
        "rows": entry.num_rows,
        "status": entry.status,
        "extent_start_s": start,
        "extent_end_s": end,
        "sha256": entry.digest,
    }


def _write_index(path: Path, lines: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        names = ["item_id", "file", "rows", "status", "extent_start_s", "extent_end_s", "sha256"]
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)
