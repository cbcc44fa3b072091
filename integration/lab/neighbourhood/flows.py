"""Flows: asked of the kernel by real sockets, each in the network namespace that it starts from.

All flows of a step are asked at once, and each listener says its own name, so that an answer by
somebody else is no answer. One that is stopped costs ``PATIENCE``; one that passes, milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from integration import lab
from integration.lab import dhcp

PATIENCE = 3.6  # seconds: a SYN is sent again after one and three
ONCE_MORE = 1.5  # for a second look, when addresses are resolved
AGAIN = 0.4  # a datagram is
# What a datagram holds: a question that a resolver answers, the root's name servers (RFC 1035).
QUERY = struct.pack("!6HBHH", 0x1234, 0x0100, 1, 0, 0, 0, 0, 2, 1)
SHUT = 1.2  # seconds after which what must stay shut counts as shut
# IP_FREEBIND, IPV6_FREEBIND: a listener is there although somebody took its address off the host.
_FREEBIND4, _FREEBIND6 = 15, 78
_DONE, _WAITING = "done", "waiting"


class Ask(NamedTuple):
    """A question: does ``answerer`` answer ``asker`` at this address and port?

    ``protocol`` is tcp, udp or dhcp: what a guest asks by its ``eth0`` before it has an address.
    Parties are names of network namespaces. ``listen`` is the port that the answerer listens on;
    0 where a program listens by itself: a connection, or any datagram, is an answer then.
    ``expected`` is False for what must stay shut; ``here``: it listens on this address alone.
    """

    name: str
    asker: str
    protocol: str  # tcp, udp, dhcp
    address: str
    port: int
    answerer: str
    listen: int
    expected: bool = True
    here: bool = False


@contextlib.contextmanager
def inside(path: str) -> Iterator[None]:
    """This thread is in the network namespace at ``path``."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            lab.setns(there)
        finally:
            os.close(there)
        yield
    finally:
        lab.setns(before)
        os.close(before)


