"""One .npy file of objects for all videos, an array each, and a file of their names (SF-Net).

Sample: SF-Net's features of THUMOS14, GTEA and BEOID: `<dataset>-I3D-JOINTFeatures.npy` holds one float32 array `(T,
2048)` per video, RGB in channels 0:1024 and flow in 1024:2048, in the order of `videoname.npy`.
Time rule: windows of 16 frames without overlap, at 25 frames per second for THUMOS14, 15 for GTEA and 30 for BEOID.
The file is a pickle and is read only with --allow-pickle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.records import Source
from vidloc.errors import OptionError, StoreError
from vidloc.stores.format import check_item_id
from vidloc.stores.imports.array_files import holds_objects, read_array, read_objects
from vidloc.stores.imports.base import (
    Content,
    ItemFacts,
    Layout,
    Listing,
    PickleOptions,
    StreamOptions,
    dense,
    must_allow_pickle,
)
from vidloc.stores.imports.timing import GridOptions, GridRule


class SfnetOptions(PickleOptions, GridOptions):
    """Options of SF-Net's features."""

    names: str = Field("", description="File of the videos' names, in the order of the features (videoname.npy).")
    window: str = Field("16f", description="What one row covers, in frames (16f) or seconds (0.64s).")
    stride: str = Field("16f", description="From the start of one row to that of the next, in frames or seconds.")


class Sfnet(Layout):
    """Reader of SF-Net's array of objects."""

    Options = SfnetOptions
    source: ClassVar[Source] = Source(paper="Ma et al., SF-Net, ECCV 2020", code="https://github.com/Flowerfan/SF-Net")
    unrecorded: ClassVar[tuple[str, ...]] = ("names",)
    options: SfnetOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        if not self.options.names:
            raise OptionError(
                f"layout {name!r} does not say which array is which video: add --names, the file videoname.npy."
            )
        must_allow_pickle(self.options, path)
        self._rule = GridRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = read_objects(self.path) if holds_objects(self.path) else read_array(self.path)
        names = _names(Path(self.options.names))
        if len(names) != len(arrays):
            raise StoreError(f"{self.path} holds {len(arrays)} arrays, {self.options.names} has {len(names)} names.")
        twice = [item for item, count in Counter(names).items() if count > 1]
        if twice:
            raise StoreError(f"{self.options.names} names {twice[0]!r} more than once; every video needs its own name.")
        for item in names:
            check_item_id(item)
        return dict(zip(names, arrays, strict=True))

    def items(self) -> Listing:
        """One item per array."""
        return Listing(tuple(sorted(self._arrays)))

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The two files, the same for all items."""
        return (self.path, Path(self.options.names))

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Rows of one video on the grid."""
        array = self._arrays[item_id]
        where = f"{self.path}, video {item_id!r}"
        if not isinstance(array, np.ndarray):
            raise StoreError(f"{where} is a {type(array).__name__}, not an array.")
        rows = dense(array, stream, where=where)
        return Content(rows, self._rule.grid(len(rows), self.facts_of(item_id)))


def _names(path: Path) -> Sequence[str]:
    found = read_objects(path) if holds_objects(path) else read_array(path).tolist()
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in found]
    if not all(isinstance(name, str) for name in names):
        raise StoreError(f"{path} holds something else than names.")
    return names


LAYOUT = Sfnet
