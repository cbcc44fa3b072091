"""The processes that networks and published ports have, as a test sees them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def services() -> list[int]:
    """The pids of every dnsmasq in the network namespace of this thread."""
    return _here(lambda words: words[0].endswith(b"dnsmasq"))


def left_behind() -> list[int]:
    """These, and the pids of all that keep published ports bound in the namespace of this thread."""
    return _here(lambda words: words[0].endswith(b"dnsmasq") or b"hvtx-port" in words)


def _here(is_one: Callable[[list[bytes]], bool]) -> list[int]:
    own, found = os.stat("/proc/thread-self/ns/net").st_ino, []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if is_one(words) and os.stat(f"/proc/{pid}/ns/net").st_ino == own:
                found.append(pid)
        except OSError:
            continue
    return found
