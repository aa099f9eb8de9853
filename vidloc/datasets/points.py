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

from vidloc.datasets.base import Annotations
from vidloc.datasets.own_labels import TASK, OwnLabels, one_split_each
from vidloc.datasets.point_files import points_of, read_points
from vidloc.errors import OptionError


class Points(OwnLabels):
    """Reader of one file of single frames."""

    recipe: ClassVar[Mapping[str, Sequence[str]]] = {"rgb": ("i3d",), "flow": ("i3d_flow",)}

    def read(self, annotations: Path | None) -> Annotations:
        """Parse the file.

        Raises:
            OptionError: no file was given.
            AnnotationError: the file is malformed, or an item is in two splits.
        """
        if annotations is None:
            raise OptionError("--dataset points needs --annotations FILE, a csv with the columns item_id,time_s,label.")
        file = read_points(annotations)
        split_of = one_split_each((line.where, line.item_id, line.split or "train") for line in file.lines)
        classes = tuple(sorted({line.label for line in file.lines}))
        return self.described(
            dict.fromkeys(sorted(set(split_of.values())), ()),
            split_of,
            classes=classes,
            sha256={annotations.name: file.sha256},
            points=points_of(file, classes, split_of, task=TASK),
        )


DATASET = Points
