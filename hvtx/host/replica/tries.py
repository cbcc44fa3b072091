"""Flows tried in a scratch: whole handshakes, datagrams and echoes, there and back.

Each try ends with None, or with the :class:`Cause` that stopped it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple

from hvtx.host import xfrm
from hvtx.host.replica import causes, frames, servers
from hvtx.host.replica.causes import Cause, Leg
from hvtx.host.replica.evidence import Evidence
from hvtx.host.replica.frames import ACK, ICMP6, RST, SYN, Packet
from hvtx.host.replica.scratch import WORLD_MAC, Owner, Scratch
from hvtx.host.replica.trace import Step

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# Beyond the host: public addresses, as a rule about private or reserved ones would not meet.
WORLD = {4: bytes((20, 0, 0, 1)), 6: bytes.fromhex("2a00000000000000000000000000beef")}
_PROTOCOLS = {"tcp": frames.TCP, "udp": frames.UDP}
PATIENCE = (0.005, 0.05)  # seconds that a stopped flow is waited for when it is tried again
_COOKIE = b"hvtx-replica-%06d"


class Far(NamedTuple):
    """An end beyond the host: the device that it is behind, its address."""

    device: str
    address: bytes


class Sent(NamedTuple):
    """What is sent: who sends it, to which MAC address, and to whom."""

    device: str
    mac: bytes
    to_mac: bytes
    source: bytes
    target: bytes


class Tries:
    """Tries flows, one after the other."""

    def __init__(self, scratch: Scratch) -> None:
        """In this scratch."""
        self._scratch = scratch
        self._evidence = Evidence(scratch)
        self._ipsec: dict[str, int] = {}
        self._asked = b""
        self.equal: frozenset[str] = frozenset()  # devices by which packets leave as it happens
        self._unheard = False  # nobody told the MAC address that a flow begins with

    # -- the ways ----------------------------------------------------------------------------------

    def from_guest(
        self, guest: Owner, gateway: bytes, target: bytes, protocol: str, port: int,
        legs: list[Leg], leaves_as: Collection[bytes] = (),
    ) -> Cause | None:  # fmt: skip
        """A guest's flow through its gateway to ``target`` beyond the host.

        ``leaves_as``: the addresses that the world can answer to; empty: whichever there is.
        """
        sources: list[bytes] = []

        def arrives(seen: Packet) -> bool:
            if not self._scratch.is_world(seen.device):
                return False
            sources.append(seen.source)
            return True

        def attempt() -> bool:
            to_mac = self._told(guest, gateway)
            if to_mac is None:
                return False
            sent = Sent(guest.device, guest.mac, to_mac, _of(guest, target), target)
            return self._exchange(sent, protocol, port, arrives)

        led = self._led(guest, gateway, target, protocol, port)
        cause = self._judge(attempt, len(target), legs, led, (guest,))
        if cause is not None or not leaves_as or not sources or sources[-1] in leaves_as:
            return cause
        shown = socket.inet_ntop(FAMILIES[4 if len(target) == 4 else 6], sources[-1])
        words = f"packets leave as {shown}, which is no address of this host: others' source NAT"
        return Cause("unknown", (), words)

    def between(self, one: Owner, other: Owner, family: int, protocol: str, port: int,
                legs: list[Leg]) -> Cause | None:  # fmt: skip
        """A flow of one guest to another in its bridge."""

        def attempt() -> bool:
            target = _with(other, family)
            to_mac = self._told(one, target)
            if to_mac is None:
                return False
            sent = Sent(one.device, one.mac, to_mac, _with(one, family), target)
            return self._exchange(sent, protocol, port, lambda seen: seen.device == other.device)

        target = _with(other, family)
        led = self._led(one, target, target, protocol, port)
        return self._judge(attempt, 4 if family == 4 else 16, legs, led, (one, other))

    def from_world(
        self, far: Far, mac: bytes, target: bytes, protocol: str, port: int,
        arrives: Callable[[Packet], bool], legs: list[Leg], ends: Collection[Owner] = (),
    ) -> Cause | None:  # fmt: skip
        """A flow of somebody in the world to an address of the host."""

        def attempt() -> bool:
            sent = Sent(far.device, WORLD_MAC, mac, far.address, target)
            return self._exchange(sent, protocol, port, arrives)

        return self._judge(attempt, len(target), legs, ends=ends)

    def from_host(
        self, guest: Owner, family: int, protocol: str, port: int, legs: list[Leg]
    ) -> Cause | None:
        """A flow of a program of the host to a guest."""

        def attempt() -> bool:
            with suppress(OSError):
                return self._dial(guest, _with(guest, family), family, protocol, port)
            return False

        return self._judge(attempt, 4 if family == 4 else 16, legs, ends=(guest,))

    def to_host(
        self, guest: Owner, gateway: bytes, protocol: str, port: int, legs: list[Leg]
    ) -> Cause | None:
        """A guest's flow to a program of the host at its gateway's address."""

        def attempt() -> bool:
            to_mac = self._told(guest, gateway)
            if to_mac is None:
                return False
            sent = Sent(guest.device, guest.mac, to_mac, _of(guest, gateway), gateway)
            if protocol == "icmp":
                return self._echoed(sent)
            return self._served(sent, protocol, port)

        led = self._led(guest, gateway, gateway, protocol, port)
        return self._judge(attempt, len(gateway), legs, led, (guest,))

    def _judge(
        self, attempt: Callable[[], bool], size: int, legs: list[Leg],
        led: Callable[[], bool] | None = None, ends: Collection[Owner] = (),
    ) -> Cause | None:  # fmt: skip
        """Try, and where it fails find out by what.

        ``led`` tries whether it comes to a program of the host, if a rule leads it there; ``ends``
        are guests that it needs.
        """
        family = 4 if size == 4 else 6
        self._scratch.begin()
        if self._scratch.picture.ipsec.decides:
            self._ipsec = xfrm.counted()
        self._unheard = False
        if attempt():
            return self._evidence.doubt(family)
        heard = self._scratch.steps()
        try:
            if led is not None and led():
                return self._evidence.doubt(family)
            cause = self._cause(attempt, family, legs, ends, heard)
            return self._evidence.doubt(family) or cause
        finally:
            self._scratch.patience = 0.0
            self._scratch.forget_neighbours()  # who asked in vain asks again only by and by

    def _cause(
        self, attempt: Callable[[], bool], family: int, legs: list[Leg], ends: Collection[Owner],
        heard: list[Step],
    ) -> Cause | None:  # fmt: skip
        """What stopped it; None where only the kernel was late (a soft interrupt put off)."""
        if any(attempt() for _ in range(self._scratch.chances())):
            return None
        if self._scratch.refresh():  # what earlier flows taught the rules is not this one's
            self._scratch.begin()
            self._scratch.forget_neighbours()
            if attempt():
                return None
            heard = self._scratch.steps()
        found = self._named(attempt, family, legs, ends, heard)
        if found is not None:
            return found
        for self._scratch.patience in PATIENCE:
            self._scratch.forget_neighbours()
            if attempt():
                return None
            # told late, where the kernel had put the packet's way off
            if (found := causes.of_trace(self._scratch.steps())) is not None:
                return found
        own = None if self._unheard else causes.of_trace(heard, ours=True)
        found = own or causes.UNKNOWN._replace(packets=causes.packets_of(self._scratch, legs))
        return found._replace(suspects=self._evidence.suspects(family, attempt))

    def _named(
        self, attempt: Callable[[], bool], family: int, legs: list[Leg], ends: Collection[Owner],
        heard: list[Step],
    ) -> Cause | None:  # fmt: skip
        """The rule, policy, route or setting that the kernel's own words lead to."""
        if (found := causes.of_trace(heard)) is not None:
            return found
        if (line := self._evidence.line(family, attempt)) is not None:
            return causes.of_line(family, line)
        if (found := self._of_ipsec(legs)) is not None:
            return found
        found = causes.of_ends(self._scratch, ends) or causes.of_legs(self._scratch, family, legs)
        if found is not None:
            return found._replace(by="unknown") if self._scratch.crooked else found
        if self._unheard and legs:
            silent = legs[0]._replace(target=self._asked, forwarded=False, protocol=0)
            if (found := causes.of_silence(self._scratch, family, silent)) is not None:
                return found
        return causes.of_marks(self._scratch, legs)

    def _of_ipsec(self, legs: list[Leg]) -> Cause | None:
        """Whether IPsec took it: blocked, or meant for a tunnel whose keys are not here."""
        if not self._scratch.picture.ipsec.decides:
            return None
        names = xfrm.moved(self._ipsec, xfrm.counted())
        if not names:
            return None
        packets = causes.packets_of(self._scratch, legs)
        by = "xfrm" if xfrm.blocked(names) else "unknown"
        return Cause(by, (), f"a policy of IPsec ({', '.join(names)})", 0, packets=packets)

    def _told(self, guest: Owner, address: bytes) -> bytes | None:
        """The MAC address that a guest is told of another; that nobody tells is remembered."""
        mac = self._scratch.neighbour(guest, address)
        self._unheard, self._asked = mac is None, address
        return mac

    # -- what passes between two ends --------------------------------------------------------------

    def _send(self, sent: Sent, inside: bytes) -> list[Packet]:
        data = inside
        if self._scratch.ether(sent.device):
            data = frames.frame(sent.mac, sent.to_mac, inside)
        return self._scratch.packets(self._scratch.send(sent.device, data))

    def _meets(self, seen: Packet, sent: Sent) -> bool:
        """Whether an answer comes back to its sender; it may take another of several paths."""
        return seen.device == sent.device or {seen.device, sent.device} <= self.equal

    def _answered(self, seen: Packet, inside: bytes) -> list[Packet]:
        """Send an answer from where a packet was seen."""
        back = Sent(seen.device, seen.to_mac, seen.mac, seen.target, seen.source)
        return self._send(back, inside)

    def _exchange(
        self, sent: Sent, protocol: str, port: int, arrives: Callable[[Packet], bool]
    ) -> bool:
        """There, back, and there again."""
        if protocol == "tcp":
            return self._handshake(sent, port, arrives)
        payload = _COOKIE % self._scratch.number()
        ports = (self._scratch.number(), port)

        def is_ours(seen: Packet) -> bool:
            return payload in seen.payload

        def request() -> list[Packet]:
            if protocol == "udp":
                inside = frames.udp(sent.source, sent.target, ports, payload)
            else:
                inside = frames.echo(sent.source, sent.target, ports[0], 1, payload, reply=False)
            return [seen for seen in self._send(sent, inside) if is_ours(seen) and arrives(seen)]

        there = request()
        if not there:
            return False
        first = there[0]
        if protocol == "udp":
            inside = frames.udp(first.target, first.source, first.ports[::-1], payload)
        else:
            inside = frames.echo(first.target, first.source, first.ports[0], first.number, payload,
                                 reply=True)  # fmt: skip
        back = [s for s in self._answered(first, inside) if is_ours(s) and self._meets(s, sent)]
        return bool(back) and bool(request())

    def _handshake(self, sent: Sent, port: int, arrives: Callable[[Packet], bool]) -> bool:
        ports, number = (self._scratch.number(), port), self._scratch.number() << 8
        other = number + 0x1000000

        def mine(seen: Packet, flags: int, number_: int) -> bool:
            return seen.protocol == frames.TCP and (seen.flags, seen.number) == (flags, number_)

        opening = frames.tcp(sent.source, sent.target, ports, SYN, number)
        there = [s for s in self._send(sent, opening) if mine(s, SYN, number) and arrives(s)]
        if not there:
            return False
        first = there[0]
        answer = frames.tcp(
            first.target, first.source, first.ports[::-1], SYN | ACK, other, number + 1
        )
        back = [s for s in self._answered(first, answer)
                if mine(s, SYN | ACK, other) and self._meets(s, sent)]  # fmt: skip
        if not back:
            return False
        closing = frames.tcp(sent.source, sent.target, ports, ACK, number + 1, other + 1)
        return any(mine(s, ACK, number + 1) and arrives(s) for s in self._send(sent, closing))

    # -- programs of the host ----------------------------------------------------------------------

    def _led(
        self, guest: Owner, next_: bytes, target: bytes, protocol: str, port: int
    ) -> Callable[[], bool] | None:
        """Tries whether a flow is answered by what listens on the host; None if nothing does."""
        listening = self._scratch.picture.listening
        if not any(one[0] == protocol for one in listening):
            return None

        def attempt() -> bool:
            self._scratch.forget_neighbours()
            to_mac = self._scratch.neighbour(guest, next_)
            if to_mac is None:
                return False
            sent = Sent(guest.device, guest.mac, to_mac, _of(guest, target), target)
            with servers.serving(listening, protocol) as opened:
                if protocol == "tcp":
                    return self._accepted(sent, port)
                payload = _COOKIE % self._scratch.number()
                ports = (self._scratch.number(), port)
                self._send(sent, frames.udp(sent.source, sent.target, ports, payload))
                servers.answered(opened)
                seen = self._scratch.packets(self._scratch.settle())
                return any(payload in one.payload and one.device == sent.device
                           and one.source == sent.target for one in seen)  # fmt: skip

        return attempt

    def _echoed(self, sent: Sent) -> bool:
        payload = _COOKIE % self._scratch.number()
        inside = frames.echo(
            sent.source, sent.target, self._scratch.number(), 1, payload, reply=False
        )
        return any(payload in seen.payload and frames.is_echo(seen, reply=True)
                   and seen.device == sent.device for seen in self._send(sent, inside))  # fmt: skip

    def _served(self, sent: Sent, protocol: str, port: int) -> bool:
        family = FAMILIES[4 if len(sent.target) == 4 else 6]
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(family, kind | socket.SOCK_NONBLOCK) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((socket.inet_ntop(family, sent.target), port))
            if protocol == "tcp":
                server.listen(4)
                return self._accepted(sent, port)
            payload = _COOKIE % self._scratch.number()
            number = self._scratch.number()
            inside = frames.udp(sent.source, sent.target, (number, port), payload)
            self._send(sent, inside)
            try:
                data, who = server.recvfrom(2048)
            except OSError:
                return False
            with suppress(OSError):
                server.sendto(data, who)
            seen = self._scratch.packets(self._scratch.settle())
            return any(payload in one.payload and one.device == sent.device for one in seen)

    def _accepted(self, sent: Sent, port: int) -> bool:
        ports, number = (self._scratch.number(), port), self._scratch.number() << 8
        seen = self._send(sent, frames.tcp(sent.source, sent.target, ports, SYN, number))
        back = [one for one in seen if one.protocol == frames.TCP and one.flags == SYN | ACK
                and one.acknowledged == number + 1 and one.device == sent.device]  # fmt: skip
        if not back:
            return False
        other = back[0].number + 1
        rest = frames.tcp(sent.source, sent.target, ports, ACK, number + 1, other)
        self._send(sent, rest)
        return True

    def _dial(self, guest: Owner, target: bytes, family: int, protocol: str, port: int) -> bool:
        if protocol == "icmp":
            return self._ping(guest, target, family)
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        payload = _COOKIE % self._scratch.number()
        with socket.socket(FAMILIES[family], kind | socket.SOCK_NONBLOCK) as client:
            client.settimeout(0)
            where = (socket.inet_ntop(FAMILIES[family], target), port)
            if protocol == "udp":
                client.sendto(payload, where)
            else:
                with suppress(BlockingIOError):
                    client.connect(where)
            seen = [one for one in self._scratch.packets(self._scratch.settle())
                    if (one.device, one.target) == (guest.device, target)
                    and (one.protocol, one.ports[1]) == (_PROTOCOLS[protocol], port)
                    and (protocol == "udp" or one.flags & (SYN | ACK | RST) == SYN)]  # fmt: skip
            if not seen:
                return False
            first = seen[0]
            if protocol == "udp":
                self._answered(first, frames.udp(target, first.source, first.ports[::-1], payload))
                return payload in client.recvfrom(2048)[0]
            number = self._scratch.number() << 8
            self._answered(
                first,
                frames.tcp(target, first.source, first.ports[::-1], SYN | ACK, number,
                           first.number + 1),
            )  # fmt: skip
            client.getpeername()
            return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def _ping(self, guest: Owner, target: bytes, family: int) -> bool:
        number = socket.IPPROTO_ICMP if family == 4 else ICMP6
        payload = _COOKIE % self._scratch.number()
        with socket.socket(FAMILIES[family], socket.SOCK_RAW | socket.SOCK_NONBLOCK, number) as raw:
            where = (socket.inet_ntop(FAMILIES[family], target), 0)
            raw.sendto(frames.echo(bytes(len(target)), target, 7, 1, payload, reply=False)[
                20 if family == 4 else 40:], where)  # fmt: skip
            seen = [one for one in self._scratch.packets(self._scratch.settle())
                    if one.device == guest.device and payload in one.payload]  # fmt: skip
            if not seen:
                return False
            first = seen[0]
            self._answered(first, frames.echo(target, first.source, first.ports[0], first.number,
                                              payload, reply=True))  # fmt: skip
            for _ in range(16):
                if payload in (data := raw.recvfrom(2048)[0]):
                    head = data[20:] if family == 4 else data
                    if head[0] in (0, 129):
                        return True
            return False


def _with(owner: Owner, family: int) -> bytes:
    """The owner's address of a family."""
    return next(a for a in owner.addresses if len(a) == (4 if family == 4 else 16))


def _of(owner: Owner, like: bytes) -> bytes:
    """The owner's address of the family that ``like`` is of."""
    return next(a for a in owner.addresses if len(a) == len(like))
