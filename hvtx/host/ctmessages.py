"""Flows as connection tracking tells them, and what it is asked for them by: nfnetlink."""

from __future__ import annotations

import _socket as socket

from hvtx.host.netlink import (
    NESTED,
    Garbled,
    attribute,
    attribute_map,
    attributes,
    legible,
    nested,
    u32,
)
from hvtx.model.typed import NamedTuple

ORIGINAL, REPLY, ID, ZONE, FILTER = 1, 2, 12, 18, 25  # CTA_*
IP, PROTO = 1, 2  # CTA_TUPLE_*
SOURCE = {socket.AF_INET: 1, socket.AF_INET6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; DST is next
NUMBER, FROM_PORT, TO_PORT = 1, 2, 3  # CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT
BY_SOURCE, BY_DESTINATION = 1, 2  # CTA_FILTER_F_CTA_IP_SRC, _DST


class Flow(NamedTuple):
    """A flow: its ends in both directions as packed addresses, and what names it exactly."""

    family: int
    source: bytes
    destination: bytes
    reply_source: bytes
    reply_destination: bytes
    protocol: int
    port: int  # destination port of the original direction, 0 if it has none
    reply_port: int  # source port of the other direction: the guest's, where it is published
    name: bytes  # CTA_TUPLE_ORIG, CTA_ZONE and CTA_ID as they came


def filters(packed: bytes) -> list[bytes]:
    """Four questions: an IPv4 address as either end of either direction (pure)."""
    found = []
    for number, tuple_ in enumerate((ORIGINAL, REPLY)):
        for flag, kind in ((BY_SOURCE, 0), (BY_DESTINATION, 1)):
            address = nested(IP, attribute(SOURCE[socket.AF_INET] + kind, packed))
            flags = [0, 0]
            flags[number] = flag
            wanted = nested(FILTER, u32(1, flags[0]), u32(2, flags[1]))
            found.append(nested(tuple_, address) + wanted)
    return found


@legible
def parse(body: bytes) -> Flow | None:
    """A flow from the body of a message; None for one of another family than IP (pure).

    Raises Garbled for one without both directions: it might be anybody's.
    """
    family = body[0]
    if family not in SOURCE:
        return None
    parts = {kind: body[a:b] for kind, a, b in attributes(body, 4, len(body))}
    original = attribute_map(parts.get(ORIGINAL, b""))
    reply = attribute_map(parts.get(REPLY, b""))
    one, other = attribute_map(original.get(IP, b"")), attribute_map(reply.get(IP, b""))
    source = SOURCE[family]
    if not all(kind in ends for ends in (one, other) for kind in (source, source + 1)):
        raise Garbled("a tracked connection without its addresses")
    proto = attribute_map(original.get(PROTO, b""))
    answer = attribute_map(reply.get(PROTO, b""))
    name = attribute(ORIGINAL | NESTED, parts[ORIGINAL])
    for kind in (ZONE, ID):
        if kind in parts:
            name += attribute(kind, parts[kind])
    return Flow(
        family,
        one[source],
        one[source + 1],
        other[source],
        other[source + 1],
        int.from_bytes(proto.get(NUMBER, b"")[:1], "big"),
        int.from_bytes(proto.get(TO_PORT, b""), "big"),
        int.from_bytes(answer.get(FROM_PORT, b""), "big"),
        name,
    )
