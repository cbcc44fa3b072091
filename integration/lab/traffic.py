"""Real flows of two guests, their host and a world, all at once: which pass?

Sockets are made in the namespaces of guests (`guest.py`) and of the world and used from here. Every
flow is asked anew with a port or an echo's identifier of its own: conntrack keeps earlier ones for
up to two minutes, and what has theirs again is established, not new.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import time

from hvtx.model.traffic import Way
from integration.lab.firewall_contract import checksum, inside

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PORTS = {Way.GUEST_TO_WORLD: {"tcp": 443, "udp": 53}, Way.GUEST_TO_GUEST: {"tcp": 80, "udp": 53},
         Way.HOST_TO_GUEST: {"tcp": 80, "udp": 53}, Way.GUEST_TO_GATEWAY: {"tcp": 53, "udp": 53}}  # fmt: skip
Name = tuple[Way, int, str]  # way, family, protocol
# Counted, not drawn: the kernel draws a datagram's port from 28,000, and a hundred rule sets are tried
# in a minute. Below the range of its own choices, and above the ports that are served.
NUMBERS = itertools.cycle(range(10000, 32768))


class Place:
    """Where sockets are: a guest, the world or the host."""

    def __init__(self, pid: int | None, **addresses: str) -> None:
        self.pid = pid
        self.addresses = {4: addresses.get("four", ""), 6: addresses.get("six", "")}

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket in there that does not block."""
        with inside(self):
            return socket.socket(FAMILIES[family], kind | socket.SOCK_NONBLOCK, protocol)


class Asked:
    """One flow under way: it has passed as soon as its answer was seen."""

    def __init__(self, near: Place, family: int, protocol: str, to: str, port: int) -> None:
        self._protocol, self._to, self._family = protocol, (to, port), family
        self.passed = False
        if protocol == "icmp":
            number = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
            self.socket = near.socket(family, socket.SOCK_RAW, number)
            self._payload, self._number = os.urandom(12), struct.pack(">H", next(NUMBERS))
        else:
            self.socket = near.socket(family, KINDS[protocol])
        if protocol == "udp":
            self.socket.bind(("0.0.0.0" if family == 4 else "::", next(NUMBERS)))
        if protocol == "tcp":
            with contextlib.suppress(OSError):
                self.socket.connect(self._to)

    def again(self) -> None:
        """Ask once more, where nothing else does."""
        with contextlib.suppress(OSError):
            if self._protocol == "udp":
                self.socket.sendto(b"hello", self._to)
            elif self._protocol == "icmp":
                head = struct.pack(">BBH", 8 if self._family == 4 else 128, 0, 0)
                body = head + self._number + b"\0\1" + self._payload
                check = struct.pack(">H", checksum(body))
                self.socket.sendto(body[:2] + check + body[4:], (self._to[0], 0))

    def look(self) -> None:
        """Whether the answer is there."""
        with contextlib.suppress(OSError):
            if self._protocol == "tcp":
                self.socket.getpeername()
                self.passed = True
            else:
                data = self.socket.recv(2048)
                reply = 0 if self._family == 4 else 129
                at = 20 if self._family == 4 else 0
                if self._protocol == "udp" or (self._payload in data and data[at] == reply):
                    self.passed = True


class Traffic:
    """Who is there, and services at each place."""

    def __init__(self, places: dict[str, Place], gateways: dict[int, str], host: dict[int, str],
                 published: int) -> None:  # fmt: skip
        """``places`` are ``web`` (which has the published port), ``two``, ``world`` and ``host``."""
        self.places, self._gateways, self._host = places, gateways, host
        self._published = published
        self._servers: list[socket.socket] = []
        wanted = {"web": ((80, "tcp"), (53, "udp")), "two": ((80, "tcp"), (53, "udp")),
                  "world": ((443, "tcp"), (53, "udp")), "host": ((53, "tcp"), (53, "udp"))}  # fmt: skip
        for name, services in wanted.items():
            for family in FAMILIES:
                for port, protocol in services:
                    self._serve(name, family, port, protocol)

    def _serve(self, name: str, family: int, port: int, protocol: str) -> None:
        server = self.places[name].socket(family, KINDS[protocol])
        if family == 6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        where = self._gateways[family] if name == "host" else ("0.0.0.0" if family == 4 else "::")
        server.bind((where, port))
        if protocol == "tcp":
            server.listen(64)
        self._servers.append(server)

    def close(self) -> None:
        """Close all."""
        for server in self._servers:
            server.close()

    def _ask(self) -> dict[Name, Asked]:
        asked: dict[Name, Asked] = {}
        web, two, world = (self.places[name] for name in ("web", "two", "world"))
        for family in FAMILIES:
            to = {
                Way.GUEST_TO_WORLD: (web, world.addresses[family]),
                Way.GUEST_TO_GUEST: (web, two.addresses[family]),
                Way.HOST_TO_GUEST: (self.places["host"], web.addresses[family]),
                Way.GUEST_TO_GATEWAY: (web, self._gateways[family]),
            }
            for way, (near, address) in to.items():
                for protocol in ("tcp", "udp", "icmp"):
                    port = PORTS[way].get(protocol, 0)
                    asked[way, family, protocol] = Asked(near, family, protocol, address, port)
            asked[Way.WORLD_TO_PORT, family, "tcp"] = Asked(
                world, family, "tcp", self._host[family], self._published
            )
        return asked

    def _answer(self) -> None:
        for server in select.select(self._servers, [], [], 0.02)[0]:
            with contextlib.suppress(OSError):
                if server.type & socket.SOCK_STREAM:
                    server.accept()[0].close()
                else:
                    data, who = server.recvfrom(2048)
                    server.sendto(data, who)

    def stopped(self, expected: set[Name]) -> set[Name]:
        """The flows that do not pass.

        Those that are not ``expected`` are waited for, up to 15 s; the others for a moment more.
        """
        asked = self._ask()
        end, next_, grace = time.monotonic() + 15, 0.0, 0.0
        while time.monotonic() < end:
            if time.monotonic() > next_:
                next_ = time.monotonic() + 0.2
                for flow in asked.values():
                    if not flow.passed:
                        flow.again()
            self._answer()
            for flow in asked.values():
                if not flow.passed:
                    flow.look()
            if {name for name, flow in asked.items() if not flow.passed} <= expected:
                grace = grace or time.monotonic() + 0.25 * bool(expected)
                if time.monotonic() >= grace:
                    break
        for flow in asked.values():
            flow.socket.close()
        return {name for name, flow in asked.items() if not flow.passed}
