"""Ending flows: what connection tracking still knows of an address or a host port is removed.

Rules decide about new connections only; a flow that is on record goes on by its record, to whoever
has the address by then. So flows end with the VM, after its rules are gone. The table is never
still meanwhile: flows expire between the list and the deletion (ENOENT: it has ended), and new ones
appear. So it is listed again until nothing is left, and what is not proven ended is said.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c
(CTA_FILTER is there since Linux 5.8; older kernels ignore it and list everything, so what comes is
always matched again here). For IPv6 addresses the kernel's filter is the wrong way round (tried on
6.18: it lists exactly the flows that do not match), so IPv6 flows are listed whole.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple

from hvtx.errors import HostRefused
from hvtx.host.ctmessages import SOURCE, Door, Flow, filters, parse
from hvtx.host.inet import packed
from hvtx.host.netlink import (
    ACK,
    REQUEST,
    Channel,
    DumpInterrupted,
    KernelError,
    attribute_map,
    forbidden,
    legible,
    message,
)
from hvtx.host.retry import persistently, transient

_NETFILTER, _ROUTE = 12, 0
_GET, _DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, _DELETE
_FEW = 2048  # flows; so many are read about as fast as the kernel searches its table four times
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
_GET_ADDRESS, _ADDRESS, _LOCAL = 22, 1, 2  # RTM_GETADDR, IFA_ADDRESS, IFA_LOCAL
_PROTOCOLS = {"tcp": 6, "udp": 17}
_TOGETHER = 64  # deletions in one datagram; their answers fit any receive buffer
_SECONDS = 3.0  # after the first pass: so long others are begun, and at least
_PASSES = 4  # in all, however busy the machine is
_PAUSE = 0.01  # seconds, after what the kernel could not do just then


class FlowsRemain(HostRefused):
    """Flows that are not proven to have ended: to ``addresses`` (as they were given), or all."""

    def __init__(self, problem: BaseException | None, addresses: frozenset[str]) -> None:
        """Say why: ``problem`` is what the kernel said, or None if flows came again and again."""
        if problem is None:
            words, hint = "new ones come as quickly as they are ended", "see who sends them"
        elif isinstance(problem, OSError) and forbidden(problem):
            words, hint = "not permitted", "it needs root, or CAP_NET_ADMIN"
        else:
            words = getattr(problem, "strerror", None) or str(problem) or "the list was cut short"
            hint = "the kernel module nf_conntrack_netlink must be there"
        super().__init__(f"tracked connections could not be ended: {words}", hint=hint)
        self.addresses = addresses


def flush(addresses: Iterable[str], later: ExitStack | None = None) -> int:
    """End all flows to, from, or translated to ``addresses`` (IPv4 and IPv6); how many there were.

    Done means that a pass over the whole table has found none, or (in a later pass) only new ones
    of a neighbour who sends there: those are his, and give the next owner nothing that the same
    packets would not. It is called when no rule makes others any more; where somebody does all the
    same, it is given up after some seconds.

    Closing any nfnetlink socket waits some 15 ms where nf_tables objects were just removed; with
    ``later`` that is left to the caller, who may have other such waits to overlap it with.
    0 where the kernel tracks nothing. Raises FlowsRemain.
    """
    wanted = {packed(address): address for address in addresses}
    if not wanted:
        return 0

    def concerns(flow: Flow) -> bool:
        ends = (flow.source, flow.destination, flow.reply_source, flow.reply_destination)
        return not wanted.keys().isdisjoint(ends)

    prefixes: list[tuple[bytes, int]] = []

    def neighbours(flow: Flow) -> bool:
        straight = (flow.source, flow.destination) == (flow.reply_destination, flow.reply_source)
        if not straight or flow.destination not in wanted:
            return False
        prefixes.extend(_prefixes() if not prefixes else ())
        return _on_link(flow.source, flow.destination, prefixes)

    few = set(wanted) if len(wanted) <= 2 else None
    families = {_family(raw) for raw in wanted}
    flushing = _Flush(concerns, families, few, later, neighbours)
    flushing.run()
    if flushing.left is None:  # not even a list
        raise FlowsRemain(flushing.problem, frozenset(wanted.values()))
    if flushing.left:
        ends = {end for flow in flushing.left for end in flow[1:5]}
        left = frozenset(address for raw, address in wanted.items() if raw in ends)
        raise FlowsRemain(flushing.problem, left)
    return flushing.ended


def flush_ports(doors: Iterable[Door]) -> int:
    """End flows to host ports that do not lead to the guest they are published for; how many.

    A client that kept talking to a host port while nobody served it has a flow that no rule made
    later would touch; and one that talks to a stopped VM's port would be kept from the next. Once
    the rules are there, new flows lead where they should, and stay, however many come; so do
    flows that only pass through to the same port of another machine. Raises FlowsRemain.
    """
    wanted = [
        (_PROTOCOLS[p.protocol], p.host_port, packed(p.host_ip) if p.host_ip else b"",
         {len(raw): raw for raw in map(packed, guests)}, p.guest_port)
        for p, guests in doors
    ]  # fmt: skip
    if not wanted or _tracked() == 0:
        return 0
    try:
        local = _local_addresses()
    except (OSError, DumpInterrupted, ValueError) as problem:
        raise FlowsRemain(problem, frozenset()) from problem

    def concerns(flow: Flow) -> bool:
        if not (flow.destination in local or _loopback(flow.destination)):
            return False
        return any(
            flow.protocol == protocol
            and flow.port == port
            and (host == flow.destination or _any_of_family(host, flow.destination))
            and len(flow.destination) in guests
            and (guests[len(flow.destination)], guest_port) != (flow.reply_source, flow.reply_port)
            for protocol, port, host, guests, guest_port in wanted
        )

    flushing = _Flush(concerns, set(SOURCE), None, None, lambda flow: False)
    flushing.run()
    if flushing.left is None or flushing.left:
        raise FlowsRemain(flushing.problem, frozenset())
    return flushing.ended


def _family(raw: bytes) -> int:
    return socket.AF_INET if len(raw) == 4 else socket.AF_INET6


def _loopback(raw: bytes) -> bool:
    return len(raw) == 4 and raw[0] == 127


def _any_of_family(host: bytes, destination: bytes) -> bool:
    return not host or (not any(host) and len(host) == len(destination))


def _tracked() -> int | None:
    """How many flows this namespace has; 0 without connection tracking, None if unknown."""
    try:
        with open(_COUNT, encoding="ascii") as count:
            return int(count.read())
    except OSError as problem:
        # a /proc that is not mounted proves nothing
        known = problem.errno == errno.ENOENT and os.path.isdir("/proc/sys/net/core")
        return 0 if known else None
    except ValueError:
        return None


class Fill(NamedTuple):
    """How many flows this namespace tracks, and how many it may."""

    entries: int
    limit: int

    @property
    def part(self) -> float:
        """0 to 1; a limit of 0 is none."""
        return self.entries / self.limit if self.limit else 0.0


def fill() -> Fill | None:
    """How full the table is; None where nothing is tracked, or that cannot be read."""
    entries = _tracked()
    try:
        with open(_LIMIT, encoding="ascii") as limit:
            return None if entries is None else Fill(entries, int(limit.read()))
    except (OSError, ValueError):
        return None


def users(addresses: Iterable[str]) -> dict[str, int]:
    """How many flows each of ``addresses`` has at an end; those without any are left out.

    It reads the whole table. Raises OSError, DumpInterrupted.
    """
    wanted = {packed(address): address for address in addresses}
    found: dict[str, int] = {}
    channel = Channel(_NETFILTER)
    try:
        for family in sorted({_family(raw) for raw in wanted}):
            for flow in _flows(channel, family, None):
                for raw in wanted.keys() & set(flow[1:5]):
                    found[wanted[raw]] = found.get(wanted[raw], 0) + 1
    finally:
        channel.close()
    return found


class _Flush:
    """Passes over the table: each deletes what it lists, until one lists nothing.

    One pass is as long as the table; more of them are begun for some seconds only. A list that was
    refused or cut short proves nothing, and is asked for again, on a socket of its own: the old one
    may still have the rest of an answer.
    """

    def __init__(
        self,
        concerns: Callable[[Flow], bool],
        families: Iterable[int],
        ends: set[bytes] | None,
        later: ExitStack | None,
        harmless: Callable[[Flow], bool],
    ) -> None:
        self._concerns, self._families, self._ends = concerns, sorted(families), ends
        self._later, self._harmless = later, harmless
        self._seen: set[Flow] | None = None  # in whole passes; None before the first
        self._channel: Channel | None = None
        self.ended = 0
        self.left: set[Flow] | None = None  # what matters of the last whole pass; None: of none
        self.problem: BaseException | None = None  # why the last pass was not whole

    def run(self) -> None:
        """Make the passes; what became of it is in ``left``, ``problem`` and ``ended``."""
        passes, deadline = 0, 0.0
        try:
            while self.left is None or self.left:
                if _tracked() == 0:
                    self.left = set()
                    return
                if passes >= _PASSES and time.monotonic() >= deadline:
                    return
                if not self._pass():
                    return
                passes += 1
                deadline = deadline or time.monotonic() + _SECONDS
        finally:
            self._drop()

    def _pass(self) -> bool:
        """One pass; False if another one would be no better."""
        self.problem = None
        try:
            if self._channel is None:
                self._channel = Channel(_NETFILTER)
            found = {
                flow
                for family in self._families
                for flow in _flows(self._channel, family, self._ends)
                if self._concerns(flow)
            }
            self.left = found
            if self._seen is not None:
                self.left = {f for f in found if f in self._seen or not self._harmless(f)}
            self._seen = found | (self._seen or set())
            ended, self.problem = _delete(self._channel, found)
            self.ended += ended
        except (OSError, DumpInterrupted, ValueError) as problem:
            self.problem = problem
        if self.problem is None:
            return True
        if self._channel is None and getattr(self.problem, "errno", 0) == errno.EPROTONOSUPPORT:
            self.left = set()  # this kernel has no nfnetlink: nobody can ask, now or ever
            return False
        if not _passing(self.problem):
            return False
        self._drop()
        time.sleep(_PAUSE)
        return True

    def _drop(self) -> None:
        if self._channel is None:
            return
        if self._later is None:
            self._channel.close()
        else:
            self._later.callback(self._channel.close)
        self._channel = None


def _passing(problem: BaseException) -> bool:
    """Whether asking again can help; a flow is EBUSY while hardware forwards it."""
    return transient(problem) or getattr(problem, "errno", None) == errno.EBUSY


def _flows(channel: Channel, family: int, ends: set[bytes] | None) -> Iterator[Flow]:
    """The flows of a family; with ``ends`` and many flows, only those with such an end."""
    head = struct.pack("=BBH", family, 0, 0)
    tracked = _tracked()
    few = tracked is not None and tracked <= _FEW
    if ends is None or few or family == socket.AF_INET6:
        bodies = channel.dump(_GET, head)
    else:
        bodies = []
        for raw in (end for end in ends if _family(end) == family):
            for question in filters(raw):
                bodies += _asked(channel, head, question)
    for body in bodies:
        if ends is not None and not any(end in body for end in ends):
            continue  # whatever else it is: taking it apart is ten times as much work
        flow = parse(body)
        if flow is not None:
            yield flow


def _asked(channel: Channel, head: bytes, question: bytes) -> list[bytes]:
    try:
        return channel.dump(_GET, head + question)
    except OSError as problem:
        if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return channel.dump(_GET, head)


def _delete(channel: Channel, flows: Iterable[Flow]) -> tuple[int, KernelError | None]:
    """End flows: those very ones, not later ones between the same ends (the id tells).

    How many ended, and the first error but ENOENT, which says that one had ended by itself. One
    that cannot be ended keeps none of the others.
    """
    ended, problem = 0, None
    waiting = iter(flows)
    while some := list(islice(waiting, _TOGETHER)):
        seqs = [channel.next_seq() for _ in some]
        parts = []
        for seq, flow in zip(seqs, some, strict=True):
            flags = REQUEST | (ACK if seq == seqs[-1] else 0)
            head = struct.pack("=BBH", flow.family, 0, 0)
            parts.append(message(_DELETE, flags, seq, head + flow.name))
        failures = channel.errors(b"".join(parts), seqs)
        ended += len(some) - len(failures)
        refused = [failure for failure in failures if failure.errno != errno.ENOENT]
        problem = problem or next(iter(refused), None)
        if problem is not None and not _passing(problem):
            break
    return ended, problem


def _local_addresses() -> frozenset[bytes]:
    """The raw addresses of this host's interfaces."""
    return frozenset(address for address, _ in _own_addresses())


