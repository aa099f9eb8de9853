"""A .tsv file of boxes and their vectors in base64, one line per frame (bottom-up attention).

Sample: `image_id, image_w, image_h, num_boxes, boxes, features` (Anderson et al.; the order is --columns), boxes in
pixels and vectors of 2048, both float32. LXMERT's files have ten columns: `img_id, img_h, img_w, objects_id,
objects_conf, attrs_id, attrs_conf, num_boxes, boxes, features`. The layout is one of pictures; here each picture is a
frame of a video, which --ids ('{item}_{frame}') reads from its id.
Time rule: a row is one frame; frame numbers become seconds by --fps (1 where they are seconds) and --first-frame.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.records import Kind, Source
from vidloc.core.rows import Rows
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import TimelineKind
from vidloc.stores.format import check_item_id
from vidloc.stores.imports.base import Content, ItemFacts, Layout, Listing, StreamOptions, channels_of
from vidloc.stores.imports.names import NamePattern
from vidloc.stores.imports.timing import FrameOptions, FrameRule

_MAX_LINE_BYTES = 2**26
_MAX_BOXES = 10_000
_NEEDED = ("num_boxes", "boxes", "features")
_NAMES = {"img_id": "image_id", "img_w": "image_w", "img_h": "image_h"}


class BottomUpOptions(FrameOptions):
    """Options of files of boxes in base64."""

    ids: str = Field("", description="How image ids hold item and frame: {item} and {frame}, such as {item}_{frame}.")
    columns: str = Field(
        "image_id,image_w,image_h,num_boxes,boxes,features", description="Names of the columns, in their order."
    )


class BottomUp(Layout):
    """Reader of files of boxes in base64."""

    Options = BottomUpOptions
    kind: ClassVar[Kind] = "objects"
    timeline: ClassVar[TimelineKind] = "spans"
    source: ClassVar[Source] = Source(
        paper="Anderson et al., Bottom-Up and Top-Down Attention, CVPR 2018",
        code="https://github.com/peteanderson80/bottom-up-attention",
    )
    options: BottomUpOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        if not self.options.ids:
            raise OptionError(
                f"layout {name!r} has pictures, and does not say which frame of which item each is: add --ids, such as "
                "'{item}_{frame}'."
            )
        self._pattern = NamePattern(self.options.ids, frames=True)
        self._rule = FrameRule(options, layout=name, fps_by_item=any(fact.fps for fact in facts.values()))
        names = [_NAMES.get(column, column) for column in self.options.columns.split(",")]
        self._columns = {column: k for k, column in enumerate(names)}
        missing = [column for column in ("image_id", "image_w", "image_h", *_NEEDED) if column not in self._columns]
        if missing:
            raise OptionError(f"--columns lacks {missing[0]!r}; it names the columns of the file in their order.")

    @cached_property
    def _index(self) -> tuple[dict[str, dict[int, int]], dict[str, str]]:
        """Where in the file each frame's line begins, by item; and picture ids that do not fit."""
        places: dict[str, dict[int, int]] = {}
        ignored: dict[str, str] = {}
        for place, line in self._lines():
            image = self._parts(line, place)[self._columns["image_id"]]
            named = self._pattern.read(image)
            if named is None or named.frame is None:
                ignored[image] = f"it does not fit --ids {self.options.ids!r}"
                continue
            frames = places.setdefault(named.item_id, {})
            if named.frame in frames:
                raise StoreError(f"{self.path} has two lines of frame {named.frame} of {named.item_id!r}.")
            frames[named.frame] = place
        if not places:
            first = f" The first picture is {next(iter(ignored))!r}." if ignored else ""
            raise StoreError(f"{self.path} has no picture that --ids {self.options.ids!r} fits.{first}")
        for item in places:
            check_item_id(item)
        return places, ignored

    def items(self) -> Listing:
        """One item per video that picture ids name."""
        places, ignored = self._index
        return Listing(tuple(sorted(places, key=str.encode)), ignored)

    def files(self, item_id: str) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Boxes and vectors of one video's frames, by rising frame number."""
        places = self._index[0][item_id]
        frames = sorted(places)
        boxes, features = zip(*(self._frame(places[frame], stream) for frame in frames), strict=True)
        widths = {array.shape[1] for array in features if len(array)}
        if len(widths) != 1:
            raise StoreError(f"{self.path}, {item_id!r} has no vectors, or vectors of {sorted(widths)} numbers.")
        width = widths.pop()
        filled = [array if len(array) else np.empty((0, width), np.float32) for array in features]
        return Content(
            Rows.ragged("regions", boxes=boxes, features=filled), self._rule.spans(frames, self.facts_of(item_id))
        )

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self.path.open("rb") as file:
            place = 0
            while line := file.readline(_MAX_LINE_BYTES):
                if line.strip():
                    yield place, line
                place += len(line)

    def _parts(self, line: bytes, place: int) -> list[str]:
        if len(line) >= _MAX_LINE_BYTES:
            raise StoreError(f"{self.path} has a line of more than {_MAX_LINE_BYTES:,} bytes, at byte {place}.")
        parts = line.rstrip(b"\r\n").decode("latin-1").split("\t")
        if len(parts) != len(self._columns):
            raise StoreError(
                f"{self.path}: a line (at byte {place}) has {len(parts)} columns, --columns names {len(self._columns)}."
            )
        return parts

    def _frame(self, place: int, stream: StreamOptions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self.path.open("rb") as file:
            file.seek(place)
            parts = self._parts(file.readline(_MAX_LINE_BYTES), place)
        where = f"{self.path}, picture {parts[self._columns['image_id']]!r}"
        sizes = (parts[self._columns[name]] for name in ("image_w", "image_h", "num_boxes"))
        width, height, count = (_whole(text, where) for text in sizes)
        if not width * height or count > _MAX_BOXES:
            raise StoreError(f"{where} has size {width}x{height} and {count} boxes.")
        boxes = _decoded(parts[self._columns["boxes"]], count, where)
        features = _decoded(parts[self._columns["features"]], count, where)
        if count and boxes.shape[1] != 4:
            raise StoreError(f"{where} has boxes of {boxes.shape[1]} numbers, expected 4.")
        scale = np.array([width, height, width, height], np.float32)
        scaled = (boxes.reshape(-1, 4) / scale).astype(np.float32)
        return scaled, channels_of(features, stream, where=where) if count else features


def _whole(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise StoreError(f"{where}: {text[:40]!r} is no whole number.")
    return int(text)


def _decoded(text: str, count: int, where: str) -> NDArray[np.float32]:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise StoreError(f"{where} is no base64 ({error}).") from None
    if len(data) % (4 * max(count, 1)) or (not count and data):
        raise StoreError(f"{where} has {len(data)} bytes, which {count} boxes of float32 do not divide.")
    return np.frombuffer(data, "<f4").reshape(count, -1) if count else np.empty((0, 0), np.float32)


LAYOUT = BottomUp
