"""Devices by which guests reach the world, told from bridges of others. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from hvtx.model.address import is_ipv6
from hvtx.model.resource import Address, Link

# What stands for a wire, or for a tunnel that a subnet lies behind. A bridge is others' guests and
# containers unless the host itself has its way to the world through it; so is a TAP.
_WIRES = frozenset({"", "bond", "ipvlan", "macsec", "macvlan", "team", "veth", "vlan", "wireguard"})
_USABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,14}")  # no "+" at the end: that is a pattern
_LOOPBACK = 1  # the index of each namespace's


def uplinks(
    links: Iterable[Link],
    addresses: Iterable[Address],
    *,
    ways: Collection[int],
    own: Collection[str],
) -> list[str]:
    """The names of the devices where the world is, in order.

    ``ways`` are the indexes of devices with a default route or a route through a gateway; ``own``
    are the names of hvtx's bridges.
    """
    wide = {address.ifindex for address in addresses if _is_wide(address.address)}
    return sorted(
        link.name
        for link in links
        if link.ifindex != _LOOPBACK
        and link.name not in own
        and _USABLE.fullmatch(link.name)
        and (link.ifindex in ways or _is_wire(link, wide))
    )


def _is_wire(link: Link, wide: Collection[int]) -> bool:
    """Hardware is one before it has an address (at boot); others are by the subnet behind them."""
    if link.master or link.kind not in _WIRES:
        return False
    return not link.kind or link.ifindex in wide


def _is_wide(address: str) -> bool:
    """Whether others have their place in an address's subnet."""
    text, _, length = address.partition("/")
    six = is_ipv6(text)
    return int(length or 0) < (128 if six else 32) and not text.startswith(("fe80:", "127."))
