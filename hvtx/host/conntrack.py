"""Ending flows: what connection tracking still knows of an address or a host port is removed.

Rules decide about new connections only; a flow that is on record goes on by its record, to whoever
has the address by then. So flows end with the VM, after its rules are gone.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c
(CTA_FILTER is there since Linux 5.8; older kernels ignore it and list everything, so what comes is
always matched again here). For IPv6 addresses the kernel's filter is the wrong way round (tried on
6.18: it lists exactly the flows that do not match), so IPv6 flows are listed whole.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host.netlink import (
    NESTED,
    Channel,
    attribute,
    attribute_map,
    attributes,
    legible,
    nested,
    u32,
)
from hvtx.host.retry import persistently
from hvtx.model.vm import Publish

_NETFILTER, _ROUTE = 12, 0
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, _DELETE
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_IP, _PROTO = 1, 2  # CTA_TUPLE_*
_SOURCE = {socket.AF_INET: 1, socket.AF_INET6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; DST is next
_NUMBER, _TO_PORT = 1, 3  # CTA_PROTO_NUM, CTA_PROTO_DST_PORT
_BY_SOURCE, _BY_DESTINATION = 1, 2  # CTA_FILTER_F_CTA_IP_SRC, _DST
_FEW = 2048  # flows; so many are read about as fast as the kernel searches its table four times
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_GET_ADDRESS, _ADDRESS, _LOCAL = 22, 1, 2  # RTM_GETADDR, IFA_ADDRESS, IFA_LOCAL
_PROTOCOLS = {"tcp": 6, "udp": 17}
_PASSES = 4


class Flow(NamedTuple):
    """A flow: its ends in both directions as packed addresses, and what names it exactly."""

    family: int
    source: bytes
    destination: bytes
    reply_source: bytes
    reply_destination: bytes
    protocol: int
    port: int  # destination port of the original direction, 0 if it has none
    name: bytes  # CTA_TUPLE_ORIG, CTA_ZONE and CTA_ID as they came


def flush(addresses: Iterable[str], later: ExitStack | None = None) -> int:
    """End all flows to, from, or translated to ``addresses`` (IPv4 and IPv6); how many there were.

    Closing any nfnetlink socket waits some 15 ms where nf_tables objects were just removed; with
    ``later`` that is left to the caller, who may have other such waits to overlap it with.
    0 where the kernel tracks nothing. Raises NotPermitted, HostRefused.
    """
    wanted = {_pack(address) for address in addresses}
    if not wanted:
        return 0

    def concerns(flow: Flow) -> bool:
        ends = (flow.source, flow.destination, flow.reply_source, flow.reply_destination)
        return not wanted.isdisjoint(ends)

    few = len(wanted) <= 2
    families = {_family(packed) for packed in wanted}
    return _end(concerns, families, wanted if few else None, later)


def flush_ports(publishes: Iterable[Publish]) -> int:
    """End flows to host ports, translated or not; how many there were.

    A client that kept talking to a host port while nobody served it has a flow that no rule made
    later would touch; and one that talks to a stopped VM's port would be kept from the next.
    Flows that only pass through to the same port of another machine stay.
    """
    wanted = [
        (_PROTOCOLS[p.protocol], p.host_port, _pack(p.host_ip) if p.host_ip else b"")
        for p in publishes
    ]
    if not wanted or _tracked() == 0:
        return 0
    local = _local_addresses()

    def concerns(flow: Flow) -> bool:
        if not (flow.destination in local or _loopback(flow.destination)):
            return False
        return any(
            flow.protocol == protocol
            and flow.port == port
            and (host == flow.destination or _any_of_family(host, flow.destination))
            for protocol, port, host in wanted
        )

    return _end(concerns, set(_SOURCE), None, None)


def _pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def _loopback(packed: bytes) -> bool:
    return len(packed) == 4 and packed[0] == 127


def _any_of_family(host: bytes, destination: bytes) -> bool:
    return not host or (not any(host) and len(host) == len(destination))


def _tracked() -> int | None:
    """How many flows this namespace has; 0 without connection tracking, None if unknown."""
    try:
        with open(_COUNT, encoding="ascii") as count:
            return int(count.read())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        return None


def _end(
    concerns: Callable[[Flow], bool],
    families: Iterable[int],
    ends: set[bytes] | None,
    later: ExitStack | None,
) -> int:
    """Delete what ``concerns`` picks, and again what came meanwhile, until nothing is left."""
    if _tracked() == 0:
        return 0
    families = sorted(families)
    try:
        channel = Channel(_NETFILTER)
    except OSError as problem:
        raise _refusal(problem) from problem
    try:
        ended = 0
        for _ in range(_PASSES):
            found = [
                flow
                for family in families
                for flow in _flows(channel, family, ends)
                if concerns(flow)
            ]
            ended += sum(_delete(channel, flow) for flow in set(found))
            if not found:
                break
        return ended
    except OSError as problem:
        raise _refusal(problem) from problem
    finally:
        if later is None:
            channel.close()
        else:
            later.callback(channel.close)


def _refusal(problem: OSError) -> HostRefused | NotPermitted:
    if problem.errno in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            "cannot end tracked connections", hint="it needs root, or CAP_NET_ADMIN"
        )
    return HostRefused(
        f"cannot end tracked connections: {problem.strerror}",
        hint="the kernel module nf_conntrack_netlink must be there",
    )


def _flows(channel: Channel, family: int, ends: set[bytes] | None) -> Iterator[Flow]:
    """The flows of a family; with ``ends`` and many flows, only those with such an end."""
    head = struct.pack("=BBH", family, 0, 0)
    tracked = _tracked()
    few = tracked is not None and tracked <= _FEW
    if ends is None or few or family == socket.AF_INET6:
        bodies = persistently(lambda: channel.dump(_GET, head))
    else:
        bodies = []
        for packed in (end for end in ends if _family(end) == family):
            for question in filters(packed):
                bodies += _asked(channel, head, question)
    for body in bodies:
        flow = parse(body)
        if flow is not None:
            yield flow


def _asked(channel: Channel, head: bytes, question: bytes) -> list[bytes]:
    try:
        return persistently(lambda: channel.dump(_GET, head + question))
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return persistently(lambda: channel.dump(_GET, head))


def filters(packed: bytes) -> list[bytes]:
    """Four questions: an IPv4 address as either end of either direction (pure)."""
    found = []
    for number, tuple_ in enumerate((_ORIGINAL, _REPLY)):
        for flag, kind in ((_BY_SOURCE, 0), (_BY_DESTINATION, 1)):
            address = nested(_IP, attribute(_SOURCE[socket.AF_INET] + kind, packed))
            flags = [0, 0]
            flags[number] = flag
            wanted = nested(_FILTER, u32(1, flags[0]), u32(2, flags[1]))
            found.append(nested(tuple_, address) + wanted)
    return found


@legible
def parse(body: bytes) -> Flow | None:
    """A flow from the body of a message; None for one without both directions (pure).

    Raises Garbled.
    """
    family = body[0]
    parts = {kind: body[a:b] for kind, a, b in attributes(body, 4, len(body))}
    if _ORIGINAL not in parts or _REPLY not in parts or family not in _SOURCE:
        return None
    original, reply = attribute_map(parts[_ORIGINAL]), attribute_map(parts[_REPLY])
    one, other = attribute_map(original[_IP]), attribute_map(reply[_IP])
    proto = attribute_map(original.get(_PROTO, b""))
    source = _SOURCE[socket.AddressFamily(family)]
    name = attribute(_ORIGINAL | NESTED, parts[_ORIGINAL])
    for kind in (_ZONE, _ID):
        if kind in parts:
            name += attribute(kind, parts[kind])
    return Flow(
        family,
        one.get(source, b""),
        one.get(source + 1, b""),
        other.get(source, b""),
        other.get(source + 1, b""),
        proto[_NUMBER][0] if _NUMBER in proto else 0,
        int.from_bytes(proto.get(_TO_PORT, b""), "big"),
        name,
    )


def _delete(channel: Channel, flow: Flow) -> bool:
    """End one flow: that very one, not a later one between the same ends (the id tells)."""
    body = struct.pack("=BBH", flow.family, 0, 0) + flow.name
    try:
        persistently(lambda: channel.request(_DELETE, 0, body))
    except FileNotFoundError:
        return False  # it ended by itself
    return True


def _local_addresses() -> frozenset[bytes]:
    """The packed addresses of this host's interfaces."""
    channel = Channel(_ROUTE)
    try:
        bodies = persistently(lambda: channel.dump(_GET_ADDRESS, bytes(8)))
    finally:
        channel.close()
    found = set()
    for body in bodies:
        parts = attribute_map(body, 8)
        found.add(parts.get(_LOCAL) or parts.get(_ADDRESS, b""))
    return frozenset(found)
