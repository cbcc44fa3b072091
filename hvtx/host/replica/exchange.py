"""Packet exchange between two ends of a flow: handshakes, datagrams and echoes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from hvtx.host.replica import frames, servers
from hvtx.host.replica.frames import ACK, ICMP6, RST, SYN, Packet
from hvtx.host.replica.scratch import Owner, Scratch
from hvtx.model.typed import NamedTuple

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {"tcp": frames.TCP, "udp": frames.UDP}
_COOKIE = b"hvtx-replica-%06d"


class Sent(NamedTuple):
    """What is sent: who sends it, to which MAC address, and to whom."""

    device: str
    mac: bytes
    to_mac: bytes
    source: bytes
    target: bytes


class Exchange:
    """What passes between two ends of a flow, sent and answered in a scratch."""

    def __init__(self, scratch: Scratch) -> None:
        """In this scratch."""
        self._scratch = scratch
        self.equal: frozenset[str] = frozenset()  # devices by which packets leave as it happens

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

    def there_and_back(
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

    def led(
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
            sent = Sent(guest.device, guest.mac, to_mac, address_like(guest, target), target)
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

    def echoed(self, sent: Sent) -> bool:
        """Whether the host answers an echo itself."""
        payload = _COOKIE % self._scratch.number()
        inside = frames.echo(
            sent.source, sent.target, self._scratch.number(), 1, payload, reply=False
        )
        return any(payload in seen.payload and frames.is_echo(seen, reply=True)
                   and seen.device == sent.device for seen in self._send(sent, inside))  # fmt: skip

    def served(self, sent: Sent, protocol: str, port: int) -> bool:
        """Whether a program of the host at that port gets the flow, and its answer comes back."""
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

    def dial(self, guest: Owner, target: bytes, family: int, protocol: str, port: int) -> bool:
        """A program of the host to a guest: whether the answer reaches it. Raises OSError."""
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


def with_family(owner: Owner, family: int) -> bytes:
    """The owner's address of a family."""
    return next(a for a in owner.addresses if len(a) == (4 if family == 4 else 16))


def address_like(owner: Owner, like: bytes) -> bytes:
    """The owner's address of the family that ``like`` is of."""
    return next(a for a in owner.addresses if len(a) == len(like))
