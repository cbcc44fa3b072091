"""Links, addresses, routes, policy rules and settings: read of one namespace, made in another.

Bridges stay bridges. Every other device becomes a TAP (or, where it carries packets and no frames,
a TUN) of the same name, index, MAC address and group, whose descriptor is the far end: what leaves
by it is read there. Of a bridge's many ports two stand for all. Layouts:
include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from hvtx.host.links import Links
from hvtx.host.netlink import (
    Channel,
    Garbled,
    attribute,
    attribute_map,
    attributes,
    legible,
    u32,
)
from hvtx.host.retry import retry_transient
from hvtx.model.typed import NamedTuple, Protocol, TypeVar

_GETLINK, _GETADDR = 18, 22
_GETROUTE, _GETRULE, _GETNEIGH, _GETNEXTHOP = 26, 34, 30, 106
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_MAC, _NAME, _MASTER, _INFO, _GROUP, _EXT_MASK = 1, 3, 10, 18, 27, 29
_XDP, _XDP_ATTACHED = 43, 2
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_LINK_SCOPE = 253
_SKIP_STATS, _UP, _RUNNING, _NOARP = 8, 0x1, 0x40, 0x80
_ETHER, _LOOPBACK = 1, 772
_LONGEST_NAME = 15

# What decides about frames: IFLA_BR_GROUP_FWD_MASK, MCAST_SNOOPING, NF_CALL_*.
_OF_BRIDGE, _BOOL_OPTIONS = frozenset({9, 23, 36, 37, 38}), 46
# The same of a port, IFLA_BRPORT_*: hairpin, guard, protect, learning, what is flooded, proxies for
# ARP, neighbour suppression, isolation, being locked.
_OF_PORT = frozenset({4, 5, 6, 8, 9, 10, 12, 27, 30, 32, 33, 39})
_ADDRESS_KEPT = frozenset({1, 2, 3, 4, 9})  # ADDRESS, LOCAL, LABEL, BROADCAST, RT_PRIORITY
_ADDRESS_FLAGS, _NODAD, _NO_PREFIX_ROUTE, _DAD_FAILED = 8, 0x02, 0x200, 0x08
_DST, _OIF, _GATEWAY, _MULTIPATH, _TABLE, _VIA, _ENCAP_TYPE, _ENCAP = 1, 4, 5, 9, 15, 18, 21, 22
_NH_ID, _NH_GROUP = 30, 2
_ROUTE_DROPPED = frozenset({12, 23})  # CACHEINFO, EXPIRES
# What the kernel tells of the nexthop of a route that has it by its number only.
_OF_NEXTHOP = frozenset({_OIF, _GATEWAY, _MULTIPATH, _VIA, _ENCAP_TYPE, _ENCAP})
_HOP = struct.Struct("=HBBi")
_NDMSG, _FAILED, _PERMANENT, _PROXY = struct.Struct("=BxxxiHBB"), 0x20, 0x80, 0x08
_INCOMPLETE, _PROBES = 0x01, 4
_UNICAST_KIND, _LOCAL_KIND, _LOCAL = 1, 2, 255
_ONLINK, _CLONED = 0x4, 0x200
_RULE_INVERTED = 0x2
MOST_STANDING_IN, MOST_ROUTES, PORTS_EACH = 300, 20_000, 2

SETTINGS4 = ("forwarding", "rp_filter", "accept_local", "route_localnet", "src_valid_mark",
             "bc_forwarding", "arp_ignore", "arp_announce", "arp_filter", "proxy_arp",
             "proxy_arp_pvlan", "medium_id", "drop_unicast_in_l2_multicast", "disable_xfrm",
             "disable_policy")  # fmt: skip
SETTINGS6 = ("disable_ipv6", "forwarding", "force_forwarding", "proxy_ndp",
             "drop_unicast_in_l2_multicast", "disable_policy")  # fmt: skip
SETTINGS = (
    "ipv4/icmp_echo_ignore_all", "ipv4/fwmark_reflect", "ipv4/tcp_l3mdev_accept",
    "ipv4/udp_l3mdev_accept", "ipv4/raw_l3mdev_accept", "ipv4/ip_nonlocal_bind",
    "ipv6/icmp/echo_ignore_all", "ipv6/fwmark_reflect",
    "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables",
    "bridge/bridge-nf-call-arptables", "bridge/bridge-nf-filter-vlan-tagged",
    "bridge/bridge-nf-filter-pppoe-tagged", "bridge/bridge-nf-pass-vlan-input-dev",
    "netfilter/nf_conntrack_tcp_loose", "netfilter/nf_conntrack_tcp_be_liberal",
)  # fmt: skip


class Device(NamedTuple):
    """A link of the host, as far as it decides about packets."""

    ifindex: int
    name: str
    kind: str  # "" for hardware
    ether: bool
    mac: bytes
    up: bool
    master: int
    group: int
    bridge: bytes  # the attributes of _OF_BRIDGE
    port: bytes  # the attributes of _OF_PORT
    data: bytes  # IFLA_INFO_DATA
    xdp: bool = False  # a program of XDP is attached
    carrier: bool = True
    arp: bool = True


class Topology(NamedTuple):
    """Everything but rules that decides where packets of the host go."""

    devices: Sequence[Device]
    addresses: Sequence[bytes]
    routes: Sequence[bytes]
    rules: Sequence[bytes]
    settings: Mapping[str, str]  # path below /proc/sys/net to its value
    nexthops: Sequence[bytes] = ()
    neighbours: Sequence[bytes] = ()  # is_entered, or has_failed
    invented: frozenset[int] = frozenset()  # devices that the host does not have


# ---------------------------------------------------------------- reading


def read(ports: Collection[str]) -> Topology:
    """The topology of the calling thread's namespace.

    ``ports`` are devices that must be there. Raises
    OSError, DumpInterrupted.
    """
    channel = Channel(0)

    def every(kind: int, body: bytes) -> list[bytes]:
        return retry_transient(lambda: channel.dump(kind, body), attempts=60, seconds=5.0)

    try:
        devices = _devices(channel, ports)
        addresses = every(_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0))
        routes, rules = [], []
        for family in (socket.AF_INET, socket.AF_INET6):
            routes += every(_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
            with suppress(OSError):  # a kernel without policy routing, or IPv6
                rules += every(_GETRULE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        nexthops: list[bytes] = []
        with suppress(OSError):  # a kernel before 5.3
            nexthops = every(_GETNEXTHOP, bytes(8))
        neighbours = every(_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0))
        neighbours += every(_GETNEIGH, _NDMSG.pack(0, 0, 0, _PROXY, 0))
    finally:
        channel.close()
    if len(routes) > MOST_ROUTES:
        raise OSError(errno.E2BIG, f"the host has {len(routes)} routes")
    told = [body for body in neighbours if is_entered(body) or has_failed(body)]
    return Topology(devices, addresses, routes, rules, _settings(devices), nexthops, told)


@legible
def is_entered(body: bytes) -> bool:
    """Whether a neighbour's entry is no find of the kernel's own: it stays whoever answers. Pure.

    Only those of IPv4 and IPv6: entries of a bridge's ports are no neighbours.
    """
    family, _, state, flags, kind = _NDMSG.unpack_from(body)
    known = family in (socket.AF_INET, socket.AF_INET6) and kind in (0, _UNICAST_KIND)
    return known and bool(state & _PERMANENT or flags & _PROXY)


def _devices(channel: Channel, ports: Collection[str]) -> list[Device]:
    """The devices that are needed: of thousands only these are looked at closely."""
    links = Links()
    try:
        wanted = chosen(links.all(), ports)
    finally:
        links.close()
    found = []
    for link in wanted:
        asked = _IFINFO.pack(0, 0, link.ifindex, 0, 0) + u32(_EXT_MASK, _SKIP_STATS)
        with suppress(OSError):  # it went meanwhile
            found.append(device_of(retry_transient(partial(channel.get, _GETLINK, asked))))
    return found


@legible
def device_of(body: bytes) -> Device:
    """A link from the body of its message. Raises Garbled. Pure."""
    _, kind, ifindex, flags, _ = _IFINFO.unpack_from(body)
    fields = attribute_map(body, _IFINFO.size)
    info = attribute_map(fields.get(_INFO, b""))
    data, slave = info.get(_DATA, b""), info.get(_SLAVE_DATA, b"")
    what = info.get(_KIND, b"").rstrip(b"\0").decode()
    is_port = info.get(_SLAVE_KIND, b"").rstrip(b"\0") == b"bridge"
    return Device(
        ifindex,
        fields[_NAME].rstrip(b"\0").decode(errors="surrogateescape"),
        "loopback" if kind == _LOOPBACK else what,
        kind == _ETHER,
        fields.get(_MAC, b""),
        bool(flags & _UP),
        int.from_bytes(fields.get(_MASTER, b""), "little"),
        int.from_bytes(fields.get(_GROUP, b""), "little"),
        kept(data, _OF_BRIDGE) + _options(data) if what == "bridge" else b"",
        kept(slave, _OF_PORT) if is_port else b"",
        data,
        attribute_map(fields.get(_XDP, b"")).get(_XDP_ATTACHED, b"\0") != b"\0",
        bool(flags & _RUNNING),
        not flags & _NOARP,
    )


def kept(data: bytes, kinds: Collection[int]) -> bytes:
    """The attributes of some kinds. Raises Garbled."""
    return b"".join(
        attribute(kind, data[a:b]) for kind, a, b in attributes(data, 0, len(data)) if kind in kinds
    )


def _options(bridge: bytes) -> bytes:
    """The options of a bridge that are on: a kernel refuses what it does not know of the others."""
    raw = attribute_map(bridge).get(_BOOL_OPTIONS, b"")
    on = int.from_bytes(raw[:4], "little")
    return attribute(_BOOL_OPTIONS, struct.pack("=II", on, on)) if on else b""


class Linked(Protocol):
    """What is known of a link at first sight."""

    @property
    def ifindex(self) -> int: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def master(self) -> int: ...  # noqa: D102


L = TypeVar("L", bound=Linked)


def chosen(devices: Iterable[L], ports: Collection[str]) -> list[L]:
    """The devices that the scratch needs: of a bridge's ports two that are VMs' or containers'.

    ``ports`` are always there. Raises OSError where there are too many others. Pure.
    """
    every = list(devices)
    bridges = {device.ifindex for device in every if device.kind == "bridge"}
    kept, taken = [], dict.fromkeys(bridges, 0)
    for device in sorted(every, key=lambda d: d.name not in ports):
        if device.master in bridges and device.kind in ("tun", "veth"):
            taken[device.master] += 1
            if device.name not in ports and taken[device.master] > PORTS_EACH:
                continue
        kept.append(device)
    if len(kept) > MOST_STANDING_IN:
        raise OSError(errno.E2BIG, f"the host has {len(every)} network devices")
    return sorted(kept, key=lambda d: (d.kind != "bridge", d.ifindex))


def _settings(devices: Iterable[Device]) -> dict[str, str]:
    """The settings that decide, of the calling thread's namespace."""
    names = ["all", "default", *(device.name for device in devices)]
    paths = [f"ipv4/conf/{name}/{what}" for name in names for what in SETTINGS4]
    paths += [f"ipv6/conf/{name}/{what}" for name in names for what in SETTINGS6]
    found = {}
    for path in (*SETTINGS, *paths):
        if (value := setting(path)) is not None:
            found[path] = value
    return found


