"""Who listens in this network namespace: asked of the kernel, or read where it cannot be asked."""

from __future__ import annotations

import _socket as socket
import contextlib
import errno

from hvtx.host import sock_diag, socket_table
from hvtx.host.netlink import DumpInterrupted
from hvtx.host.socket_table import LISTENING, Listener

_FAMILIES = {"": socket.AF_INET, "6": socket.AF_INET6}  # by the ending of a table's name


def listening() -> tuple[frozenset[tuple[str, str, int]], str]:
    """``(protocol, address, port)`` that programs in this network namespace listen on.

    And why that may not be all; empty if it is. This is told to people, nothing is decided by it.
    """
    found: set[tuple[str, str, int]] = set()
    unread = ""
    for protocol in LISTENING:
        for suffix in _FAMILIES:
            try:
                of_table = _of(protocol, suffix)
            except (OSError, ValueError) as problem:
                if suffix and getattr(problem, "errno", 0) == errno.ENOENT:
                    continue  # a kernel without IPv6 has no such table
                unread = f"/proc/net/{protocol}{suffix} could not be read: {problem}"
                continue
            found.update((protocol, one.address, one.port) for one in of_table)
    return frozenset(found), unread


def listeners(protocol: str) -> list[Listener]:
    """The sockets of a protocol that keep others from their ports: as many as can be read."""
    found: list[Listener] = []
    for suffix in _FAMILIES:
        with contextlib.suppress(OSError, ValueError):
            found += _of(protocol, suffix)
    return found


def _of(protocol: str, suffix: str) -> list[Listener]:
    """Those of one family. Raises OSError, and ValueError for a table that is none."""
    if protocol == "tcp":
        # a kernel without it, and whoever may not ask, has the table
        with contextlib.suppress(OSError, DumpInterrupted):
            return sock_diag.listening(_FAMILIES[suffix])
    return socket_table.listeners(protocol, suffix)
