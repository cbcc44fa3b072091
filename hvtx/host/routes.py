"""Route lookups of this host, and its policy rules and routes."""

from __future__ import annotations

import _socket as socket
import errno
import struct
from collections.abc import Collection

from hvtx.host.inet import socket_family
from hvtx.host.netlink import Channel, attribute, attribute_map, legible, u32
from hvtx.host.retry import retry_transient, whole_dump
from hvtx.model.routing import LOCAL, Answer, Packet, Route, Rule
from hvtx.model.typed import Any

_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_LOOKUP_TABLE = 0x1000  # RTM_F_LOOKUP_TABLE: the table is told too
# include/uapi/linux/rtnetlink.h
_DST, _SRC, _IIF, _OIF, _GATEWAY, _TABLE, _PROTOCOL, _DPORT = 1, 2, 3, 4, 5, 15, 27, 29
_KINDS = {
    1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole",
    7: "unreachable", 8: "prohibit", 9: "throw",
}  # fmt: skip
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_LOCAL_KIND = 2
_INVERT = 0x2  # FIB_RULE_INVERT
# what a lookup answers where a route or rule says that there is no way, or where there is none
_NO_WAY = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.EXDEV}
)
_ROOM = 2  # bits: the subnet's own address, the host's, a neighbour's, and that of all
_DEAD = 1  # RTNH_F_DEAD
_LOOPBACK4, _LOOPBACK6 = 127, bytes(15) + b"\1"


@legible
def ask(channel: Channel, packet: Packet) -> Answer:
    """Where the kernel sends one packet: by its rules and routes, with its real source and device.

    Raises OSError, Garbled.
    """
    family = socket_family(packet.destination)
    to = socket.inet_pton(family, packet.destination)
    parts = [attribute(_DST, to)]
    source = 0
    if packet.source is not None:
        source = len(to) * 8
        parts.append(attribute(_SRC, socket.inet_pton(family, packet.source)))
    for kind, index in ((_IIF, packet.iif), (_OIF, packet.oif)):
        if index:
            parts.append(u32(kind, index))
    if packet.protocol:
        parts.append(attribute(_PROTOCOL, bytes((packet.protocol,))))
    if packet.dport:
        parts.append(attribute(_DPORT, packet.dport.to_bytes(2, "big")))
    flags = 0 if family == socket.AF_INET6 else _LOOKUP_TABLE  # IPv6 tells it, and knows no flag
    head = _RTMSG.pack(family, len(to) * 8, source, 0, 0, 0, 0, 0, flags)
    body = head + b"".join(parts)
    try:
        answer = retry_transient(lambda: channel.get(_GETROUTE, body))
    except OSError as problem:
        asked_wrong = problem.errno == errno.EINVAL and ": " in str(problem.strerror)
        if problem.errno in _NO_WAY and not asked_wrong:
            return Answer(0, 0, False, problem.errno or 0)
        raise
    return _answer(answer)


def _answer(body: bytes) -> Answer:
    fields = _RTMSG.unpack_from(body)
    told = attribute_map(body, _RTMSG.size)
    gateway = told.get(_GATEWAY)
    return Answer(
        device=int.from_bytes(told.get(_OIF, b""), "little"),
        table=int.from_bytes(told.get(_TABLE, b""), "little") or fields[4],
        local=fields[7] == _LOCAL_KIND,
        gateway=_address(gateway) if gateway else None,
    )


def _address(packed: bytes) -> str:
    sizes = {4: socket.AF_INET, 16: socket.AF_INET6}
    return socket.inet_ntop(sizes[len(packed)], packed)


@legible
def local(channel: Channel, family: int) -> list[tuple[int, bytes]]:
    """The addresses of a family (4, 6) that the host answers for: the device, and the address.

    They are those of its table ``local``, in which guests' devices have none: who asks for
    addresses is told them link by link, of all links. Those that only one link or the host itself
    knows are left out. Raises OSError, DumpInterrupted, Garbled.
    """
    body = _RTMSG.pack(_af(family), 0, 0, 0, LOCAL, 0, 0, _LOCAL_KIND, 0)
    found = []
    for data in whole_dump(channel, _GETROUTE, body):
        fields = _RTMSG.unpack_from(data)
        # a kernel before 4.20 knows no filter, and tells of every route
        if (fields[4], fields[7]) == (LOCAL, _LOCAL_KIND):
            told = attribute_map(data, _RTMSG.size)
            if _is_shared(told.get(_DST, b"")):
                found.append((int.from_bytes(told.get(_OIF, b""), "little"), told[_DST]))
    return found


class LocalTable:
    """The same, asked for once a family: what one look says, for several who need it."""

    def __init__(self, channel: Channel) -> None:
        """Ask nothing yet."""
        self._channel = channel
        self._told: dict[int, list[tuple[int, bytes]]] = {}

    def of(self, family: int) -> list[tuple[int, bytes]]:
        """As :func:`local`."""
        if family not in self._told:
            self._told[family] = local(self._channel, family)
        return self._told[family]


