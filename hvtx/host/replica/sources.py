"""Addresses that rules speak of: a port that is closed to the world may be open to some of it."""

from __future__ import annotations

import ipaddress
import re

from hvtx.errors import HvtxError
from hvtx.host.replica.causes import Cause
from hvtx.host.xtnames import TOOLS

_ADDRESS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?=[\da-f:]*::?[\da-f:])[\da-f:]{2,39})"
    r"(?:/\d{1,3})?(?![\w.:])"
)
_MOST, _LONGEST = 6, 1 << 16


def of(cause: Cause, family: int, legacy: str) -> list[bytes]:
    """Some of the addresses in the table that a cause is in; ``legacy`` is what is saved of it.

    In the calling thread's namespace.
    """
    from hvtx.host import libnftables

    if cause.by == "legacy" and cause.place[0].startswith(TOOLS[family]):
        return addresses_in(legacy, family)
    if cause.by != "nft":
        return []
    try:
        return addresses_in(libnftables.run(f"list table {' '.join(cause.place[:2])}"), family)
    except HvtxError:
        return []


def addresses_in(text: str, family: int) -> list[bytes]:
    """The first addresses in a text, of a network one that is in it. Pure."""
    found: dict[bytes, None] = {}
    for word in _ADDRESS.findall(text[:_LONGEST]):
        try:
            net = ipaddress.ip_network(word, strict=False)
        except ValueError:
            continue
        if net.version != family or net.is_multicast or net.is_loopback or net.is_unspecified:
            continue
        last = net.broadcast_address
        host = last - 1 if net.num_addresses > 2 else last
        found[host.packed] = None
        if len(found) == _MOST:
            break
    return list(found)
