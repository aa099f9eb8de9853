"""A pickled bank `{video: {frame: vector, or a list of vectors}}` (long-term feature banks).

Sample: the banks of the LFB release (Caffe2): verb banks of EPIC-KITCHENS hold one 2048-d vector per second of video
under its frame number, noun banks up to ten vectors of boxes, AVA's banks those of persons under seconds.
Time rule: a bank's row belongs to a frame; frames are numbered from 1 at 30 per second (--fps 1 --first-frame 0 for
AVA's seconds), and a clip of --window frames lies around its frame (64f for verbs, 1f for nouns). Rows of several
vectors become a stream of kind objects, without boxes, which the banks do not keep. Read only with --allow-pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.plain_pickle import read_plain_pickle
from vidloc.core.records import Source
from vidloc.core.rows import Rows
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import TimelineKind
from vidloc.stores.format import check_item_id
from vidloc.stores.imports.base import (
    Content,
    ItemFacts,
    Layout,
    Listing,
    PickleOptions,
    StreamOptions,
    channels_of,
    dense,
    must_allow_pickle,
)
from vidloc.stores.imports.timing import FrameOptions, FrameRule


class LfbOptions(PickleOptions, FrameOptions):
    """Options of feature banks."""

    fps: str = Field("30", description="Frame numbers per second; 1 where a bank counts seconds.")
    window: str = Field("", description="Frames that one row was made from: 64f for clips of verbs, 1f for boxes.")


class Lfb(Layout):
    """Reader of pickled feature banks."""

    Options = LfbOptions
    timeline: ClassVar[TimelineKind] = "spans"
    source: ClassVar[Source] = Source(
        paper="Wu et al., Long-Term Feature Banks for Detailed Video Understanding, CVPR 2019",
        code="https://github.com/facebookresearch/video-long-term-feature-banks",
    )
    options: LfbOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        if not self.options.window:
            raise OptionError(
                f"layout {name!r} does not say how many frames a row was made from: add --window (64f for verb banks, "
                "1f for noun banks)."
            )
        must_allow_pickle(self.options, path)
        self._rule = FrameRule(options, layout=name, fps_by_item=True)

    @cached_property
    def _bank(self) -> dict[str, Any]:
        found = read_plain_pickle(self.path, object_arrays=True)
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise StoreError(f"{self.path} is no feature bank: expected a dict of videos by name.")
        for name in found:
            check_item_id(name)
        return found

    def items(self) -> Listing:
        """One item per video."""
        return Listing(tuple(sorted(self._bank, key=str.encode)))

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Rows of one video, by rising frame number."""
        where = f"{self.path}, video {item_id!r}"
        entries = self._bank[item_id]
        if not isinstance(entries, dict) or not entries:
            raise StoreError(f"{where} holds no rows by frame number.")
        by_frame = {_frame(key, where): value for key, value in entries.items()}
        frames = sorted(by_frame)
        timeline = self._rule.spans(frames, self.facts_of(item_id))
        values = [by_frame[frame] for frame in frames]
        if stream.kind == "objects":
            return Content(_regions(values, stream, where), timeline)
        if not all(isinstance(value, np.ndarray) and value.ndim == 1 for value in values):
            raise StoreError(f"{where} has several vectors per frame: import it with --stream NAME:kind=objects.")
        if len({value.shape for value in values}) > 1:
            raise StoreError(f"{where} has vectors of different lengths.")
        return Content(dense(np.stack(values), stream, where=where), timeline)


def _frame(key: Any, where: str) -> int:
    text = str(key)
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise StoreError(f"{where} has a row under {text[:40]!r}, which is no frame number.")
    return int(text)


def _regions(values: Sequence[Any], stream: StreamOptions, where: str) -> Rows:
    entries = [_vectors(value, where) for value in values]
    widths = {array.shape[1] for array in entries if len(array)}
    if len(widths) != 1:
        raise StoreError(f"{where} has no vectors, or vectors of different lengths ({sorted(widths)}).")
    width = widths.pop()
    filled = [array if len(array) else np.empty((0, width), np.float32) for array in entries]
    return Rows.ragged("regions", features=[channels_of(array, stream, where=where) for array in filled])


def _vectors(value: Any, where: str) -> NDArray[Any]:
    try:
        array = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError):
        raise StoreError(f"{where} has a row that is no list of vectors of one length.") from None
    if not array.size:
        return np.empty((0, 0), np.float32)
    return array.reshape(1, -1) if array.ndim == 1 else array.reshape(len(array), -1)


LAYOUT = Lfb
