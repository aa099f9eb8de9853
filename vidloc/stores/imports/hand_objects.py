"""A folder of .pkl files, one per video, each a list of messages: hands and touched objects of a frame.

Sample: the hand-object detections of EPIC-KITCHENS-100 (2020 release): entry i is a proto3 message of frame i + 1.
Boxes are fractions of the frame. Of a hand: box, score, what it touches (0 nothing, 1 itself, 2 another person, 3 a
portable object, 4 a fixed one), side (0 left, 1 right), and the offset to the centre of the touched object.
Time rule: a row is one frame, numbered from 1, at the rate at which frames were cut (--fps 50 for the videos of
EPIC-KITCHENS-100, 59.94 for those of -55; by --facts where they differ). Read only with --allow-pickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vidloc.core.plain_pickle import read_plain_pickle
from vidloc.core.records import Source
from vidloc.core.rows import Rows
from vidloc.errors import StoreError
from vidloc.stores.imports.base import Content, StreamOptions
from vidloc.stores.imports.file_per_item import PickledFrames, PickledFramesOptions
from vidloc.stores.imports.proto_wire import Value, fields_of_message

_STATES, _SIDES = 5, 2


class HandObjects(PickledFrames):
    """Reader of messages per frame."""

    suffixes = (".pkl",)
    source: ClassVar[Source] = Source(
        paper="Shan et al., Understanding Human Hands in Contact at Internet Scale, CVPR 2020",
        code="https://github.com/epic-kitchens/epic-kitchens-100-hand-object-bboxes",
    )
    options: PickledFramesOptions

    def read(self, item_id: str, stream: StreamOptions) -> Content:
        """Hands and objects of every frame, in the files' order."""
        path = self._found.paths[item_id]
        messages = read_plain_pickle(path, python2_text="bytes")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, bytes) for m in messages):
            raise StoreError(f"{path} holds no list of messages.")
        frames = [_frame(message, number, path) for number, message in enumerate(messages, start=1)]
        hands = Rows.ragged(
            "hands",
            hand_boxes=[_boxes(frame.hands) for frame in frames],
            hand_scores=[np.array([hand.score for hand in frame.hands], np.float32) for frame in frames],
            hand_states=[np.array([hand.state for hand in frame.hands], np.int32) for frame in frames],
            hand_sides=[np.array([hand.side for hand in frame.hands], np.int32) for frame in frames],
            hand_offsets=[
                np.array([hand.offset for hand in frame.hands], np.float32).reshape(-1, 2) for frame in frames
            ],
        )
        objects = Rows.ragged(
            "regions",
            boxes=[_boxes(frame.objects) for frame in frames],
            scores=[np.array([found.score for found in frame.objects], np.float32) for frame in frames],
        )
        return self.content(item_id, Rows.joined(hands, objects))


@dataclass(frozen=True)
class _Found:
    # One box; the last three are a hand's.
    box: tuple[float, float, float, float]
    score: float
    state: int = 0
    side: int = 0
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class _Frame:
    hands: Sequence[_Found]
    objects: Sequence[_Found]


def _frame(message: bytes, number: int, path: Path) -> _Frame:
    where = f"{path}, message {number}"
    fields = fields_of_message(message, where=where)
    stated = _whole(fields, 2, where)
    if stated != number:
        raise StoreError(f"{where} is of frame {stated}; entry {number} of the list should be of frame {number}.")
    return _Frame(
        hands=[_hand(part, where) for part in _messages(fields, 3, where)],
        objects=[_object(part, where) for part in _messages(fields, 4, where)],
    )


def _hand(data: bytes, where: str) -> _Found:
    fields = fields_of_message(data, where=where)
    state, side = _whole(fields, 3, where), _whole(fields, 5, where)
    if state >= _STATES or side >= _SIDES:
        raise StoreError(f"{where} has a hand of state {state} and side {side}, which the layout does not know.")
    offset = _numbers(fields, 4, 2, where)
    return _Found(_box(fields, where), _number(fields, 2, where), state, side, (offset[0], offset[1]))


def _object(data: bytes, where: str) -> _Found:
    fields = fields_of_message(data, where=where)
    return _Found(_box(fields, where), _number(fields, 2, where))


def _box(fields: Mapping[int, list[Value]], where: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = _numbers(fields, 1, 4, where)
    return left, top, right, bottom


def _numbers(fields: Mapping[int, list[Value]], field: int, count: int, where: str) -> list[float]:
    """Floats 1 to `count` of an inner message; proto3 leaves out what is 0."""
    parts = _messages(fields, field, where)
    inner = fields_of_message(parts[-1], where=where) if parts else {}
    return [_number(inner, k, where) for k in range(1, count + 1)]


def _messages(fields: Mapping[int, list[Value]], field: int, where: str) -> list[bytes]:
    parts = fields.get(field, [])
    messages = [part for part in parts if isinstance(part, bytes)]
    if len(messages) < len(parts):
        raise StoreError(f"{where} is no message of this layout: field {field} holds a number.")
    return messages


def _number(fields: Mapping[int, list[Value]], field: int, where: str) -> float:
    value = fields.get(field, [0.0])[-1]
    if not isinstance(value, float):
        raise StoreError(f"{where} is no message of this layout: field {field} is no number of 32 bits.")
    return value


def _whole(fields: Mapping[int, list[Value]], field: int, where: str) -> int:
    value = fields.get(field, [0])[-1]
    if not isinstance(value, int):
        raise StoreError(f"{where} is no message of this layout: field {field} is no whole number.")
    return value


def _boxes(found: Sequence[_Found]) -> NDArray[np.float32]:
    return np.array([one.box for one in found], np.float32).reshape(-1, 4)


LAYOUT = HandObjects