def setting(path: str) -> str | None:
    """A setting below /proc/sys/net of this thread's namespace; None where there is none."""
    try:
        descriptor = os.open(f"/proc/sys/net/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 64).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)


@legible
def has_failed(body: bytes) -> bool:
    """Whether the kernel asked for a neighbour in vain, or does so again. Raises Garbled. Pure."""
    state = _NDMSG.unpack_from(body)[2]
    asked = attribute_map(body, _NDMSG.size).get(_PROBES, b"")
    again = state & _INCOMPLETE and int.from_bytes(asked, "little") > 1
    return bool(state & _FAILED or again)


def shown(address: bytes) -> str:
    """An address as a person writes it. Pure."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)


@legible
def route_of(body: bytes, there: Collection[int]) -> bytes | None:
    """A route as it is made again; None for one of a device that is not there. Pure."""
    head = list(_RTMSG.unpack_from(body))
    fields = attribute_map(body, _RTMSG.size)
    if head[8] & _CLONED:
        return None
    dropped = _ROUTE_DROPPED
    if _NH_ID in fields:  # of a nexthop it says only which
        dropped |= _OF_NEXTHOP
        if head[7] != _UNICAST_KIND:
            head[7] = _UNICAST_KIND  # the nexthop is the black hole
    elif _OIF in fields and int.from_bytes(fields[_OIF], "little") not in there:
        return None
    head[8] &= _ONLINK
    data = kept(body[_RTMSG.size :], fields.keys() - dropped - {_MULTIPATH})
    if _MULTIPATH in fields and _NH_ID not in fields:
        data += attribute(_MULTIPATH, hops_of(fields[_MULTIPATH], there))
    return _RTMSG.pack(*head) + data


def hops_of(data: bytes, there: Collection[int]) -> bytes:
    """The hops of a route by devices that are there; the carrier of each is its own. Pure.

    Raises Garbled, struct.error.
    """
    found, at = b"", 0
    while at < len(data):
        size, flags, weight, device = _HOP.unpack_from(data, at)
        if not _HOP.size <= size <= len(data) - at:
            raise Garbled("a next hop does not fit in its route")
        if device in there:
            inside = data[at + _HOP.size : at + size]
            head = _HOP.pack(_HOP.size + len(inside), flags & _ONLINK, weight, device)
            found += head + inside + b"\0" * (-len(inside) & 3)
        at += (size + 3) & ~3
    return found


@legible
def route_key(body: bytes) -> tuple[object, ...]:
    """By what a route is known again: family, prefix, table, kind and device. Pure."""
    head = _RTMSG.unpack_from(body)
    fields = attribute_map(body, _RTMSG.size)
    table = int.from_bytes(fields.get(_TABLE, b""), "little") or head[4]
    to = fields.get(_DST, b"")
    device = b"" if _NH_ID in fields else fields.get(_OIF, b"")
    kind = 0 if _NH_ID in fields else head[7]
    return head[0], head[1], to, table, kind, device


@legible
def has_paths(topology: Topology) -> bool:
    """Whether some route has several next hops. Raises Garbled. Pure."""
    of_routes = (attribute_map(body, _RTMSG.size) for body in topology.routes)
    groups = any(_NH_GROUP in attribute_map(body, 8) for body in topology.nexthops)
    return groups or any(_MULTIPATH in fields for fields in of_routes)


@legible
def local_key(address: bytes) -> tuple[object, ...]:
    """The key of the route that makes an address the host's own. Pure."""
    ifindex, own, _, _ = address_of(address)
    return address[0], len(own) * 8, own, _LOCAL, _LOCAL_KIND, ifindex.to_bytes(4, "little")


@legible
def to_gateway(body: bytes) -> bytes | None:
    """A route by which a route's gateway is a neighbour, as it was when that was made. Pure."""
    head = list(_RTMSG.unpack_from(body))
    fields = attribute_map(body, _RTMSG.size)
    gateway = fields.get(_GATEWAY)
    if gateway is None or _OIF not in fields:
        return None
    head[1:3], head[6], head[8] = [len(gateway) * 8, 0], _LINK_SCOPE, 0
    table = kept(body[_RTMSG.size :], {_OIF, _TABLE})
    return _RTMSG.pack(*head) + attribute(_DST, gateway) + table


@legible
def route_words(body: bytes) -> str:
    """A route's prefix and table. Pure."""
    family, length, *_ = _RTMSG.unpack_from(body)
    fields = attribute_map(body, _RTMSG.size)
    table = int.from_bytes(fields.get(_TABLE, b""), "little") or body[4]
    if _DST not in fields:
        return f"default in table {table}"
    return f"{socket.inet_ntop(family, fields[_DST])}/{length} in table {table}"


@legible
def address_of(body: bytes) -> tuple[int, bytes, int, bool]:
    """The device's index, the address, its prefix length, and whether it is good anywhere. Pure."""
    _, length, _, scope, ifindex = _IFADDR.unpack_from(body)
    fields = attribute_map(body, _IFADDR.size)
    return ifindex, fields.get(2) or fields[1], length, scope == 0