def _is_shared(packed: bytes) -> bool:
    """Whether others than one link, or the host itself, may know an address."""
    if len(packed) == 4:
        return packed[0] != _LOOPBACK4
    return len(packed) == 16 and packed[:2] != b"\xfe\x80" and packed != _LOOPBACK6


def beyond(address: str, world: str, taken: Collection[bytes] = ()) -> str:
    """A neighbour in the subnet of an address of the host (``address/length``).

    ``taken`` are the host's own addresses: what says that it comes from one of them is dropped as
    martian. ``world`` where the subnet has no room for a neighbour. (Every start asks: without
    ipaddress, 2 ms.)
    """
    plain, _, length = address.partition("/")
    family = socket_family(plain)
    packed = socket.inet_pton(family, plain)
    own, free = int.from_bytes(packed, "big"), len(packed) * 8 - int(length)
    if free < _ROOM:
        return world
    base = own >> free << free
    # of more candidates than the host has addresses one is nobody's of the host's
    for place in range(1, min((1 << free) - 1, len(taken) + 3)):
        near = (base + place).to_bytes(len(packed), "big")
        if near != packed and near not in taken:
            return socket.inet_ntop(family, near)
    return world


# -- all of them -----------------------------------------------------------------------------------


def routes(family: int) -> list[Route]:
    """Every route of a family (4, 6), of every table."""
    from pyroute2 import IPRoute

    with IPRoute() as host:
        return [_route(entry, family) for entry in host.get_routes(family=_af(family))]


def rules(family: int) -> list[Rule]:
    """Every policy rule of a family (4, 6)."""
    from pyroute2 import IPRoute

    with IPRoute() as host:
        return [_rule(entry) for entry in host.get_rules(family=_af(family))]


def _af(family: int) -> int:
    return socket.AF_INET6 if family == 6 else socket.AF_INET


def _route(entry: Any, family: int) -> Route:
    anywhere = "::" if family == 6 else "0.0.0.0"  # noqa: S104 - not bound to
    prefix = f"{entry.get_attr('RTA_DST') or anywhere}/{entry['dst_len']}"
    hops = [hop for hop in entry.get_attr("RTA_MULTIPATH") or () if not hop["flags"] & _DEAD]
    return Route(
        prefix,
        entry.get_attr("RTA_OIF") or 0,
        entry.get_attr("RTA_TABLE") or entry["table"],
        _KINDS.get(entry["type"], str(entry["type"])),
        entry.get_attr("RTA_PRIORITY") or 0,
        tuple(hop["oif"] for hop in hops),
        f"{entry.get_attr('RTA_SRC')}/{entry['src_len']}" if entry["src_len"] else None,
    )


def _rule(entry: Any) -> Rule:
    def ends(name: str) -> tuple[int, int] | None:
        given = entry.get_attr(name)
        if not given:
            return None
        if isinstance(given, str):  # pyroute2 has ports as "443:443"
            first, _, last = given.partition(":")
            return int(first), int(last or first)
        return given["start"], given["end"]

    def prefix(name: str, length: str) -> str | None:
        address = entry.get_attr(name)
        return f"{address}/{entry[length]}" if address else None

    suppress = entry.get_attr("FRA_SUPPRESS_PREFIXLEN")
    mark = entry.get_attr("FRA_FWMARK") or 0
    mask = entry.get_attr("FRA_FWMASK")
    return Rule(
        pref=entry.get_attr("FRA_PRIORITY") or 0,
        action=_ACTIONS.get(entry["action"], str(entry["action"])),
        table=entry.get_attr("FRA_TABLE") or entry["table"],
        target=entry.get_attr("FRA_GOTO") or 0,
        source=prefix("FRA_SRC", "src_len"),
        destination=prefix("FRA_DST", "dst_len"),
        iif=entry.get_attr("FRA_IIFNAME"),
        oif=entry.get_attr("FRA_OIFNAME"),
        mark=mark,
        mask=(0xFFFFFFFF if mark else 0) if mask is None else mask,
        users=ends("FRA_UID_RANGE"),
        protocol=entry.get_attr("FRA_IP_PROTO") or 0,
        sports=ends("FRA_SPORT_RANGE"),
        dports=ends("FRA_DPORT_RANGE"),
        tos=entry["tos"],
        l3mdev=bool(entry.get_attr("FRA_L3MDEV")),
        inverted=bool(entry["flags"] & _INVERT),
        suppress=-1 if suppress is None or suppress == 0xFFFFFFFF else suppress,
    )


_NOBODYS = ("fe80:", "ff")


def all_routes() -> list[Route]:
    """The routes of every table but the local one, and the addresses' own prefixes.

    Default routes and link-locals are left out: they are in nobody's way.
    """
    from pyroute2 import IPRoute

    found = []
    for family in (4, 6):
        for route in routes(family):
            if route.table != LOCAL and not route.prefix.startswith(_NOBODYS):
                found += [route] if not route.prefix.endswith("/0") else []
    with IPRoute() as host:
        for entry in host.get_addr():
            address = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            if address and not str(address).startswith("fe80:"):
                prefix = f"{address}/{entry['prefixlen']}"
                found.append(Route(prefix, entry["index"], LOCAL, "local"))
    return found
