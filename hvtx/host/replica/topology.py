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
from typing import NamedTuple, Protocol, TypeVar

from hvtx.host.links import Links
from hvtx.host.netlink import (
    Channel,
    attribute,
    attribute_map,
    attributes,
    legible,
    u32,
)
from hvtx.host.retry import persistently

_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 26, 32, 33, 34
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_MAC, _NAME, _MASTER, _INFO, _GROUP, _EXT_MASK = 1, 3, 10, 18, 27, 29
_XDP, _XDP_ATTACHED = 43, 2
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_SKIP_STATS, _UP = 8, 0x1
_ETHER, _LOOPBACK = 1, 772
_LONGEST_NAME = 15

# What decides about frames: IFLA_BR_GROUP_FWD_MASK, MCAST_SNOOPING, NF_CALL_*.
_OF_BRIDGE, _BOOL_OPTIONS = frozenset({9, 23, 36, 37, 38}), 46
# The same of a port, IFLA_BRPORT_*: hairpin, guard, protect, learning, what is flooded, proxies for
# ARP, neighbour suppression, isolation, being locked.
_OF_PORT = frozenset({4, 5, 6, 8, 9, 10, 12, 27, 30, 32, 33, 39})
_ADDRESS_KEPT = frozenset({1, 2, 3, 4, 9})  # ADDRESS, LOCAL, LABEL, BROADCAST, RT_PRIORITY
_ADDRESS_FLAGS, _NODAD, _NO_PREFIX_ROUTE, _DAD_FAILED = 8, 0x02, 0x200, 0x08
_DST, _OIF, _GATEWAY, _MULTIPATH, _TABLE, _VIA = 1, 4, 5, 9, 15, 18
_ROUTE_DROPPED = frozenset({12, 23, 30})  # CACHEINFO, EXPIRES, NH_ID (its hops are told, too)
_ONLINK, _CLONED = 0x4, 0x200
_RULE_INVERTED = 0x2
MOST_STANDING_IN, MOST_ROUTES, PORTS_EACH = 300, 20_000, 2

SETTINGS4 = ("forwarding", "rp_filter", "accept_local", "route_localnet", "src_valid_mark",
             "bc_forwarding", "arp_ignore", "arp_announce", "proxy_arp")  # fmt: skip
SETTINGS6 = ("disable_ipv6", "forwarding", "force_forwarding", "proxy_ndp")
SETTINGS = (
    "ipv4/icmp_echo_ignore_all", "ipv4/fwmark_reflect", "ipv4/fib_multipath_hash_policy",
    "ipv4/ip_nonlocal_bind", "ipv6/icmp/echo_ignore_all", "ipv6/fwmark_reflect",
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


class Topology(NamedTuple):
    """Everything but rules that decides where packets of the host go."""

    devices: Sequence[Device]
    addresses: Sequence[bytes]
    routes: Sequence[bytes]
    rules: Sequence[bytes]
    settings: Mapping[str, str]  # path below /proc/sys/net to its value


# ---------------------------------------------------------------- reading


def read(ports: Collection[str]) -> Topology:
    """The topology of the calling thread's namespace.

    ``ports`` are devices that must be there. Raises
    OSError, DumpInterrupted.
    """
    channel = Channel(0)

    def every(kind: int, body: bytes) -> list[bytes]:
        return persistently(lambda: channel.dump(kind, body), attempts=60, seconds=5.0)

    try:
        devices = _devices(channel, ports)
        addresses = every(_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0))
        routes, rules = [], []
        for family in (socket.AF_INET, socket.AF_INET6):
            routes += every(_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
            with suppress(OSError):  # a kernel without policy routing, or IPv6
                rules += every(_GETRULE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    finally:
        channel.close()
    if len(routes) > MOST_ROUTES:
        raise OSError(errno.E2BIG, f"the host has {len(routes)} routes")
    return Topology(devices, addresses, routes, rules, _settings(devices))


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
            found.append(device_of(persistently(partial(channel.get, _GETLINK, asked))))
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


_GETQDISC, _GETFILTER, _TCMSG = 38, 46, struct.Struct("=BxxxiIII")
_INGRESS_QDISC = 0xFFFF0000  # of ingress and clsact
_SIDES = (0xFFFFFFF2, 0xFFFFFFF3)  # of clsact; those of ingress are listed by the first, too
_OWN_FILTER = (0x6876, 0x68767478)  # priority and handle of hvtx's own (hvtx.host.links)


def not_carried(devices: Iterable[Device]) -> list[str]:
    """What of these devices decides about frames and is no part of a replica, in words.

    Of the calling thread's namespace. Raises OSError, DumpInterrupted.
    """
    by_index = {device.ifindex: device.name for device in devices}
    found = [f"device {device.name} has an XDP program" for device in devices if device.xdp]
    channel = Channel(0)
    try:
        for body in channel.dump(_GETQDISC, _TCMSG.pack(0, 0, 0, 0, 0)):
            _, ifindex, handle, _, _ = _TCMSG.unpack_from(body)
            if handle == _INGRESS_QDISC and ifindex in by_index and _filtered(channel, ifindex):
                found.append(f"device {by_index[ifindex]} has filters of traffic control (tc)")
    finally:
        channel.close()
    return found


def _filtered(channel: Channel, ifindex: int) -> bool:
    """Whether a device has filters of others than hvtx."""
    for side in _SIDES:
        for body in channel.dump(_GETFILTER, _TCMSG.pack(0, ifindex, 0, side, 0)):
            _, _, handle, _, info = _TCMSG.unpack_from(body)
            if info >> 16 != _OWN_FILTER[0] or handle not in (0, _OWN_FILTER[1]):
                return True
    return False


@legible
def route_of(body: bytes, there: Collection[int]) -> bytes | None:
    """A route as it is made again; None for one of a device that is not there. Pure."""
    head = list(_RTMSG.unpack_from(body))
    fields = attribute_map(body, _RTMSG.size)
    if head[8] & _CLONED:
        return None
    if _OIF in fields and int.from_bytes(fields[_OIF], "little") not in there:
        return None
    head[8] &= _ONLINK
    return _RTMSG.pack(*head) + kept(body[_RTMSG.size :], fields.keys() - _ROUTE_DROPPED)


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


# ---------------------------------------------------------------- what is thought up, pure

_UNIVERSE, _LINK_SCOPE, _MAIN, _BOOT, _UNICAST = 0, 253, 254, 3, 1


def thought_up(
    ifindex: int, name: str, mac: bytes, *, kind: str = "tun", master: int = 0
) -> Device:
    """A device that the host does not have: a bridge, or one with a far end."""
    return Device(ifindex, name, kind, True, mac, True, master, 0, b"", b"", b"")


def address(cidr: str, ifindex: int) -> bytes:
    """An address of the host that it does not have."""
    import ipaddress

    found = ipaddress.ip_interface(cidr)
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    scope = _LINK_SCOPE if found.is_link_local else _UNIVERSE
    head = _IFADDR.pack(family, found.network.prefixlen, 0, scope, ifindex)
    return head + attribute(1, found.packed) + attribute(2, found.packed)


def route(cidr: str, ifindex: int, gateway: str = "") -> bytes:
    """A route in the main table that the host does not have."""
    import ipaddress

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
