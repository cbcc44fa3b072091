"""Where this host sends packets: the routes of all tables, and the way to one address."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hvtx.host.netlink import Channel, attribute, attribute_map, legible
from hvtx.host.retry import persistently

_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_DST, _OIF = 1, 4  # include/uapi/linux/rtnetlink.h
_LOCAL_TABLE = 255
# what a lookup answers where a route says that there is no way, or where there is none
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES})
_NOBODYS = ("fe80:", "ff")


class Route(NamedTuple):
    """A prefix that the host routes somewhere, or has an address in."""

    prefix: str
    device: int  # index; 0 where it leads nowhere (blackhole) or to several
    table: int


def all_routes() -> list[Route]:
    """The routes of every table but the local one, and the addresses' own prefixes.

    Default routes and link-locals are left out: they are in nobody's way.
    """
    from pyroute2 import IPRoute

    found = []
    with IPRoute() as route:
        for entry in route.get_routes():
            destination = entry.get_attr("RTA_DST")
            table = entry.get_attr("RTA_TABLE") or entry["table"]
            if destination is None or table == _LOCAL_TABLE or entry["dst_len"] == 0:
                continue
            if not str(destination).startswith(_NOBODYS):
                prefix = f"{destination}/{entry['dst_len']}"
                found.append(Route(prefix, entry.get_attr("RTA_OIF") or 0, table))
        for entry in route.get_addr():
            address = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if address and not str(address).startswith("fe80:"):
                prefix = f"{address}/{entry['prefixlen']}"
                found.append(Route(prefix, entry["index"], _LOCAL_TABLE))
    return found


def in_the_way(subnet: str, own: int, routes: Iterable[Route]) -> Route | None:
    """The first route that takes packets for a subnet elsewhere than to device ``own`` (pure).

    One that is wider than the subnet takes nothing from it: the longest prefix decides.
    """
    mine = ipaddress.ip_network(subnet)
    for route in routes:
        other = ipaddress.ip_network(route.prefix, strict=False)
        if other.version != mine.version or not other.overlaps(mine):
            continue
        if route.device != own and other.prefixlen >= mine.prefixlen:
            return route
    return None


def devices_towards(addresses: Sequence[str]) -> list[int]:
    """The index of the device that packets to each address leave by; 0 if they leave by none."""
    channel = Channel(0)
    try:
        return [_towards(channel, address) for address in addresses]
    finally:
        channel.close()


@legible
def _towards(channel: Channel, address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    body = _RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_DST, packed)
    try:
        answer = persistently(lambda: channel.get(_GETROUTE, body))
    except OSError as problem:
        if problem.errno in _NO_WAY:
            return 0
        raise
    _RTMSG.unpack_from(answer)  # or it is no answer
    return int.from_bytes(attribute_map(answer, _RTMSG.size).get(_OIF, b""), "little")
