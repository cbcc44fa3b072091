"""The dnsmasq processes of networks, as a test sees them."""

from __future__ import annotations

import os
from pathlib import Path


def services() -> list[int]:
    """The pids of every dnsmasq in the network namespace of this thread."""
    own, found = os.stat("/proc/thread-self/ns/net").st_ino, []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"dnsmasq") and os.stat(f"/proc/{pid}/ns/net").st_ino == own:
                found.append(pid)
        except OSError:
            continue
    return found
