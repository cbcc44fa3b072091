"""The frames that a guest may try: a table of what must never arrive, and of what must.

Each try is a frame built for a scene (who sends, who else is there), a target (``guest``, ``host``,
``everybody``, ``world``) and a cookie by which it is known again. ``FORGED`` holds what is not the
sender's own to send; ``HONEST`` what is. Shapes: RFC 791, 792, 826, 2131, 2236, 3376 (IPv4); 8200,
4861, 4443, 3810, 4286, 8415 (IPv6); IEEE 802.1D, 802.1Q, 802.3 (the rest).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from integration.lab import WORLD4, WORLD6
from integration.lab.firewall_contract import (
    ALL_NODES_MAC,
    BROADCAST,
    arp,
    checksum,
    icmp6,
    ipv6,
    option,
    udp,
)

NOBODY_MAC, NOBODY4, NOBODY6 = "02:00:00:00:00:99", "10.77.0.99", "fd77::99"
ANY_LINK = "fe80::1:2:3:4"
IP4, ARP, RARP, VLAN, QINQ, IP6 = 0x0800, 0x0806, 0x8035, 0x8100, 0x88A8, 0x86DD
ICMP, IGMP, TCP, UDP, ICMP6 = 1, 2, 6, 17, 58


class Scene(NamedTuple):
    """Who sends (``mac`` …), who else has a lease (``other_mac`` …), and the host's side."""

    mac: str
    ipv4: str
    ipv6: str
    link: str  # the link-local address that follows from the MAC
    other_mac: str
    other4: str
    other6: str
    other_link: str
    host_mac: str
    gateway4: str
    gateway6: str
    gateway_link: str


class Party(Protocol):
    """A guest, as far as frames need it."""

    mac: str
    ipv4: str
    ipv6: str
    link_local: str


def scene_of(one: Party, two: Party, host_mac: str, gateways: tuple[str, str, str]) -> Scene:
    """One guest sends to another."""
    mine, theirs = ((guest.mac, guest.ipv4, guest.ipv6, guest.link_local) for guest in (one, two))
    return Scene(*mine, *theirs, host_mac, *gateways)


class To(NamedTuple):
    """Where a frame goes: its MAC address (``mac6`` with IPv6), and the packet's."""

    mac: str
    ipv4: str
    ipv6: str
    mac6: str


EVERYBODY = To(BROADCAST, "255.255.255.255", "ff02::1", ALL_NODES_MAC)

Make = Callable[[Scene, To, bytes], bytes]
NEAR = ("guest", "host", "everybody")
ROUTED = (*NEAR, "world")


class Gso(NamedTuple):
    """What stands before a frame that the kernel is to cut up: struct virtio_net_hdr."""

    kind: int
    size: int

    def packed(self, head: int) -> bytes:
        """The header for a frame with ``head`` bytes before its payload."""
        return struct.pack("=BBHHHH", 1, self.kind, head, self.size, head - 20, 16)


class Try(NamedTuple):
    """One kind of frame.

    ``arrives`` names where it must be seen, by target (nowhere if empty). ``group`` is the MAC
    address that stands for everybody. ``unheard`` says that the kernel takes it nowhere by itself,
    ``held`` that it may not where br_netfilter's calls are on (which look at lengths, and keep the
    fragments of a packet until all have come).
    """

    make: Make
    targets: Sequence[str] = NEAR
    group: str = ""
    arrives: Mapping[str, frozenset[str]] = {}
    unheard: bool = False
    held: bool = False
    gso: Gso | None = None


def target(scene: Scene, name: str, group: str) -> To:
    """Where a frame for ``name`` goes."""
    if name == "guest":
        return To(scene.other_mac, scene.other4, scene.other6, scene.other_mac)
    if name == "host":
        return To(scene.host_mac, scene.gateway4, scene.gateway6, scene.host_mac)
    if name == "world":
        return To(scene.host_mac, WORLD4, WORLD6, scene.host_mac)
    return EVERYBODY._replace(mac=group, mac6=group) if group else EVERYBODY


# What frames are made of ------------------------------------------------------------------------


def packed_mac(address: str) -> bytes:
    """A MAC address as it stands in a frame."""
    return bytes.fromhex(address.replace(":", ""))


def packed_ip(address: str) -> bytes:
    """An address as it stands in a packet."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def bare(source: str, to: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame, not filled up."""
    return packed_mac(to) + packed_mac(source) + struct.pack(">H", kind) + payload


def packet4(
    source: str,
    to: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    ttl: int = 64,
    first: int = 0,
    length: int = 0,
) -> bytes:
    """An IPv4 packet; ``first`` and ``length`` stand for what the first fields should say."""
    size = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH",
        first or 0x40 | size // 4,
        0,
        length or size + len(payload),
        77,
        fragment,
        ttl,
        protocol,
        0,
    )
    head += packed_ip(source) + packed_ip(to) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


_HOP, _ROUTING, _FRAGMENT, _AUTH, _OPTIONS = 0, 43, 44, 51, 60
HEADERS = {
    "hop-by-hop": (_HOP, lambda n: bytes((n, 0, 1, 4, 0, 0, 0, 0))),
    "options": (_OPTIONS, lambda n: bytes((n, 0, 1, 4, 0, 0, 0, 0))),
    "routing": (_ROUTING, lambda n: bytes((n, 0, 4, 0, 0, 0, 0, 0))),
    "old routing": (_ROUTING, lambda n: bytes((n, 2, 0, 0, 0, 0, 0, 0)) + bytes(16)),
    "atomic fragment": (_FRAGMENT, lambda n: struct.pack(">BBHI", n, 0, 0, 78)),
    "first fragment": (_FRAGMENT, lambda n: struct.pack(">BBHI", n, 0, 1, 79)),
    "authentication": (_AUTH, lambda n: bytes((n, 4)) + bytes(22)),
    "jumbo": (_HOP, lambda n: bytes((n, 0, 0xC2, 4)) + struct.pack(">I", 70000)),
}


