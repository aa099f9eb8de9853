"""Labels of one's own: annotations in one file, of videos that lie anywhere below a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from vidloc.core.records import Point, Segment
from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.media_files import media_files
from vidloc.errors import AnnotationError, MediaError, OptionError

TASK = "label"


class OwnLabels(Dataset):
    """Reader of one file of labels, all of one task."""

    eval_split: ClassVar[str] = "test"

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Files below `root` that the item ids name.

        Raises:
            OptionError: without annotations there are no ids to look for.
            MediaError: no such folder, or an id fits two files.
        """
        if annotations is None:
            raise OptionError(
                f"--dataset {self.name} needs --annotations FILE; for a bare folder use --dataset folder."
            )
        return media_named(root, annotations.items)

    def described(
        self,
        splits: Mapping[str, tuple[Segment, ...]],
        split_of: Mapping[str, str],
        *,
        classes: tuple[str, ...],
        sha256: Mapping[str, str],
        points: Mapping[str, tuple[Point, ...]],
        durations_s: Mapping[str, float] | None = None,
    ) -> Annotations:
        """What a file says, as heads and metrics take it.

        Args:
            splits: segments by split.
            split_of: the split of every item.
        """
        return Annotations(
            dataset=self.name,
            classes={TASK: classes},
            splits=splits,
            items=tuple(sorted(split_of)),
            sha256=sha256,
            durations_s=durations_s or {},
            points=points,
            split_items={split: tuple(sorted(i for i, s in split_of.items() if s == split)) for split in splits},
            protocol="segments",
        )


def one_split_each(stated: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """The split of every item, from lines that state it: where, item, split.

    Raises:
        AnnotationError: an item is in two.
    """
    splits: dict[str, str] = {}
    for where, item, split in stated:
        if splits.setdefault(item, split) != split:
            raise AnnotationError(
                f"{where}: item {item!r} is in split {split!r}, but it was in {splits[item]!r} before. "
                "An item belongs to one split, else training would see test videos."
            )
    return splits


def media_named(root: Path, items: Sequence[str]) -> Media:
    """Files below `root` by the ids that name them.

    An id names a file by its path below the root, that path without extension, its file name, or that without
    extension; the first of these that fits any file decides.

    Raises:
        MediaError: no such folder, or an id fits two files.
    """
    files = media_files(root)
    names = _names(files.paths)
    taken: dict[str, str] = {}
    for item in items:
        fitting = next((level[item] for level in names if item in level), [])
        if len(fitting) > 1:
            raise MediaError(
                f"item {item!r} fits two files below {root}: {fitting[0]} and {fitting[1]}. "
                "Use their paths below the root as item ids."
            )
        if fitting:
            taken[item] = fitting[0]
    ignored = dict(files.ignored)
    ignored |= {name: "no item of the annotations names it" for name in files.paths if name not in taken.values()}
    return Media(
        paths={item: files.paths[name] for item, name in taken.items()},
        missing=tuple(item for item in items if item not in taken),
        ignored=dict(sorted(ignored.items())),
    )


def _names(paths: Mapping[str, Path]) -> tuple[dict[str, list[str]], ...]:
    """For each way an id may name a file: files by id."""
    levels: tuple[defaultdict[str, list[str]], ...] = tuple(defaultdict(list) for _ in range(4))
    for name in paths:
        path = PurePosixPath(name)
        for level, key in zip(levels, (name, str(path.with_suffix("")), path.name, path.stem), strict=True):
            level[key].append(name)
    return tuple(dict(level) for level in levels)
