"""What layouts with a file per item have in common: finding the files, and, of an entry per frame, times."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vidloc.core.records import Kind
from vidloc.core.rows import Rows
from vidloc.stores.base import TimelineKind
from vidloc.stores.imports.base import (
    Content,
    FolderOptions,
    ItemFacts,
    Layout,
    Listing,
    PickleOptions,
    must_allow_pickle,
)
from vidloc.stores.imports.names import Files, NamePattern, find_files
from vidloc.stores.imports.timing import FrameOptions, FrameRule


class FilePerItem(Layout):
    """A folder of files, each with the rows of the item that it is called after.

    Class attributes:
        suffixes: by which files are told apart from others.
    """

    options: Any
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        self._pattern = NamePattern(self.options.ids)

    @cached_property
    def _found(self) -> Files:
        return find_files(self.path, self.suffixes, self._pattern, follow_links=self.options.follow_links)

    def items(self) -> Listing:
        """One item per file."""
        return Listing(tuple(self._found.paths), self._found.ignored)

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The item's file."""
        return (self._found.paths[item_id],)


class PickledFramesOptions(FolderOptions, PickleOptions, FrameOptions):
    """Options of layouts whose files are pickles with an entry per frame."""


class PickledFrames(FilePerItem):
    """A pickle per item, with what was found in each of its frames."""

    Options = PickledFramesOptions
    kind: ClassVar[Kind] = "objects"
    timeline: ClassVar[TimelineKind] = "spans"

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        must_allow_pickle(self.options, path)
        self._rule = FrameRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))

    def content(self, item_id: str, rows: Rows) -> Content:
        """Rows of all frames, from the first on, with their times."""
        numbers = np.arange(len(rows), dtype=np.int64) + self.options.first_frame
        return Content(rows, self._rule.spans(numbers, self.facts_of(item_id)))
