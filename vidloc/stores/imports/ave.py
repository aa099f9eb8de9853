"""One array for all items, `(items, rows, ...)`, and a text file that names them in the same order (AVE).

Sample: `visual_feature.h5` `(4143, 10, 7, 7, 512)` and `audio_feature.h5` `(4143, 10, 128)` of the AVE data set, in
the order of the lines of `Annotations.txt` (`category&youtube_id&quality&start&end`). The array may also be a .npy or
.npz file.
Time rule: row k is second k. Videos that are annotated more than once occur more than once; their rows are taken
where all occurrences agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.records import Source
from vidloc.errors import OptionError, StoreError, did_you_mean
from vidloc.stores.format import check_item_id
from vidloc.stores.imports.array_files import read_array
from vidloc.stores.imports.base import Content, ItemFacts, Layout, Listing, StreamOptions, dense
from vidloc.stores.imports.h5_files import datasets, open_h5, read_rows
from vidloc.stores.imports.timing import GridOptions, GridRule


class AveOptions(GridOptions):
    """Options of one array for all items."""

    order: str = Field(
        "", description="Text file with a line per item, in the order of the array (Annotations.txt, or one id a line)."
    )
    column: int = Field(
        1, ge=0, description="Which part of a line between & is the id, from 0; lines without & are ids."
    )
    window: str = Field("1s", description="What one row covers, in frames (16f) or seconds (1s).")
    stride: str = Field("1s", description="From the start of one row to that of the next, in frames or seconds.")


class Ave(Layout):
    """Reader of one array for all items."""

    Options = AveOptions
    source: ClassVar[Source] = Source(
        paper="Tian et al., Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018",
        code="https://github.com/YapengTian/AVE-ECCV18",
    )
    unrecorded: ClassVar[tuple[str, ...]] = ("order",)
    options: AveOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        if not self.options.order:
            raise OptionError(
                f"layout {name!r} does not say which rows are which item: add --order, a text file with a line per "
                "item (Annotations.txt)."
            )
        self._rule = GridRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        positions: dict[str, list[int]] = {}
        path = Path(self.options.order)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} cannot be read as text ({error}).") from None
        for number, line in enumerate(lines):
            parts = line.strip().split("&")
            if len(parts) > 1 and self.options.column >= len(parts):
                raise StoreError(
                    f"{path}, line {number + 1} has {len(parts)} parts between &, none for --column "
                    f"{self.options.column}."
                )
            item = parts[self.options.column] if len(parts) > 1 else parts[0]
            check_item_id(item)
            positions.setdefault(item, []).append(number)
        return positions

    @cached_property
    def _file(self) -> h5py.File | None:
        return None if self.path.suffix in (".npy", ".npz") else open_h5(self.path)

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of a .npy or .npz file by key, read once."""
        return {}

    def items(self) -> Listing:
        """One item per name."""
        again = sum(len(numbers) > 1 for numbers in self._positions.values())
        notes = (f"{again} items occur more than once in {self.options.order}",) if again else ()
        return Listing(tuple(sorted(self._positions, key=str.encode)), notes=notes)

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The array and the names, the same for all items."""
        return (self.path, Path(self.options.order))

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Rows of one item on the grid.

        Raises:
            StoreError: the array has another number of items than there are names, or occurrences differ.
        """
        whole = self._whole(stream.key)
        where = f"{self.path}, item {item_id!r}"
        count = sum(map(len, self._positions.values()))
        if len(whole) != count:
            raise StoreError(f"{self.path} has {len(whole)} items, {self.options.order} names {count}.")
        numbers = self._positions[item_id]
        first = self._part(whole, numbers[0], where=where)
        for number in numbers[1:]:
            if not np.array_equal(first, self._part(whole, number, where=where)):
                raise StoreError(f"{where} occurs on lines {numbers[0] + 1} and {number + 1} with different rows.")
        rows = dense(first, stream, where=where)
        return Content(rows, self._rule.grid(len(rows), self.facts_of(item_id)))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _whole(self, key: str) -> Any:
        if self._file is None:
            if key not in self._arrays:
                self._arrays[key] = read_array(self.path, key)
            return self._arrays[key]
        found = datasets(self._file)
        if not key and len(found) == 1:
            return next(iter(found.values()))
        if key not in found:
            asked = f"has no dataset {key!r}" if key else "holds several datasets: name one by --stream NAME:key=..."
            raise StoreError(f"{self.path} {asked}. {did_you_mean(key, found)}")
        return found[key]

    def _part(self, whole: Any, number: int, *, where: str) -> NDArray[Any]:
        if isinstance(whole, h5py.Dataset):
            return read_rows(whole, number, where=where)
        return np.asarray(whole[number])


LAYOUT = Ave
