"""One HDF5 file with a dataset `(rows, width)` per item (DiDeMo).

Sample: DiDeMo's `average_fc7.h5` (VGG) and `average_global_flow.h5`: a dataset per video, named as its file, of six
rows, one for each 5 seconds (--window 5s --stride 5s).
Time rule: row k covers the window that begins at `start + k * stride`. --ids says how names of datasets hold ids;
where an item is a group of several arrays, --stream NAME:key=... names one (item `v1`, dataset `v1/rgb`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
from pydantic import Field

from vidloc.core.options import Options
from vidloc.core.records import Source
from vidloc.errors import StoreError
from vidloc.stores.format import check_item_id
from vidloc.stores.imports.base import Content, ItemFacts, Layout, Listing, StreamOptions, dense
from vidloc.stores.imports.h5_files import datasets, open_h5, read_rows
from vidloc.stores.imports.names import NamePattern
from vidloc.stores.imports.timing import GridOptions, GridRule


class H5Options(GridOptions, Options):
    """Options of files with a dataset per item."""

    ids: str = Field(
        "{item}",
        description="How names of datasets (or of groups, with a stream's key) hold item ids: {item} in place of the "
        "id, * for any other part, such as {item}.mp4.",
    )


class H5(Layout):
    """Reader of files with a dataset per item."""

    Options = H5Options
    source: ClassVar[Source] = Source(
        paper="Hendricks et al., Localizing Moments in Video with Natural Language, ICCV 2017, for the sample",
        code="https://github.com/LisaAnne/LocalizingMoments",
    )
    options: H5Options

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        self._pattern = NamePattern(self.options.ids)
        self._rule = GridRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))

    @cached_property
    def _file(self) -> h5py.File:
        return open_h5(self.path)

    @cached_property
    def _places(self) -> dict[str, dict[str, str]]:
        """Paths of datasets by item, then by key; the key of a dataset that stands for an item itself is empty."""
        places: dict[str, dict[str, str]] = {}
        for place in datasets(self._file):
            group, _, key = place.rpartition("/")
            for named, inner in ((self._pattern.read(place), ""), (self._pattern.read(group), key)):
                if named is not None:
                    places.setdefault(named.item_id, {})[inner] = place
        return places

    def items(self) -> Listing:
        """One item per dataset, or per group of datasets."""
        grouped = {item for item, found in self._places.items() if "" not in found}
        taken = [item for item, found in self._places.items() if item in grouped or not _inside(item, grouped)]
        if not taken:
            raise StoreError(f"{self.path} holds no dataset that --ids {self.options.ids!r} fits.")
        for item in taken:
            check_item_id(item)
        used = {place for item in taken for place in self._places[item].values()}
        ignored = {
            place: f"its name does not fit --ids {self.options.ids!r}"
            for place in datasets(self._file)
            if place not in used
        }
        return Listing(tuple(sorted(taken, key=str.encode)), ignored)

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """The dataset's rows on the grid."""
        found = self._places[item_id]
        if stream.key not in found:
            names = ", ".join(sorted(key for key in found if key))
            raise StoreError(
                f"{self.path}, {item_id!r} holds several datasets ({names}): name one by --stream NAME:key=..."
                if names
                else f"{self.path}, {item_id!r} is one dataset and has no key {stream.key!r}."
            )
        where = f"{self.path}, dataset {found[stream.key]!r}"
        rows = dense(read_rows(self._file[found[stream.key]], ..., where=where), stream, where=where)
        return Content(rows, self._rule.grid(len(rows), self.facts_of(item_id)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _inside(item: str, groups: set[str]) -> bool:
    return item.rpartition("/")[0] in groups


LAYOUT = H5
