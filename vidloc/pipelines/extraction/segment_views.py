"""Rows per annotated segment: several clips along it, several crops of each, as recognition papers test.

    --windows segments --views 10x3

A row answers one segment and holds all of its views, `(views, ...)`: clip by clip in time, and for each clip its crops.
Clips start at equal distances from the segment's start to where the last one ends with the segment (Feichtenhofer et
al., ICCV 2019: ten clips, three crops along the longer side); where the segment is shorter than a clip, all start with
it and look beyond its end. Encoders of single frames see the middles of as many equal parts of the segment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
from pydantic import JsonValue

from vidloc.core.records import Segment
from vidloc.core.rows import FieldSpec, Rows
from vidloc.core.timeline import Spans
from vidloc.core.windows import ListedWindows
from vidloc.errors import OptionError
from vidloc.extract.base import AudioInput, ClipInput, EncoderInput, FrameInput, Place, TextInput

MOST_VIEWS = 300
KEY_FIELD, KEY_AXIS = "key", "key_bytes"

_CORNERS: tuple[Place, ...] = ("top_left", "top_right", "bottom_left", "bottom_right", "centre")
_CROPS: Mapping[str, tuple[tuple[Place, bool], ...]] = {
    "1": (("centre", False),),
    "3": (("near", False), ("centre", False), ("far", False)),
    "flips": (("centre", False), ("centre", True)),
    "ten-crop": tuple((place, mirrored) for mirrored in (False, True) for place in _CORNERS),
}


@dataclass(frozen=True)
class Views:
    """How a segment is looked at.

    Attributes:
        num_clips: clips along the segment.
        crops: of each clip: `1` (centre), `3` (along the longer side), `flips` (centre, and mirrored), `ten-crop` (four
            corners and the centre, and all of them mirrored).
    """

    num_clips: int
    crops: str

    @property
    def places(self) -> tuple[tuple[Place, bool], ...]:
        """Place and mirroring of each crop."""
        return _CROPS[self.crops]

    @property
    def count(self) -> int:
        """Views per segment."""
        return self.num_clips * len(self.places)

    def __str__(self) -> str:
        return f"{self.num_clips}x{self.crops}"


def parse_views(text: str) -> Views:
    """Read `CLIPSxCROPS`, such as `10x3`.

    Raises:
        OptionError: it is not that, or asks for more than 300 views.
    """
    found = re.fullmatch(rf"(\d{{1,4}})x({'|'.join(_CROPS)})", text)
    if found is None or int(found[1]) < 1:
        raise OptionError(
            f"views {text!r} is not CLIPSxCROPS: a number of clips and one of {', '.join(_CROPS)}, such as 10x3."
        )
    views = Views(int(found[1]), found[2])
    if views.count > MOST_VIEWS:
        raise OptionError(f"views {text!r} makes {views.count} views of a segment; at most {MOST_VIEWS} are made.")
    return views


@dataclass(frozen=True)
class SegmentLayout:
    """The views of one stream: how a segment is looked at, together with what the encoder takes.

    Raises:
        OptionError: the encoder has no clips of segments, or no crop to be moved.
    """

    views: Views
    wanted: ClipInput | FrameInput | AudioInput

    def spans_of(self, segment: Segment) -> list[tuple[Fraction, Fraction]]:
        """Windows of the segment's clips, in time."""
        start, end = (Fraction(float(seconds)) for seconds in segment.span)
        count = self.views.num_clips
        window = self.window_s
        if window is None:
            window = (end - start) / count
        room = max(end - start - window, Fraction(0))
        if count == 1:
            return [(start + room / 2, start + room / 2 + window)]
        starts = [start + room * k / (count - 1) for k in range(count)]
        return [(first, first + window) for first in starts]

    @property
    def window_s(self) -> Fraction | None:
        """Length of a clip; `None` for single frames, each of which stands for its share of the segment."""
        wanted = self.wanted
        if isinstance(wanted, ClipInput):
            return wanted.window_s
        return None if isinstance(wanted, FrameInput) else Fraction(wanted.num_samples, wanted.sample_rate_hz)

    def seen(self, wanted: ClipInput | FrameInput, crop: int) -> ClipInput | FrameInput:
        """What the encoder is fed of one crop."""
        place, mirrored = self.views.places[crop]
        return replace(wanted, size=replace(wanted.size, place=place, mirrored=mirrored))

    def fields(self, of_view: Mapping[str, FieldSpec]) -> dict[str, FieldSpec]:
        """Fields of a row, from those of one view."""
        stacked = {
            name: FieldSpec(row_shape=(self.views.count, *field.row_shape), dtype=field.dtype)
            for name, field in of_view.items()
        }
        return stacked | {KEY_FIELD: FieldSpec(row_shape=(KEY_AXIS,), dtype="uint8")}

    def fields_of_view(self, fields: Mapping[str, FieldSpec]) -> dict[str, FieldSpec]:
        """Fields of one view, from those of a row."""
        return {
            name: FieldSpec(row_shape=field.row_shape[1:], dtype=field.dtype)
            for name, field in fields.items()
            if name != KEY_FIELD
        }

    def rows(self, views: Rows, places: Sequence[int], keys: Sequence[str]) -> Rows:
        """Rows of segments from rows of views.

        Args:
            places: of each view: `segment * count + clip * crops + crop`; all of them once.
            keys: the segments' ids.
        """
        order = np.argsort(np.asarray(places, dtype=np.int64), kind="stable")
        made = {
            name: array[order].reshape(len(keys), self.views.count, *array.shape[1:])
            for name, array in views.fields.items()
        }
        return Rows.joined(Rows.dense(**made), Rows.texts("bytes", **{KEY_FIELD: list(keys)}))

    def sampling(self) -> dict[str, JsonValue]:
        """The rule as a stream's provenance keeps it."""
        wanted = self.wanted
        rule: dict[str, JsonValue] = {
            "align": "segments",
            "views": str(self.views),
            "clips": "starts at equal distances, the first at the segment's start, the last ending with it",
            "crops": [place + (" mirrored" if mirrored else "") for place, mirrored in self.views.places],
        }
        if self.window_s is not None:
            rule["window_s"] = str(self.window_s)
        if isinstance(wanted, AudioInput):
            return rule | {"num_samples": wanted.num_samples, "sample_rate_hz": wanted.sample_rate_hz}
        return rule | {"num_frames": wanted.num_frames if isinstance(wanted, ClipInput) else 1}


