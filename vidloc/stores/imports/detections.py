"""A folder of .npy files, one per video, with boxes, classes and scores of every frame (RULSTM, EPIC-KITCHENS).

Sample: Faster R-CNN on EPIC-KITCHENS as RULSTM distributes it (`P01_01_detections.npy`, --ids '{item}_detections'):
an array of objects, entry i for frame i + 1, `(boxes, 6)`: class, x1 y1 x2 y2 in pixels of the original video, score.
The class counts the background as 0; here 1 is taken off, so that labels are the noun classes. Read only with
--allow-pickle.
Time rule: a row is one frame, numbered from 1; frames are those of the video (about 60 per second for most videos of
EPIC-KITCHENS-55: give each video's rate by --facts). There is a row for every frame, also where nothing was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vidloc.core.records import Source
from vidloc.core.rows import Rows
from vidloc.errors import OptionError, StoreError
from vidloc.stores.imports.array_files import read_objects
from vidloc.stores.imports.base import Content, ItemFacts, StreamOptions
from vidloc.stores.imports.file_per_item import PickledFrames, PickledFramesOptions

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
_COLUMNS = 6
_MAX_CLASS = 2**31


class DetectionsOptions(PickledFramesOptions):
    """Options of detections per frame."""

    image_size: str = Field(
        "",
        description="Width and height of the frames that boxes are measured in (1920x1080); columns width_px and "
        "height_px of --facts say it per item.",
    )


class Detections(PickledFrames):
    """Reader of detections per frame."""

    Options = DetectionsOptions
    suffixes = (".npy",)
    source: ClassVar[Source] = Source(
        paper="Furnari and Farinella, Rolling-Unrolling LSTMs, TPAMI 2021",
        code="https://github.com/fpv-iplab/rulstm",
        differs="class ids without the background: one less than in the files",
    )
    options: DetectionsOptions

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        super().__init__(path, options, facts, name=name)
        self._size = _parsed_size(self.options.image_size)
        if self._size is None and not any(fact.width_px for fact in facts.values()):
            raise OptionError(
                f"layout {name!r} has boxes in pixels and does not say of which frames: add --image-size (1920x1080), "
                "or --facts FILE.csv with the columns item_id,width_px,height_px."
            )

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Boxes of every frame, best first, over width and height."""
        path = self._found.paths[item_id]
        facts = self.facts_of(item_id)
        size = (facts.width_px, facts.height_px) if facts.width_px and facts.height_px else self._size
        if size is None:
            raise StoreError("its frame size is not known: give it in --facts, or for all by --image-size.")
        found = read_objects(path)
        if not isinstance(found, list) or not found:
            raise StoreError(f"{path} holds no list of frames.")
        frames = [_table(entry, number, path) for number, entry in enumerate(found, start=1)]
        scale = np.array([size[0], size[1]] * 2, np.float32)
        rows = Rows.ragged(
            "regions",
            boxes=[(table[:, 1:5] / scale).astype(np.float32) for table in frames],
            scores=[table[:, 5].astype(np.float32) for table in frames],
            labels=[table[:, 0].astype(np.int32) - 1 for table in frames],
        )
        return self.content(item_id, rows)


def _parsed_size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]) * int(match[2]):
        raise OptionError(f"--image-size takes WIDTHxHEIGHT in pixels, such as 1920x1080; got {text!r}.")
    return int(match[1]), int(match[2])


def _table(entry: Any, number: int, path: Path) -> NDArray[np.float64]:
    """Detections of one frame by falling score, ties in the file's order."""
    array = np.asarray(entry) if isinstance(entry, np.ndarray) else np.empty((0, _COLUMNS))
    where = f"{path}, frame {number}"
    if array.dtype.kind not in "fiu" or not (array.size == 0 or array.shape[1:] == (_COLUMNS,)):
        raise StoreError(f"{where} is an array of {array.dtype} of shape {array.shape}, expected (boxes, 6) numbers.")
    if not isinstance(entry, np.ndarray) and entry not in ([], None):
        raise StoreError(f"{where} is a {type(entry).__name__}, expected an array (boxes, 6).")
    table = array.astype(np.float64).reshape(-1, _COLUMNS)
    classes = table[:, 0]
    if not np.isfinite(table).all() or (classes != np.floor(classes)).any():
        raise StoreError(f"{where} has a class that is no whole number, or a value that is not finite.")
    if ((classes < 1) | (classes >= _MAX_CLASS)).any():
        raise StoreError(
            f"{where} has class {classes.min():g}; classes of this layout begin at 1, since the background counts as 0."
        )
    return table[np.argsort(-table[:, 5], kind="stable")]


LAYOUT = Detections
