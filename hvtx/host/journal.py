"""The journal of systemd: lines with fields of their own, for whoever runs under it.

The native protocol is one datagram a line (systemd's documentation, JOURNAL_NATIVE_PROTOCOL); its
library would be a compiled dependency for what is here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_MOST = 32768  # characters of a value: a datagram must fit into the socket's buffer


def has_stderr() -> bool:
    """Whether standard error leads to the journal (``JOURNAL_STREAM``, systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        where = os.fstat(2)
    except OSError:
        return False
    return stream == f"{where.st_dev}:{where.st_ino}"


def status(words: str) -> bool:
    """Tell systemd what the unit is doing, for `systemctl status`; whether it was told.

    sd_notify(3): ``STATUS=`` to the socket of ``NOTIFY_SOCKET``; an abstract one has a ``@``.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path[0] == "@" else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link:
            link.connect(address)
            link.send(b"STATUS=" + words.replace("\n", " ").encode(errors="replace"))
    except OSError:
        return False
    return True


def datagram(fields: Mapping[str, object]) -> bytes:
    """A line as the journal takes it (pure); values of None are left out."""
    parts = []
    for name, value in fields.items():
        if value is None:
            continue
        data = str(value)[:_MOST].encode(errors="replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def send(lines: list[Mapping[str, object]], path: str = SOCKET) -> bool:
    """Send lines; whether the journal took them. Never waits for a journal that does not read."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link:
            link.connect(path)
            for line in lines:
                link.send(datagram(line))
    except OSError:
        return False
    return True
