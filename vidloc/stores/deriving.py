"""Derived streams: rows made of other streams' rows, kept with the names, digests and weights of their parents.

Items keep their statuses: what is absent, failed or partial in a parent is so in the stream made of it. A derived
stream has the field `features` alone. It belongs to the content that its parents had: when they change, it is made
again under another name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from vidloc.core.grammar import Derivation
from vidloc.core.records import Source, Status
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans, Timeline
from vidloc.errors import OptionError, StoreError, StreamNotFoundError, UnknownNameError, did_you_mean
from vidloc.stores.base import FeatureStore, FeatureWriter, StreamSpec, append_to_store, open_store
from vidloc.stores.derivations import OPERATIONS, Normalise
from vidloc.stores.digest import digest_of_stream
from vidloc.stores.operations import Progress
from vidloc.stores.row_operations import FIELD, ItemFailureError, Operation, Parent
from vidloc.stores.tables import STATUSES, WITH_ROWS

_RANDOM = "random:"


@dataclass(frozen=True)
class DeriveReport:
    """A stream that was made of others.

    Attributes:
        statuses: how many items have each status in it.
        num_made: items made now; the others were there.
        reasons: why items are partial or failed, by item.
        left_out: items of the first parent that were never tried in another one, with that stream's name.
        digest: content id of the store it is in.
    """

    stream: str
    statuses: Mapping[Status, int]
    num_rows: int
    num_made: int
    reasons: Mapping[str, str]
    left_out: Mapping[str, str]
    digest: str


def derive(
    path: str | Path, derivation: Derivation, *, out: str | Path | None = None, progress: Progress | None = None
) -> DeriveReport:
    """Make a stream of streams of a store, and append it to that store or to another one.

    Args:
        out: store to append to; made where there is none. `None` appends to the store that is read.

    Raises:
        UnknownNameError: no such operation.
        OptionError: an option or a stream that the operation does not take.
        StreamNotFoundError: the store has no such stream.
        ProvenanceError: there is a stream of that name that was made otherwise, or of rows that have changed since.
    """
    with open_store(path) as store:
        parents = [spec_of(store, name) for name in derivation.parents]
        operation = _operation(derivation, parents)
        if isinstance(operation, Normalise):
            operation.fit(store)
        return write_derived(store, derivation.stream, derivation.operation, operation, out or path, progress)


def write_derived(
    store: FeatureStore,
    stream: str,
    name: str,
    operation: Operation,
    out: str | Path,
    progress: Progress | None,
) -> DeriveReport:
    """Run an operation, known as `name`, over all items of its parents and append the rows as `stream` to `out`.

    Raises:
        OptionError: the stream would be its own parent.
        ProvenanceError, StoreError: as for `derive`.
    """
    parents = operation.parents
    if stream in {parent.name for parent in parents}:
        raise OptionError(f"stream {stream!r} cannot be made of itself; give the new stream another name.")
    items = store.entries(parents[0].name)
    made = 0
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        writer = stack.enter_context(append_to_store(out))
        writer.add_stream(_derived_spec(store, stream, name, operation))
        for done, item in enumerate(items, 1):
            lacking = [parent.name for parent in parents if store.entry(parent.name, item) is None]
            if lacking:
                left_out[item] = lacking[0]
            elif writer.entry(stream, item) is None:
                _derive_item(writer, store, stream, operation, item)
                made += 1
            if progress is not None:
                progress(done, len(items))
        entries = writer.entries(stream)
        return DeriveReport(
            stream,
            {status: sum(entry.status == status for entry in entries.values()) for status in STATUSES},
            sum(entry.num_rows for entry in entries.values()),
            made,
            {item: entry.reason for item, entry in entries.items() if entry.status in ("partial", "failed")},
            left_out,
            writer.digest(),
        )


def _derive_item(writer: FeatureWriter, store: FeatureStore, stream: str, operation: Operation, item: str) -> None:
    info = store.info(item)
    parents = [_parent(store, spec, item) for spec in operation.parents]
    writer.set_info(info)
    status, reason = _status(parents)
    if status in WITH_ROWS:
        try:
            lacking = _write_rows(writer, stream, operation, parents)
        except ItemFailureError as error:
            status, reason = "failed", str(error)
        else:
            if lacking:
                status, reason = "partial", f"{reason}; {lacking}" if reason else lacking
    if status != "done":
        writer.mark(stream, item, status, reason)
    writer.commit(item)


def _write_rows(writer: FeatureWriter, stream: str, operation: Operation, parents: Sequence[Parent]) -> str:
    derived = operation.derive(parents)
    item, start = parents[0].item, 0
    for block in derived.blocks:
        piece = _piece(derived.timeline, start, start + len(block))
        writer.write(stream, item, Rows.dense(**{FIELD: block}), piece, extent=derived.extent)
        start += len(block)
    if not start:
        empty = np.empty((0, *operation.row_shape), operation.dtype)
        writer.write(stream, item, Rows.dense(**{FIELD: empty}), _piece(derived.timeline, 0, 0), extent=derived.extent)
    return derived.lacking


def _piece(timeline: Timeline | None, start: int, stop: int) -> Timeline | None:
    return Spans(timeline.array[start:stop]) if isinstance(timeline, Spans) else timeline


def _parent(store: FeatureStore, spec: StreamSpec, item: str) -> Parent:
    entry = store.entry(spec.name, item)
    if entry is None:
        raise StreamNotFoundError(f"stream {spec.name!r} of {store.path} has no item {item!r}.")
    if entry.status in WITH_ROWS and store.recomputed_digest(spec.name, item) != entry.digest:
        raise StoreError(
            f"stream {spec.name!r}, item {item!r} of {store.path} is damaged. Run: vidloc store verify {store.path}"
        )
    return Parent(store, spec, item, entry, store.info(item))


def _status(parents: Sequence[Parent]) -> tuple[Status, str]:
    """The worst status of the parents, and their reasons."""
    worst = max((parent.entry.status for parent in parents), key=STATUSES.index)
    reasons = [f"stream {p.spec.name!r}: {p.entry.reason}" for p in parents if p.entry.status == worst != "done"]
    return worst, "; ".join(reasons)


def spec_of(store: FeatureStore, name: str) -> StreamSpec:
    """The description of a stream.

    Raises:
        StreamNotFoundError: the store has no such stream; the nearest is named.
    """
    specs = store.streams()
    if name not in specs:
        raise StreamNotFoundError(f"store {store.path} has no stream {name!r}. {did_you_mean(name, specs)}")
    return specs[name]


def _operation(derivation: Derivation, parents: Sequence[StreamSpec]) -> Operation:
    found = OPERATIONS.get(derivation.operation)
    if found is None:
        raise UnknownNameError(
            f"no operation {derivation.operation!r} to derive a stream by. "
            f"{did_you_mean(derivation.operation, OPERATIONS)}"
        )
    where = f"{derivation.operation}({','.join(derivation.parents)})"
    if (len(parents) > 1) != found.several:
        raise OptionError(f"{where}: it takes {'two streams or more' if found.several else 'one stream'}.")
    return found(found.Options.parse(derivation.options, where=where), parents)


def _derived_spec(store: FeatureStore, stream: str, name: str, operation: Operation) -> StreamSpec:
    parents = operation.parents
    weights, weights_sha256 = _weights(parents)
    made_by = {
        spec.name: {"encoder": spec.encoder, "weights": spec.weights, "weights_sha256": spec.weights_sha256}
        for spec in parents
    }
    return StreamSpec(
        name=stream,
        kind=parents[0].kind,
        fields={FIELD: FieldSpec(row_shape=operation.row_shape, dtype=operation.dtype)},
        timeline=operation.timeline,
        sampling=operation.sampling,
        encoder=f"derived:{name}",
        encoder_version="1",
        options={**operation.recorded, "parents": made_by},
        weights=weights,
        weights_sha256=weights_sha256,
        source=_source(parents),
        preprocessing={"derived": operation.rule, **{spec.name: dict(spec.preprocessing) for spec in parents}},
        versions={"numpy": np.__version__},
        parents={spec.name: digest_of_stream(store, spec.name) for spec in parents},
    )


def _weights(parents: Sequence[StreamSpec]) -> tuple[str, str]:
    """Of all networks that took part; where one of them is random, so is what is made of it."""
    names = list(dict.fromkeys(spec.weights for spec in parents if spec.weights))
    hashes = list(dict.fromkeys(spec.weights_sha256 for spec in parents if spec.weights_sha256))
    random = next((found for found in hashes if found.startswith(_RANDOM)), None)
    if random is not None or len(hashes) < 2:
        return " + ".join(names), random or "".join(hashes)
    return " + ".join(names), sha256("\n".join(hashes).encode()).hexdigest()


def _source(parents: Sequence[StreamSpec]) -> Source:
    def joined(values: Sequence[Any]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value))

    return Source(**{name: joined([getattr(spec.source, name) for spec in parents]) for name in Source.model_fields})
