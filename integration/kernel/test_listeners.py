"""Who listens, as sock_diag and as the tables of /proc/net tell it: the same."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hvtx.host import listeners, sock_diag, socket_table
from hvtx.model.typed import NoReturn

WHERE = (
    (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::"), (socket.AF_INET6, "::ffff:127.0.0.1"),
)  # fmt: skip


@pytest.fixture
def bound() -> Iterator[set[tuple[str, str, int]]]:
    """Sockets of every kind; what is to be told: not the one with a peer, nor one only bound."""
    with ExitStack() as opened:
        found = set()
        for kind, protocol in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
            for family, address in WHERE:
                one = opened.enter_context(socket.socket(family, kind))
                if family == socket.AF_INET6 and "." not in address:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((address, 0))
                found.add((protocol, address, one.getsockname()[1]))
                if protocol == "tcp":
                    one.listen()
                    last = one
        peer = opened.enter_context(socket.socket(socket.AF_INET6))
        peer.connect(last.getsockname())
        opened.enter_context(last.accept()[0])
        opened.enter_context(socket.socket(socket.AF_INET)).bind(("127.0.0.1", 0))
        yield found


def without_diag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has no sock_diag."""

    def refused(_: int) -> NoReturn:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    monkeypatch.setattr(sock_diag, "Channel", refused)


def test_both_tell_who_listens(
    bound: set[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = listeners.listening()
    owners = {protocol: sorted(listeners.listeners(protocol)) for protocol in ("tcp", "udp")}
    assert told == (frozenset(bound), "")
    assert {one.uid for each in owners.values() for one in each} == {os.getuid()}
    without_diag(monkeypatch)
    assert listeners.listening() == told
    assert {name: sorted(listeners.listeners(name)) for name in owners} == owners


def test_the_kernel_is_asked_for_those_of_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table takes as long as the host has places for connections."""
    opened: list[str] = []

    def noted(path: str, **how: str) -> object:
        opened.append(path.rpartition("/")[2])
        return open(path, **how)  # type: ignore[call-overload]

    monkeypatch.setattr(socket_table, "open", noted, raising=False)
    listeners.listening()
    assert opened == ["udp", "udp6"]
    without_diag(monkeypatch)
    listeners.listening()
    assert opened[2:] == ["tcp", "tcp6", "udp", "udp6"]
