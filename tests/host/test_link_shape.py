"""Links of a known shape: read as if each were walked through, whatever a byte says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtx.host.link_shape import LinkReader
from hvtx.host.links import _WANTED, _link
from hvtx.host.netlink import Garbled, attribute, nested, text, u32
from hvtx.model.resource import Link


def body(number: int, name: str, alias: str | None, master: int = 0, mtu: int = 1500) -> bytes:
    """A TAP as a dump describes it, with things that nobody reads."""
    info = nested(1, b"")[:0] + text(1, "tun") + nested(2, attribute(3, b"\2"), attribute(6, b"\1"))
    info += text(4, "bridge") + nested(5, u32(7, number))
    parts = [
        struct.pack("=BxHiII", 0, 1, number, number & 1, 0),
        text(3, name), u32(13, number), u32(4, mtu), attribute(1, b"\xfe" + number.to_bytes(5, "big")),
        text(6, "noqueue"), nested(18, info),
    ]  # fmt: skip
    parts += [u32(10, master)] if master else []
    return b"".join(parts + ([text(20, alias)] if alias is not None else []))


def read(data: bytes) -> Link | None:
    try:
        return _link(data)
    except Garbled:
        return None


def test_links_of_one_shape_are_walked_through_once() -> None:
    walked: list[bytes] = []

    def counting(data: bytes) -> Link:
        walked.append(data)
        return _link(data)

    reader = LinkReader(counting, _WANTED)
    bodies = [body(n, f"hvt{n:05}", f"hvtx:1:x:{n:04}", master=7 + n % 2) for n in range(2000)]
    assert [reader.link(data) for data in bodies] == [_link(data) for data in bodies]
    assert len(walked) == 1


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_change_of_a_message_is_read_as_by_a_walk(data: st.DataObject) -> None:
    taught = body(5, "hvt00005", "hvtx:1:x:0005", master=9)
    changed = bytearray(body(6, "hvt00006", data.draw(st.sampled_from([None, "hvtx:1:x:0006"])), 8))
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    reader = LinkReader(_link, _WANTED)
    reader.link(taught)
    try:
        found: Link | None = reader.link(bytes(changed))
    except Garbled:
        found = None
    assert found == read(bytes(changed))


@pytest.mark.parametrize("place", range(0, 150, 3))
def test_a_message_with_another_byte_is_read_as_by_a_walk(place: int) -> None:
    """The mask has every byte that decides."""
    taught = body(5, "hvt00005", "hvtx:1:x:0005", master=9)
    reader = LinkReader(_link, _WANTED)
    reader.link(taught)
    other = bytearray(taught)
    if place < len(other):
        other[place] ^= 0x41
    try:
        found: Link | None = reader.link(bytes(other))
    except Garbled:
        found = None
    assert found == read(bytes(other))


def test_what_is_not_read_keeps_no_link_from_being_read() -> None:
    """A second IFLA_LINKINFO, which is none: only the last one counts, and only that is walked."""
    taught, like = body(5, "hvt00005", "hvtx:1:x:0005", 9), body(6, "hvt00006", None, 8)
    for place in range(len(like)):
        other = bytearray(like)
        other[place] = 18
        reader = LinkReader(_link, _WANTED)
        reader.link(taught)
        try:
            found: Link | None = reader.link(bytes(other))
        except Garbled:
            found = None
        assert found == read(bytes(other))


def test_no_more_than_a_few_shapes_are_kept() -> None:
    reader = LinkReader(_link, _WANTED)
    bodies = [body(n, "x" * (1 + n % 15), None, mtu=68 + n) for n in range(300)]
    assert [reader.link(data) for data in bodies] == [_link(data) for data in bodies]
    assert sum(map(len, reader._shapes.values())) <= 64
