"""Flows that come and go by the thousand, in a table of connection tracking that is never still.

:class:`Datagrams` makes them as others do, by packets; :func:`fill` writes them down at once, as
a quick sender has left them (``IPCTNL_MSG_CT_NEW``). Nothing of it leaves the namespace. Source:
include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from hvtx.host.netlink import CREATE, Channel, attribute, nested
from integration import lab

SETTINGS = Path("/proc/sys/net/netfilter")
_NETFILTER, _NEW, _UDP = 12, 0x100, 17
_BATCH = 100  # flows in one datagram to the kernel
_LONGEST = 120.0  # seconds; of a sender that somebody forgot to end
_PORT = 9  # discard


def short_lived() -> None:
    """Let UDP flows expire after a second, not after half a minute."""
    for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
        (SETTINGS / name).write_text("1")


def tracked() -> None:
    """Let the kernel track what passes this namespace; without any rule it does not."""
    for family in ("ip", "ip6"):
        lab.run("nft", f"add table {family} watch")
        lab.run("nft", f"add chain {family} watch c {{ type filter hook output priority 0; }}")
        lab.run("nft", f"add rule {family} watch c ct state new accept")


# -- written down ----------------------------------------------------------------------------------


def _tuple(kind: int, source: bytes, destination: bytes, ports: tuple[int, int]) -> bytes:
    first = 1 if len(source) == 4 else 3
    ends = attribute(first, source) + attribute(first + 1, destination)
    protocol = attribute(1, bytes([_UDP]))
    protocol += b"".join(attribute(2 + n, struct.pack(">H", p)) for n, p in enumerate(ports))
    return nested(kind, nested(1, ends), nested(2, protocol))


def flow(source: str, destination: str, ports: tuple[int, int], seconds: int) -> bytes:
    """The body of a message that makes a UDP flow."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    one, other = (socket.inet_pton(family, address) for address in (source, destination))
    body = struct.pack("=BBH", family, 0, 0)
    body += _tuple(1, one, other, ports) + _tuple(2, other, one, (ports[1], ports[0]))
    return body + attribute(7, struct.pack(">I", seconds))


def fill(*sources: str, each: int = 10_000) -> None:
    """Write down flows from each source; they expire, one after the other, within two seconds."""
    bodies = [
        flow(source, ("2001:db8:77::" if ":" in source else "198.18.0.") + str(1 + number % 250),
             (1024 + number // 250, 53), 1 + number % 2)
        for number in range(each)
        for source in sources
    ]  # fmt: skip
    channel = Channel(_NETFILTER)
    try:
        for start in range(0, len(bodies), _BATCH):
            some = bodies[start : start + _BATCH]
            assert channel.refusals([(_NEW, CREATE, body) for body in some]) == {}
    finally:
        channel.close()


# -- by packets ------------------------------------------------------------------------------------


class Place(Protocol):
    """A namespace, or a guest that has one."""

    pid: int


class Datagrams:
    """Datagrams to ever other ends, some ``per_second``, from a child process until it is left.

    ``targets`` are addresses, of which ever other ports are sent to, or networks ("127.8.0.0/16",
    "fd78::/64") of which ever other addresses are; with ``port`` it is ever other ports that are
    sent from. ``place`` is the namespace that they are sent in.
    """

    running = 0  # how many of them send

    def __init__(
        self,
        *targets: str,
        sources: Sequence[str] = (),
        port: int = 0,
        place: Place | None = None,
        per_second: int = 20_000,
    ) -> None:
        self._targets, self._sources, self._rate = targets, sources, per_second
        self._port, self._place = port, place

    def __enter__(self) -> Self:
        ready, told = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(ready)
                self._send(told)
            finally:
                os._exit(0)
        os.close(told)
        Datagrams.running += 1
        came = select.select([ready], [], [], 20)[0] and os.read(ready, 1)
        os.close(ready)
        if came != b"+":
            self.__exit__(None, None, None)
            raise AssertionError("nothing could be sent")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        Datagrams.running -= 1

    def _send(self, told: int) -> None:
        if self._place is not None:
            lab.setns(os.open(f"/proc/{self._place.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        senders = []
        for target in self._targets:
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            for source in [s for s in self._sources if (":" in s) == (":" in target)] or [""]:
                sender = socket.socket(family, socket.SOCK_DGRAM)
                sender.bind((source, 0))
                senders.append((sender, target))
        number, start = 0, time.monotonic()
        while (passed := time.monotonic() - start) < _LONGEST:
            for sender, target in senders:
                try:
                    if self._port:
                        with socket.socket(sender.family, socket.SOCK_DGRAM) as other:
                            other.sendto(b"?", (target, self._port))
                    else:
                        sender.sendto(b"?", _end(target, number))
                except OSError:
                    continue  # a full queue, or an answer that nobody is there
            number += 1
            if number == 200:
                os.write(told, b"+")
            if number * len(senders) > self._rate * passed:
                time.sleep(0.001)


def _end(target: str, number: int) -> tuple[str, int]:
    network, slash, _ = target.partition("/")
    if not slash:
        return target, 10_000 + number % 50_000
    if ":" in network:
        return f"{network}{1 + number % 65_000:x}", _PORT
    packed = socket.inet_aton(network)
    return f"{packed[0]}.{packed[1]}.{number // 250 % 250}.{1 + number % 250}", _PORT
