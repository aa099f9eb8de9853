"""Which stream fills which role of a head, and the rows of those streams as a bank reads them.

A role takes a stream of fitting kind and shape. Asked for with `--stream role=STREAM`, else the only one that fits,
else the one named like the role, else the first that the dataset's recipe prefers; each choice among several is said.
Roles may come from different stores: items are joined by their ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from vidloc.core.records import Kind
from vidloc.core.rows import Rows
from vidloc.core.timeline import Timeline
from vidloc.errors import OptionError, ProvenanceError, StoreError, StreamNotFoundError, UnknownNameError, did_you_mean
from vidloc.heads.base import StreamNeed
from vidloc.pipelines.run_record import StreamRecord
from vidloc.stores.base import FeatureStore, ItemEntry, StreamSpec, expect


@dataclass(frozen=True)
class Match:
    """Roles with their streams, and what is to be said about the choice."""

    streams: Mapping[str, tuple[FeatureStore, StreamSpec]]
    notes: tuple[str, ...]

    @property
    def dims(self) -> dict[str, int]:
        """Width of a feature by role."""
        return {role: spec.fields["features"].entry_shape[-1] for role, (_, spec) in self.streams.items()}

    def records(self, items: Sequence[str]) -> dict[str, StreamRecord]:
        """What a run keeps of each role's stream; `items` are those that take part."""
        return {
            role: StreamRecord(
                store=store.path,
                stream=spec.name,
                dim=self.dims[role],
                encoder=spec.encoder,
                weights=spec.weights,
                origin_sha256=_origin_sha256(spec),
                digest=_digest(store, spec.name, items),
            )
            for role, (store, spec) in self.streams.items()
        }


class StoreRows:
    """Rows of matched streams by role and item: the reader of a `Bank`."""

    def __init__(self, match: Match) -> None:
        self._streams = match.streams
        self._entries: dict[str, dict[str, ItemEntry]] = {
            role: store.entries(spec.name) for role, (store, spec) in match.streams.items()
        }
        self._timelines: dict[tuple[str, str], Timeline] = {}
        self._keys: dict[tuple[str, str], dict[str, int]] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that have a stream."""
        return tuple(self._streams)

    def trouble(self, role: str, item_id: str) -> str:
        """Why an item has no rows for a role, empty if it has some."""
        entry = self._entries[role].get(item_id)
        stream = self._streams[role][1].name
        if entry is None:
            return f"stream {stream!r} has no item {item_id!r}"
        if entry.status in ("absent", "failed") or entry.num_rows == 0:
            return f"item {item_id!r} is {entry.status} in stream {stream!r}" + (
                f": {entry.reason}" if entry.reason else ""
            )
        return ""

    def timeline(self, role: str, item_id: str) -> tuple[Timeline, int]:
        """Times of an item's rows, and how many there are."""
        if (role, item_id) not in self._timelines:
            store, spec = self._streams[role]
            timeline = store.timeline(spec.name, item_id)
            if timeline is None:
                raise StoreError(f"stream {spec.name!r} of {store.path} has rows without times, which no head can use.")
            self._timelines[role, item_id] = timeline
        return self._timelines[role, item_id], self._entries[role][item_id].num_rows

    def keys(self, role: str, item_id: str) -> Mapping[str, int] | None:
        """Row by the annotation that it answers; `None` where rows are windows and answer none."""
        store, spec = self._streams[role]
        if not _per_segment(spec):
            return None
        if (role, item_id) not in self._keys:
            strings = store.read(spec.name, item_id).strings("key")
            self._keys[role, item_id] = {key: row for row, key in enumerate(strings)}
        return self._keys[role, item_id]

    def expect(self, role: str, items: Sequence[str]) -> None:
        """Items whose rows will be asked for next, in this order; stores elsewhere bring many at a time."""
        store, spec = self._streams[role]
        expect(store, spec.name, items)

    def rows(self, role: str, item_id: str) -> Rows:
        """All rows of an item; of rows per segment the mean over their views."""
        store, spec = self._streams[role]
        rows = store.read(spec.name, item_id)
        if not _per_segment(spec):
            return rows
        return Rows.dense(features=rows.fields["features"].astype(np.float32).mean(axis=1))


def match_streams(
    needs: Mapping[str, StreamNeed],
    stores: Sequence[FeatureStore],
    *,
    chosen: Mapping[str, str],
    recipe: Mapping[str, Sequence[str]],
) -> Match:
    """A stream for every role.

    Args:
        chosen: stream by role, as asked for.
        recipe: encoders that a dataset prefers by role, in order.

    Raises:
        OptionError: a role has no fitting stream, or several and nothing to choose by; the flags to add are shown.
        UnknownNameError: a role or stream that was asked for does not exist.
    """
    for role in chosen:
        if role not in needs:
            raise UnknownNameError(f"--stream {role}=...: the head has no role {role!r}. {did_you_mean(role, needs)}")
    available = _all_streams(stores)
    streams, notes = {}, []
    for role, need in needs.items():
        fitting = [name for name, (_, spec) in available.items() if _misfit(need, spec) == ""]
        name, note = _pick(role, need, fitting, available, chosen.get(role), recipe.get(role, ()))
        streams[role] = available[name]
        notes.extend([note] if note else [])
        spec = available[name][1]
        if _per_segment(spec):
            notes.append(
                f"role {role}: stream {name!r} has one row per annotated segment, found by its id; its views "
                f"({spec.sampling.get('views')}) are averaged."
            )
    return Match(streams, tuple(notes))


