"""Addresses as text: of which family one is, whether it has a zone, how it stands beside a port.

That of IPv6 has a colon in it and that of IPv4 none, with a prefix length behind it or without. It
is read here only, and ``ipaddress`` is not asked: every start of a VM would import it, for 2 ms.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.typed import Any

LEAST_PREFIX6 = 64  # a range of DHCPv6 is never wider


def is_ipv6(text: str) -> bool:
    """Whether an address, or a prefix, is of IPv6."""
    return ":" in text


def family_of(text: str) -> int:
    """The family of an address, or of a prefix: 4 or 6."""
    return 6 if is_ipv6(text) else 4


def is_of(text: str, family: int) -> bool:
    """Whether an address, or a prefix, is of a family: 4 or 6."""
    return family_of(text) == family


class ZoneError(ValueError):
    """An address has a zone, where a device of one host says nothing."""


def without_zone(text: str) -> str:
    """The text itself. Raises ZoneError where it has a zone (``fe80::1%eth0``, RFC 4007).

    ``ipaddress`` takes whatever stands behind ``%`` as a part of an address, a line's end too.
    """
    if "%" in text:
        raise ZoneError(f"{text.partition('%')[2]!r} behind '%' is a device of one host")
    return text


def guest_addresses(guard: Mapping[str, Any] | None) -> list[str]:
    """The addresses that a device's filter holds its guest to; none where a row has no filter."""
    told = guard or {}
    return [a for a in (told.get("ipv4"), told.get("ipv6"), *told.get("more", ())) if a]


def with_port(address: str | None, port: int | str) -> str:
    """``203.0.113.1:80``, ``[fd77::1]:80`` or, without an address, ``80``."""
    if not address:
        return str(port)
    return f"[{address}]:{port}" if is_ipv6(address) else f"{address}:{port}"


def prefix_length(subnet: str) -> int:
    """How many bits the addresses of a subnet share."""
    return int(subnet.partition("/")[2])


def room_in(subnet: str) -> int:
    """How many addresses a subnet has for guests.

    Without the network's, the gateway's and (IPv4) the broadcast address.
    """
    bits, beside = (32, 3) if family_of(subnet) == 4 else (128, 2)
    return int(1 << (bits - prefix_length(subnet))) - beside
