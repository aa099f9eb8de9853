"""A folder of .npy or .npz files, one per item, an array `(rows, width)` each (ActionFormer and many others).

Samples: I3D features of THUMOS14 as ActionFormer distributes them (`video_validation_0000051.npy`, 2048 channels:
RGB, then flow; --fps 30 --window 16f --stride 4f); its SlowFast features of EPIC-KITCHENS-100 (`P01_01.npz`, array
`feats`; --fps 30, --window 32f --stride 16f); CrossTask (3200 channels: I3D, ResNet-152, VGGish; --window 1s --stride
1s).
Time rule: row k covers the window that begins at `start + k * stride`. Where videos differ in rate, features made at
each video's own need `--facts` with a column fps. `--equal-parts` is for a fixed number of rows per video (C3D of
UCF-Crime in 32 parts, ActivityNet rescaled to 100).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.records import Source
from vidloc.stores.imports.array_files import read_array
from vidloc.stores.imports.base import Content, FolderOptions, ItemFacts, StreamOptions, dense
from vidloc.stores.imports.file_per_item import FilePerItem
from vidloc.stores.imports.timing import GridOptions, GridRule


class NpyOptions(FolderOptions, GridOptions):
    """Options of folders of arrays."""

    transpose: bool = Field(default=False, description="Arrays are (width, rows), as MS-TCN keeps them.")


class Npy(FilePerItem):
    """Reader of folders of arrays."""

    Options = NpyOptions
    source: ClassVar[Source] = Source(
        paper="Zhang et al., ActionFormer, ECCV 2022, for the samples",
        code="https://github.com/happyharrycn/actionformer_release",
    )
    options: NpyOptions
    suffixes: ClassVar[tuple[str, ...]] = (".npy", ".npz")

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        self._rule = GridRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """The file's rows on the grid."""
        path = self._found.paths[item_id]
        array = self._array(path, stream)
        if self.options.transpose:
            array = np.moveaxis(array, -1, 0)
        rows = dense(array, stream, where=str(path))
        return Content(rows, self._rule.grid(len(rows), self.facts_of(item_id)))

    def _array(self, path: Path, stream: StreamOptions) -> NDArray[Any]:
        return read_array(path, stream.key)


LAYOUT = Npy
