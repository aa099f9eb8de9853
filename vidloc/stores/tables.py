"""The tables of a store in memory: items with the facts of their source, and the entries of each stream.

Tables grow at their end only; a later entry of an item supersedes an earlier one. What was read from disk stays in
columns (a million entries load in a second or so); what came since, from the journal or a commit, is kept as records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vidloc.core.records import ItemInfo, Record, Status
from vidloc.core.timeline import TimeGrid
from vidloc.errors import OptionError, StoreError
from vidloc.stores.base import Extent, ItemEntry
from vidloc.stores.format import dump_json, parse_json, validated

STATUSES: tuple[Status, ...] = ("done", "partial", "absent", "failed")
WITH_ROWS: tuple[Status, ...] = ("done", "partial")
# Control characters beyond 0x1f, in UTF-8. Shown as they are, they could steer a terminal.
_CONTROL = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")

Columns = Mapping[str, NDArray[Any]]


class Entry(Record):
    """State of one (stream, item) as kept on disk: an `ItemEntry` and the place of its rows.

    Attributes:
        grid: six integers of the time grid, `None` where rows have spans or no times.
    """

    status: Status
    reason: str = Field(default="", pattern=r"^[^\n]*$")
    first_row: int = Field(default=0, ge=0, lt=2**63)
    num_rows: int = Field(default=0, ge=0, lt=2**63)
    digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    extent: Extent | None = None
    grid: tuple[int, int, int, int, int, int] | None = None

    @model_validator(mode="after")
    def _only_with_rows(self) -> Entry:
        if self.num_rows and self.status not in WITH_ROWS:
            raise ValueError(f"an entry that is {self.status} has no rows")
        return self

    def public(self) -> ItemEntry:
        """What the store's user sees of it."""
        return ItemEntry(self.status, self.num_rows, self.digest, self.reason, self.extent)

    def time_grid(self, *, where: str) -> TimeGrid:
        """The grid of a stream that has one.

        Raises:
            StoreError: the entry lacks it, or its numbers are none.
        """
        try:
            return TimeGrid.from_integers(self.grid or ())
        except OptionError as error:
            raise StoreError(f"{where}: {error}") from error


class Commit(Record):
    """One line of the journal: all that became durable at once of one item."""

    item_id: str = Field(min_length=1)
    info: ItemInfo | None = None
    streams: Mapping[str, Entry] = Field(default_factory=dict)


class ItemTable:
    """Items and the facts of their source, in order of arrival.

    Args:
        ids: one per entry; an id may occur again with newer facts.
        facts: one line of JSON per entry.
    """

    def __init__(self, ids: Sequence[str] = (), facts: Sequence[str] = ()) -> None:
        self.ids = list(ids)
        self._facts = list(facts)
        self.position = {item: k for k, item in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, item_id: str, info: ItemInfo | None) -> None:
        """Note an item; without facts only if it is new."""
        if info is None and item_id in self.position:
            return
        facts = {} if info is None else info.model_dump(mode="json", exclude={"item_id"}, exclude_none=True)
        self.add_line(item_id, dump_json(facts).decode())

    def add_line(self, item_id: str, line: str) -> None:
        """Note an item with its facts as they are put on disk; nothing where they are known already."""
        known = self.position.get(item_id)
        if known is not None and self._facts[known] == line:
            return
        self.position[item_id] = len(self.ids)
        self.ids.append(item_id)
        self._facts.append(line)

    def line(self, item_id: str) -> str:
        """Facts of an item as they are put on disk."""
        return self._facts[self.position[item_id]]

    def info(self, item_id: str, *, where: str) -> ItemInfo | None:
        """Facts of an item, `None` where it is not known."""
        position = self.position.get(item_id)
        if position is None:
            return None
        facts = parse_json(self._facts[position].encode(), where=f"{where}: facts of item {item_id!r}")
        if not isinstance(facts, dict):
            raise StoreError(f"{where}: facts of item {item_id!r} are damaged: no JSON object.")
        return validated(ItemInfo, {**facts, "item_id": item_id}, where=f"{where}: facts of item {item_id!r}")

    def columns(self, start: int) -> dict[str, NDArray[Any]]:
        """Entries from `start` on, as they are put on disk."""
        return {"id": join_texts(self.ids[start:]), "facts": join_texts(self._facts[start:])}


