"""Taking items of a store that lies elsewhere: the bytes of the wanted rows travel, and no others.

What is asked for is known before: neighbouring rows are merged into one range, ranges travel in parallel, and each
item is compared with its digest before it is committed. A pull that was stopped goes on; what is there already, by
digest, is not asked for again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidloc.errors import StoreError, StreamNotFoundError, did_you_mean
from vidloc.stores.backends import store_exists
from vidloc.stores.base import StreamSpec, append_to_store, open_store
from vidloc.stores.copying import copy_entry
from vidloc.stores.operations import Progress
from vidloc.stores.remote_files import requests_of
from vidloc.stores.remote_store import RemoteStore
from vidloc.stores.signing import copy_signature
from vidloc.stores.tables import WITH_ROWS


@dataclass(frozen=True)
class PullPlan:
    """What a pull would do.

    Attributes:
        specs: streams that are wanted.
        entries: streams still to be brought, by item, in order of items.
        num_there: (stream, item) pairs that the result holds already.
        num_row_bytes: of the rows still to be brought.
        num_requests, num_bytes: what is asked for to bring them; without ranges, whole files.
        has_ranges: whether the server answers ranges of bytes.
    """

    specs: Mapping[str, StreamSpec] = field(repr=False)
    entries: Mapping[str, Sequence[str]] = field(repr=False)
    num_there: int
    num_row_bytes: int
    num_requests: int
    num_bytes: int
    has_ranges: bool

    @property
    def num_entries(self) -> int:
        """(stream, item) pairs to be brought."""
        return sum(map(len, self.entries.values()))

    def terms(self) -> dict[str, str]:
        """By stream: who made its rows, and under which licence their weights stand."""
        return {name: _terms(spec) for name, spec in self.specs.items()}


@dataclass(frozen=True)
class PullReport:
    """What a pull did.

    Attributes:
        digest: content id of the result.
        num_items: items of the result.
        num_pulled: (stream, item) pairs brought now.
        signed: whether the source's signature came along.
    """

    digest: str
    num_items: int
    num_pulled: int
    signed: bool


def plan_pull(
    store: RemoteStore,
    out: str | Path,
    *,
    streams: Sequence[str] | None = None,
    items: Collection[str] | None = None,
) -> PullPlan:
    """What is to be brought, and what that costs; no rows are read.

    Args:
        out: a new store, or one that holds some of it already.
        streams, items: only these; all where `None`.

    Raises:
        StreamNotFoundError: the source has no such stream.
        StoreError: nothing is chosen, or `out` holds other rows of an item.
    """
    specs = store.streams()
    for name in streams or ():
        if name not in specs:
            raise StreamNotFoundError(f"store {store.path} has no stream {name!r}. {did_you_mean(name, specs)}")
    chosen = {name: spec for name, spec in specs.items() if streams is None or name in streams}
    wanted = {name: [item for item in store.entries(name) if items is None or item in items] for name in chosen}
    if not any(wanted.values()):
        raise StoreError(f"nothing of {store.path} is chosen, so that there is nothing to pull.")
    missing = _missing(store, out, wanted)
    by_item: dict[str, list[str]] = {}
    for name, ids in missing.items():
        for item in ids:
            by_item.setdefault(item, []).append(name)
    num_requests, num_bytes, num_row_bytes = _cost(store, missing)
    return PullPlan(
        specs=chosen,
        entries=dict(sorted(by_item.items(), key=lambda pair: pair[0].encode())),
        num_there=sum(len(wanted[name]) - len(missing[name]) for name in wanted),
        num_row_bytes=num_row_bytes,
        num_requests=num_requests,
        num_bytes=num_bytes,
        has_ranges=store.files.serves_ranges,
    )


def pull(store: RemoteStore, out: str | Path, plan: PullPlan, *, progress: Progress | None = None) -> PullReport:
    """Bring what a plan names.

    Raises:
        StoreError: bytes did not come, or are not those that were committed; what was committed before stays.
        ProvenanceError: `out` has a stream of that name with another origin.
    """
    for name in plan.specs:
        store.expect(name, [item for item, names in plan.entries.items() if name in names])
    done = 0
    with append_to_store(out) as writer:
        for spec in plan.specs.values():
            writer.add_stream(spec)
        for item, names in plan.entries.items():
            writer.set_info(store.info(item))
            for name in names:
                copy_entry(writer, store, plan.specs[name], item)
            writer.commit(item)
            done += len(names)
            if progress is not None:
                progress(done, plan.num_entries)
        digest, num_items = writer.digest(), len(writer.items())
    return PullReport(digest, num_items, done, copy_signature(store, out))


def _missing(store: RemoteStore, out: str | Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    if not store_exists(out):
        return {name: list(items) for name, items in wanted.items()}
    missing: dict[str, list[str]] = {}
    with open_store(out) as there:
        for name, items in wanted.items():
            known = there.entries(name) if name in there.streams() else {}
            entries = store.entries(name)
            missing[name] = [item for item in items if known.get(item) != entries[item]]
            for item in missing[name]:
                ours = known[item].digest if item in known else ""
                if ours and entries[item].digest and ours != entries[item].digest:
                    raise StoreError(
                        f"stream {name!r}, item {item!r}: {out} and {store.path} hold different rows. Choose another "
                        "path for the result."
                    )
    return missing


def _cost(store: RemoteStore, missing: Mapping[str, Sequence[str]]) -> tuple[int, int, int]:
    """Requests, their bytes, and the bytes of the rows."""
    ranges, num_row_bytes = [], 0
    for name, items in missing.items():
        entries, fields = store.entries(name), frozenset(store.streams()[name].fields)
        with_rows = [item for item in items if entries[item].status in WITH_ROWS]
        ranges += store.wanted(name, with_rows, fields)
        num_row_bytes += sum(store.num_bytes(name, item) for item in with_rows)
    if store.files.serves_ranges:
        requests = requests_of(ranges)
        return len(requests), sum(request.size for request in requests), num_row_bytes
    files = {part.name for part in ranges}
    return len(files), sum(map(store.files.size, files)), num_row_bytes


def _terms(spec: StreamSpec) -> str:
    weights = spec.weights or "weights not stated"
    licence = spec.source.licence or "licence not stated"
    return f"by {spec.encoder or 'an encoder not stated'}, {weights}, {licence}"
