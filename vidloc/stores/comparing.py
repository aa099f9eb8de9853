"""What two stores have in common, told by digests: no row is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidloc.stores.base import FeatureStore, open_store
from vidloc.stores.fitting import origin_differences


@dataclass(frozen=True)
class StreamDiff:
    """One stream in two stores; a store that lacks the stream has no items in it.

    Attributes:
        num_same: items whose rows, times and extents are the same in both.
        differing: items with rows in both that are not the same.
        only_first, only_second: items with rows in one store only.
        origin: in what the descriptions of the streams differ, library versions and file names apart.
    """

    num_same: int
    differing: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    origin: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not (self.differing or self.only_first or self.only_second or self.origin)


@dataclass(frozen=True)
class StoreDiff:
    """Two stores, stream by stream; `digests` are their content ids."""

    digests: tuple[str, str]
    streams: dict[str, StreamDiff]

    @property
    def is_same(self) -> bool:
        """Whether both hold the same rows of the same origins; facts of items do not count."""
        return all(stream.is_same for stream in self.streams.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {"same": self.is_same, **asdict(self)}


def diff(first: str | Path, second: str | Path) -> StoreDiff:
    """Compare two stores of any backend.

    Raises:
        StoreError: no store there, or a damaged one.
    """
    with open_store(first) as a, open_store(second) as b:
        names = sorted(a.streams().keys() | b.streams().keys())
        return StoreDiff((a.digest(), b.digest()), {name: _stream_diff(a, b, name) for name in names})


def _stream_diff(a: FeatureStore, b: FeatureStore, stream: str) -> StreamDiff:
    ours, theirs = _digests(a, stream), _digests(b, stream)
    both = sorted(ours.keys() & theirs.keys(), key=str.encode)
    differing = tuple(item for item in both if ours[item] != theirs[item])
    specs = [store.streams().get(stream) for store in (a, b)]
    origin = ["the second store has no such stream"] if specs[1] is None else []
    if specs[0] is None:
        origin = ["the first store has no such stream"]
    elif specs[1] is not None:
        origin = origin_differences(specs[0], specs[1])
    return StreamDiff(
        len(both) - len(differing),
        differing,
        tuple(item for item in ours if item not in theirs),
        tuple(item for item in theirs if item not in ours),
        tuple(origin),
    )


def _digests(store: FeatureStore, stream: str) -> dict[str, str]:
    if stream not in store.streams():
        return {}
    return {item: entry.digest for item, entry in store.entries(stream).items() if entry.digest}
