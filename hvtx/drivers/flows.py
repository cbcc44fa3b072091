"""Ending flows: what connection tracking still knows of an address or a host port is removed.

Rules decide about new connections only; a flow that is on record goes on by its record, to whoever
has the address by then. So flows end with the VM, after its rules are gone. The table is never
still meanwhile: flows expire between the list and the deletion (ENOENT: it has ended), and new ones
appear. So it is listed again until nothing is left, and what is not proven ended is said.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from hvtx.errors import HostRefused
from hvtx.host import conntrack
from hvtx.host.conntrack import family_of
from hvtx.host.ctmessages import SOURCE, Flow
from hvtx.host.inet import packed
from hvtx.host.netlink import Channel, DumpInterrupted, forbidden
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Publish

_PROTOCOLS = {"tcp": 6, "udp": 17}
_SECONDS = 3.0  # after the first pass: so long others are begun, and at least
_PASSES = 4  # in all, however busy the machine is
_PAUSE = 0.01  # seconds, after what the kernel could not do just then


class Door(NamedTuple):
    """A published port, and the addresses (of both families, if it has them) of its guest."""

    port: Publish
    guests: tuple[str, ...]


class FlowsRemain(HostRefused):
    """Flows that are not proven to have ended: to ``addresses`` (as they were given), or all."""

    def __init__(self, problem: BaseException | None, addresses: frozenset[str]) -> None:
        """Say why: ``problem`` is what the kernel said, or None if flows came again and again."""
        if problem is None:
            words, hint = "new ones come as quickly as they are ended", "see who sends them"
        elif isinstance(problem, OSError) and forbidden(problem):
            words, hint = "not permitted", "it needs root, or CAP_NET_ADMIN"
        else:
            words = getattr(problem, "strerror", None) or str(problem)
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
    families = {family_of(raw) for raw in wanted}
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
    if not wanted or conntrack.tracked() == 0:
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
            and (host == flow.destination or _is_any_of_family(host, flow.destination))
            and len(flow.destination) in guests
            and (guests[len(flow.destination)], guest_port) != (flow.reply_source, flow.reply_port)
            for protocol, port, host, guests, guest_port in wanted
        )

    return _flush_all(concerns)


def flush_taken(doors: Iterable[Door], kept: Iterable[Door]) -> int:
    """End flows that came by these ports to their guests, and by none of ``kept``; how many.

    It is called when the ports lead nowhere any more: no rule makes others. Raises FlowsRemain.
    """
    taken, still = _by_service(doors), _by_service(kept)
    if not taken or conntrack.tracked() == 0:
        return 0

    def concerns(flow: Flow) -> bool:
        return _leads(flow, taken) and not _leads(flow, still)

    return _flush_all(concerns)


def flush_where(concerns: Callable[[Flow], bool]) -> int:
    """End flows of which that is true, and which rules let nobody begin; how many.

    Raises FlowsRemain.
    """
    if conntrack.tracked() == 0:
        return 0
    return _flush_all(concerns)


def _flush_all(concerns: Callable[[Flow], bool]) -> int:
    """End flows of every family until none is left; how many. Raises FlowsRemain."""
    flushing = _Flush(concerns, set(SOURCE), None, None, lambda flow: False)
    flushing.run()
    if flushing.left is None or flushing.left:
        raise FlowsRemain(flushing.problem, frozenset())
    return flushing.ended


_Service = tuple[int, int]  # protocol, host port
_Goal = tuple[bytes, frozenset[tuple[bytes, int]]]  # host address, the guest's address and port


def _by_service(doors: Iterable[Door]) -> dict[_Service, list[_Goal]]:
    found: dict[_Service, list[_Goal]] = {}
    for port, guests in doors:
        host = packed(port.host_ip) if port.host_ip else b""
        goal = frozenset((packed(guest), port.guest_port) for guest in guests)
        found.setdefault((_PROTOCOLS[port.protocol], port.host_port), []).append((host, goal))
    return found


def _leads(flow: Flow, doors: dict[_Service, list[_Goal]]) -> bool:
    """Whether a flow came by one of these ports (pure)."""
    return any(
        (host == flow.destination or _is_any_of_family(host, flow.destination))
        and (flow.reply_source, flow.reply_port) in goal
        for host, goal in doors.get((flow.protocol, flow.port), ())
    )


def _loopback(raw: bytes) -> bool:
    return len(raw) == 4 and raw[0] == 127


def _is_any_of_family(host: bytes, destination: bytes) -> bool:
    return not host or (not any(host) and len(host) == len(destination))


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
                if conntrack.tracked() == 0:
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
                self._channel = conntrack.open_channel()
            found = {
                flow
                for family in conntrack.to_list(self._families, self._ends)
                for flow in conntrack.flows(self._channel, family, self._ends)
                if self._concerns(flow)
            }
            self.left = found
            if self._seen is not None:
                self.left = {f for f in found if f in self._seen or not self._harmless(f)}
            self._seen = found | (self._seen or set())
            ended, self.problem = conntrack.delete(self._channel, found)
            self.ended += ended
        except (OSError, DumpInterrupted, ValueError) as problem:
            self.problem = problem
        if self.problem is None:
            return True
        if self._channel is None and getattr(self.problem, "errno", 0) == errno.EPROTONOSUPPORT:
            self.left = set()  # this kernel has no nfnetlink: nobody can ask, now or ever
            return False
        if not conntrack.passing(self.problem):
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


def _local_addresses() -> frozenset[bytes]:
    """The packed addresses of this host's interfaces."""
    return frozenset(address for address, _ in conntrack.own_addresses())


def _prefixes() -> list[tuple[bytes, int]]:
    """Whose neighbours this host knows; none if it cannot say."""
    try:
        return conntrack.own_addresses()
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
