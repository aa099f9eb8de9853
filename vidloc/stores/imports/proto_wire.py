"""Protocol Buffers' wire format, as far as messages of boxes need it: fields of a message by number.

Lengths are those of the bytes that are there, so a message costs no more memory than itself. Groups, long gone from
the format, are refused.
"""

from __future__ import annotations

import struct

from vidloc.errors import StoreError

Value = int | float | bytes

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def fields_of_message(data: bytes, *, where: str) -> dict[int, list[Value]]:
    """All values of a message by field number, in order.

    Whole numbers come as they stand on the wire (not negative), fixed 32-bit values as floats, all else as bytes.

    Raises:
        StoreError: the message is damaged.
    """
    found: dict[int, list[Value]] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position, where)
        value, position = _value(tag & 7, data, position, where)
        if tag >> 3 == 0:
            raise StoreError(f"{where} is no message of this layout: it has a field number 0.")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _value(wire_type: int, data: bytes, position: int, where: str) -> tuple[Value, int]:
    if wire_type == _VARINT:
        return _varint(data, position, where)
    if wire_type == _BYTES:
        length, position = _varint(data, position, where)
        return _cut(data, position, length, where), position + length
    if wire_type == _FIXED32:
        return struct.unpack("<f", _cut(data, position, 4, where))[0], position + 4
    if wire_type == _FIXED64:
        return _cut(data, position, 8, where), position + 8
    raise StoreError(f"{where} is no message of this layout: it has wire type {wire_type}.")


def _varint(data: bytes, position: int, where: str) -> tuple[int, int]:
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        byte = _cut(data, position + count, 1, where)[0]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise StoreError(f"{where} is damaged: a number in it has no end.")


def _cut(data: bytes, position: int, length: int, where: str) -> bytes:
    part = data[position : position + length]
    if len(part) < length:
        raise StoreError(f"{where} is damaged: it ends in the middle of a value.")
    return part
