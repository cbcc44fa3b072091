"""As much of protobuf's wire format as a few calls need: messages as dictionaries by field number.

https://protobuf.dev/programming-guides/encoding/: varints and length-delimited fields.
"""

from __future__ import annotations

from collections.abc import Mapping

Value = int | str | bytes | Mapping[int, "Value"] | list["Value"]


def varint(number: int) -> bytes:
    """Base 128, the lowest digits first (pure)."""
    said = bytearray()
    while number > 0x7F:
        said.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*said, number])


def encode(message: Mapping[int, Value]) -> bytes:
    """A message; lists are repeated fields, dictionaries messages in it (pure)."""
    said = b""
    for field, value in message.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                said += varint(field << 3) + varint(one)
                continue
            text = encode(one) if isinstance(one, Mapping) else one
            packed = text.encode() if isinstance(text, str) else text
            assert isinstance(packed, bytes)
            said += varint(field << 3 | 2) + varint(len(packed)) + packed
    return said


def _varint(said: bytes, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        number |= (said[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not said[at - 1] & 0x80:
            return number, at


def decode(said: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a message, each with all its values; ValueError for a type that is not used here."""
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(said):
        key, at = _varint(said, at)
        if key & 7 == 0:
            value: int | bytes
            value, at = _varint(said, at)
        elif key & 7 == 2:
            length, at = _varint(said, at)
            value, at = said[at : at + length], at + length
        else:
            raise ValueError(f"field {key >> 3} has wire type {key & 7}")
        found.setdefault(key >> 3, []).append(value)
    return found


def texts(mapping: Mapping[str, str]) -> list[Value]:
    """A ``map<string, string>``: entries with a key and a value (pure)."""
    return [{1: key, 2: value} for key, value in mapping.items()]
