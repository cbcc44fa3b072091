"""Where a filter of traffic control sends what it sees, as the kernel tells it."""

from __future__ import annotations

import struct

import pytest

from hvtx.host import redirect
from hvtx.host.netlink import attribute, nested, text


def test_what_is_made_is_found() -> None:
    assert redirect._target(redirect._redirect(3, 7)) == 7


def _told(
    kind: str = "mirred", does: int = 1, key: bytes = bytes(16), protocol: int = 3, chain: int = 0
) -> bytes:
    """A filter as it is dumped: with a chain, and with statistics beside the action's options."""
    mirred = struct.pack("=IIiiiiI", 2, 0, 4, 1, 1, does, 9)
    options = nested(2, attribute(2, mirred), attribute(1, bytes(32)))
    action = nested(1, text(1, kind), nested(4, bytes(8)), options)
    selector = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + key
    header = struct.pack("=BxxxiIII", 0, 3, 0x80000800, 0xFFFF0000, 1 << 16 | protocol << 8)
    told = nested(2, attribute(5, selector), attribute(2, bytes(4)), nested(7, action))
    return header + text(1, "u32") + attribute(11, struct.pack("=I", chain)) + told


@pytest.mark.parametrize(
    ("body", "to"),
    [
        (_told(), 9),
        (_told(does=2), None),  # a copy: what comes in goes on here
        (_told(key=b"\xff" * 4 + bytes(12)), None),  # some of what comes in
        (_told(key=b"\xff" * 4 + bytes(12 + 16)), None),  # as well, by the first of two keys
        (_told(protocol=8), None),  # IPv4
        (_told(chain=5), None),  # nobody asks it
        (struct.pack("=BxxxiIII", 0, 3, 0x80000000, 0xFFFF0000, 1 << 16) + text(1, "u32"), None),
    ],
)
def test_what_is_told_of_others(body: bytes, to: int | None) -> None:
    assert redirect._target(body) == to
