"""The on-disk format shared by both backends: names, versions, array metadata, and what a file may say.

    zarr.json                    root: format version, journal, entry counts, all array metadata (consolidated)
    items/{id,facts}             one entry per item: its id, and the facts of its source as a line of JSON
    streams/NAME/zarr.json       attributes: the StreamSpec
    streams/NAME/FIELD           packed rows of all items, one after another; `AXIS_end`, `spans` where there are such
    streams/NAME/table/*         one entry per (stream, item): item, first_row, num_rows, status, ...
    journal-NNNNNN.jsonl, lock   commits that are not in the tables yet; the one writer

Stores come from other labs and are not trusted: every document is validated before it is used, names that become
paths match a pattern, dtypes are plain numbers. Zarr's own JSON for such plain arrays is a dozen lines, so reading a
store does not import zarr.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from vidloc.core.records import Record
from vidloc.errors import FormatVersionError, StoreError
from vidloc.stores.base import StreamSpec

FORMAT_VERSION = 1
METADATA_NAME = "zarr.json"
STORE_ATTRIBUTE = "vidloc"
SPEC_ATTRIBUTE = "vidloc_stream"
CHUNK_BYTES = 64 * 1024**2
MAX_ITEM_ID_BYTES = 1024
MAX_DOCUMENT_BYTES = 64 * 1024**2  # a document takes some twenty times its size in memory
_MAX_CHUNK_BYTES = 2**40

R = TypeVar("R", bound=Record)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Root(Record):
    """What the root of a store says.

    Attributes:
        format: version of this format.
        requires: names of features that a reader must know or else refuse the store.
        journal: name of the present journal.
        items: entries of the item table.
        streams: entries of each stream's table.
    """

    format: int = FORMAT_VERSION
    requires: tuple[str, ...] = ()
    journal: str = Field(pattern=r"^journal-[0-9]{6,12}\.jsonl$")
    items: int = Field(ge=0)
    streams: Mapping[str, int]


@dataclass(frozen=True)
class ArrayLayout:
    """One packed array on disk.

    Attributes:
        length: entries along the first axis.
        entry_shape: shape of one entry.
        dtype: name of a plain number type; bytes are little-endian.
        chunk_rows: entries per chunk.
    """

    length: int
    entry_shape: tuple[int, ...]
    dtype: str
    chunk_rows: int

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry."""
        return entry_bytes(self.entry_shape, self.dtype)

    @property
    def num_bytes(self) -> int:
        """Bytes of all entries."""
        return self.length * self.entry_bytes

    def resized(self, length: int) -> ArrayLayout:
        """The same array with another length."""
        return replace(self, length=length)

    def trimmed(self) -> ArrayLayout:
        """An array of one chunk, cut to the smallest power of two of entries that holds it; a longer one as it is."""
        if self.length > self.chunk_rows:
            return self
        return replace(self, chunk_rows=1 << max(self.length - 1, 0).bit_length())

    def untrimmed(self) -> ArrayLayout:
        """An array of one chunk, with a chunk of full size, as while a writer is open; a longer one as it is."""
        if self.length > self.chunk_rows:
            return self
        return replace(self, chunk_rows=max(self.chunk_rows, chunk_rows(self.entry_bytes)))

    def metadata(self) -> dict[str, Any]:
        """Zarr v3 metadata."""
        chunk = {"chunk_shape": [self.chunk_rows, *self.entry_shape]}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.length, *self.entry_shape],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": chunk},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0.0 if self.dtype.startswith("float") else 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
            "storage_transformers": [],
        }

    @classmethod
    def from_metadata(cls, document: Any, expected: ArrayLayout, *, where: str) -> ArrayLayout:
        """Length and chunk size of an array that is otherwise as `expected`.

        Raises:
            StoreError: anything else differs: the array was not written by vidloc, or was compressed since.
        """
        try:
            length, rows = document["shape"][0], document["chunk_grid"]["configuration"]["chunk_shape"][0]
        except (KeyError, IndexError, TypeError):
            raise StoreError(f"{where}: its metadata is missing or no array of vidloc's.") from None
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (length, rows)) or length < 0 or rows < 1:
            raise StoreError(f"{where}: impossible length {length!r} or chunk length {rows!r}.")
        if rows * expected.entry_bytes > max(_MAX_CHUNK_BYTES, expected.entry_bytes):
            raise StoreError(f"{where}: impossible chunks of {rows} entries of {expected.entry_bytes} bytes.")
        found = replace(expected, length=length, chunk_rows=rows)
        for key, value in found.metadata().items():
            if key not in ("attributes", "storage_transformers", "fill_value") and document.get(key) != value:
                raise StoreError(
                    f"{where}: {key} is {json.dumps(document.get(key))[:200]}, expected {json.dumps(value)}. "
                    "vidloc reads plain uncompressed arrays with chunks along rows only."
                )
        return found