def packet6(
    source: str, to: str, following: int, payload: bytes, headers: Sequence[str] = ()
) -> bytes:
    """An IPv6 packet with extension headers before its payload."""
    for name in reversed(headers):
        number, build = HEADERS[name]
        payload, following = build(following) + payload, number
    return ipv6(source, to, following, payload)


def _mac(scene: Scene, name: str) -> str:
    """A MAC address by its name in the scene, or as it is."""
    names = {"own": scene.mac, "other": scene.other_mac, "gateway": scene.host_mac}
    return names.get(name, name)


def _address(scene: Scene, name: str) -> str:
    """An address by its name in the scene, or as it is."""
    names = {
        "own4": scene.ipv4,
        "other4": scene.other4,
        "gateway4": scene.gateway4,
        "own6": scene.ipv6,
        "own link": scene.link,
        "other6": scene.other6,
        "other link": scene.other_link,
        "gateway6": scene.gateway6,
        "gateway link": scene.gateway_link,
        "any link": ANY_LINK,
    }
    return names.get(name, name)


# Kinds of frames --------------------------------------------------------------------------------


def bootp(mac: str) -> bytes:
    """What a client of DHCP says, without options."""
    return b"\1\1\6" + bytes(25) + bytes.fromhex(mac.replace(":", "")) + bytes(202)


def udp_over_4(
    source: str = "own4",
    ports: tuple[int, int] = (7, 8),
    *,
    mac: str = "own",
    to4: str = "",
    options: bytes = b"",
    fragment: int = 0,
    more: bytes = b"",
    chaddr: str = "",
) -> Make:
    """A datagram over IPv4; with ``chaddr`` it is for a DHCP server, and of that MAC."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender, aim = _address(scene, source), _address(scene, to4) or to.ipv4
        asks = bootp(_mac(scene, chaddr)) if chaddr else b""
        body = udp(sender, aim, ports, asks + cookie + more)
        packet = packet4(sender, aim, UDP, body, options=options, fragment=fragment)
        return bare(_mac(scene, mac), to.mac, IP4, packet)

    return make


def over_4(
    source: str, protocol: int, body: bytes, *, to4: str = "", ttl: int = 64, fragment: int = 0
) -> Make:
    """An IPv4 packet of another protocol, its checksum (if any) at its third byte."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender, aim = _address(scene, source), to4 or to.ipv4
        content = body + cookie
        content = content[:2] + struct.pack(">H", checksum(content)) + content[4:]
        packet = packet4(sender, aim, protocol, content, ttl=ttl, fragment=fragment)
        return bare(scene.mac, to.mac, IP4, packet)

    return make


def odd_4(source: str, *, first: int = 0, length: int = 0, kind: int = IP4, cut: int = 0) -> Make:
    """An IPv4 packet whose header lies: about its version and size, its length, its ether type."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender = _address(scene, source)
        body = udp(sender, to.ipv4, (7, 8), cookie)
        packet = packet4(sender, to.ipv4, UDP, body, first=first, length=length)
        return bare(scene.mac, to.mac, kind, packet)[: cut or None]

    return make


def segments(source: str, *, tag: bytes = b"") -> Make:
    """Forty kilobytes of TCP that the kernel is to cut up; the cookie is in every piece."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender = _address(scene, source)
        body = struct.pack(">HHIIBBHHH", 7, 8, 1, 1, 0x50, 0x10, 9999, 0, 0) + cookie * 500
        return bare(scene.mac, to.mac, IP4, tag + packet4(sender, to.ipv4, TCP, body))

    return make


def asks(
    operation: int,
    sender: str,
    aim: str,
    *,
    mac: str = "own",
    kinds: tuple[int, int, int, int] = (1, IP4, 6, 4),
    before: bytes = b"",
    ether_type: int = ARP,
) -> Make:
    """ARP, or what goes in its shape; ``kinds`` are what it says that its addresses are."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        addresses = (_address(scene, sender), _address(scene, aim))
        body = arp(operation, _mac(scene, mac), *addresses)
        body = struct.pack(">HHBB", *kinds) + body[6:]
        return bare(scene.mac, to.mac, ether_type, before + body + bytes(10) + cookie)

    return make


def udp_over_6(
    source: str = "own6",
    ports: tuple[int, int] = (7, 8),
    headers: Sequence[str] = (),
    *,
    mac: str = "own",
    to_link: bool = False,
    body: bytes = b"",
) -> Make:
    """A datagram over IPv6; with ``to_link`` to the link-local address of a guest or the host."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender, aim = _address(scene, source), to.ipv6
        if to_link:
            aim = scene.other_link if to.mac == scene.other_mac else scene.gateway_link
        packet = packet6(sender, aim, UDP, udp(sender, aim, ports, body + cookie), headers)
        return bare(_mac(scene, mac), to.mac6, IP6, packet)

    return make


def over_6(source: str, protocol: int, body: bytes = bytes(8)) -> Make:
    """An IPv6 packet of another protocol."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        packet = ipv6(_address(scene, source), to.ipv6, protocol, body + cookie)
        return bare(scene.mac, to.mac6, IP6, packet)

    return make


def message(source: str, body: bytes, headers: Sequence[str] = (), *, to6: str = "") -> Make:
    """An ICMPv6 message, the cookie behind it."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender, aim = _address(scene, source), to6 or to.ipv6
        content = icmp6(sender, aim, body + cookie)
        return bare(scene.mac, to.mac6, IP6, packet6(sender, aim, ICMP6, content, headers))

    return make


