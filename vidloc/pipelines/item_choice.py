"""Which items of a store a command is about: patterns, a list in a file, a split of a corpus's annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vidloc.core.patterns import matching
from vidloc.datasets.base import Dataset
from vidloc.errors import OptionError, UnknownNameError, did_you_mean
from vidloc.stores.base import FeatureStore, open_store


@dataclass(frozen=True)
class ItemChoice:
    """What is asked for; whatever is given narrows the choice.

    Attributes:
        patterns: ids, shell patterns such as `P01_*`, or `@FILE` with one id per line; what matches any of them.
        dataset, annotations, split: only the items of this split.
    """

    patterns: Sequence[str] = ()
    dataset: Dataset | None = None
    annotations: Path | None = None
    split: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for, so that all items are meant."""
        return not self.patterns and self.split is None


@dataclass(frozen=True)
class ChosenItems:
    """Items of a store that were chosen, and items of the split that it lacks, both sorted."""

    items: tuple[str, ...]
    missing: tuple[str, ...] = ()


def choose_items(store: str | Path | FeatureStore, choice: ItemChoice) -> ChosenItems | None:
    """The items asked for; `None` where all are meant.

    Raises:
        OptionError: a split without a dataset, or the other way round; a list that cannot be read.
        UnknownNameError: no such split, a pattern or a listed id that matches nothing, or nothing is left.
    """
    if choice.is_open:
        if choice.dataset is not None or choice.annotations is not None:
            raise OptionError("--dataset and --annotations choose items by a split: add --split NAME.")
        return None
    if isinstance(store, FeatureStore):
        known = store.items()
    else:
        with open_store(store) as opened:
            known = opened.items()
    kept, missing = set(known), set[str]()
    if choice.patterns:
        kept &= _by_pattern(known, choice.patterns)
    if choice.split is not None:
        if choice.dataset is None:
            raise OptionError("a split comes from annotations: add --dataset NAME --annotations DIR.")
        wanted = set(choice.dataset.read(choice.annotations).items_of(choice.split))
        missing = wanted - set(known)
        kept &= wanted
    if not kept:
        place = store.path if isinstance(store, FeatureStore) else store
        raise UnknownNameError(
            f"none of the {len(known)} items of {place} is among those asked for. Run: vidloc store ls {place}"
        )
    return ChosenItems(tuple(sorted(kept, key=str.encode)), tuple(sorted(missing)))


def _by_pattern(known: Sequence[str], patterns: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        if pattern.startswith("@") and pattern not in known:
            found |= _listed(known, Path(pattern[1:]))
        else:
            found |= matching(known, [pattern])
    return found


def _listed(known: Sequence[str], path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the list of items {path} cannot be read: {error}.") from error
    there, wanted = set(known), [line for line in lines if line]
    for number, item in enumerate(lines, 1):
        if item and item not in there:
            raise UnknownNameError(f"{path}, line {number}: no item {item!r}. {did_you_mean(item, known)[:1000]}")
    if not wanted:
        raise OptionError(f"the list of items {path} is empty; give one item id per line.")
    return set(wanted)
