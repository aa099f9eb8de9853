"""What an operation on streams is: it makes rows of one item from the rows of others, and knows no store it writes to.

Sums are taken in float64; results are cast to the dtype of the (first, or widest) parent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidloc.core.options import Options
from vidloc.core.records import ItemInfo
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Timeline
from vidloc.errors import OptionError
from vidloc.stores.base import Extent, FeatureStore, ItemEntry, StreamSpec, TimelineKind
from vidloc.stores.tables import WITH_ROWS

FIELD = "features"
# Values of a parent taken at once, in float64.
BLOCK_VALUES = 2**21

Values = NDArray[Any]


class ItemFailureError(Exception):
    """An operation cannot be done on one item; the text says why, and becomes the reason of its status."""


@dataclass(frozen=True)
class Parent:
    """An item's rows in one of the streams that an operation works on."""

    store: FeatureStore
    spec: StreamSpec
    item: str
    entry: ItemEntry
    info: ItemInfo

    @property
    def timeline(self) -> Timeline | None:
        """Times of the rows."""
        return self.store.timeline(self.spec.name, self.item)

    def read(self, rows: slice | None = None) -> Rows:
        """All fields of a range of rows."""
        return self.store.read(self.spec.name, self.item, rows)

    def features(self, rows: slice | None = None) -> Values:
        """The features of a range of rows."""
        return self.store.read_field(self.spec.name, self.item, FIELD, rows)


@dataclass(frozen=True)
class Derived:
    """What becomes of one item.

    Attributes:
        timeline: of all rows.
        blocks: the rows, one block after another.
        extent: span of what the rows describe.
        lacking: why some rows are missing, empty where none are.
    """

    timeline: Timeline | None
    blocks: Iterator[Values]
    extent: Extent | None
    lacking: str = ""


class Operation(ABC):
    """One way to make a stream of others.

    Class attributes:
        Options: what can be chosen.
        several: whether it takes more than one parent.

    Args:
        options: an instance of `Options`.
        parents: descriptions of the streams.

    Raises:
        OptionError: the streams are not of the sort it works on.
    """

    Options: ClassVar[type[Options]] = Options
    several: ClassVar[bool] = False

    def __init__(self, options: Any, parents: Sequence[StreamSpec]) -> None:
        self.options, self.parents = options, parents

    @property
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """What was done, in words a person can repeat."""

    @property
    def dtype(self) -> str:
        """Of the rows: that of the widest parent."""
        return max((spec.fields[FIELD].dtype for spec in self.parents), key=lambda name: np.dtype(name).itemsize)

    @property
    def timeline(self) -> TimelineKind:
        """How times of rows are kept."""
        return self.parents[0].timeline

    @property
    def sampling(self) -> Mapping[str, Any]:
        """How rows are laid out."""
        return self.parents[0].sampling

    @property
    def recorded(self) -> dict[str, Any]:
        """The options as the stream keeps them, with whatever was fitted to the rows."""
        return dict(self.options.model_dump(mode="json", exclude_none=True))

    @abstractmethod
    def derive(self, parents: Sequence[Parent]) -> Derived:
        """Make the rows of one item.

        Raises:
            ItemFailureError: it cannot be done on this item.
        """


class RowByRow(Operation):
    """An operation whose rows are those of its parent, each changed by itself."""

    def derive(self, parents: Sequence[Parent]) -> Derived:
        """See `Operation`."""
        (parent,) = parents
        step = max(1, BLOCK_VALUES // prod(self.parents[0].fields[FIELD].entry_shape))
        pieces = (slice(start, start + step) for start in range(0, parent.entry.num_rows, step))
        return Derived(parent.timeline, (self.block(parent, piece) for piece in pieces), parent.entry.extent)

    @abstractmethod
    def block(self, parent: Parent, rows: slice) -> Values:
        """Rows made of some of the parent's."""


def vector_blocks(store: FeatureStore, spec: StreamSpec, items: Sequence[str] | None) -> Iterator[Values]:
    """All vectors of a dense stream in float64, `(n, D)`; positions of maps count as vectors of their own.

    Args:
        items: only these, in this order; all that have rows where `None`.
    """
    shape = spec.fields[FIELD].entry_shape
    step = max(1, BLOCK_VALUES // prod(shape))
    entries = store.entries(spec.name)
    for item in store.items(spec.name) if items is None else items:
        if item not in entries or entries[item].status not in WITH_ROWS:
            continue
        for start in range(0, entries[item].num_rows, step):
            block = store.read_field(spec.name, item, FIELD, slice(start, start + step))
            yield block.reshape(-1, shape[-1]).astype(np.float64)


def float_field(spec: StreamSpec) -> FieldSpec:
    """The features of a stream, which may be any number of vectors per row.

    Raises:
        OptionError: it has none, or they are no floating-point numbers.
    """
    field = spec.fields.get(FIELD)
    if field is None or not field.dtype.startswith("float"):
        raise OptionError(f"stream {spec.name!r} has no floating-point {FIELD} to work on.")
    return field


def dense_field(spec: StreamSpec, operation: str) -> FieldSpec:
    """The features of a stream, of a fixed shape per row.

    Raises:
        OptionError: they are not.
    """
    field = float_field(spec)
    if field.axis is not None:
        raise OptionError(
            f"{operation}: rows of {spec.name!r} are {field}, any number of vectors each. "
            f"Make one of each row first: v=mean({spec.name})."
        )
    return field
