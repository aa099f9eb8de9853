"""The contact sheet of one stream: its rows under their time spans, the facts of their making above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import JsonValue

from vidloc.core.records import Status
from vidloc.pipelines.previews.contact_sheet import MAX_WIDTH_PX, Block, Place, contact_sheet
from vidloc.pipelines.previews.panels import draw_rows
from vidloc.pipelines.previews.rows import Box, ShownRow
from vidloc.stores.base import StreamSpec

_MAX_HEIGHT_PX = 2400
_MAX_SHRINK = 8


@dataclass(frozen=True, eq=False)
class Subject:
    """What a sheet is about.

    Attributes:
        excerpt: the item, with its span where only a part was asked for.
        file_name: of the video; empty for items of text alone.
        num_seen: rows, or views of segments, decoded; of an excerpt, up to its end.
        status, reason: how that ended.
    """

    excerpt: str
    file_name: str
    spec: StreamSpec
    rows: Sequence[ShownRow]
    num_seen: int
    status: Status
    reason: str = ""


def draw_sheet(subject: Subject) -> tuple[Image.Image, dict[str, Any]]:
    """Draw the sheet, frames as large as a sheet of reasonable size lets them be.

    Returns:
        The picture, and its facts for `json`: those of the header, and per row its span, frame times, boxes, and the
        places of its pictures (left, top, right, bottom; half-open, pixels of the sheet).

    Raises:
        OptionError: see `draw_rows`.
    """
    warning = f"{subject.status.upper()}: {subject.reason}" if subject.reason else ""
    for shrink in range(1, _MAX_SHRINK + 1):
        drawn = draw_rows(subject.rows, shrink=shrink)
        blocks = [Block(_title(row), panels) for row, panels in zip(subject.rows, drawn.panels, strict=True)]
        header = _header(subject, shrink, drawn.legend)
        sheet = contact_sheet(f"{subject.excerpt}   {subject.spec.name}", header, blocks, warning=warning)
        if sheet.image.width <= MAX_WIDTH_PX and sheet.image.height <= _MAX_HEIGHT_PX:
            break
    return sheet.image, _facts(subject, shrink, drawn.legend, sheet.places)


def _title(row: ShownRow) -> str:
    start, end = (float(seconds) for seconds in row.sample.span)
    key = f" [{row.sample.key}]" if row.sample.key else ""
    said = f" {row.seen}" if isinstance(row.seen, str) else ""
    view = "" if row.view is None else f", view {row.view}"
    return f"row {row.number}{view}: {start:.3f} - {end:.3f} s{key}{said}"


def _header(subject: Subject, shrink: int, legend: str) -> list[str]:
    spec = subject.spec
    sha256 = "" if spec.weights_sha256 in ("", spec.weights) else f" (sha256 {spec.weights_sha256[:12]}...)"
    things = "views" if any(row.view is not None for row in subject.rows) else "rows"
    shown = f"Shown are {len(subject.rows)} of the {subject.num_seen} {things} decoded."
    clock = f" Times are seconds from the first frame of {subject.file_name}." if subject.file_name else ""
    lines = [
        f"Encoder {spec.encoder}, weights {spec.weights or 'none'}{sha256}. Options: {_listed(spec.options)}.",
        f"{shown}{clock} Layout: {_listed(spec.sampling)}.",
        f"Preprocessing: {_listed(spec.preprocessing)}.",
    ]
    if (size := _picture_size(subject.rows)) is not None:
        scale = "pixel for pixel" if shrink == 1 else f"at 1:{shrink}"
        lines.append(f"Pictures of {size[0]} x {size[1]} pixels, {scale}, before normalisation.")
    if legend:
        lines.append(f"Drawn: {legend}.")
    return lines


def _picture_size(rows: Sequence[ShownRow]) -> tuple[int, int] | None:
    """Width and height of what the network sees; `None` where that is no picture."""
    seen = rows[0].seen if rows else None
    if not isinstance(seen, np.ndarray) or seen.ndim < 3:
        return None
    height, width = seen.shape[-3:-1]
    return width, height


def _listed(facts: Mapping[str, JsonValue]) -> str:
    return ", ".join(f"{name} {_told(value)}" for name, value in facts.items()) or "none"


def _told(value: JsonValue) -> str:
    match value:
        case None:
            return "none"
        case dict():
            return f"({_listed(value)})"
        case list():
            return f"({', '.join(map(_told, value))})"
        case _:
            return str(value)


def _facts(subject: Subject, shrink: int, legend: str, places: Sequence[Sequence[Place]]) -> dict[str, Any]:
    spec = subject.spec
    return {
        "excerpt": subject.excerpt,
        "file": subject.file_name,
        "stream": spec.name,
        "encoder": spec.encoder,
        "options": dict(spec.options),
        "weights": spec.weights,
        "weights_sha256": spec.weights_sha256,
        "sampling": dict(spec.sampling),
        "preprocessing": dict(spec.preprocessing),
        "status": subject.status,
        "reason": subject.reason,
        "rows_decoded": subject.num_seen,
        "shrink": shrink,
        "legend": legend,
        "rows": [_row_facts(row, of_row) for row, of_row in zip(subject.rows, places, strict=True)],
    }


def _row_facts(row: ShownRow, places: Sequence[Place]) -> dict[str, Any]:
    sample = row.sample
    facts = {
        "row": row.number,
        "span_s": [float(seconds) for seconds in sample.span],
        "pts_s": sample.pts_s.tolist(),
        "pictures": [list(place) for place in places],
    }
    if row.view is not None:
        facts |= {"view": row.view, "key": sample.key}
    if row.boxes:
        facts["boxes"] = [_box_facts(box) for box in row.boxes]
    if isinstance(row.seen, str):
        facts |= {"key": sample.key, "text": row.seen}
    return facts


def _box_facts(box: Box) -> dict[str, Any]:
    return {"label": box.label, "score": box.score, "corners": list(box.corners)}
