"""Messages of rtnetlink that change a link: type, flags, body of each (pure).

Constants are those of include/uapi/linux/{rtnetlink,if_link,if_bridge}.h.
"""

from __future__ import annotations

import struct

from hvtx.host.netlink import attribute, nested, u32
from hvtx.model.typed import Literal, NotRequired, TypedDict, Unpack

_NEWLINK, _SETLINK = 16, 19
_IFINFO = struct.Struct("=BxHiII")
_ADDRESS, _MTU, _MASTER, _PROTINFO, _IFALIAS, _AF_SPEC = 1, 4, 10, 12, 20, 26  # IFLA_
_INET6, _ADDR_GEN_MODE, _GEN_NONE = 10, 8, 1
_AF_BRIDGE, _BRPORT_MODE = 7, 4
_BRPORT_ROUTER, _BRPORT_MCAST_FLOOD, _BRPORT_BCAST_FLOOD = 25, 27, 30
_IFF_UP = 1

Message = tuple[int, int, bytes]


class LinkChange(TypedDict):
    """What a link is to have; what is not said stays as it is."""

    alias: NotRequired[str]
    master: NotRequired[int]  # index of its bridge
    mac: NotRequired[str]
    mtu: NotRequired[int]
    up: NotRequired[Literal[True]]


def changed(ifindex: int, **new: Unpack[LinkChange]) -> Message:
    """Give a link what is named, in one message."""
    flag = _IFF_UP if "up" in new else 0
    body = _IFINFO.pack(0, 0, ifindex, flag, flag)
    if "mac" in new:
        body += attribute(_ADDRESS, bytes.fromhex(new["mac"].replace(":", "")))
    if "mtu" in new:
        body += u32(_MTU, new["mtu"])
    if "alias" in new:
        body += attribute(_IFALIAS, new["alias"].encode())
    if "master" in new:
        body += u32(_MASTER, new["master"])
    return _NEWLINK, 0, body


def quiet6(ifindex: int) -> Message:
    """The kernel gives a link no fe80:: of its own.

    It handles IFLA_AF_SPEC after it brought a link up, so this is a message before that one.
    """
    gen = attribute(_ADDR_GEN_MODE, bytes([_GEN_NONE]))
    spec = nested(_AF_SPEC, nested(_INET6, gen))
    return _NEWLINK, 0, _IFINFO.pack(0, 0, ifindex, 0, 0) + spec


def hairpin(ifindex: int) -> Message:
    """The bridge of a port may send frames back where they came from."""
    return _port(ifindex, attribute(_BRPORT_MODE, b"\1"))


def apart(ifindex: int) -> Message:
    """No broadcasts and multicasts of other ports come to a port; the bridge's own still do.

    The flag for that (``isolated``) would also stop what br_netfilter translates inside the
    bridge: a neighbour's published port.
    """
    kinds = (_BRPORT_ROUTER, _BRPORT_MCAST_FLOOD, _BRPORT_BCAST_FLOOD)
    return _port(ifindex, *(attribute(kind, b"\0") for kind in kinds))


def _port(ifindex: int, *parts: bytes) -> Message:
    body = _IFINFO.pack(_AF_BRIDGE, 0, ifindex, 0, 0) + nested(_PROTINFO, *parts)
    return _SETLINK, 0, body