def family_of(address: str) -> socket.AddressFamily:
    """The family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "dhcp": socket.SOCK_DGRAM}
_CARD = "eth0"  # of a guest
_CLIENT = {socket.AF_INET: 68, socket.AF_INET6: 546}


def _asks_for_an_address(family: socket.AddressFamily) -> bytes:
    """A DISCOVER or a Solicit of the guest that this thread is in (RFC 2131, RFC 8415)."""
    mac = dhcp.mac(_CARD)
    if family == socket.AF_INET6:
        return b"\1\0\0\1" + struct.pack("!HHHH", 1, 10, 3, 1) + mac + struct.pack(
            "!HHIII", 3, 12, 7, 0, 0
        )  # fmt: skip
    head = struct.pack("!BBBBIHH16x6s10x192x", 1, 1, 6, 0, 1, 0, 0x8000, mac)
    return head + dhcp.COOKIE + b"\x35\1\1\xff"


class _Asked:
    """One question under way."""

    def __init__(self, ask: Ask) -> None:
        self.ask, self.state, self.sent = ask, _WAITING, 0.0
        self.socket = socket.socket(family_of(ask.address), _KINDS[ask.protocol])
        self.socket.setblocking(False)
        self.to: tuple[str | int, ...] = (ask.address, ask.port)
        self.says = QUERY
        if ask.protocol == "dhcp":
            self._become_a_client()
            return
        with contextlib.suppress(BlockingIOError):
            try:
                self.socket.connect((ask.address, ask.port))
            except OSError as problem:
                if not isinstance(problem, BlockingIOError):
                    self.state = f"{problem.strerror}"

    def _become_a_client(self) -> None:
        """Of a server that answers from another address than it was asked at."""
        family = self.socket.family
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, dhcp.SO_BINDTODEVICE, _CARD.encode())
        self.socket.bind(("", _CLIENT[family]))
        self.says = _asks_for_an_address(family)
        if family == socket.AF_INET6:
            self.to = (*self.to, 0, socket.if_nametoindex(_CARD))

    def events(self) -> int:
        """What is waited for."""
        connects = self.ask.protocol == "tcp" and not self.ask.listen
        return selectors.EVENT_WRITE if connects else selectors.EVENT_READ

    def send(self, now: float) -> None:
        """A datagram, now and then."""
        if self.ask.protocol != "tcp" and self.state == _WAITING and now - self.sent > AGAIN:
            self.sent = now
            with contextlib.suppress(OSError):
                if self.ask.protocol == "dhcp":
                    self.socket.sendto(self.says, self.to)
                else:
                    self.socket.send(self.says)

    def receive(self) -> None:
        """Take the answer."""
        if self.events() == selectors.EVENT_WRITE:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.state = os.strerror(code) if code else _DONE
            return
        try:
            heard = self.socket.recv(100).decode(errors="replace")
        except BlockingIOError:
            return
        except OSError as problem:
            if self.ask.protocol == "tcp":  # an error of a datagram may be of the one before
                self.state = f"{problem.strerror}"
            return
        wanted = self.ask.answerer
        self.state = _DONE if heard == wanted or not self.ask.listen else f"{heard!r} answers"


class Served(NamedTuple):
    """A listener."""

    party: str
    family: socket.AddressFamily
    protocol: str
    address: str
    port: int


def _serve(served: Served) -> socket.socket:
    made = socket.socket(served.family, _KINDS[served.protocol])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if served.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, _FREEBIND6, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _FREEBIND4, 1)
    made.setblocking(False)
    made.bind((served.address, served.port))
    if served.protocol == "tcp":
        made.listen(32)
    return made


def _answer(listener: socket.socket, party: str, protocol: str) -> None:
    with contextlib.suppress(OSError):
        if protocol == "tcp":
            link, _ = listener.accept()
            with link:
                link.sendall(party.encode())
        else:
            _, whom = listener.recvfrom(100)
            listener.sendto(party.encode(), whom)


def asked(
    places: Mapping[str, str], asks: Sequence[Ask], patience: float = PATIENCE
) -> dict[str, str]:
    """Ask all of them; what came of each, "" where its answerer answered.

    ``places`` are the parties' network namespaces, by name. (A listener answers both families.)
    """
    with contextlib.ExitStack() as stack:
        chosen = stack.enter_context(selectors.DefaultSelector())
        for served in _listeners(asks):
            with inside(places[served.party]):
                listener = stack.enter_context(_serve(served))
            chosen.register(listener, selectors.EVENT_READ, served)
        under_way = []
        for ask in asks:
            with inside(places[ask.asker]):
                question = _Asked(ask)
            stack.enter_context(question.socket)
            if question.state == _WAITING:
                chosen.register(question.socket, question.events(), question)
            under_way.append(question)
        _run(chosen, under_way, patience)
        return {q.ask.name: "" if q.state == _DONE else _words(q) for q in under_way}


def _words(question: _Asked) -> str:
    return "no answer" if question.state == _WAITING else question.state


def _listeners(asks: Iterable[Ask]) -> set[Served]:
    everywhere = (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")
    return {
        Served(ask.answerer, family, ask.protocol, address, ask.listen)
        for ask in asks
        if ask.listen
        for family, address in ([(family_of(ask.address), ask.address)] if ask.here else everywhere)
    }


def _run(chosen: selectors.BaseSelector, under_way: Sequence[_Asked], patience: float) -> None:
    """Until all have their answer, or patience ends (what must be shut is waited for as well)."""
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + patience:
        waiting = [q for q in under_way if q.state == _WAITING]
        if not waiting or (now > begin + SHUT and not any(q.ask.expected for q in waiting)):
            break
        for question in waiting:
            question.send(now)
        for key, _ in chosen.select(0.1):
            if isinstance(key.data, _Asked):
                key.data.receive()
                if key.data.state != _WAITING:
                    chosen.unregister(key.fileobj)
            else:
                _answer(key.fileobj, key.data.party, key.data.protocol)  # type: ignore[arg-type]
