"""Netlink messages changed attribute by attribute, so that what is inside is reached.

A flipped byte mostly breaks a length, and the reader stops there. Here a message is taken apart
into its attributes, some are lost, doubled, moved, swapped with another's, cut or stretched, and
the lengths are made right again: what the reader meets is whole, and not what it expects.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from hvtx.host import netlink
from tests.fuzz.mutating import mutated, sample

Attribute = list[Any]  # kind, and bytes or the attributes inside
HEADERS = {
    "links": 16, "addresses": 8, "qdiscs": 20, "neighbours": 12, "route": 12, "routes": 12, "flows": 4,
    **dict.fromkeys(("table", "chain", "rule", "set", "elements", "object", "flowtable"), 4),
}  # fmt: skip
VALUES = (
    *(b"", b"\0", b"\1", b"\xff", b"\0\0\0\1", b"\1\0\0\0", b"\xff\xff\xff\xff", bytes(16), b"\xff" * 16),
    *(b"tun\0", b"nat\0", b"masq\0", b"comment\0", b"match\0", b"DNAT\0", b"cmp\0", b"meta\0", b"\xff\xfe\0"),
    *(b"br0\0", b"tap*", b"v0\0", b"hvtx:1:abcdefghij:7.abcdefghijklmnop\0", b"no end", bytes(300)),
)  # fmt: skip

NEXT_HOP = struct.pack("=HBBi", 16, 0, 1, 3) + netlink.attribute(5, bytes((10, 0, 0, 9)))
BY_HAND: dict[str, list[bytes]] = {
    "routes": [
        struct.pack("=8BI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + netlink.attribute(9, NEXT_HOP * 2),
        struct.pack("=8BI", 10, 0, 0, 0, 254, 3, 0, 1, 0)
        + netlink.u32(4, 2) + netlink.attribute(18, b"\x0a\0" + bytes(16)) + netlink.nested(8, netlink.u32(2, 1400)),
        struct.pack("=8BI", 2, 24, 0, 0, 254, 3, 0, 7, 0) + netlink.u32(15, 77),
    ],
    "links": [
        struct.pack("=BxHiII", 0, 1, 7, 0x10043, 0) + netlink.text(3, "tap7") + netlink.nested(
            18, netlink.text(1, "tun"), netlink.nested(2, *(netlink.attribute(n, bytes((2,))) for n in range(3, 8)), netlink.u32(8, 4))
        ) + netlink.nested(43, netlink.attribute(2, b"\1")) + netlink.nested(52, netlink.text(53, "other"), netlink.text(53, "two")),
        struct.pack("=BxHiII", 0, 1, 8, 0x1043, 0) + netlink.text(3, "v9") + netlink.u32(5, 3) + netlink.u32(37, 1),
    ],
    "flowtable": [
        bytes(4) + netlink.text(1, "strange") + netlink.text(2, "fast") + netlink.nested(
            3, netlink.attribute(1, bytes(4)), netlink.nested(3, netlink.text(1, "br0"), netlink.attribute(1, b"tap"), netlink.text(1, "gone")))
    ],
    "chain": [
        b"\5\0\0\0" + netlink.text(1, "strange") + netlink.text(3, "in") + netlink.nested(
            4, netlink.attribute(1, bytes(4)), netlink.attribute(2, bytes(4)), netlink.nested(4, netlink.text(1, "lo"), netlink.attribute(1, b"ta")))
        + netlink.text(7, "filter"),
    ],
}  # fmt: skip


def pieces_of(name: str) -> list[bytes]:
    """Recorded messages, and those that the recorded host had none of."""
    recorded = [] if name == "flowtable" else sample(name)
    return [*recorded, *BY_HAND.get(name, ())]


def taken_apart(data: bytes, depth: int = 0) -> list[Attribute] | None:
    """The attributes that fill some bytes to their end; None if these are none."""
    found: list[Attribute] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            return None
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data) or not kind & 0x3FFF:
            return None
        inside = data[at + 4 : at + length]
        inner = taken_apart(inside, depth + 1) if len(inside) >= 4 and depth < 8 else None
        found.append([kind, inside if inner is None else inner])
        at += (length + 3) & ~3
    return found


def joined(attributes: Sequence[Attribute]) -> bytes:
    """Their bytes, with the right lengths."""
    data = b""
    for kind, inside in attributes:
        raw = joined(inside) if isinstance(inside, list) else inside
        raw = raw[:0xFFF0]
        data += struct.pack("=HH", len(raw) + 4, kind) + raw + bytes(-len(raw) & 3)
    return data


def _holders(attributes: list[Attribute]) -> list[list[Attribute]]:
    """Every list of attributes, the outermost first."""
    found = [attributes]
    for _, inside in attributes:
        if isinstance(inside, list):
            found += _holders(inside)
    return found


def _change(draw: Any, holders: list[list[Attribute]]) -> None:
    place = draw(st.sampled_from(holders))
    act = draw(st.integers(0, 9))
    if not place or act == 0:
        place.append([draw(st.integers(1, 60)), draw(st.sampled_from(VALUES))])
        return
    one = place[draw(st.integers(0, len(place) - 1))]
    if act == 1:
        place.remove(one)
    elif act == 2:
        place.insert(draw(st.integers(0, len(place))), list(one))
    elif act == 3:
        one[0] = draw(st.integers(1, 60)) | (one[0] & 0xC000)
    elif act == 4:
        one[0] ^= draw(st.sampled_from((0x8000, 0x4000)))
    elif act == 5:
        place.sort(key=lambda attribute: -int(attribute[0]))
    elif act == 6:
        other = draw(st.sampled_from([a for holder in holders for a in holder] or [one]))
        one[1] = other[1] if not isinstance(other[1], list) else joined(other[1])
    elif act == 7:
        raw = joined(one[1]) if isinstance(one[1], list) else one[1]
        one[1] = raw[: draw(st.integers(0, len(raw)))]
    elif act == 8:
        raw = joined(one[1]) if isinstance(one[1], list) else one[1]
        one[1] = raw + draw(st.binary(min_size=1, max_size=5))
    else:
        one[1] = draw(st.sampled_from(VALUES))


@st.composite
def reshaped(draw: Any, pieces: Sequence[bytes], header: int) -> bytes:
    """One of some messages with whole attributes changed, and perhaps a field of its header."""
    data = draw(st.sampled_from(list(pieces)))
    head, attributes = bytearray(data[:header]), taken_apart(data[header:])
    if attributes is None:
        return bytes(data)
    for _ in range(draw(st.integers(1, 4))):
        _change(draw, [holder for holder in _holders(attributes) if holder] or [attributes])
    if head and draw(st.integers(0, 3)) == 0:
        head[draw(st.integers(0, len(head) - 1))] = draw(
            st.sampled_from((0, 1, 2, 4, 7, 10, 0x7F, 0x80, 0xFF))
        )
    return bytes(head) + joined(attributes)


def bodies(name: str) -> st.SearchStrategy[bytes]:
    """A message of a kind: as it was, its bytes changed, or its attributes."""
    pieces = pieces_of(name)
    return st.one_of(
        mutated(pieces), reshaped(pieces, HEADERS[name]), reshaped(pieces, HEADERS[name])
    )


def dumps(name: str) -> st.SearchStrategy[list[bytes]]:
    """A dump: all of its messages, or some changed, lost, doubled and in another order."""
    pieces = pieces_of(name)
    return st.one_of(st.permutations(pieces), st.lists(bodies(name), max_size=len(pieces) + 2))
