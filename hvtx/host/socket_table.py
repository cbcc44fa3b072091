"""The sockets of this network namespace, as the tables in /proc/net have them (proc_pid_net(5))."""

from __future__ import annotations

import _socket as socket
import contextlib
import errno

LISTENING = {"tcp": "0A", "udp": "07"}  # states in /proc/net: TCP_LISTEN; UDP has no other


def listening() -> tuple[frozenset[tuple[str, str, int]], str]:
    """``(protocol, address, port)`` that programs in this network namespace listen on.

    And why that may not be all; empty if it is. This is told to people, nothing is decided by it.
    """
    found: set[tuple[str, str, int]] = set()
    unread = ""
    for protocol, state in LISTENING.items():
        for suffix in ("", "6"):
            try:
                with open(f"/proc/thread-self/net/{protocol}{suffix}", encoding="ascii") as table:
                    sockets = sockets_in(table.read(), state)
            except (OSError, ValueError) as problem:
                if suffix and getattr(problem, "errno", 0) == errno.ENOENT:
                    continue  # a kernel without IPv6 has no such table
                unread = f"/proc/net/{protocol}{suffix} could not be read: {problem}"
                continue
            found.update((protocol, address, port) for address, port in sockets)
    return frozenset(found), unread


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
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4:
            raise ValueError(f"not a line of a socket: {line[:80]!r}")
        if fields[3] == state:
            address, _, port = fields[1].partition(":")
            found.append((spelt(address), int(port, 16)))
    return found


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
