"""What encoders are fed, drawn for a person to look at: one PNG contact sheet per item and encoder.

    from vidloc.pipelines.preview import preview
    preview(["vggish:weights=random:0"], Selection(videos=Path("list.csv")), ["a"], out=Path("previews"))

Samples come from the same decode pass as an extraction's (`vidloc.pipelines.extraction`), but no store is opened;
weights matter to the boxes of detectors alone. A sheet's facts, with the place of every picture, are JSON in the PNG's
text chunk `vidloc`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vidloc.core.grammar import EncoderPlan, Excerpt, parse_encoder, parse_excerpt
from vidloc.core.patterns import some_of
from vidloc.core.records import Status
from vidloc.core.rows import Rows
from vidloc.core.timeline import Span
from vidloc.errors import MediaError, OptionError, UnknownNameError, VidlocError
from vidloc.extract.base import Sample
from vidloc.pipelines.extract import DEFAULT_STRIDE_S, Selection, items_of
from vidloc.pipelines.extraction.batching import Batcher
from vidloc.pipelines.extraction.decoding import Arrived, TrackEnd, decode_items
from vidloc.pipelines.extraction.devices import choose_devices
from vidloc.pipelines.extraction.encoders import StreamEncoder, build_encoders
from vidloc.pipelines.extraction.item_work import work_of
from vidloc.pipelines.extraction.items import Items
from vidloc.pipelines.extraction.report import reason_of
from vidloc.pipelines.extraction.segment_views import SegmentClips, Views
from vidloc.pipelines.previews.rows import Box, ShownRow, Spread
from vidloc.pipelines.previews.sheet import Subject, draw_sheet

DEFAULT_ROWS, MOST_ROWS = 6, 24
TEXT_CHUNK = "vidloc"
_BOX_FIELDS = {"boxes", "scores", "labels"}


@dataclass(frozen=True)
class SheetFile:
    """One sheet that was written.

    Attributes:
        excerpt: the item, with its span where only a part was asked for.
        status: of decoding and drawing; a track that is absent has a sheet that says so.
        rows: numbers of the rows shown.
        reason: why rows are missing, or what is wrong with the file.
    """

    path: Path
    excerpt: str
    stream: str
    status: Status
    rows: tuple[int, ...]
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        facts = {"path": str(self.path), "excerpt": self.excerpt, "stream": self.stream, "status": self.status}
        return facts | {"rows": list(self.rows), "reason": self.reason}

    def line(self) -> str:
        """For people: the path, and what is there to be seen."""
        shown = f"row{'s' if len(self.rows) > 1 else ''} {', '.join(map(str, self.rows))}" if self.rows else "no row"
        return f"{self.path}: {shown}" + (f" ({self.status}: {self.reason})" if self.reason else "")


def preview(
    encoders: Sequence[str | EncoderPlan],
    selection: Selection,
    excerpts: Sequence[str],
    *,
    out: Path,
    num_rows: int = DEFAULT_ROWS,
    stride_s: Fraction = DEFAULT_STRIDE_S,
    layout: Mapping[str, str] = MappingProxyType({}),
    views: Views | None = None,
    device: str = "auto",
) -> list[SheetFile]:
    """Draw rows of items as encoders are fed them, and write a PNG per item and encoder.

    Args:
        encoders: `[STREAM=]NAME[:option=value,...]` each, or the same parsed.
        selection: where the items are, as for an extraction.
        excerpts: `ITEM` for rows spread over all of it, or `ITEM@START-END` for those centred in a span of seconds.
        out: folder of the sheets, made where there is none; older sheets of the same excerpt are replaced.
        num_rows: rows of each sheet at most.
        stride_s, layout, views: as for an extraction; of segments, single views are shown.
        device: as for an extraction; of several the first.

    Raises:
        VidlocError: a wrong request or missing weights, as `extract` raises it, before any work.
        UnknownNameError: no such item.
        OptionError: no row lies in an excerpt.
        MediaError: there is no file of an item, or the sheets cannot be written.
    """
    ready = build_encoders(
        [parse_encoder(text) if isinstance(text, str) else text for text in encoders],
        stride_s=stride_s,
        layout=layout,
        views=views,
        device=choose_devices(device)[0],
    )
    items = items_of(selection, ready)
    wanted = [_excerpt(text, items) for text in excerpts]
    return [file for excerpt in wanted for file in _previewed(excerpt, items, ready, out, num_rows)]


def _excerpt(text: str, items: Items) -> Excerpt:
    known = set(items.ids)
    # An exact id first: ids may look like excerpts.
    excerpt = Excerpt(text, None) if text in known else parse_excerpt(text)
    if excerpt.item_id in known:
        return excerpt
    if excerpt.item_id in items.missing:
        raise MediaError(f"no file was found for item {excerpt.item_id!r}, which the annotations name.")
    if text.rpartition("@")[0] in known:
        raise OptionError(f"{text!r} is no excerpt: write ITEM@START-END in seconds, such as @12.0-14.5.")
    raise UnknownNameError(f"there is no item {excerpt.item_id!r} to preview. {some_of(excerpt.item_id, items.ids)}")


def _previewed(
    excerpt: Excerpt, items: Items, encoders: Sequence[StreamEncoder], out: Path, num_rows: int
) -> list[SheetFile]:
    spreads = {encoder.stream: Spread(num_rows, excerpt.span) for encoder in encoders}
    ends = _decoded(excerpt.item_id, items, encoders, spreads)
    _refuse_outside(excerpt, spreads)
    path = items.paths.get(excerpt.item_id)
    files = []
    for encoder in encoders:
        spread, end = spreads[encoder.stream], ends[encoder.stream]
        chosen = spread.chosen()
        if not chosen and not end.reason:
            end = TrackEnd("absent", reason=f"it has no row in {_span_text(excerpt)}")
        subject = Subject(
            excerpt=_named(excerpt),
            file_name=path.name if path is not None and encoder.rows is not None else "",
            spec=encoder.spec,
            rows=(),
            num_seen=spread.num_seen,
            status=end.status,
            reason=end.reason,
        )
        try:
            subject = replace(subject, rows=_shown(encoder, excerpt.item_id, chosen, end.clips))
            drawn = draw_sheet(subject)
        except Exception as error:  # noqa: BLE001  (whatever an encoder raises fails its sheet, not the others)
            subject = replace(subject, rows=(), status="failed", reason=reason_of(error))
            drawn = draw_sheet(subject)
        files.append(_written(subject, *drawn, out / f"{quote(subject.excerpt, safe=' @')}.{encoder.stream}.png"))
    return files


def _decoded(
    item_id: str, items: Items, encoders: Sequence[StreamEncoder], spreads: Mapping[str, Spread]
) -> Mapping[str, TrackEnd]:
    """Feed the samples of one item to `spreads`; returns how decoding ended, by stream."""
    work = work_of(items, item_id, tuple(spreads))
    in_order = [spreads[encoder.stream] for encoder in encoders if encoder.spec.timeline == "grid"]
    for event in decode_items([work], {encoder.stream: encoder for encoder in encoders}):
        if not isinstance(event, Arrived):
            return event.tracks
        spreads[event.stream].take(event.sample)
        if in_order and all(spread.passed for spread in in_order):
            break  # nothing after the excerpt need be decoded
    return dict.fromkeys(spreads, TrackEnd("done"))


def _refuse_outside(excerpt: Excerpt, spreads: Mapping[str, Spread]) -> None:
    covered = [spread.covered for spread in spreads.values() if spread.covered is not None]
    if excerpt.span is None or not covered or any(spread.chosen() for spread in spreads.values()):
        return
    start, end = float(min(start for start, _ in covered)), float(max(end for _, end in covered))
    raise OptionError(
        f"no row of item {excerpt.item_id!r} lies in {_span_text(excerpt)}; those that were looked at cover "
        f"{start:.2f}-{end:.2f} s."
    )


def _shown(
    encoder: StreamEncoder, item_id: str, chosen: Sequence[tuple[int, Sample]], clips: SegmentClips | None
) -> list[ShownRow]:
    boxes = _boxes(encoder, item_id, [sample for _, sample in chosen])
    rows = []
    for (number, sample), found in zip(chosen, boxes, strict=True):
        seen = encoder.encoder.as_seen(sample)
        if clips is None:
            rows.append(ShownRow(number, sample, seen, found))
            continue
        # Views come in order of time; which they are of which segment, their places tell.
        segment, view = divmod(sample.place, clips.layout.views.count)
        of_segment = replace(sample, key=clips.segments[segment].id)
        rows.append(ShownRow(segment, of_segment, seen, found, view))
    return rows


def _boxes(encoder: StreamEncoder, item_id: str, samples: Sequence[Sample]) -> list[tuple[Box, ...]]:
    """What a detector finds in each sample; nothing for other encoders, which are not run."""
    if encoder.spec.kind != "objects" or not encoder.spec.fields.keys() >= _BOX_FIELDS:
        return [()] * len(samples)
    batcher = Batcher(encoder)
    answers = [answer for sample in samples for answer in batcher.add(item_id, sample)]
    found: list[tuple[Box, ...]] = []
    for answer in (*answers, *batcher.flush()):
        if answer.rows is None:
            raise VidlocError(f"the encoder failed: {answer.error}")
        found += _boxes_of(answer.rows, encoder.spec.vocabulary)
    return found


def _boxes_of(rows: Rows, vocabulary: Sequence[str]) -> list[tuple[Box, ...]]:
    found = []
    for boxes, scores, labels in zip(*(rows.entries(name) for name in ("boxes", "scores", "labels")), strict=True):
        names = [vocabulary[label] if 0 <= label < len(vocabulary) else f"class {label}" for label in labels]
        found.append(tuple(map(Box, names, scores.tolist(), map(tuple, boxes.tolist()))))
    return found


def _written(subject: Subject, image: Image.Image, facts: Mapping[str, Any], path: Path) -> SheetFile:
    info = PngInfo()
    info.add_text(TEXT_CHUNK, json.dumps(facts))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, pnginfo=info)
    except OSError as error:
        raise MediaError(f"the preview {path} cannot be written: {error.strerror or error}.") from error
    rows = tuple(dict.fromkeys(row.number for row in subject.rows))
    return SheetFile(path, subject.excerpt, subject.spec.name, subject.status, rows, subject.reason)


def _named(excerpt: Excerpt) -> str:
    return excerpt.item_id if excerpt.span is None else f"{excerpt.item_id}@{_seconds(excerpt.span)}"


def _span_text(excerpt: Excerpt) -> str:
    return "all of it" if excerpt.span is None else f"{_seconds(excerpt.span)} s"


def _seconds(span: Span) -> str:
    return f"{span.start_s:.10g}-{span.end_s:.10g}"
