"""By what a flow was stopped: the trace, a legacy table's counters, a setting, a route."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from hvtx.host.netlink import Channel, attribute, attribute_map, legible, u32
from hvtx.host.replica import topology
from hvtx.host.replica.legacy import Line
from hvtx.host.replica.trace import Step, culprit
from hvtx.host.xtables import TOOLS

if TYPE_CHECKING:
    from hvtx.host.replica.scratch import Owner, Scratch

_GETROUTE, _RTMSG = 26, struct.Struct("=BBBBBBBBI")
_DST, _SRC, _IIF, _OIF, _TABLE = 1, 2, 3, 4, 15
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


UNKNOWN = Cause("unknown", (), "no rule, route or setting was seen to stop it")


class Leg(NamedTuple):
    """A way that packets of a flow have to take: from where, to whom, and out by which device.

    ``into`` is the device that they come in by; empty for the host's own. ``out`` is empty where
    they end at the host, or may leave by any device. ``forwarded``: from one device to another.
    """

    into: str
    source: bytes
    target: bytes
    out: str
    forwarded: bool = False


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
        if (found := _of_route(scratch, leg)) is not None:
            return found
    return None


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
        answer = scratch.route.get(_GETROUTE, asked(leg, indexes.get(leg.into, 0)))
    except OSError as problem:
        to = _shown(leg.target)
        if problem.errno == errno.EXDEV or (problem.errno == errno.EINVAL and _strict(leg)):
            path = f"ipv4/conf/{leg.into}/rp_filter"
            words = f"{_shown(leg.source)} is not expected at {leg.into} (rp_filter)"
            return _setting(path, topology.setting(path) or "?")._replace(what=words)
        return Cause("route", (), f"route to {to}: {problem.strerror}")
    return elsewhere(leg, answer, {index: name for name, index in indexes.items()})


def _strict(leg: Leg) -> bool:
    """Whether rp_filter refuses a sender: EXDEV to a lookup, or EINVAL, as the kernel is."""
    values = [topology.setting(f"ipv4/conf/{name}/rp_filter") for name in ("all", leg.into)]
    return bool(leg.into) and len(leg.target) == 4 and max(v or "0" for v in values) == "1"


@legible
def leads_to(channel: Channel, leg: Leg) -> int:
    """The index of the device that the kernel leads to; 0 for none. Raises OSError."""
    answer = channel.get(_GETROUTE, asked(leg, 0))
    return int.from_bytes(attribute_map(answer, _RTMSG.size).get(_OIF, b""), "little")


def asked(leg: Leg, into: int) -> bytes:
    """The question which route a packet takes. Pure."""
    family = socket.AF_INET if len(leg.target) == 4 else socket.AF_INET6
    size = len(leg.target) * 8
    flags = _FIB_MATCH if family == socket.AF_INET6 else _FIB_MATCH | _LOOKUP_TABLE
    body = _RTMSG.pack(family, size, size if leg.source else 0, 0, 0, 0, 0, 0, flags)
    body += attribute(_DST, leg.target)
    if leg.source:
        body += attribute(_SRC, leg.source)
    return body + (u32(_IIF, into) if into else b"")


@legible
def elsewhere(leg: Leg, answer: bytes, names: Mapping[int, str]) -> Cause | None:
    """What is wrong with an answer for a leg; ``names`` of devices by index. Garbled. Pure."""
    head = _RTMSG.unpack_from(answer)
    fields = attribute_map(answer, _RTMSG.size)
    out = int.from_bytes(fields.get(_OIF, b""), "little")
    table = str(int.from_bytes(fields.get(_TABLE, b""), "little") or head[4])
    name = names.get(out, f"index {out}" if out else "no device")
    if leg.out and name != leg.out:
        words = f"route {_prefix(fields, head[1])} dev {name} table {table}"
        return Cause("route", (table,), f"{words} leads to {name} and not to {leg.out}")
    return None


def _prefix(fields: dict[int, bytes], length: int) -> str:
    if _DST not in fields or not length:
        return "default"
    return f"{_shown(fields[_DST])}/{length}"


def _shown(address: bytes) -> str:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address)
