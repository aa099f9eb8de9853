r"""Content digests: sha256 of the rows of one (stream, item), and of a whole store.

What is hashed does not depend on backend, chunks or order of writing. Per (stream, item), in this order, text lines
being UTF-8 with a newline at the end:

    vidloc rows 1
    counts <axis> <num_rows>            + little-endian int64 bytes      per ragged axis, by name
    field <name> <dtype> <row shape> <num_entries>  + little-endian C-order bytes   per field, by name
    grid <six integers>  |  spans <num_rows> + float64 bytes  |  none
    extent <start> <end>  |  extent none                                 shortest decimals that read back equal

The content id of a store is the sha256 of its sorted lines `<stream>\t<item>\t<digest>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, TimeGrid, Timeline
from vidloc.stores.base import Extent, FeatureStore, StreamSpec


class RowDigest:
    """Digest of one (stream, item), fed in the order stated above, large fields block by block."""

    def __init__(self, counts: Mapping[str, NDArray[np.int64]]) -> None:
        self._hash = hashlib.sha256(b"vidloc rows 1\n")
        for axis in sorted(counts):
            self._line("counts", axis, str(len(counts[axis])))
            self.update(counts[axis])

    def begin_field(self, name: str, field: FieldSpec, num_entries: int) -> None:
        """Announce the next field, in order of names."""
        self._line(
            "field", name, field.dtype, json.dumps(list(field.row_shape), separators=(",", ":")), str(num_entries)
        )

    def update(self, block: NDArray[Any]) -> None:
        """Bytes of the field announced last."""
        self._hash.update(little_endian(block).data)

    def finish(self, timeline: Timeline | None, extent: Extent | None) -> str:
        """Digest in hex, after all fields."""
        if isinstance(timeline, TimeGrid):
            self._line("grid", *map(str, timeline.as_integers()))
        elif isinstance(timeline, Spans):
            self._line("spans", str(len(timeline)))
            self.update(timeline.array)
        else:
            self._line("none")
        self._line("extent", *(["none"] if extent is None else [repr(float(t)) for t in extent]))
        return self._hash.hexdigest()

    def _line(self, *words: str) -> None:
        self._hash.update((" ".join(words) + "\n").encode())


def digest_of_rows(spec: StreamSpec, rows: Rows, timeline: Timeline | None, extent: Extent | None) -> str:
    """Digest of rows in memory, in the dtypes of `spec`."""
    digest = RowDigest(rows.counts)
    for name in sorted(spec.fields):
        digest.begin_field(name, spec.fields[name], len(rows.fields[name]))
        digest.update(rows.fields[name])
    return digest.finish(timeline, extent)


def digest_of_store(entries: Iterable[tuple[str, str, str]]) -> str:
    """Content id from the (stream, item, digest) of all entries with rows."""
    lines = sorted(f"{stream}\t{item}\t{digest}\n".encode() for stream, item, digest in entries)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def digest_of_stream(store: FeatureStore, stream: str) -> str:
    """Content id of one stream: that of a store which holds it alone."""
    entries = store.entries(stream)
    return digest_of_store((stream, item, entry.digest) for item, entry in entries.items() if entry.digest)


def little_endian(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of an array in C order, little-endian; a view where it already is."""
    stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return stored.reshape(-1).view(np.uint8)
