"""Where firewalld has its zones, and whether that of hvtx is there: a look that costs little."""

from __future__ import annotations

from hvtx.host import files

ZONES = "/etc/firewalld/zones"  # of the administrator; vendors' are elsewhere, and left alone
LOCK = "/run/hvtx-firewalld.lock"  # of all installations of hvtx on this host


def zone_file() -> str:
    """The file of the zone `hvtx`, if there is one."""
    return f"{ZONES}/hvtx.xml"


def has_file() -> bool:
    """Whether there is one, or may be: who then reads it says why that cannot be told."""
    try:
        return files.is_there(zone_file())
    except OSError:
        return True
