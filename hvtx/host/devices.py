"""Names of network devices."""

from __future__ import annotations

import os


def names() -> list[str]:
    """Those of the caller's network namespace, as its /sys shows them; none without /sys."""
    try:
        return sorted(os.listdir("/sys/class/net"))
    except OSError:
        return []
