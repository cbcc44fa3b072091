"""Where firewalld has its zones, and whether that of hvtx is there: a look that costs little."""

from __future__ import annotations

import os

ZONES = "/etc/firewalld/zones"  # of the administrator; vendors' are elsewhere, and left alone
LOCK = "/run/hvtx-firewalld.lock"  # of all installations of hvtx on this host


def zone_file() -> str:
    """The file of the zone `hvtx`, if there is one."""
    return f"{ZONES}/hvtx.xml"


def has_file() -> bool:
    """Whether there is one."""
    return os.path.exists(zone_file())