@legible
def _own_addresses() -> list[tuple[bytes, int]]:
    """The raw addresses of this host's interfaces, with the lengths of their prefixes."""
    channel = Channel(_ROUTE)
    try:
        bodies = persistently(lambda: channel.dump(_GET_ADDRESS, bytes(8)))
    finally:
        channel.close()
    found = []
    for body in bodies:
        parts = attribute_map(body, 8)
        found.append((parts.get(_LOCAL) or parts.get(_ADDRESS, b""), body[1]))
    return found


def _prefixes() -> list[tuple[bytes, int]]:
    """Whose neighbours this host knows; none if it cannot say."""
    try:
        return _own_addresses()
    except (OSError, DumpInterrupted, ValueError):
        return []


def _on_link(one: bytes, other: bytes, prefixes: Iterable[tuple[bytes, int]]) -> bool:
    """Whether two addresses are of one network that the host has an address in (pure)."""
    if len(one) == 16 and one[0] == 0xFE and one[1] & 0xC0 == 0x80:  # fe80::/10, never routed
        return True
    for own, length in prefixes:
        shift = len(own) * 8 - length
        ends = {int.from_bytes(address, "big") >> shift for address in (own, one, other)}
        if len(own) == len(one) == len(other) and len(ends) == 1:
            return length > 0
    return False
