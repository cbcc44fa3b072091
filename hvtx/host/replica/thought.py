"""Devices, addresses and routes that a host does not have, as the kernel would tell of them. Pure.

Layouts: include/uapi/linux/rtnetlink.h, if_addr.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from hvtx.host.netlink import attribute, u32
from hvtx.host.replica.topology import Device

_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_DST, _OIF, _GATEWAY = 1, 4, 5
_UNIVERSE, _LINK_SCOPE, _MAIN, _BOOT, _UNICAST = 0, 253, 254, 3, 1


def thought_up(
    ifindex: int, name: str, mac: bytes, *, kind: str = "tun", master: int = 0
) -> Device:
    """A device that the host does not have: a bridge, or one with a far end."""
    return Device(ifindex, name, kind, True, mac, True, master, 0, b"", b"", b"")


def address(cidr: str, ifindex: int) -> bytes:
    """An address of the host that it does not have."""
    found = ipaddress.ip_interface(cidr)
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    scope = _LINK_SCOPE if found.is_link_local else _UNIVERSE
    head = _IFADDR.pack(family, found.network.prefixlen, 0, scope, ifindex)
    return head + attribute(1, found.packed) + attribute(2, found.packed)


def route(cidr: str, ifindex: int, gateway: str = "") -> bytes:
    """A route in the main table that the host does not have."""
    found = ipaddress.ip_network(cidr, strict=False)
    four = found.version == 4
    scope = _LINK_SCOPE if four and not gateway else _UNIVERSE
    family = socket.AF_INET if four else socket.AF_INET6
    body = _RTMSG.pack(family, found.prefixlen, 0, 0, _MAIN, _BOOT, scope, _UNICAST, 0)
    if found.prefixlen:
        body += attribute(_DST, found.network_address.packed)
    if gateway:
        body += attribute(_GATEWAY, socket.inet_pton(family, gateway))
    return body + u32(_OIF, ifindex)