def entry_bytes(entry_shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of one entry of an array; exact for any shape a file may claim."""
    bits = re.sub(r"[a-z]+", "", dtype)
    return math.prod(entry_shape) * int(bits) // 8


def chunk_rows(size: int, *, target: int = CHUNK_BYTES) -> int:
    """The power of two of entries of `size` bytes that comes nearest to `target` bytes, at least one."""
    below = 1 << max((target // size).bit_length() - 1, 0)
    return below if target - below * size <= 2 * below * size - target else 2 * below


def new_array(entry_shape: tuple[int, ...], dtype: str) -> ArrayLayout:
    """An empty array."""
    return ArrayLayout(0, entry_shape, dtype, chunk_rows(entry_bytes(entry_shape, dtype)))


def item_arrays() -> dict[str, ArrayLayout]:
    """Columns of the item table; both are texts."""
    return {"id": new_array((), "uint8"), "facts": new_array((), "uint8")}


def stream_arrays(spec: StreamSpec) -> dict[str, ArrayLayout]:
    """Arrays of a stream's rows: fields, ends of ragged axes, and spans where rows have them."""
    arrays = {name: new_array(field.entry_shape, field.dtype) for name, field in spec.fields.items()}
    for axis in axes(spec):
        arrays[f"{axis}_end"] = new_array((), "int64")
    if spec.timeline == "spans":
        arrays["spans"] = new_array((2,), "float64")
    return arrays


def table_arrays(spec: StreamSpec) -> dict[str, ArrayLayout]:
    """Columns of a stream's table; `reason` is a text."""
    columns = {
        "item": new_array((), "int64"),
        "first_row": new_array((), "int64"),
        "num_rows": new_array((), "int64"),
        "status": new_array((), "uint8"),
        "extent": new_array((2,), "float64"),
        "digest": new_array((32,), "uint8"),
        "reason": new_array((), "uint8"),
    }
    if spec.timeline == "grid":
        columns["grid"] = new_array((6,), "int64")
    return columns


def axes(spec: StreamSpec) -> list[str]:
    """Names of a stream's ragged axes, sorted."""
    return sorted({field.axis for field in spec.fields.values() if field.axis is not None})


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Zarr v3 metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_metadata(root: Root, members: Mapping[str, Any]) -> dict[str, Any]:
    """The root's metadata with that of all its members inline, so that one request opens the store."""
    # zarr-python 3.1 takes siblings together only where they follow one another.
    ordered = dict(sorted(members.items(), key=lambda member: member[0].split("/")))
    consolidated = {"kind": "inline", "must_understand": False, "metadata": ordered}
    return group_metadata({STORE_ATTRIBUTE: root.model_dump(mode="json")}) | {"consolidated_metadata": consolidated}


def parse_root(document: Any, *, where: str) -> Root:
    """Validate what the root says of a store.

    Raises:
        FormatVersionError: written by a newer version of vidloc.
        StoreError: no vidloc store, or a damaged root.
    """
    if not isinstance(document, dict) or "format" not in document:
        raise StoreError(f"{where} is not a vidloc store: its root lacks the vidloc attributes.")
    version = document["format"]
    requires = document.get("requires", [])
    if not isinstance(version, int) or version > FORMAT_VERSION or requires:
        named = one_line(", ".join(map(str, requires))) if isinstance(requires, list) else ""
        needs = f" and needs {named}" if named else ""
        raise FormatVersionError(
            f"{where} has store format {version!r}{needs}; this vidloc reads formats up to {FORMAT_VERSION}. "
            "Please update vidloc."
        )
    return validated(Root, document, where=where)


def parse_spec(document: Any, *, name: str, where: str) -> StreamSpec:
    """Validate the description of a stream as found on disk.

    Raises:
        StoreError: it does not describe a stream of that name.
    """
    check_name(name, where=where)
    spec = validated(StreamSpec, document, where=f"{where}: stream {name!r}")
    if spec.name != name:
        raise StoreError(f"{where}: the description of stream {name!r} is that of {spec.name!r}.")
    check_spec(spec, where=where)
    return spec


def check_spec(spec: StreamSpec, *, where: str) -> None:
    """Make sure that a stream's fields and axes can be array names of their own.

    Raises:
        StoreError: a name outside `[a-z][a-z0-9_]*`, reserved, or given twice.
    """
    names = [*spec.fields, *(f"{axis}_end" for axis in axes(spec)), "spans", "table"]
    for name in (*spec.fields, *axes(spec)):
        if not _NAME.fullmatch(name):
            raise StoreError(f"{where}: stream {spec.name!r} has a field or axis {name!r}; names are a-z, 0-9 and _.")
    for name in names:
        if names.count(name) > 1:
            raise StoreError(f"{where}: stream {spec.name!r} has a field {name!r}, a name the format uses itself.")


def check_name(name: str, *, where: str) -> None:
    """Make sure that a stream name from a file is one before it becomes a path.

    Raises:
        StoreError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(f"{where}: {name!r} is no stream name; names are a-z, 0-9 and _, a letter first.")


def check_item_id(item_id: str) -> None:
    """Make sure that an item's id can be kept: 1 to 1,024 bytes of UTF-8 without control characters.

    Raises:
        StoreError: it cannot.
    """
    try:
        size = len(item_id.encode())
    except UnicodeEncodeError:
        raise StoreError(f"item id {item_id!r} is not valid Unicode.") from None
    if not 1 <= size <= MAX_ITEM_ID_BYTES or _CONTROL.search(item_id):
        raise StoreError(
            f"item id {item_id[:80]!r} ({size} bytes) cannot be stored: an id has 1 to {MAX_ITEM_ID_BYTES} bytes of "
            "UTF-8 and no control characters."
        )


def parse_json(data: bytes, *, where: str) -> Any:
    """A JSON document from a file.

    Raises:
        StoreError: it is none.
    """
    try:
        document = json.loads(data)
        if b"\\u" in data:  # an escape may stand for half a character, which could never be written again
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where} is damaged: no JSON ({error}).") from None


def inside(document: Any, *keys: str) -> Any:
    """A member of a JSON document by the names on the way to it; `None` where one is missing."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def one_line(text: str) -> str:
    """A sentence without line breaks or other control characters, which could steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def dump_json(document: Any) -> bytes:
    """A JSON document as it is put on disk."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def validated(model: type[R], document: Any, *, where: str) -> R:
    """A record from a file.

    Raises:
        StoreError: it does not fit; the first problem is named.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        said = one_line(f"{name or 'the record'}: {problem['msg']}")
        raise StoreError(f"{where} is damaged: {said}.") from None
