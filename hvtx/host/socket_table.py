"""The tables of sockets in /proc/net, of this network namespace (proc_pid_net(5))."""

from __future__ import annotations

import _socket as socket
import contextlib
from collections.abc import Iterator

from hvtx.model.typed import NamedTuple

LISTENING = {"tcp": "0A", "udp": "07"}  # states in a table: TCP_LISTEN; UDP has no other


class Listener(NamedTuple):
    """A socket that keeps others from its port, with whose it is."""

    address: str
    port: int
    uid: int
    inode: int


def listeners(protocol: str, suffix: str) -> list[Listener]:
    """Those of a table, whose name ends with "6" for IPv6: a kernel without IPv6 has none.

    Raises OSError, and ValueError for a table that is none.
    """
    with open(f"/proc/thread-self/net/{protocol}{suffix}", encoding="ascii") as table:
        return listeners_in(table.read(), LISTENING[protocol])


def has_connections(port: int) -> bool:
    """Whether connections of TCP have this port, beside whoever may listen on it."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as table:
                text = table.read()
            states = {f"{state:02X}" for state in range(1, 13)} - {LISTENING["tcp"]}
            if any(own == port for state in states for _, own in sockets_in(text, state)):
                return True
    return False


def sockets_in(table: str, state: str) -> list[tuple[str, int]]:
    """Address and port of those in ``state`` in a text of /proc/net (pure).

    ValueError for what is none.
    """
    return [_local(fields) for fields in _lines(table, 4) if fields[3] == state]


def listeners_in(table: str, state: str) -> list[Listener]:
    """The same with whose they are."""
    return [
        Listener(*_local(fields), int(fields[7]), int(fields[9]))
        for fields in _lines(table, 10)
        if fields[3] == state
    ]


def _lines(table: str, least: int) -> Iterator[list[str]]:
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < least:
            raise ValueError(f"not a line of a socket: {line[:80]!r}")
        yield fields


def _local(fields: list[str]) -> tuple[str, int]:
    address, _, port = fields[1].partition(":")
    return spelt(address), int(port, 16)


def spelt(words: str) -> str:
    """An address as /proc/net has it: 32-bit words in the machine's own order, in hexadecimal.

    ValueError for what is none.
    """
    import sys

    raw = bytes.fromhex(words)
    if len(raw) not in (4, 16):
        raise ValueError(f"an address of {len(raw)} bytes")
    if sys.byteorder == "little":
        raw = b"".join(raw[n : n + 4][::-1] for n in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
