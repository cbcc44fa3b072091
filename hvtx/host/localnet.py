"""``route_localnet`` of a bridge, by which 127.0.0.1 of the host reaches its guests.

Apart from the driver of bridges, which a start does not need.
"""

from __future__ import annotations

from hvtx.errors import HostRefused
from hvtx.host import sysctl


def route_localnet(device: str) -> str:
    """The setting (below ``/proc/sys``) by which 127.0.0.1 reaches a bridge's guests."""
    return f"net/ipv4/conf/{device}/route_localnet"


def lead_loopback(device: str, *, on: bool) -> None:
    """Let 127.0.0.1 of the host reach a bridge's guests, or keep it from them.

    A bridge that is gone has nothing to turn off. Raises HostRefused, NotPermitted.
    """
    path, value = route_localnet(device), "1" if on else "0"
    try:
        if sysctl.value(path) != value:
            sysctl.write(path, value)
    except FileNotFoundError as problem:
        if on:
            words = f"bridge {device} is gone, so 127.0.0.1 cannot lead to its guests"
            raise HostRefused(words, hint="`hvtx repair` puts networks back") from problem
    except OSError as problem:
        raise sysctl.refusal(path, value, problem) from problem


def leads_loopback(device: str) -> bool:
    """Whether 127.0.0.1 of the host reaches what is behind a device; False if it cannot be told."""
    return sysctl.read(route_localnet(device)) == "1"