@dataclass(frozen=True)
class SegmentClips:
    """The windows of one item's segments, as a pass over its tracks takes them.

    Attributes:
        segments: those that have rows, in the order of the annotations.
        num_beyond: segments that are centred after the end of the item and have none.
        windows: of all clips, by ascending centre.
        order: of each window, which clip it is: `segment * num_clips + clip`.
    """

    layout: SegmentLayout
    segments: tuple[Segment, ...]
    num_beyond: int
    windows: ListedWindows
    order: tuple[int, ...]

    @classmethod
    def of(cls, layout: SegmentLayout, segments: Sequence[Segment], duration_s: Fraction | None) -> Self:
        """Lay out the segments of an item; without a duration all of them."""
        kept = tuple(s for s in segments if duration_s is None or s.span.center_s < duration_s)
        clips = [span for segment in kept for span in layout.spans_of(segment)]
        order = sorted(range(len(clips)), key=lambda clip: clips[clip][0] + clips[clip][1])
        windows = ListedWindows(tuple(clips[clip] for clip in order))
        return cls(layout, kept, len(segments) - len(kept), windows, tuple(order))

    def place(self, row: int, crop: int) -> int:
        """Where the view that a window and a crop make belongs among the views of the item."""
        return self.order[row] * len(self.layout.views.places) + crop

    @property
    def spans(self) -> Spans:
        """The segments themselves: times of the rows."""
        return Spans(np.array([segment.span for segment in self.segments], dtype=np.float64))


def segment_layout(
    wanted: EncoderInput, fields: Mapping[str, FieldSpec], views: Views, *, where: str
) -> SegmentLayout | None:
    """The layout of one encoder's rows; `None` for sentences, which follow the annotations anyway.

    Raises:
        OptionError: views cannot be made of what the encoder takes or gives.
    """
    if isinstance(wanted, TextInput):
        return None
    if ragged := [name for name, field in fields.items() if field.axis is not None]:
        raise OptionError(f"{where} gives any number of {ragged[0]} per row, which no views can be stacked of.")
    if views.crops != "1" and (isinstance(wanted, AudioInput) or wanted.size.crop_px is None):
        taken = "sound" if isinstance(wanted, AudioInput) else "whole frames"
        raise OptionError(
            f"{where} takes {taken}, of which nothing is cropped: use --views {views.num_clips}x1 for it, in a run of "
            "its own."
        )
    return SegmentLayout(views, wanted)