def neighbour(
    kind: int,
    aim: str,
    headers: Sequence[str] = (),
    *,
    source: str = "own link",
    link: str = "",
    before: bytes = b"",
    cut: int = 0,
) -> Make:
    """A solicitation (135) or advertisement (136) of ``aim``.

    ``link`` is the link-layer address in its option, ``before`` what stands before that.
    """

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        flags = 0x20000000 if kind == 136 else 0
        body = struct.pack(">BBHI", kind, 0, 0, flags) + packed_ip(_address(scene, aim))
        if link:
            body += before + bytes((2 if kind == 136 else 1, 1)) + packed_mac(_mac(scene, link))
        body = (body + option(cookie))[: cut or None]
        sender = _address(scene, source)
        packet = packet6(sender, to.ipv6, ICMP6, icmp6(sender, to.ipv6, body), headers)
        return bare(scene.mac, to.mac6, IP6, packet)

    return make


def router(source: str, headers: Sequence[str] = ()) -> Make:
    """A router advertisement."""
    return message(source, struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), headers)


def solicits_router(link: str) -> Make:
    """A router solicitation with a link-layer address in its option, or without an option."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        body = bytes((133,)) + bytes(7)
        if link:
            body += bytes((1, 1)) + packed_mac(_mac(scene, link)) + option(cookie)
        content = icmp6(scene.link, to.ipv6, body)
        return bare(scene.mac, to.mac6, IP6, ipv6(scene.link, to.ipv6, ICMP6, content))

    return make


def redirect(source: str) -> Make:
    """A redirect: the world is behind the sender."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        sender = _address(scene, source)
        body = struct.pack(">BBHI", 137, 0, 0, 0) + packed_ip(scene.link) + packed_ip(WORLD6)
        content = icmp6(sender, to.ipv6, body + option(cookie))
        return bare(scene.mac, to.mac6, IP6, ipv6(sender, to.ipv6, ICMP6, content))

    return make


def hidden(chain: bytes, following: int = _FRAGMENT) -> Make:
    """A first fragment that ends before the upper header that its chain promises (RFC 7112)."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        packet = ipv6(scene.link, to.ipv6, following, chain + cookie.ljust(12, b"\0"))
        return bare(scene.mac, to.mac6, IP6, packet)

    return make


def later_fragment(protocol: int, data: bytes) -> Make:
    """A later fragment whose data look like a header.

    The kernel reads the transport header of such a packet at its first byte, where the flow label
    stands for the destination port (tried on Linux 6.18).
    """

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        head = struct.pack(">BBHI", protocol, 0, 8 << 3, 77) + data
        packet = ipv6(scene.ipv6, to.ipv6, _FRAGMENT, head + cookie)
        return bare(scene.mac, to.mac6, IP6, packet[:2] + struct.pack(">H", 546) + packet[4:])

    return make


def overlong(scene: Scene, to: To, cookie: bytes) -> bytes:
    """An IPv6 packet that says to be longer than its frame."""
    packet = ipv6(scene.link, to.ipv6, ICMP6, cookie)
    return bare(scene.mac, to.mac6, IP6, packet[:4] + b"\x04\0" + packet[6:])


def raw(kind: int, head: bytes = b"") -> Make:
    """A frame of another protocol."""
    return lambda scene, to, cookie: bare(scene.mac, to.mac, kind, head + cookie + bytes(30))


def tagged(kind: int, tags: bytes, inner: Make) -> Make:
    """What ``inner`` makes, behind tags: ``kind`` stands first, ``tags`` after it."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        frame = inner(scene, to, cookie)
        return frame[:12] + struct.pack(">H", kind) + tags + frame[12:]

    return make


