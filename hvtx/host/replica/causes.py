"""The cause that stopped a flow: the trace, a legacy table's counters, a setting, a route."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress

from hvtx.host.netlink import Channel, attribute, attribute_map, legible, u32
from hvtx.host.replica import topology
from hvtx.host.replica.legacy import Line
from hvtx.host.replica.trace import Step, culprit
from hvtx.host.xtnames import TOOLS
from hvtx.model.routing import Packet
from hvtx.model.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hvtx.host.replica.scratch import Owner, Scratch

_GETROUTE, _RTMSG = 26, struct.Struct("=BBBBBBBBI")
_DST, _SRC, _IIF, _OIF, _TABLE, _MARK, _IP_PROTO, _SPORT, _DPORT = 1, 2, 3, 4, 15, 16, 27, 28, 29
_LOCAL = 2
_GATEWAY, _VIA, _FWMARK = 5, 18, 10
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000


class Suspect(NamedTuple):
    """A rule of others that a flow met; its handle in the copy, or its text in a legacy table."""

    place: tuple[str, str, str]
    handle: int
    text: str = ""


class Cause(NamedTuple):
    """Fields of :class:`hvtx.model.traffic.Stop`, and the handle of a rule in the copy.

    ``suspects`` are rules that the flow met, where none of them was seen to stop it.
    """

    by: str
    place: tuple[str, ...]
    what: str
    handle: int = 0
    suspects: tuple[Suspect, ...] = ()
    packets: tuple[Packet, ...] = ()  # of the flow, as routes and policies see them


UNKNOWN = Cause("unknown", (), "no rule, route or setting was seen to stop it")


class Leg(NamedTuple):
    """A way that packets of a flow have to take: from where, to whom, and out by which device.

    ``into`` is the device that they come in by; empty for the host's own. ``out`` is empty where
    they end at the host, or may leave by any device. ``forwarded``: from one device to another.
    Ports are those of the packet on that way; 0 is any.
    """

    into: str
    source: bytes
    target: bytes
    out: str
    forwarded: bool = False
    protocol: int = 0
    sport: int = 0
    dport: int = 0
    mark: int = 0


def packets_of(scratch: Scratch, legs: Iterable[Leg]) -> tuple[Packet, ...]:
    """What of the legs routes and policies are asked for."""
    known = {device.name: device.ifindex for device in scratch.picture.topology.devices}
    return tuple(
        Packet(
            topology.shown(leg.target), topology.shown(leg.source) if leg.source else None,
            known.get(leg.into, 0), leg.into or "lo", 0,
            leg.protocol, leg.dport, leg.sport, leg.mark,
        )
        for leg in legs
    )  # fmt: skip


def of_trace(steps: Iterable[Step], *, ours: bool = False) -> Cause | None:
    """What the trace says of others' tables, or of ``ours``. Pure."""
    found = culprit(steps, ours=ours)
    if found is None:
        return None
    place = (found.family, found.table, found.chain)
    if found.queued:
        words = "a rule hands packets to a program (queue), which was not asked"
        return Cause("unknown", place, words, found.handle)
    return Cause("nft", place, "policy drop" if not found.handle else "", found.handle)


def of_line(family: int, line: Line) -> Cause:
    """A line of a legacy table. Pure."""
    place = (f"{TOOLS[family]}-legacy", line.table, line.chain)
    if "QUEUE" in line.text:
        return Cause("unknown", place, f"{line.text} hands packets to a program")
    return Cause("legacy", place, line.text)


def of_doubt(family: int, line: Line, why: str) -> Cause:
    """A line of a legacy table of which it is not known what it does. Pure."""
    place = (f"{TOOLS[family]}-legacy", line.table, line.chain)
    return Cause("unknown", place, f"{line.text}: {why}")


def of_ends(scratch: Scratch, owners: Iterable[Owner]) -> Cause | None:
    """What is down of guests' devices and of their bridges."""
    known = {device.ifindex: device.name for device in scratch.picture.topology.devices}
    for owner in owners:
        device = scratch.picture.device(owner.device)
        names = (owner.device, known.get(device.master, "") if device is not None else "")
        for name in filter(None, names):
            if (found := _of_device(scratch, 4, name)) is not None:
                return found
    return None


def of_legs(scratch: Scratch, family: int, legs: Iterable[Leg]) -> Cause | None:
    """What settings and routes say of the ways that packets have to take."""
    for leg in legs:
        for device in filter(None, (leg.into, leg.out)):
            if (found := _of_device(scratch, family, device)) is not None:
                return found
        if leg.forwarded and (found := _forwards(family, leg)) is not None:
            return found
        if (found := _of_route(scratch, leg) or _of_neighbour(scratch, leg)) is not None:
            return found
    return None


