"""Your own single frames: one time and one class for each segment, as an annotator marks them while watching.

    item_id,time_s,label,split                 or, in frames            item_id,frame,fps,label
    kitchen_1.mp4,12.4,pour,train                                       kitchen_1.mp4,372,30,pour

A csv or JSON file, read by `datasets.point_files`. Items without a split are in `train`. There are no true segments to
evaluate on; a corpus that has them takes single frames by `--points` instead:

    vidloc train-head sfnet --dataset segments --annotations truth.csv --points frames.csv ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from vidloc.datasets.base import Annotations, Dataset, Media
from vidloc.datasets.point_files import points_of, read_points
from vidloc.datasets.segments import TASK, media_named
from vidloc.errors import AnnotationError, OptionError


class Points(Dataset):
    """Reader of one file of single frames."""

    recipe: ClassVar[Mapping[str, Sequence[str]]] = {"rgb": ("i3d",), "flow": ("i3d_flow",)}
    eval_split: ClassVar[str] = "test"

    def read(self, annotations: Path | None) -> Annotations:
        """Parse the file.

        Raises:
            OptionError: no file was given.
            AnnotationError: the file is malformed, or an item is in two splits.
        """
        if annotations is None:
            raise OptionError("--dataset points needs --annotations FILE, a csv with the columns item_id,time_s,label.")
        file = read_points(annotations)
        split_of: dict[str, str] = {}
        for line in file.lines:
            if split_of.setdefault(line.item_id, line.split or "train") != (line.split or "train"):
                raise AnnotationError(
                    f"{line.where}: item {line.item_id!r} is in split {line.split or 'train'!r}, but it was in "
                    f"{split_of[line.item_id]!r} before. An item belongs to one split."
                )
        classes = tuple(sorted({line.label for line in file.lines}))
        splits = sorted(set(split_of.values()))
        return Annotations(
            dataset=self.name,
            classes={TASK: classes},
            splits=dict.fromkeys(splits, ()),
            items=tuple(sorted(split_of)),
            sha256={annotations.name: file.sha256},
            points=points_of(file, classes, split_of, task=TASK),
            split_items={split: tuple(sorted(i for i, s in split_of.items() if s == split)) for split in splits},
            protocol="segments",
        )

    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Files below `root` that the item ids name.

        Raises:
            OptionError: without annotations there are no ids to look for.
            MediaError: no such folder, or an id fits two files.
        """
        if annotations is None:
            raise OptionError("--dataset points needs --annotations FILE; for a bare folder use --dataset folder.")
        return media_named(root, annotations.items)


DATASET = Points