def called(kind: int, inner: Make) -> Make:
    """What ``inner`` makes, under another ether type."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        frame = inner(scene, to, cookie)
        return frame[:12] + struct.pack(">H", kind) + frame[14:]

    return make


def llc(head: bytes, inner: Make | None = None, *, length: int | None = None) -> Make:
    """A frame of IEEE 802.3: a length, then LLC."""

    def make(scene: Scene, to: To, cookie: bytes) -> bytes:
        payload = head + (inner(scene, to, cookie)[14:] if inner else cookie + bytes(30))
        return bare(scene.mac, to.mac, len(payload) if length is None else length, payload)

    return make


def short(inner: Make, size: int) -> Make:
    """The first bytes of what ``inner`` makes."""
    return lambda scene, to, cookie: inner(scene, to, cookie)[:size]


# What must never arrive -------------------------------------------------------------------------

_SNAP_IP = bytes.fromhex("aaaa03000000") + struct.pack(">H", IP4)
_SNAP_ARP = bytes.fromhex("aaaa03000000") + struct.pack(">H", ARP)
_STP = bytes.fromhex("424203000000000000")
_NOP, _STAMP = bytes((1, 1, 1, 0)), bytes((68, 12, 5, 0)) + bytes(8)
_ROUTE = bytes((131, 7, 4)) + packed_ip("10.77.0.1") + b"\0"
_GROUP = "01:80:c2:00:00:0"

_SPOOFED_MAC = {
    "source MAC of nobody": Try(udp_over_4(mac=NOBODY_MAC), ROUTED),
    "source MAC of another guest": Try(udp_over_4(mac="other"), ROUTED),
    "source MAC of the gateway": Try(udp_over_4(mac="gateway"), ROUTED),
    "source MAC of nobody over IPv6": Try(udp_over_6(mac=NOBODY_MAC), ROUTED),
    "multicast source MAC": Try(udp_over_4(mac="01:00:5e:00:00:01"), ROUTED, unheard=True),
    "broadcast source MAC": Try(udp_over_4(mac=BROADCAST), ROUTED, unheard=True),
    "zero source MAC": Try(udp_over_4(mac="00:00:00:00:00:00"), ROUTED, unheard=True),
}

_SPOOFED_4 = {
    "IPv4 of nobody": Try(udp_over_4(NOBODY4), ROUTED),
    "IPv4 of another guest": Try(udp_over_4("other4"), ROUTED),
    "IPv4 of the gateway": Try(udp_over_4("gateway4"), ROUTED),
    "IPv4 of the world": Try(udp_over_4(WORLD4), ROUTED),
    "IPv4 of the host's loopback": Try(udp_over_4("127.0.0.1"), ROUTED),
    "IPv4 of link-local": Try(udp_over_4("169.254.7.7"), ROUTED),
    "IPv4 of a group": Try(udp_over_4("224.0.0.1"), ROUTED),
    "IPv4 of everybody": Try(udp_over_4("255.255.255.255"), ROUTED),
    "0.0.0.0 but no DHCP": Try(udp_over_4("0.0.0.0"), ROUTED),
    "0.0.0.0 to a DHCP server that is not everybody": Try(
        udp_over_4("0.0.0.0", (68, 67)), ("guest", "host", "world")
    ),
    "to the host's loopback": Try(udp_over_4(to4="127.0.0.1")),
    "to the host's loopback with options": Try(udp_over_4(to4="127.0.0.1", options=_NOP)),
    "IPv4 of another with no-operation options": Try(udp_over_4("other4", options=_NOP), ROUTED),
    "IPv4 of another with a timestamp": Try(udp_over_4("other4", options=_STAMP), ROUTED),
    "IPv4 of another with a source route": Try(udp_over_4("other4", options=_ROUTE), ROUTED),
    "first fragment of another": Try(udp_over_4("other4", fragment=0x2000), ROUTED, held=True),
    "later fragment of another": Try(udp_over_4("other4", fragment=0x0008), ROUTED, held=True),
    "IPv4 header that is too small": Try(odd_4("other4", first=0x44), ROUTED, held=True),
    "IPv4 header of no size": Try(odd_4("other4", first=0x40), ROUTED, held=True),
    "IPv4 header greater than its packet": Try(odd_4("other4", first=0x4F), ROUTED, held=True),
    "IPv4 that says it is IPv6": Try(odd_4("other4", first=0x65), ROUTED, held=True),
    "IPv4 called IPv6": Try(odd_4("own4", kind=IP6), ROUTED, held=True),
    "IPv4 longer than its frame": Try(odd_4("other4", length=900), ROUTED, held=True),
    "IPv4 shorter than its header": Try(odd_4("other4", length=8), ROUTED, held=True),
    "IPv4 of no length": Try(odd_4("other4", length=1), ROUTED, held=True),
    "ping of another": Try(over_4("other4", ICMP, struct.pack(">BBHHH", 8, 0, 0, 7, 7)), ROUTED),
    "ICMP redirect of the gateway": Try(
        over_4("gateway4", ICMP, struct.pack(">BBH4s", 5, 1, 0, packed_ip("10.77.0.3")))
    ),
    "IPv4 in IPv4 of another": Try(over_4("other4", 4, bytes(20)), ROUTED),
    "GRE of another": Try(over_4("other4", 47, bytes(4)), ROUTED),
    "IPv6 in IPv4 of another": Try(over_4("other4", 41, bytes(40)), ROUTED),
    "VXLAN of another": Try(udp_over_4("other4", (4789, 4789)), ROUTED),
    "IGMP query of the gateway": Try(
        over_4("gateway4", IGMP, struct.pack(">BBHI", 0x11, 100, 0, 0), to4="224.0.0.1", ttl=1)
    ),
    "IGMP query of nobody": Try(
        over_4("0.0.0.0", IGMP, struct.pack(">BBHI", 0x11, 100, 0, 0), to4="224.0.0.1", ttl=1)
    ),
    "IGMP query of its own": Try(
        over_4("own4", IGMP, struct.pack(">BBHI", 0x11, 100, 0, 0), to4="224.0.0.1", ttl=1)
    ),
    "IGMP query in a later fragment": Try(
        over_4("own4", IGMP, struct.pack(">BBHI", 0x11, 100, 0, 0), to4="224.0.0.1", fragment=1),
        held=True,
    ),
    "IGMP farewell of another": Try(
        over_4("other4", IGMP, struct.pack(">BBH4s", 0x17, 0, 0, packed_ip("239.7.7.7")), ttl=1)
    ),
    "multicast router advertisement of the gateway": Try(
        over_4("gateway4", IGMP, struct.pack(">BBHHH", 0x30, 20, 0, 20, 2), to4="224.0.0.106")
    ),
    "VRRP of the gateway": Try(over_4("gateway4", 112, bytes(8), to4="224.0.0.18"), NEAR),
    "OSPF of the gateway": Try(over_4("gateway4", 89, bytes(24), to4="224.0.0.5"), NEAR),
    "segments of another": Try(segments("other4"), ROUTED, gso=Gso(1, 1000)),
    "segments of another behind a tag": Try(
        tagged(VLAN, struct.pack(">H", 5), segments("own4")), NEAR, gso=Gso(1, 1000)
    ),
    "a jumbo packet of another": Try(udp_over_4("other4", more=bytes(8000)), ROUTED, held=True),
}

_DHCP_4 = {
    "DHCP for another guest": Try(udp_over_4("0.0.0.0", (68, 67), chaddr="other")),
    "DHCP for another guest, from its own address": Try(udp_over_4(ports=(68, 67), chaddr="other")),
    "DHCP without a client": Try(udp_over_4(ports=(68, 67), fragment=0x2000), held=True),
    "DHCP server": Try(udp_over_4(ports=(67, 68))),
    "DHCP server's port": Try(udp_over_4(ports=(67, 1068))),
    "DHCP client's port": Try(udp_over_4(ports=(1067, 68))),
    "DHCP relay": Try(udp_over_4(ports=(67, 67))),
    "DHCP server with options": Try(udp_over_4(ports=(67, 68), options=_NOP)),
    "DHCP server in fragments": Try(udp_over_4(ports=(67, 68), fragment=0x2000), held=True),
    "DHCP server as the gateway": Try(udp_over_4("gateway4", (67, 68))),
}

_ARP = {
    "ARP of other hardware": Try(asks(1, "own4", "other4", kinds=(6, IP4, 6, 4))),
    "ARP of another protocol": Try(asks(1, "own4", "other4", kinds=(1, IP6, 6, 4))),
    "ARP of longer hardware": Try(asks(1, "own4", "other4", kinds=(1, IP4, 8, 4))),
    "ARP of longer addresses": Try(asks(1, "own4", "other4", kinds=(1, IP4, 6, 16))),
    "ARP of no addresses": Try(asks(1, "own4", "other4", kinds=(1, IP4, 0, 0))),
    "ARP answer for the gateway": Try(asks(2, "gateway4", "other4")),
    "ARP answer for another": Try(asks(2, "other4", "gateway4")),
    "ARP answer for nobody": Try(asks(2, NOBODY4, "gateway4")),
    "ARP question as the gateway": Try(asks(1, "gateway4", "other4")),
    "ARP question as another": Try(asks(1, "other4", "gateway4")),
    "ARP announcement of another": Try(asks(1, "other4", "other4")),
    "ARP announcement of another, as an answer": Try(asks(2, "other4", "other4")),
    "ARP announcement of the gateway": Try(asks(1, "gateway4", "gateway4")),
    "ARP probe of another": Try(asks(1, "0.0.0.0", "other4")),
    "ARP probe of the gateway": Try(asks(1, "0.0.0.0", "gateway4")),
    "ARP answer from 0.0.0.0": Try(asks(2, "0.0.0.0", "own4")),
    "ARP from everybody": Try(asks(1, "255.255.255.255", "other4")),
    "ARP from a group": Try(asks(1, "224.0.0.1", "other4")),
    "ARP from loopback": Try(asks(2, "127.0.0.1", "other4")),
    "ARP with another MAC inside": Try(asks(2, "own4", "other4", mac="other")),
    "ARP with nobody's MAC inside": Try(asks(2, "own4", "other4", mac=NOBODY_MAC)),
    "ARP with everybody's MAC inside": Try(asks(2, "own4", "other4", mac=BROADCAST)),
    "ARP with no MAC inside": Try(asks(1, "own4", "other4", mac="00:00:00:00:00:00")),
    "ARP operation of RARP": Try(asks(3, "other4", "other4")),
    "ARP operation of inverse ARP": Try(asks(8, "other4", "other4")),
    "ARP operation that nobody knows": Try(asks(99, "other4", "other4")),
    "RARP question": Try(asks(3, "own4", "own4", ether_type=RARP)),
    "RARP answer": Try(asks(4, "other4", "other4", ether_type=RARP)),
    "ARP answer for another in SNAP": Try(llc(_SNAP_ARP, asks(2, "other4", "gateway4"))),
    "ARP answer for another behind a tag": Try(
        tagged(VLAN, bytes(2), asks(2, "other4", "gateway4"))
    ),
}

_SPOOFED_6 = {
    f"IPv6 of {who}": Try(udp_over_6(source), targets)
    for who, source, targets in (
        ("nobody", NOBODY6, ROUTED),
        ("another guest", "other6", ROUTED),
        ("another guest's link", "other link", NEAR),
        ("the gateway", "gateway6", ROUTED),
        ("the gateway's link", "gateway link", NEAR),
        ("the world", WORLD6, ROUTED),
        ("the unspecified", "::", ROUTED),
        ("loopback", "::1", ROUTED),
        ("a group", "ff02::1", ROUTED),
        ("another, IPv4 mapped", "::ffff:10.77.0.3", ROUTED),
        ("another, 6to4", "2002:a4d:3::1", ROUTED),
        ("site-local", "fec0::7", ROUTED),
        ("just outside of link-local", "fe7f::7", ROUTED),
    )
} | {
    f"IPv6 of another behind {header}": Try(
        udp_over_6("other6", headers=[header]), ROUTED, held="fragment" in header
    )
    for header in HEADERS
    if header != "jumbo"
} | {
    "IPv6 of another's link behind hop-by-hop": Try(udp_over_6("other link", headers=["hop-by-hop"])),
    "IPv6 of another's link behind an atomic fragment": Try(
        udp_over_6("other link", headers=["atomic fragment"])
    ),
    "IPv6 jumbo of another": Try(udp_over_6("other6", headers=["jumbo"]), ROUTED, held=True),
    "IPv4 in IPv6 of another": Try(over_6("other6", 4, bytes(20)), ROUTED),
    "GRE over IPv6 of another": Try(over_6("other6", 47), ROUTED),
    "SCTP over IPv6 of another": Try(over_6("other6", 132), ROUTED),
    "no next header of another": Try(over_6("other6", 59), ROUTED),
    "ping of another over IPv6": Try(message("other6", struct.pack(">BBHI", 128, 0, 0, 7)), ROUTED),
    "ping of another's link": Try(message("other link", struct.pack(">BBHI", 128, 0, 0, 7))),
    "ping from ::": Try(message("::", struct.pack(">BBHI", 128, 0, 0, 7) + packed_ip("fd77::2"))),
    "IPv6 called IPv4": Try(called(IP4, udp_over_6("other6")), ROUTED, held=True),
    "IPv6 longer than its frame": Try(overlong, held=True),
    "a first fragment that ends in options": Try(
        hidden(struct.pack(">BBHI", _OPTIONS, 0, 1, 77) + bytes((ICMP6, 2, 1, 20))), held=True
    ),
    "a first fragment that hides UDP": Try(
        hidden(struct.pack(">BBHI", _OPTIONS, 0, 1, 78) + bytes((UDP, 2, 1, 20))), held=True
    ),
    "options that run past the packet": Try(hidden(bytes((ICMP6, 40, 1, 4)), _OPTIONS), held=True),
}  # fmt: skip

_ND_HEADERS = (
    (),
    ("hop-by-hop",),
    ("options",),
    ("routing",),
    ("old routing",),
    ("atomic fragment",),
    ("authentication",),
    ("hop-by-hop", "options"),
    ("options", "options", "options", "options"),
    ("hop-by-hop", "routing", "options", "atomic fragment", "options"),
)


def _behind(headers: Sequence[str]) -> str:
    return f" behind {', '.join(headers)}" if headers else ""


_ND = (
    {f"advertisement of another{_behind(h)}": Try(neighbour(136, "other6", h)) for h in _ND_HEADERS}
    | {
        f"advertisement of the gateway{_behind(h)}": Try(neighbour(136, "gateway6", h))
        for h in _ND_HEADERS[:6]
    }
    | {
        f"router advertisement{_behind(h)}": Try(
            router("own link", h), held=h == ("first fragment",)
        )
        for h in (*_ND_HEADERS, ("first fragment",))
    }
    | {
        "advertisement of another's link": Try(neighbour(136, "other link")),
        "advertisement of another's link behind hop-by-hop": Try(
            neighbour(136, "other link", ["hop-by-hop"])
        ),
        "advertisement of the gateway's link": Try(neighbour(136, "gateway link")),
        "advertisement of nobody": Try(neighbour(136, NOBODY6)),
        "advertisement of its lease as another": Try(neighbour(136, "own6", source="other6")),
        "advertisement of its lease as another's link": Try(
            neighbour(136, "own6", source="other link")
        ),
        "advertisement of its lease from ::": Try(neighbour(136, "own6", source="::")),
        "advertisement that ends early": Try(neighbour(136, "other6", cut=16), held=True),
        "advertisement with another's MAC": Try(neighbour(136, "own6", link="other")),
        "advertisement with nobody's MAC": Try(neighbour(136, "own6", link=NOBODY_MAC)),
        "advertisement with the gateway's MAC": Try(neighbour(136, "own link", link="gateway")),
        "advertisement with another's MAC behind an option": Try(
            neighbour(136, "own6", link="other", before=bytes((200, 1)) + bytes(6))
        ),
        "solicitation as another": Try(neighbour(135, "gateway6", source="other6")),
        "solicitation as another's link": Try(neighbour(135, "gateway6", source="other link")),
        "solicitation as the gateway": Try(neighbour(135, "other6", source="gateway6")),
        "solicitation as the gateway's link": Try(neighbour(135, "other6", source="gateway link")),
        "solicitation with another's MAC": Try(
            neighbour(135, "gateway6", source="own6", link="other")
        ),
        "solicitation with another's MAC behind an answer's": Try(
            neighbour(
                135,
                "gateway6",
                source="own6",
                link="other",
                before=bytes((2, 1)) + packed_mac(NOBODY_MAC),
            )
        ),
        "router solicitation with another's MAC": Try(solicits_router("other")),
        "solicitation with nobody's MAC": Try(
            neighbour(135, "gateway6", source="own link", link=NOBODY_MAC)
        ),
        "duplicate detection of another": Try(neighbour(135, "other6", source="::")),
        "duplicate detection of another's link": Try(neighbour(135, "other link", source="::")),
        "duplicate detection of another's link behind options": Try(
            neighbour(135, "other link", ["options"], source="::")
        ),
        "duplicate detection of the gateway": Try(neighbour(135, "gateway6", source="::")),
        "duplicate detection of the gateway's link": Try(
            neighbour(135, "gateway link", source="::")
        ),
        "duplicate detection of nobody": Try(neighbour(135, NOBODY6, source="::")),
        "router advertisement of the gateway": Try(router("gateway link")),
        "router advertisement of another": Try(router("other link")),
        "redirect of the gateway": Try(redirect("gateway link")),
        "redirect of another": Try(redirect("other link")),
        "router solicitation of another": Try(message("other link", bytes((133,)) + bytes(7))),
        "MLD query of the gateway": Try(
            message("gateway link", struct.pack(">BBHHH", 130, 0, 0, 100, 0) + bytes(16))
        ),
        "MLD query of another": Try(
            message("other link", struct.pack(">BBHHH", 130, 0, 0, 100, 0) + bytes(16))
        ),
        "MLD query from ::": Try(
            message("::", struct.pack(">BBHHH", 130, 0, 0, 100, 0) + bytes(16))
        ),
        **{
            f"MLD query of its own{_behind(h)}": Try(
                message("own link", struct.pack(">BBHHH", 130, 0, 0, 100, 0) + bytes(16), h)
            )
            for h in _ND_HEADERS
        },
        "MLD report of another": Try(
            message("other link", struct.pack(">BBHHH", 143, 0, 0, 0, 1) + bytes(20))
        ),
        "multicast router advertisement of the gateway over IPv6": Try(
            message("gateway link", struct.pack(">BBHHH", 151, 20, 0, 20, 2), to6="ff02::6a")
        ),
    }
)

# The type comes first (RFC 8415, sections 7.3, 8 and 9): what is random there is a relay's at times.
_SOLICIT, _RELAY_FORW = b"\x01", b"\x0c"

_DHCP_6 = {
    f"DHCPv6 server{_behind(h)}": Try(
        udp_over_6("own link", (547, 546), h), held=h == ("first fragment",)
    )
    for h in ((), ("hop-by-hop",), ("options",), ("atomic fragment",), ("first fragment",))
} | {
    "DHCPv6 server's port": Try(udp_over_6("any link", (547, 1546))),
    "DHCPv6 client's port": Try(udp_over_6("any link", (1547, 546))),
    "DHCPv6 relay": Try(udp_over_6("own link", (547, 547))),
    "DHCPv6 relay, from a client's port": Try(udp_over_6("any link", (546, 547), body=_RELAY_FORW)),
    "DHCPv6 server as the gateway": Try(udp_over_6("gateway link", (547, 546))),
}

_OTHER = {
    "tag of VLAN 0": Try(tagged(VLAN, bytes(2), udp_over_4())),
    "tag of VLAN 10": Try(tagged(VLAN, struct.pack(">H", 10), udp_over_4())),
    "tag of VLAN 10 over IPv6": Try(tagged(VLAN, struct.pack(">H", 10), udp_over_6())),
    "tag of VLAN 4095": Try(tagged(VLAN, b"\x0f\xff", udp_over_4())),
    "tag in a tag": Try(tagged(VLAN, struct.pack(">HHH", 10, VLAN, 11), udp_over_4())),
    "provider's tag": Try(tagged(QINQ, struct.pack(">H", 10), udp_over_4())),
    "provider's tag and a tag": Try(tagged(QINQ, struct.pack(">HHH", 10, VLAN, 11), udp_over_4())),
    "priority tag and a tag": Try(tagged(VLAN, struct.pack(">HHH", 0, VLAN, 11), udp_over_4())),
    "tag and nothing behind it": Try(short(tagged(VLAN, bytes(2), udp_over_4()), 18), unheard=True),
    "IPv4 of another in SNAP": Try(llc(_SNAP_IP, udp_over_4("other4"))),
    "IPv4 in SNAP": Try(llc(_SNAP_IP, udp_over_4())),
    "IPX in LLC": Try(llc(bytes.fromhex("ffff"))),
    "NetBIOS in LLC": Try(llc(bytes.fromhex("f0f003"))),
    "a length of 40": Try(raw(40)),
    "a length of 0": Try(raw(0)),
    "a length greater than its frame": Try(raw(1500)),
    "neither length nor type": Try(raw(0x05FF)),
    "spanning tree": Try(llc(_STP), group=_GROUP + "0"),
    "spanning tree that lies about its length": Try(llc(_STP, length=1400), group=_GROUP + "0"),
    "provider's spanning tree": Try(llc(_STP), group=_GROUP + "8"),
    "Cisco's spanning tree": Try(
        llc(bytes.fromhex("aaaa0300000c010b")), group="01:00:0c:cc:cc:cd"
    ),
    "CDP": Try(llc(bytes.fromhex("aaaa0300000c2000")), group="01:00:0c:cc:cc:cc"),
    "EDP": Try(llc(bytes.fromhex("aaaa0300e02b00bb")), group="00:e0:2b:00:00:00"),
    "pause": Try(raw(0x8808, bytes((0, 1, 255, 255))), group=_GROUP + "1"),
    "LACP": Try(raw(0x8809, bytes((1, 1))), group=_GROUP + "2"),
    "EAPOL": Try(raw(0x888E, bytes((1, 1, 0, 0))), group=_GROUP + "3"),
    "EAPOL to everybody": Try(raw(0x888E, bytes((1, 1, 0, 0)))),
    "MVRP": Try(raw(0x88F5), group="01:80:c2:00:00:21"),
    "LLDP": Try(raw(0x88CC, bytes((2, 7, 4))), group=_GROUP + "e"),
    "LLDP to everybody": Try(raw(0x88CC, bytes((2, 7, 4)))),
    "ECP": Try(raw(0x8940), group=_GROUP + "0"),
    "PTP": Try(raw(0x88F7, bytes((0, 2))), group="01:1b:19:00:00:00"),
    "PTP to its link": Try(raw(0x88F7, bytes((2, 2))), group=_GROUP + "e"),
    "PROFINET": Try(raw(0x8892, b"\xfe\xfe"), group="01:0e:cf:00:00:00"),
    "EtherCAT": Try(raw(0x88A4)),
    "MACsec": Try(raw(0x88E5)),
    "PPPoE discovery": Try(raw(0x8863, bytes((0x11, 9, 0, 0)))),
    "PPPoE session with IPv4": Try(
        tagged(0x8864, bytes((0x11, 0, 0, 1, 0, 60, 0, 0x21)), udp_over_4("other4"))
    ),
    "MPLS": Try(tagged(0x8847, struct.pack(">I", 16 << 12 | 0x1FF), udp_over_4("other4"))),
    "MPLS to many": Try(tagged(0x8848, struct.pack(">I", 16 << 12 | 0x1FF), udp_over_4())),
    "AppleTalk": Try(raw(0x809B)),
    "IPX": Try(raw(0x8137)),
    "wake on LAN": Try(raw(0x0842, b"\xff" * 6)),
    "ATA over Ethernet": Try(raw(0x88A2)),
    "FCoE": Try(raw(0x8906)),
    "RoCE": Try(raw(0x8915)),
    "TRILL": Try(raw(0x22F3)),
    "B.A.T.M.A.N.": Try(raw(0x4305)),
    "HSR": Try(raw(0x892F)),
    "NSH": Try(raw(0x894F)),
    "loop test": Try(raw(0x9000)),
    "a type that nobody has": Try(raw(0xFFFF)),
}  # fmt: skip

_SHORT = {
    f"{what} of {size} bytes": Try(short(inner, size), held=True)
    for what, inner in (
        ("IPv4 of another", udp_over_4("other4")),
        ("ARP of another", asks(2, "other4", "gateway4")),
        ("IPv6 of another", udp_over_6("other6")),
        ("advertisement of another", neighbour(136, "other6")),
        ("nothing known", raw(0x9999)),
    )
    for size in (14, 15, 20, 27, 33, 37, 53, 59)
}

FORGED: dict[str, Try] = {
    **_SPOOFED_MAC,
    **_SPOOFED_4,
    **_DHCP_4,
    **_ARP,
    **_SPOOFED_6,
    **_ND,
    **_DHCP_6,
    **_OTHER,
    **_SHORT,
}

# What rules alone can tell, who know other guests' addresses; and a length, which no receiver takes.
BY_RULES = frozenset(
    {name for name in FORGED if "another's link" in name or "another guest's link" in name}
    | {"redirect of another", "router solicitation of another", "MLD query of another"}
    | {"MLD report of another", "router advertisement of another", "IPv6 longer than its frame"}
)

# What must arrive -------------------------------------------------------------------------------

_TO_GUEST = {"guest": frozenset({"guest"})}
_TO_HOST = {"host": frozenset({"host"})}
_TO_ALL = {"everybody": frozenset({"guest", "host"})}
_EVERYWHERE = {**_TO_GUEST, **_TO_HOST, **_TO_ALL}
_BEYOND = {**_EVERYWHERE, "world": frozenset({"host", "world"})}


def _good(make: Make, where: Mapping[str, frozenset[str]] = _EVERYWHERE, **more: object) -> Try:
    return Try(make, tuple(where), arrives=where, **more)  # type: ignore[arg-type]


HONEST: dict[str, Try] = {
    "IPv4": _good(udp_over_4(), _BEYOND),
    "IPv4 with options": _good(udp_over_4(options=_NOP)),
    "IPv4, a jumbo packet": _good(udp_over_4(more=bytes(1400))),
    "IPv4 in segments": _good(segments("own4"), {**_TO_GUEST, **_TO_HOST}, gso=Gso(1, 1000)),
    "GRE": _good(over_4("own4", 47, bytes(4))),
    "VXLAN": _good(udp_over_4(ports=(4789, 4789))),
    "IPv6 in IPv4": _good(over_4("own4", 41, bytes(40))),
    "IGMP report": _good(over_4("own4", IGMP, struct.pack(">BBHI", 0x16, 0, 0, 0xEF070707), ttl=1)),
    "DHCP discovery": _good(udp_over_4("0.0.0.0", (68, 67), chaddr="own"), _TO_ALL),
    "DHCP renewal": _good(udp_over_4(ports=(68, 67), chaddr="own")),
    "ARP question": _good(asks(1, "own4", "other4")),
    "ARP answer": _good(asks(2, "own4", "other4")),
    "ARP announcement": _good(asks(1, "own4", "own4")),
    "ARP announcement, as an answer": _good(asks(2, "own4", "own4")),
    "ARP probe": _good(asks(1, "0.0.0.0", "own4")),
    "IPv6": _good(udp_over_6(), _BEYOND),
    "IPv6 of its link": _good(udp_over_6("own link")),
    "IPv6 from link to link": _good(
        udp_over_6("own link", to_link=True), {**_TO_GUEST, **_TO_HOST}
    ),
    "IPv6 of a random link": _good(udp_over_6("any link")),
    "IPv6 behind options": _good(udp_over_6(headers=["options"])),
    "IPv4 in IPv6": _good(over_6("own6", 4, bytes(20))),
    "DHCPv6 client": _good(udp_over_6("any link", (546, 547), body=_SOLICIT)),
    "solicitation": _good(neighbour(135, "other6", source="own6", link="own")),
    "solicitation of its link": _good(neighbour(135, "gateway6", link="own")),
    "advertisement": _good(neighbour(136, "own6", source="own6", link="own")),
    "advertisement of its link": _good(neighbour(136, "own link", link="own")),
    "advertisement of a random link": _good(neighbour(136, "any link", source="any link", link="own")),
    "duplicate detection": _good(neighbour(135, "own6", source="::")),
    "duplicate detection of its link": _good(neighbour(135, "own link", source="::")),
    "duplicate detection of a random link": _good(neighbour(135, "any link", source="::")),
    "redirect of its own": _good(redirect("own link")),
    "multicast report from ::": _good(
        message("::", struct.pack(">BBHHH", 143, 0, 0, 0, 1) + bytes((4, 0, 0, 0)) + bytes(16))
    ),
    "multicast report, first version": _good(
        message("::", struct.pack(">BBHI", 131, 0, 0, 0) + packed_ip("ff02::1:ff00:2"))
    ),
    "multicast farewell": _good(
        message("::", struct.pack(">BBHI", 132, 0, 0, 0) + packed_ip("ff02::1:ff00:2"))
    ),
    "router solicitation": _good(solicits_router("own")),
    "router solicitation without its MAC": _good(solicits_router("")),
    "later fragment": _good(
        later_fragment(UDP, struct.pack(">HHHH", 547, 546, 0, 0)), held=True
    ),
    "later fragment of ICMPv6": _good(later_fragment(ICMP6, bytes((134, 0, 0, 0))), held=True),
}  # fmt: skip
