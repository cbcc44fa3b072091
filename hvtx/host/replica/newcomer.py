"""What a guest asks before it has an address: a server of DHCP, and a router of IPv6.

The network's service is stood for by sockets such as dnsmasq has: on one bridge, and on no address.
RFC 2131, 8415 and 4861.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hvtx.host.replica import frames
from hvtx.host.replica.scratch import Owner, Scratch
from hvtx.model.traffic import DHCP_CLIENT, DHCP_SERVER

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANYBODY, _EVERYBODY = bytes(4), b"\xff" * 4
_SERVERS = bytes.fromhex("ff020000000000000000000000010002")  # of DHCPv6, on a link
_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
_COOKIE, _DISCOVER, _END = b"\x63\x82\x53\x63", b"\x35\x01\x01", b"\xff"
_REQUEST, _REPLY = b"\1", b"\2"  # of BOOTP; a Solicit and an Advertise of DHCPv6 likewise
_SOLICITS, _ADVERTISES = 133, 134
_HOPS = 255  # what has less came from beyond the link


def is_served(scratch: Scratch, guest: Owner, bridge: str, family: int) -> bool:
    """Whether a server of DHCP on a bridge hears a guest without an address, and is heard.

    Raises OSError.
    """
    number = struct.pack(">I", scratch.number())
    if family == 4:
        asks = _REQUEST + b"\1\6\0" + number + bytes(20) + guest.mac + bytes(202)
        asks += _COOKIE + _DISCOVER + _END
        source, target, to_mac, at = _ANYBODY, _EVERYBODY, frames.BROADCAST, 4
        to = next(a for a in guest.addresses if len(a) == 4)
    else:
        asks = _REQUEST + number[1:] + struct.pack(">HHH", 1, 10, 3) + b"\0\1" + guest.mac
        source = to = guest.addresses[-1]
        target, to_mac, at = _SERVERS, _group_mac(_SERVERS), 1
    told = asks[at : at + 3]
    with _server(bridge, family) as server:
        packet = frames.udp(source, target, (DHCP_CLIENT[family], DHCP_SERVER[family]), asks)
        scratch.send(guest.device, frames.frame(guest.mac, to_mac, packet))
        if not _heard(server, asks):
            return False
        with suppress(OSError):
            where = _address(to, DHCP_CLIENT[family], bridge)
            server.sendto(_REPLY + asks[1:], where)
        seen = scratch.packets(scratch.settle())
    return any(one.device == guest.device and one.target == to
               and one.payload[:1] == _REPLY and one.payload[at : at + 3] == told
               for one in seen)  # fmt: skip


def is_routed(scratch: Scratch, guest: Owner, bridge: str) -> bool:
    """Whether a router on a bridge hears that a guest asks for one, and is heard.

    Raises OSError.
    """
    own = guest.addresses[-1]
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as router:
        _join(router, bridge, _ROUTERS)
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOPS)
        asks = frames.router_solicitation(guest.mac, own, _ROUTERS)
        scratch.send(guest.device, frames.frame(guest.mac, _group_mac(_ROUTERS), asks))
        if not _heard(router, asks[-8:], ends=True):
            return False
        with suppress(OSError):
            lasts = struct.pack(">BBHBBHII", _ADVERTISES, 0, 0, 64, 0, 1800, 0, 0)
            router.sendto(lasts, _address(own, 0, bridge))
        seen = scratch.packets(scratch.settle())
    return any((one.device, one.protocol, one.flags, one.target)
               == (guest.device, frames.ICMP6, _ADVERTISES, own) for one in seen)  # fmt: skip


def _group_mac(group: bytes) -> bytes:
    return b"\x33\x33" + group[12:]


def _address(address: bytes, port: int, bridge: str) -> tuple[str, int] | tuple[str, int, int, int]:
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address), port
    shown = socket.inet_ntop(socket.AF_INET6, address)
    return shown, port, 0, socket.if_nametoindex(bridge)


@contextmanager
def _server(bridge: str, family: int) -> Iterator[socket.socket]:
    with socket.socket(_FAMILIES[family], socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _join(server, bridge, _SERVERS if family == 6 else b"")
        server.bind(("", DHCP_SERVER[family]))
        yield server


def _join(server: socket.socket, bridge: str, group: bytes) -> None:
    """Hear what comes by a bridge alone, and a group of IPv6 there."""
    server.setblocking(False)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
    if group:
        told = group + struct.pack("=I", socket.if_nametoindex(bridge))
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, told)


def _heard(server: socket.socket, asks: bytes, *, ends: bool = False) -> bool:
    """Whether what was asked is among what has come; ``ends``: its end is enough."""
    with suppress(BlockingIOError):
        while data := server.recv(2048):
            if data.endswith(asks) if ends else data == asks:
                return True
    return False