def of_marks(scratch: Scratch, legs: Iterable[Leg]) -> Cause | None:
    """What stops packets on these ways once somebody's rules have marked them."""
    wanted = list(legs)
    for mark in marks(scratch.picture.topology.rules):
        for leg in wanted:
            found = _of_route(scratch, leg._replace(mark=mark))
            if found is not None and found.by == "route":
                return found._replace(what=f"with the mark {mark:#x}: {found.what}")
    return None


@legible
def marks(rules: Iterable[bytes]) -> list[int]:
    """The marks that policy rules speak of. Raises Garbled. Pure."""
    found = (attribute_map(body, _RTMSG.size).get(_FWMARK, b"") for body in rules)
    return [mark for value in found if (mark := int.from_bytes(value, "little"))]


def of_silence(scratch: Scratch, family: int, leg: Leg) -> Cause | None:
    """Why nobody tells a guest the MAC address of its gateway: ``leg`` is its way there.

    The kernel asks routes before it answers (net/ipv4/arp.c, arp_process).
    """
    if (found := _of_device(scratch, family, leg.into) or _of_route(scratch, leg)) is not None:
        return found
    device = scratch.picture.device(leg.into)
    if device is not None and not device.arp:
        return Cause("setting", (leg.into,), f"device {leg.into} answers no ARP (NOARP)")
    for name in ("all", leg.into) if family == 4 else ():
        for what in ("arp_ignore", "arp_filter"):
            path = f"ipv4/conf/{name}/{what}"
            if (value := topology.setting(path)) not in (None, "0"):
                return _setting(path, value or "")
    return None


def _of_neighbour(scratch: Scratch, leg: Leg) -> Cause | None:
    """Whether an entry that somebody made leads a leg's packets past a guest."""
    owner, device = scratch.owner_of(leg.target), scratch.picture.device(leg.out)
    if owner is None or device is None:
        return None
    for body in scratch.picture.topology.neighbours:
        index, address, mac = neighbour(body)
        if (index, address) == (device.ifindex, leg.target) and mac and mac != owner.mac:
            words = f"{topology.shown(address)} at {mac.hex(':')} on {leg.out}"
            return Cause(
                "neighbour", (topology.shown(address), leg.out), f"the neighbour entry {words}"
            )
    return None


@legible
def neighbour(body: bytes) -> tuple[int, bytes, bytes]:
    """The device's index, the address and the MAC address of an entry. Raises Garbled. Pure."""
    fields = attribute_map(body, _RTMSG.size)
    return int.from_bytes(body[4:8], "little"), fields.get(1, b""), fields.get(2, b"")


def _of_device(scratch: Scratch, family: int, name: str) -> Cause | None:
    device = scratch.picture.device(name)
    if device is None or not device.up:
        return Cause("setting", (name,), f"device {name} is down")
    path = f"ipv6/conf/{name}/disable_ipv6"
    if family == 6 and topology.setting(path) == "1":
        return _setting(path, "1")
    return None


def _forwards(family: int, leg: Leg) -> Cause | None:
    """Whether what comes in by a device is forwarded at all; where some are, one by one."""
    into = leg.into
    if family == 6:
        forced = topology.setting(f"ipv6/conf/{into}/force_forwarding")
        if topology.setting("ipv6/conf/all/forwarding") != "0" or forced not in (None, "0"):
            return None
        one_by_one = any(topology.setting(f"ipv6/conf/{name}/force_forwarding") == "1"
                         for name in (leg.into, leg.out) if name)  # fmt: skip
        return _setting(f"ipv6/conf/{leg.into if one_by_one else 'all'}/"
                        f"{'force_' * one_by_one}forwarding", "0")  # fmt: skip
    if topology.setting("ipv4/ip_forward") == "0" and (
        topology.setting(f"ipv4/conf/{into}/forwarding") == "0"
    ):
        return _setting("ipv4/ip_forward", "0")
    if topology.setting(f"ipv4/conf/{into}/forwarding") == "0":
        return _setting(f"ipv4/conf/{into}/forwarding", "0")
    return None


def _setting(path: str, value: str) -> Cause:
    # a device's name may have dots, which sysctl then wants the other way about
    name = f"net/{path}" if "." in path else "net." + path.replace("/", ".")
    return Cause("setting", (name,), f"{name} = {value}")


