"""The store's side of an extraction: pieces of rows written as they come, an item committed once it is finished."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from vidloc.core.records import ItemInfo
from vidloc.pipelines.extraction.encoding import Finished, Piece, StreamEnd
from vidloc.pipelines.extraction.item_work import ItemWork
from vidloc.pipelines.extraction.report import Outcome
from vidloc.stores.base import FeatureWriter
from vidloc.stores.tables import WITH_ROWS


class Session:
    """Writes and commits; one thread at a time may `take`. Errors of the store end the run: no later item fares better.

    Attributes:
        outcomes: of all committed items, in order of commit.
        rows: rows committed, by stream.
        video_s: seconds of video of all committed items.
        write_s: time spent in the store.
    """

    def __init__(self, writer: FeatureWriter, streams: Iterable[str], work: Iterable[ItemWork]) -> None:
        self.outcomes: list[Outcome] = []
        self.rows = dict.fromkeys(streams, 0)
        self.video_s = 0.0
        self.write_s = 0.0
        self._writer = writer
        self._work = {item.item_id: item for item in work}
        # Their rows are of the file, and not of annotations.
        self._of_file = {name for name, spec in writer.streams().items() if spec.kind != "text"}
        self._begun: set[str] = set()
        self._num_told = 0

    def take(self, message: Piece | Finished) -> None:
        """Write a piece, or commit the item that is finished.

        Raises:
            StoreError: the store cannot be written.
        """
        begun = time.perf_counter()
        self._begun.add(message.item_id)
        if isinstance(message, Piece):
            self._writer.write(message.stream, message.item_id, message.rows, message.timeline, extent=message.extent)
        else:
            self._commit(message)
        self.write_s += time.perf_counter() - begun

    def news(self) -> list[Outcome]:
        """Outcomes that came since this was last asked."""
        new = self.outcomes[self._num_told :]
        self._num_told += len(new)
        return new

    def fail(self, item_id: str, reason: str) -> None:
        """Commit an item as failed, in all the streams that it lacks."""
        self.discard([item_id])
        self.take(Finished(item_id, {name: StreamEnd("failed", 0, reason) for name in self._work[item_id].streams}))

    def discard(self, items: Iterable[str] | None = None) -> None:
        """Drop the rows of items that are not finished (all of them by default), whole."""
        for item_id in self._begun & set(self._begun if items is None else items):
            self._writer.discard(item_id)
            self._begun.remove(item_id)

    def _commit(self, item: Finished) -> None:
        outcomes = [Outcome(item.item_id, name, e.status, e.num_rows, e.reason) for name, e in item.streams.items()]
        as_asked = any(end.as_asked for end in item.streams.values())
        if all(o.status == "absent" for o in outcomes) and not as_asked and not self._has_rows(item.item_id):
            outcomes = [replace(o, status="failed") for o in outcomes]
        changed = self._changed_since(item.item_id, item.info)
        if changed:
            outcomes = [
                replace(o, status="failed", num_rows=0, reason=changed) if o.stream in self._of_file else o
                for o in outcomes
            ]
        for outcome in outcomes:
            if outcome.status != "done":
                self._writer.mark(outcome.stream, item.item_id, outcome.status, outcome.reason)
        if not changed:
            self._writer.set_info(self._info(item))
        self._writer.commit(item.item_id)
        self._begun.discard(item.item_id)
        for outcome in outcomes:
            self.rows[outcome.stream] += outcome.num_rows
        self.video_s += (item.info.duration_s or 0.0) if item.info is not None else 0.0
        self.outcomes += outcomes

    def _changed_since(self, item_id: str, found: ItemInfo | None) -> str:
        """Why rows of the file as it is now may not stand beside those of an earlier run; empty where they may."""
        earlier = self._work[item_id].info
        if earlier is None or found is None or earlier.source_sha256 in (None, found.source_sha256):
            return ""
        entries = {name: self._writer.entry(name, item_id) for name in sorted(self._of_file)}
        made = [name for name, entry in entries.items() if entry is not None and entry.status in WITH_ROWS]
        if not made:
            return ""
        return (
            f"the file is not the one that its rows of {', '.join(made)} were made from: it was changed since. "
            "Put the earlier file back, or extract this item into another store"
        )

    def _has_rows(self, item_id: str) -> bool:
        """Whether an earlier run stored rows of this item, in any stream."""
        entries = (self._writer.entry(name, item_id) for name in self._writer.streams())
        return any(entry is not None and entry.status in WITH_ROWS for entry in entries)

    def _info(self, item: Finished) -> ItemInfo:
        """Facts found now over those of earlier runs, which may have read other tracks."""
        earlier = self._work[item.item_id].info
        facts = earlier.model_dump() if earlier is not None else {"item_id": item.item_id}
        if item.info is not None:
            facts |= {name: value for name, value in item.info.model_dump().items() if value is not None}
        return ItemInfo(**facts)
