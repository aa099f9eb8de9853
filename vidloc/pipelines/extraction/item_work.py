"""One item of a run: which streams it lacks, and all that is known of it before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidloc.core.numbered_pictures import FlowPictures, FrameRate
from vidloc.core.records import ItemInfo, Narration, Segment
from vidloc.pipelines.extraction.items import Items


@dataclass(frozen=True)
class ItemWork:
    """One item, and the streams that lack it.

    Attributes:
        path: its file; `None` for items of text or released flow alone.
        info: what an earlier run found of it.
        narrations: its sentences, for text streams.
        segments: its annotated segments, for streams of a row per segment.
        frame_rate: that of numbered pictures, of which `path` is the folder or tar archive.
        flow: its released flow, where a stream is made of that.
    """

    item_id: str
    path: Path | None
    streams: tuple[str, ...]
    info: ItemInfo | None = None
    narrations: tuple[Narration, ...] = ()
    segments: tuple[Segment, ...] = ()
    frame_rate: FrameRate | None = None
    flow: FlowPictures | None = None


def work_of(items: Items, item_id: str, streams: tuple[str, ...], info: ItemInfo | None = None) -> ItemWork:
    """One item, with all that is known of it before it is decoded.

    Args:
        streams: those to be made.
        info: what an earlier run found of it.
    """
    return ItemWork(
        item_id,
        items.paths.get(item_id),
        streams,
        info,
        items.narrations.get(item_id, ()),
        items.segments.get(item_id, ()),
        items.frame_rates.get(item_id),
        items.flows.get(item_id),
    )