def _of_route(scratch: Scratch, leg: Leg) -> Cause | None:
    """Whether the kernel leads a leg's packets where they belong."""
    indexes = {device.name: device.ifindex for device in scratch.picture.topology.devices}
    if leg.into and leg.into not in indexes:
        return None
    try:
        answer = scratch.route.get(_GETROUTE, route_request(leg, indexes.get(leg.into, 0)))
    except OSError as problem:
        to = topology.shown(leg.target)
        if problem.errno == errno.EXDEV or (problem.errno == errno.EINVAL and _strict(leg)):
            path = f"ipv4/conf/{leg.into}/rp_filter"
            words = f"{topology.shown(leg.source)} is not expected at {leg.into} (rp_filter)"
            return _setting(path, topology.setting(path) or "?")._replace(what=words)
        found = Cause("route", (), f"route to {to}: {problem.strerror}")
        return found._replace(packets=packets_of(scratch, (leg,)))
    astray = elsewhere(leg, answer, {index: name for name, index in indexes.items()})
    return None if astray is None else astray._replace(packets=packets_of(scratch, (leg,)))


def _strict(leg: Leg) -> bool:
    """Whether rp_filter refuses a sender: EXDEV to a lookup, or EINVAL, as the kernel is."""
    values = [topology.setting(f"ipv4/conf/{name}/rp_filter") for name in ("all", leg.into)]
    return bool(leg.into) and len(leg.target) == 4 and max(v or "0" for v in values) == "1"


class Way(NamedTuple):
    """Where the kernel leads: the device's index, 0 for none, and the gateway's address."""

    device: int
    gateway: bytes
    target: bytes = b""


MOST_PATHS = 48  # addresses that are asked for to find each path of a route once


def paths(channel: Channel, leg: Leg, into: int = 0) -> dict[int, Way]:
    """The ways to addresses next to a leg's target, by device; that has the target as well.

    Of a route with several next hops the sender and the addressee choose one.
    """
    found: dict[int, Way] = {}
    number = int.from_bytes(leg.target, "big")
    for more in range(MOST_PATHS):
        target = (number + more).to_bytes(len(leg.target), "big")
        with suppress(OSError):
            way = leads(channel, leg._replace(target=target), into)
            found.setdefault(way.device, way._replace(target=target))
    return found


@legible
def leads(channel: Channel, leg: Leg, into: int = 0) -> Way:
    """Where the kernel leads a leg; ``into`` is the index of its device. Raises OSError."""
    answer = channel.get(_GETROUTE, route_request(leg, into, whole=False))
    found = attribute_map(answer, _RTMSG.size)
    gateway = found.get(_GATEWAY) or found.get(_VIA, b"")[2:]
    return Way(int.from_bytes(found.get(_OIF, b""), "little"), gateway)


def route_request(leg: Leg, into: int, *, whole: bool = True) -> bytes:
    """The RTM_GETROUTE body that asks for a packet's route; ``whole``: with all its paths. Pure."""
    family = socket.AF_INET if len(leg.target) == 4 else socket.AF_INET6
    size = len(leg.target) * 8
    flags = _FIB_MATCH * whole | _LOOKUP_TABLE * (family == socket.AF_INET)
    body = _RTMSG.pack(family, size, size if leg.source else 0, 0, 0, 0, 0, 0, flags)
    body += attribute(_DST, leg.target)
    if leg.source:
        body += attribute(_SRC, leg.source)
    if leg.protocol:
        body += attribute(_IP_PROTO, bytes((leg.protocol,)))
    for kind, port in ((_SPORT, leg.sport), (_DPORT, leg.dport)):
        if port and leg.protocol in (6, 17):
            body += attribute(kind, port.to_bytes(2, "big"))
    if leg.mark:
        body += u32(_MARK, leg.mark)
    return body + (u32(_IIF, into) if into else b"")


@legible
def elsewhere(leg: Leg, answer: bytes, names: Mapping[int, str]) -> Cause | None:
    """What is wrong with an answer for a leg; ``names`` of devices by index. Garbled. Pure."""
    head = _RTMSG.unpack_from(answer)
    fields = attribute_map(answer, _RTMSG.size)
    out = int.from_bytes(fields.get(_OIF, b""), "little")
    table = str(int.from_bytes(fields.get(_TABLE, b""), "little") or head[4])
    name = names.get(out, f"index {out}" if out else "no device")
    if leg.into and not leg.out and not leg.forwarded and head[7] != _LOCAL:
        words = f"route {_prefix(fields, head[1])} dev {name} table {table}"
        return Cause("route", (table,), f"{words} leads away from this host")
    if leg.out and name != leg.out:
        words = f"route {_prefix(fields, head[1])} dev {name} table {table}"
        return Cause("route", (table,), f"{words} leads to {name} and not to {leg.out}")
    return None


def _prefix(fields: dict[int, bytes], length: int) -> str:
    if _DST not in fields or not length:
        return "default"
    return f"{topology.shown(fields[_DST])}/{length}"