def rematch(
    records: Mapping[str, StreamRecord], needs: Mapping[str, StreamNeed], stores: Sequence[FeatureStore]
) -> Match:
    """The streams a run was trained on, found again by name, with rows of the same origin.

    Raises:
        StreamNotFoundError: a store lacks a stream.
        ProvenanceError: a stream of that name has rows of another origin.
    """
    match = match_streams(needs, stores, chosen={role: r.stream for role, r in records.items()}, recipe={})
    for role, (store, spec) in match.streams.items():
        trained = records[role]
        if _origin_sha256(spec) != trained.origin_sha256:
            raise ProvenanceError(
                f"stream {spec.name!r} of {store.path} was made by {spec.encoder} with weights {spec.weights or '?'}, "
                f"but the run was trained on rows of {trained.encoder} with weights {trained.weights or '?'}, or made "
                "with other settings. Use rows of the same origin."
            )
    return match


def _all_streams(stores: Sequence[FeatureStore]) -> dict[str, tuple[FeatureStore, StreamSpec]]:
    found: dict[str, tuple[FeatureStore, StreamSpec]] = {}
    for store in stores:
        for name, spec in store.streams().items():
            if name in found:
                raise OptionError(
                    f"stream {name!r} is in {found[name][0].path} and in {store.path}. "
                    "If they are parts of one stream, join them first: vidloc store merge."
                )
            found[name] = (store, spec)
    return found


def _misfit(need: StreamNeed, spec: StreamSpec) -> str:
    """Why a stream does not fit a role, empty if it does."""
    if spec.kind not in need.kinds:
        known = "" if spec.kind in get_args(Kind) else " (a newer vidloc may know it)"
        return f"is of kind {spec.kind}{known}, not {' or '.join(need.kinds)}"
    features = spec.fields.get("features")
    if features is None:
        return "has no field 'features'"
    if spec.timeline == "none":
        return "has rows without times"
    if spec.kind == "objects":
        lacking = [name for name in need.fields if name not in spec.fields]
        if lacking or features.axis is None:
            return "lacks " + (" and ".join(lacking) if lacking else "regions")
    elif features.axis is not None:
        return f"has a varying number of {features.axis} per row"
    # The first axis of rows per segment is their views, which are averaged when they are read.
    rank = len(features.entry_shape) - _per_segment(spec)
    return "" if rank == need.rank else f"has features of {rank} axes, not {need.rank}"


def _pick(
    role: str,
    need: StreamNeed,
    fitting: Sequence[str],
    available: Mapping[str, tuple[FeatureStore, StreamSpec]],
    asked: str | None,
    preferred: Sequence[str],
) -> tuple[str, str]:
    if asked is not None:
        if asked not in available:
            raise StreamNotFoundError(
                f"--stream {role}={asked}: there is no such stream. {did_you_mean(asked, available)}"
            )
        if problem := _misfit(need, available[asked][1]):
            raise OptionError(
                f"--stream {role}={asked}: that stream {problem}. Fitting: {', '.join(fitting) or 'none'}."
            )
        return asked, ""
    if not fitting:
        there = ", ".join(f"{name} ({spec.kind})" for name, (_, spec) in available.items())
        raise OptionError(
            f"role {role!r} needs a stream of kind {' or '.join(need.kinds)}, and none fits "
            f"(streams: {there or 'none'}). Extract one with vidloc extract, or add the store that has it with --store."
        )
    if len(fitting) == 1:
        return fitting[0], ""
    others = f"of {', '.join(fitting)}; choose with --stream {role}=STREAM"
    if role in fitting:
        return role, f"role {role}: stream {role!r}, named like the role ({others})."
    for encoder in preferred:
        made = [name for name in fitting if available[name][1].encoder == encoder]
        if len(made) == 1:
            return made[0], f"role {role}: stream {made[0]!r}, which the dataset's recipe prefers ({others})."
        if made:
            break
    flags = " or ".join(f"--stream {role}={name}" for name in fitting)
    raise OptionError(f"role {role!r} can be filled by {len(fitting)} streams. Choose one: {flags}.")


def _per_segment(spec: StreamSpec) -> bool:
    """Whether each row answers one annotated segment, by all of its views."""
    return spec.sampling.get("align") == "segments"


def _origin_sha256(spec: StreamSpec) -> str:
    origin = {key: value for key, value in spec.origin().items() if key not in ("name", "parents")}
    return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def _digest(store: FeatureStore, stream: str, items: Iterable[str]) -> str:
    entries = store.entries(stream)
    lines = [f"{item}\t{entries[item].digest}\n" for item in sorted(set(items)) if item in entries]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