class StreamTable:
    """Entries of one stream, in order of arrival.

    Args:
        items: id of each entry read from disk.
        columns: numeric columns of those entries.
        reasons: text column of those entries.
    """

    def __init__(self, items: Sequence[str] = (), columns: Columns | None = None, reasons: Sequence[str] = ()) -> None:
        self._columns = columns or {}
        self._reasons = reasons
        self._num_loaded = len(items)
        self.recent: list[tuple[str, Entry]] = []
        self._position = {item: k for k, item in enumerate(items)}
        self.num_rows = self._rows_loaded()

    def __len__(self) -> int:
        return self._num_loaded + len(self.recent)

    def __iter__(self) -> Iterator[str]:
        return iter(self._position)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._position

    def add(self, item_id: str, entry: Entry) -> None:
        """Append an entry, which supersedes the item's earlier one."""
        self._position[item_id] = len(self)
        self.recent.append((item_id, entry))
        self.num_rows = max(self.num_rows, entry.first_row + entry.num_rows)

    def get(self, item_id: str) -> Entry | None:
        """The latest entry of an item."""
        position = self._position.get(item_id)
        if position is None:
            return None
        if position >= self._num_loaded:
            return self.recent[position - self._num_loaded][1]
        column = self._columns
        extent = column["extent"][position]
        return Entry.model_construct(  # the columns were checked as a whole when they were loaded
            status=STATUSES[column["status"][position]],
            reason=self._reasons[position],
            first_row=int(column["first_row"][position]),
            num_rows=int(column["num_rows"][position]),
            digest=_digest_text(column["digest"][position]),
            extent=None if np.isnan(extent).any() else (float(extent[0]), float(extent[1])),
            grid=tuple(column["grid"][position].tolist()) if "grid" in column else None,
        )

    def columns(self, start: int, items: Mapping[str, int], *, grid: bool) -> dict[str, NDArray[Any]]:
        """Entries from `start` on, as they are put on disk.

        Args:
            start: at or after the entries that were read from disk.
            items: position of each item in the item table.
            grid: whether the stream's times are grids.
        """
        added = self.recent[start - self._num_loaded :]
        entries = [entry for _, entry in added]
        columns: dict[str, NDArray[Any]] = {
            "item": np.array([items[item] for item, _ in added], np.int64),
            "first_row": np.array([e.first_row for e in entries], np.int64),
            "num_rows": np.array([e.num_rows for e in entries], np.int64),
            "status": np.array([STATUSES.index(e.status) for e in entries], np.uint8),
            "extent": np.array([e.extent or (np.nan, np.nan) for e in entries], np.float64).reshape(-1, 2),
            "digest": np.frombuffer(bytes.fromhex("".join(e.digest or "00" * 32 for e in entries)), np.uint8),
            "reason": join_texts([e.reason for e in entries]),
        }
        if grid:
            columns["grid"] = np.array([e.grid or (0,) * 6 for e in entries], np.int64).reshape(-1, 6)
        return columns

    def _rows_loaded(self) -> int:
        if not self._num_loaded:
            return 0
        first, count = self._columns["first_row"], self._columns["num_rows"]
        if (first < 0).any() or (count < 0).any() or (first > 2**62).any() or (count > 2**62).any():
            raise StoreError("a row count or position is out of range.")
        if (self._columns["status"] >= len(STATUSES)).any():
            raise StoreError(f"a status is none of {', '.join(STATUSES)}.")
        end = int((first + count).max())
        # Entries have rows of their own. One that is damaged costs its item and not the store; many would make a copy
        # many times as long as the store.
        if count.sum(dtype=np.float64) > 2 * end:
            raise StoreError("entries share rows.")
        return end


def join_texts(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Texts without line breaks as one column of bytes, a newline after each."""
    return np.frombuffer("".join(f"{text}\n" for text in texts).encode(), np.uint8)


def split_texts(blocks: Iterable[NDArray[np.uint8]], count: int, *, where: str, are_json: bool = False) -> list[str]:
    """Inverse of `join_texts`.

    Args:
        blocks: the column in pieces.
        count: texts that it is to hold.
        are_json: whether they are documents, in which all characters may occur that JSON need not escape.

    Raises:
        StoreError: no UTF-8, control characters, or another number of texts.
    """
    data = bytearray()
    for block in blocks:
        if ((block < 0x20) & (block != 0x0A)).any():
            raise StoreError(f"{where} is damaged: it holds control characters.")
        data += block.tobytes()
    if not are_json and _CONTROL.search(data):
        raise StoreError(f"{where} is damaged: it holds control characters.")
    try:
        texts = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{where} is damaged: {error}.") from None
    if texts.pop() or len(texts) != count:
        raise StoreError(f"{where} is damaged: it holds {len(texts)} texts, expected {count}.")
    return texts


def _digest_text(digest: NDArray[np.uint8]) -> str:
    return digest.tobytes().hex() if digest.any() else ""
