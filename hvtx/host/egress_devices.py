"""Devices with routes beyond their own subnet, from a dump of routes.

Constants are those of include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from hvtx.host.netlink import Channel, Garbled, attribute_map, legible
from hvtx.host.retry import retry_transient

_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_OIF, _GATEWAY, _MULTIPATH, _VIA = 4, 5, 9, 18
_NEXTHOP = struct.Struct("=HBBi")  # struct rtnexthop
_UNICAST = 1


def leading_out() -> frozenset[int]:
    """Indexes of devices with a default route, or with a route through a gateway, in any table.

    Raises OSError, DumpInterrupted, Garbled.
    """
    channel = Channel(0)
    try:
        body = _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)
        return ways_in(retry_transient(lambda: channel.dump(_GETROUTE, body), attempts=20))
    finally:
        channel.close()


@legible
def ways_in(bodies: Iterable[bytes]) -> frozenset[int]:
    """The same of a dump's messages (pure). Raises Garbled."""
    return frozenset(device for body in bodies for device in _devices(body))


def _devices(body: bytes) -> Iterator[int]:
    _, length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(body)
    if kind != _UNICAST:
        return
    found = attribute_map(body, _RTMSG.size)
    if _OIF in found and (not length or _GATEWAY in found or _VIA in found):
        yield _index(found[_OIF])
    hops, at = found.get(_MULTIPATH, b""), 0
    while at < len(hops):
        size, _, _, device = _NEXTHOP.unpack_from(hops, at)
        if not _NEXTHOP.size <= size <= len(hops) - at:
            raise Garbled("a next hop does not fit in its route")
        own = attribute_map(hops[at : at + size], _NEXTHOP.size)
        if not length or _GATEWAY in own or _VIA in own:
            yield device
        at += (size + 3) & ~3


def _index(value: bytes) -> int:
    if len(value) != 4:
        raise Garbled("an index of another length")
    return int.from_bytes(value, "little")
