"""The routes by one device, and what puts back those that the kernel makes with an address.

Layouts: include/uapi/linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import closing

from hvtx.host.inet import socket_family
from hvtx.host.netlink import CREATE, Channel, attribute, attribute_map, legible, u32
from hvtx.host.retry import retry_transient
from hvtx.model.routing import OwnRoute

_NEWROUTE, _GETROUTE = 24, 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_DST, _OIF, _PRIORITY, _PREFSRC, _TABLE = 1, 4, 6, 7, 15
_APPEND = 0x800  # beside one of another device, such as ff00::/8
_KERNEL = 2  # RTPROT_KERNEL
_KINDS = {"unicast": 1, "local": 2, "broadcast": 3, "multicast": 5}
_LINK, _HOST = 253, 254  # scopes
_MAIN, _TYPE_AT = 254, 7  # RT_TABLE_MAIN; rtm_type's offset
_SIX_METRIC = 256  # IP6_RT_PRIO_ADDRCONF; a local route has 0, which only the kernel can give


def of_device(ifindex: int, family: int) -> set[tuple[str, int]]:
    """Prefix and table of each route by a device. Raises OSError, DumpInterrupted, Garbled."""
    af = socket.AF_INET6 if family == 6 else socket.AF_INET
    bodies = _dump(af, u32(_OIF, ifindex))
    return {found[:2] for body in bodies if (found := route_of(body))[2] in (0, ifindex)}


def has_default(family: int) -> bool:
    """Whether the main table leads to everywhere, by any device.

    Raises OSError, DumpInterrupted, Garbled.
    """
    af, anywhere = (socket.AF_INET6, "::/0") if family == 6 else (socket.AF_INET, "0.0.0.0/0")
    return any(
        body[_TYPE_AT] == _KINDS["unicast"] and route_of(body)[:2] == (anywhere, _MAIN)
        for body in _dump(af, b"")
    )


def _dump(af: int, wanted: bytes) -> list[bytes]:
    asked = _RTMSG.pack(af, 0, 0, 0, 0, 0, 0, 0, 0) + wanted
    with closing(Channel(0)) as channel:
        try:
            return retry_transient(lambda: channel.dump(_GETROUTE, asked), attempts=20)
        except OSError as problem:
            if problem.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # without IPv6
                return []
            raise


@legible
def route_of(body: bytes) -> tuple[str, int, int]:
    """Prefix, table and device of a route. Raises Garbled. Pure."""
    family, length, *_ = _RTMSG.unpack_from(body)
    fields = attribute_map(body, _RTMSG.size)
    to = fields.get(_DST) or bytes(16 if family == socket.AF_INET6 else 4)
    table = int.from_bytes(fields.get(_TABLE, b""), "little") or body[4]
    if len(to) not in (4, 16):
        raise KeyError(family)
    af = socket.AF_INET if len(to) == 4 else socket.AF_INET6
    device = int.from_bytes(fields.get(_OIF, b""), "little")
    return f"{socket.inet_ntop(af, to)}/{length}", table, device


def put(ifindex: int, route: OwnRoute) -> None:
    """Make a route as the kernel makes it; one that is there by now is enough. Raises OSError."""
    family = socket_family(route.prefix)
    six = family == socket.AF_INET6
    prefix, _, length = route.prefix.partition("/")
    scope = 0 if six else _HOST if route.kind == "local" else _LINK
    kind = _KINDS[route.kind]
    body = _RTMSG.pack(family, int(length), 0, 0, route.table, _KERNEL, scope, kind, 0)
    body += attribute(_DST, socket.inet_pton(family, prefix)) + u32(_OIF, ifindex)
    if six:
        body += u32(_PRIORITY, _SIX_METRIC)
    else:
        body += attribute(_PREFSRC, socket.inet_pton(family, route.source))
    with closing(Channel(0)) as channel:
        try:
            channel.request(_NEWROUTE, CREATE | _APPEND, body)
        except OSError as problem:
            if problem.errno != errno.EEXIST:
                raise
