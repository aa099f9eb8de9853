"""An LMDB of one vector per frame (RULSTM: EPIC-KITCHENS, EGTEA).

Sample: `rgb`, `flow` and `obj` of EPIC-KITCHENS and EGTEA: keys `P01_01_frame_0000000001.jpg`, values of 1024 (rgb,
flow) or 352 (obj) float32 numbers.
Time rule: each row is one frame, numbered from 1, of frames cut at 30 per second (--fps 30, as the release cut them).
Needs the package lmdb (vidloc[lmdb]). LMDB trusts its files: open only those of a source that you trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from vidloc.core.records import Source
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import TimelineKind
from vidloc.stores.format import check_item_id
from vidloc.stores.imports.base import Content, ItemFacts, Layout, Listing, StreamOptions, dense
from vidloc.stores.imports.names import NamePattern
from vidloc.stores.imports.timing import FrameOptions, FrameRule

_NUMBER_BYTES = 4


class RulstmOptions(FrameOptions):
    """Options of LMDBs of frames."""

    ids: str = Field(
        "{item}_frame_{frame}.jpg", description="How keys hold item ids and frame numbers: {item} and {frame}."
    )


class Rulstm(Layout):
    """Reader of LMDBs of frames."""

    Options = RulstmOptions
    timeline: ClassVar[TimelineKind] = "spans"
    source: ClassVar[Source] = Source(
        paper="Furnari and Farinella, Rolling-Unrolling LSTMs, TPAMI 2021", code="https://github.com/fpv-iplab/rulstm"
    )
    options: RulstmOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        self._pattern = NamePattern(self.options.ids, frames=True)
        self._rule = FrameRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))
        try:
            import lmdb
        except ModuleNotFoundError as error:
            raise OptionError(
                f"layout {name!r} needs the package 'lmdb', which is not installed. pip install 'vidloc[lmdb]'"
            ) from error
        self._error: type[Exception] = lmdb.Error
        try:
            self._lmdb = lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir(), readahead=False)
        except lmdb.Error as error:
            raise StoreError(f"{path} is no LMDB that can be read ({error}).") from None

    @cached_property
    def _index(self) -> tuple[dict[str, dict[int, bytes]], dict[str, str]]:
        """Keys by item and frame number; and those that do not fit, with the reason."""
        keys: dict[str, dict[int, bytes]] = {}
        ignored: dict[str, str] = {}
        for key in self._all_keys():
            text = key.decode("utf-8", "backslashreplace")
            named = self._pattern.read(text)
            if named is None or named.frame is None:
                ignored[text] = f"it does not fit --ids {self.options.ids!r}"
                continue
            keys.setdefault(named.item_id, {})[named.frame] = key
        if not keys:
            first = f" Its first key is {next(iter(ignored))!r}." if ignored else ""
            raise StoreError(f"{self.path} has no key that --ids {self.options.ids!r} fits.{first}")
        for item in keys:
            check_item_id(item)
        return keys, ignored

    def _all_keys(self) -> list[bytes]:
        try:
            with self._lmdb.begin() as transaction:
                return [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
        except self._error as error:
            raise StoreError(f"{self.path} is damaged ({error}).") from None

    def items(self) -> Listing:
        """One item per video that keys name."""
        keys, ignored = self._index
        return Listing(tuple(sorted(keys, key=str.encode)), ignored)

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The file of the database."""
        return (self.path / "data.mdb" if self.path.is_dir() else self.path,)

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Rows of one video, by rising frame number."""
        keys = self._index[0][item_id]
        frames = sorted(keys)
        with self._lmdb.begin() as transaction:
            values = [transaction.get(keys[frame]) or b"" for frame in frames]
        sizes = {len(value) for value in values}
        where = f"{self.path}, video {item_id!r}"
        if len(sizes) > 1 or min(sizes) % _NUMBER_BYTES or not min(sizes):
            raise StoreError(f"{where} has values of {sorted(sizes)[:5]} bytes, not one number of float32 for all.")
        array = np.frombuffer(b"".join(values), "<f4").reshape(len(frames), -1)
        return Content(dense(array, stream, where=where), self._rule.spans(frames, self.facts_of(item_id)))

    def close(self) -> None:
        """Close the database."""
        self._lmdb.close()


LAYOUT = Rulstm
