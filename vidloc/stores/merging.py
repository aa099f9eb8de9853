"""Joining part stores, as the jobs of an array write them, into one store.

The result does not depend on the order of the parts: where several hold the same (stream, item), the best status wins
(done, partial, absent, failed), and two parts that hold different rows of equal status are refused. Everything is
compared before the first row is written. A merge that was stopped is repeated: what the result holds already stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vidloc.core.records import ItemInfo
from vidloc.errors import ProvenanceError, StoreError
from vidloc.stores.backends import store_exists
from vidloc.stores.base import FeatureStore, FeatureWriter, ItemEntry, StreamSpec, append_to_store, open_store
from vidloc.stores.copying import being_written, copy_entry
from vidloc.stores.fitting import origin_differences
from vidloc.stores.operations import Progress
from vidloc.stores.tables import STATUSES


@dataclass(frozen=True)
class MergeReport:
    """What `merge` did.

    Attributes:
        digest: content id of the result.
        num_items: items that the result holds.
        num_copied: (stream, item) pairs copied, of `num_entries` in the result.
        notes: what a user should know, such as parts that are still being written.
    """

    digest: str
    num_items: int
    num_copied: int
    num_entries: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Choice:
    """The store an entry is taken from."""

    store: FeatureStore
    entry: ItemEntry


@dataclass(frozen=True)
class _Plan:
    """What the result will hold: specs and entries by name and (stream, item), facts by item."""

    specs: dict[str, StreamSpec]
    choices: dict[tuple[str, str], _Choice]
    infos: dict[str, ItemInfo]


def merge(out: str | Path, parts: Sequence[str | Path], *, progress: Progress | None = None) -> MergeReport:
    """Join `parts` into `out`, a new store or one that holds some of them already.

    Raises:
        ProvenanceError: a stream has another origin in two parts; both and the differing entries are named.
        StoreError: two parts hold different rows, or facts, of one item; or a part is damaged.
    """
    target = Path(out).resolve()
    sources = _distinct([Path(part) for part in parts])
    if target in (part.resolve() for part in sources):
        raise StoreError(f"{out} is a part and the result at once; give the result a place of its own.")
    with ExitStack() as stack:
        stores = [stack.enter_context(open_store(part)) for part in sources]
        existing = [stack.enter_context(open_store(out))] if store_exists(target) else []
        plan = _plan([*existing, *stores])
        notes = tuple(note for part in sources if (note := being_written(part)))
        writer = stack.enter_context(append_to_store(out))
        copied = _write(writer, plan, progress)
        return MergeReport(writer.digest(), len(writer.items()), copied, len(plan.choices), notes)


def _plan(stores: Sequence[FeatureStore]) -> _Plan:
    specs: dict[str, tuple[StreamSpec, FeatureStore]] = {}
    choices: dict[tuple[str, str], _Choice] = {}
    infos: dict[str, tuple[ItemInfo, FeatureStore]] = {}
    for store in stores:
        for name, spec in store.streams().items():
            known = specs.setdefault(name, (spec, store))
            _check_origin(known[0], known[1], spec, store)
            for item, entry in store.entries(name).items():
                key = (name, item)
                choices[key] = _better(key, choices.get(key), _Choice(store, entry))
        for item in store.items():
            info = store.info(item)
            infos[item] = (_joined(infos[item], info, store) if item in infos else info, store)
    return _Plan(
        {name: specs[name][0] for name in sorted(specs)},
        choices,
        {item: info for item, (info, _) in infos.items()},
    )


def _write(writer: FeatureWriter, plan: _Plan, progress: Progress | None) -> int:
    for spec in plan.specs.values():
        writer.add_stream(spec)
    by_item: dict[str, list[tuple[str, _Choice]]] = {}
    for (stream, item), choice in plan.choices.items():
        by_item.setdefault(item, []).append((stream, choice))
    copied = done = 0
    for item in sorted(by_item, key=str.encode):
        missing = [(s, c) for s, c in by_item[item] if writer.entry(s, item) != c.entry]
        if missing:
            if item in plan.infos:
                writer.set_info(plan.infos[item])
            for stream, choice in missing:
                copy_entry(writer, choice.store, plan.specs[stream], item)
            writer.commit(item)
        copied += len(missing)
        done += len(by_item[item])
        if progress is not None:
            progress(done, len(plan.choices))
    return copied


def _better(key: tuple[str, str], known: _Choice | None, found: _Choice) -> _Choice:
    if known is None:
        return found
    ranks = [STATUSES.index(choice.entry.status) for choice in (known, found)]
    if ranks[0] != ranks[1]:
        return known if ranks[0] < ranks[1] else found
    if known.entry.digest != found.entry.digest:
        raise StoreError(
            f"stream {key[0]!r}, item {key[1]!r}: {known.store.path} and {found.store.path} hold different rows "
            f"(digests {known.entry.digest[:12]}... and {found.entry.digest[:12]}...), both {found.entry.status}. "
            "Leave one of the two parts out, or extract the item again."
        )
    # Equal rows: the reason that comes first in the alphabet, so that the order of the parts changes nothing.
    return min(known, found, key=lambda choice: choice.entry.reason)


def _check_origin(known: StreamSpec, where: FeatureStore, found: StreamSpec, there: FeatureStore) -> None:
    differing = origin_differences(known, found)
    if not differing:
        return
    raise ProvenanceError(
        f"stream {known.name!r} of {where.path} and of {there.path} have different origins and cannot be merged: "
        f"{'; '.join(differing)}. Give one of them another stream name when it is extracted "
        f"(--encoder NAME={known.encoder})."
    )


def _joined(known: tuple[ItemInfo, FeatureStore], found: ItemInfo, store: FeatureStore) -> ItemInfo:
    """Facts of an item as two stores know them: what one leaves open, the other fills in."""
    ours, theirs = (info.model_dump(exclude_none=True) for info in (known[0], found))
    # By stream: parts that imported different streams of one item know of different files.
    files = {**ours.pop("imported", {}), **theirs.pop("imported", {})}
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            raise StoreError(
                f"item {found.item_id!r} has {name} {ours[name]!r} in {known[1].path} and {theirs[name]!r} in "
                f"{store.path}: they were made from different files. Leave one of the two parts out."
            )
    return ItemInfo(**{**ours, **theirs, "imported": files or None})


def _distinct(parts: Sequence[Path]) -> list[Path]:
    seen: dict[Path, Path] = {}
    for part in parts:
        seen.setdefault(part.resolve(), part)
    if not seen:
        raise StoreError("there are no parts to merge; give at least one store.")
    return list(seen.values())
