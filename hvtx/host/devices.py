"""Names of network devices, and one device by itself."""

from __future__ import annotations

import os

from hvtx.host.links import Links
from hvtx.model.resource import Address, Link


def names() -> list[str]:
    """Those of the caller's network namespace, as its /sys shows them; none without /sys."""
    try:
        return sorted(os.listdir("/sys/class/net"))
    except OSError:
        return []


def every() -> list[Link]:
    """All devices of the caller's network namespace; raises OSError, DumpInterrupted."""
    source = Links()
    try:
        return source.all()
    finally:
        source.close()


def addresses(index: int) -> list[Address]:
    """Those of the device of this index; raises OSError, DumpInterrupted."""
    source = Links()
    try:
        return source.addresses(index)
    finally:
        source.close()


def now(index: int) -> Link | None:
    """The device of this index, asked for by itself; raises OSError, DumpInterrupted."""
    source = Links()
    try:
        return source.get(ifindex=index)
    finally:
        source.close()
