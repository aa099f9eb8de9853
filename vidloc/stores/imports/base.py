"""What an import layout is: it finds items in files that others made, and turns each into rows with times.

A layout knows how its files are built and nothing of stores; the pipeline writes what it reads. What files do not say
(frame rate, window, stride, which channels are which stream, which part of a name is the item) is an option, and
where it is needed and missing the error names that option. A file of one layout ends with `LAYOUT = MyLayout`; its
docstring names the sample that the layout was taken from, and its time rule.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import Field, JsonValue

from vidloc.core.options import Options
from vidloc.core.records import Kind, Source
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Timeline
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import TimelineKind

_CHANNELS = re.compile(r"(\d{1,9}):(\d{1,9})")
_STORED = {"float16": "float16", "float32": "float32", "float64": "float32", "uint8": "uint8", "int32": "int32"}


class StreamOptions(Options):
    """How one stream is taken from the files: `--stream NAME[:option=value,...]`."""

    kind: Kind | None = Field(None, description="What a row is made of; most layouts take clip where nothing is said.")
    channels: str = Field("", description="FIRST:STOP of the last axis, where an array holds several streams (0:1024).")
    key: str = Field("", description="Name of the array, where a file holds several.")
    dtype: Literal["float16", "float32"] | None = Field(
        None, description="How rows are stored; as in the files where nothing is said, float64 as float32."
    )
    network: str = Field("", description="What made the rows, in words: network, training data, layer.")


class FolderOptions(Options):
    """Options of layouts with a file per item."""

    ids: str = Field(
        "{item}",
        description="How file names hold item ids: path below the folder, without extension, with {item} in place of "
        "the id and * for any other part, such as {item}_rgb or */{item}.",
    )
    follow_links: bool = Field(
        default=False,
        description="Read files that links inside the folder lead to outside of it; else they are left out.",
    )


class PickleOptions(Options):
    """Option of layouts whose files are pickles."""

    allow_pickle: bool = Field(
        default=False,
        description="Read pickles, by a reader that takes numbers, text, lists, dicts and arrays, and runs nothing.",
    )


@dataclass(frozen=True)
class ItemFacts:
    """What the user knows of an item; `None` where nothing was said."""

    fps: Fraction | None = None
    duration_s: float | None = None
    width_px: int | None = None
    height_px: int | None = None


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        items: ids, sorted.
        ignored: what was seen but not taken, by name, with the reason.
        notes: what a user should know before trusting the rows.
    """

    items: tuple[str, ...]
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Content:
    """Rows of one item in one stream; arrays may be views of a file."""

    rows: Rows
    timeline: Timeline


class Layout(ABC):
    """Reader of one layout.

    Class attributes:
        Options: what can or must be said of the files.
        kind: what rows are made of, unless the stream says otherwise.
        timeline: how times of rows are kept.
        version: raised whenever the same files give other rows or times.
        source: who defined the layout, and where it is documented.
        unrecorded: options that are places of files; what they hold is told by their sha256.
    """

    Options: ClassVar[type[Options]] = Options
    kind: ClassVar[Kind] = "clip"
    timeline: ClassVar[TimelineKind] = "grid"
    version: ClassVar[str] = "1"
    source: ClassVar[Source] = Source()
    unrecorded: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: Any, facts: Mapping[str, ItemFacts], *, name: str) -> None:
        """Options that are needed and missing are told here, before any work.

        Args:
            path: what the user named: a folder or a file.
            facts: what is known of items beside the files.
            name: the registered name.

        Raises:
            OptionError: something that the files do not say was not given; the option is named.
            StoreError: there is no such file or folder.
        """
        if not path.exists():
            raise StoreError(f"there is no {path}; name the file or folder that holds the features.")
        self.path = path
        self.options = options
        self.name = name
        self._facts = facts

    @abstractmethod
    def items(self) -> Listing:
        """Everything there is to import.

        Raises:
            StoreError: two files stand for one item, or the files cannot be listed.
        """

    @abstractmethod
    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Rows and times of one item.

        Raises:
            VidlocError, OSError, ValueError: the item cannot be read; the others can be.
        """

    @abstractmethod
    def files(self, item_id: str) -> tuple[Path, ...]:
        """Files that the item's rows come from."""

    def facts_of(self, item_id: str) -> ItemFacts:
        """What the user knows of an item."""
        return self._facts.get(item_id, ItemFacts())

    def recorded(self) -> dict[str, JsonValue]:
        """The options as the stream's provenance keeps them."""
        return dict(self.options.model_dump(mode="json", exclude=set(self.unrecorded)))

    def close(self) -> None:  # noqa: B027  (most layouts keep nothing open)
        """Release files."""


def channels_of(array: NDArray[Any], stream: StreamOptions, *, where: str) -> NDArray[Any]:
    """The stream's part of the last axis.

    Raises:
        OptionError: `channels` is not FIRST:STOP.
        StoreError: the rows are narrower.
    """
    if not stream.channels:
        return array
    match = _CHANNELS.fullmatch(stream.channels)
    first, stop = (int(match[1]), int(match[2])) if match else (0, 0)
    if first >= stop:
        raise OptionError(f"channels are FIRST:STOP with FIRST below STOP, such as 0:1024; got {stream.channels!r}.")
    if stop > array.shape[-1]:
        raise StoreError(f"{where} has rows of {array.shape[-1]} numbers, channels {stream.channels} go beyond them.")
    return array[..., first:stop]


def dense(array: NDArray[Any], stream: StreamOptions, *, where: str) -> Rows:
    """Rows of one array `(num_rows, ...)`, of which the stream may be some channels.

    Raises:
        StoreError: the array has no axis of rows beside those of a row, is empty, or holds no numbers.
    """
    if array.ndim < 2:
        raise StoreError(f"{where} is an array of shape {array.shape}; expected (rows, width) or more axes.")
    if not array.size:
        raise StoreError(f"{where} holds no rows: its shape is {array.shape}.")
    if array.dtype.kind not in "fiu":
        raise StoreError(f"{where} holds {array.dtype}, not numbers.")
    return Rows.dense(features=channels_of(array, stream, where=where))


def fields_of(rows: Rows, stream: StreamOptions) -> dict[str, FieldSpec]:
    """Shapes and dtypes by which such rows are stored."""
    specs = {}
    for name, array in rows.fields.items():
        axis = rows.axes.get(name)
        dtype = _STORED.get(array.dtype.name, "int64" if array.dtype.kind in "iu" else "float32")
        if name == "features" and stream.dtype is not None:
            dtype = stream.dtype
        specs[name] = FieldSpec(row_shape=(*((axis,) if axis else ()), *array.shape[1:]), dtype=dtype)
    return specs


def must_allow_pickle(options: PickleOptions, path: Path) -> None:
    """Make sure that the user knows that a file is a pickle.

    Raises:
        OptionError: it was not allowed.
    """
    if not options.allow_pickle:
        raise OptionError(
            f"{path} is a pickle. Add --allow-pickle to read it by vidloc's own reader, which takes numbers, text, "
            "lists, dicts and arrays from it and never runs what it asks for."
        )
