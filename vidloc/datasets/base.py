"""What a corpus provides: its annotations as records, its videos' places, and the streams its benchmarks expect.

One file per corpus; it ends with `DATASET = MyCorpus`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from vidloc.core.numbered_pictures import FrameRate
from vidloc.core.options import Options as BaseOptions
from vidloc.core.records import Narration, Point, Segment
from vidloc.errors import OptionError, UnknownNameError, did_you_mean


@dataclass(frozen=True)
class Annotations:
    """Everything read from a corpus's annotation files.

    Attributes:
        dataset: the corpus and its edition (`epic55`).
        classes: class names by task; the index in the tuple is the class id.
        splits: segments by split, in file order; the names are the corpus's own (`train`, `validation`, ...).
        narrations: sentences by item, for text streams; may be empty.
        items: every item id the annotations mention, sorted.
        durations_s: duration by item, where the corpus states it.
        fps: frames per second of each item's video, where the corpus states it.
        sha256: sha256 by annotation file name, for run.json.
        groups: named sets that the corpus's metrics need, such as `tail_verb`, `many_shot_noun`, or `action_parts`:
            (action, verb, noun) for every class of a task `action`.
        split_items: items by split where the corpus lists them itself, so that an item without any segment (all
            background) still takes part in a detection benchmark; `items_of` reads it.
        label_sets: for tasks with several classes per segment, all of them by task and segment id, the label first.
        protocol: which official metrics apply: `epic55`, `epic100`, `egtea`, `segments`; empty for none.
        points: single frames by item, in file order, for heads that learn from these; empty where there are none.
        notes: what a user should know before trusting numbers (defects found, rows left out), one sentence each.
    """

    dataset: str
    classes: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, tuple[Segment, ...]]
    items: tuple[str, ...]
    sha256: Mapping[str, str]
    narrations: Mapping[str, tuple[Narration, ...]] = field(default_factory=dict)
    durations_s: Mapping[str, float] = field(default_factory=dict)
    fps: Mapping[str, Fraction] = field(default_factory=dict)
    groups: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    split_items: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_sets: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    points: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    protocol: str = ""
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Segment, ...]:
        """Segments of a split.

        Raises:
            UnknownNameError: no such split; the known ones are listed.
        """
        if name not in self.splits:
            raise UnknownNameError(f"{self.dataset} has no split {name!r}. {did_you_mean(name, self.splits)}")
        return self.splits[name]

    def items_of(self, name: str) -> tuple[str, ...]:
        """Items of a split, sorted: those the corpus lists, else those that have segments in it.

        Raises:
            UnknownNameError: no such split.
        """
        segments = self.split(name)
        return tuple(sorted(self.split_items.get(name, {segment.item_id for segment in segments})))


@dataclass(frozen=True)
class Media:
    """Videos of a corpus found below a folder.

    Attributes:
        paths: file by item id; a folder or tar archive where an item is kept as numbered pictures.
        missing: items the annotations name for which no file was found, sorted.
        ignored: files seen but not taken, by path below the root, with the reason; told to the user, never dropped
            silently.
        frame_rates: by item, for those kept as numbered pictures.
        notes: what a user should know of the choice that was made, one sentence each.
    """

    paths: Mapping[str, Path]
    missing: tuple[str, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    frame_rates: Mapping[str, FrameRate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Dataset(ABC):
    """Reader of one corpus.

    Class attributes:
        Options: what can be chosen (a split protocol, an annotator), flags of every command with `--dataset`.
        recipe: stream preferred for each role of a head, in order, as encoder names:
            `{"verb": ("slowfast_r50", "i3d_r50"), "objects": ("fasterrcnn",)}`.
        train_split, eval_split: splits used unless asked otherwise.
    """

    Options: ClassVar[type[BaseOptions]] = BaseOptions
    recipe: ClassVar[Mapping[str, Sequence[str]]] = {}
    train_split: ClassVar[str] = "train"
    eval_split: ClassVar[str] = "validation"

    def __init__(self, options: BaseOptions, *, name: str) -> None:
        """`name` is the registered name it was asked for by (`epic`, `epic55`, `epic100`)."""
        self.options = options
        self.name = name

    def default_eval_split(self, annotations: Annotations) -> str:
        """The split to evaluate on unless one is asked for: `eval_split`, else the only split besides the training one.

        Raises:
            UnknownNameError: it cannot be told; the splits are listed.
        """
        if self.eval_split in annotations.splits:
            return self.eval_split
        others = [name for name in annotations.splits if name != self.train_split]
        if len(others) == 1:
            return others[0]
        raise UnknownNameError(
            f"{annotations.dataset} has no split {self.eval_split!r} to evaluate on. Name one with --split. "
            f"Known: {', '.join(annotations.splits) or '(none)'}."
        )

    @abstractmethod
    def read(self, annotations: Path | None) -> Annotations:
        """Parse the annotation files.

        Raises:
            AnnotationError: a file is missing or malformed: file, line, what was found, what was expected.
        """

    @abstractmethod
    def find_media(self, root: Path, annotations: Annotations | None) -> Media:
        """Videos below `root` in the corpus's official layout; without annotations, all videos there."""

    def find_flow(self, root: Path, annotations: Annotations | None) -> Media:
        """Flow that the corpus released, below `root`: a folder or tar archive of it, and its rate, for each item.

        Raises:
            OptionError: it released none.
        """
        raise OptionError(
            f"{self.name} has no released flow pictures that are known here. Leave out flow=released and have flow "
            "computed, or list the pictures: --videos list.csv with the columns flow_path and flow_fps."
        )
