"""The processes in a test's network namespace: the dnsmasq of networks, and all of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def services() -> list[int]:
    """The pids of every dnsmasq in the network namespace of this thread."""
    found = []
    for pid in others_in(own_namespace()):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"dnsmasq"):
                found.append(pid)
    return found


def own_namespace() -> int:
    """The number of the network namespace of this thread."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def others_in(namespace: int) -> list[int]:
    """The pids of every process but this in a network namespace, by its number."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == namespace and pid != os.getpid():
                found.append(pid)
    return found
