"""The routes of our own bridges' addresses: what others removed of them, and how it comes back."""

from __future__ import annotations

import time

from hvtx.host import devroutes
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import family_of
from hvtx.model.resource import Resource, address_spec
from hvtx.model.routing import OwnRoute
from hvtx.planner import own_routes as decide

# The kernel makes the local route of an IPv6 address in a work queue once the device is up, also
# where no duplicate is looked for (addrconf_dad_completed); a busy host is late with it.
_LOOKS, _PAUSE = 25, 0.02  # seconds


def lost(row: Resource, links: Links) -> list[OwnRoute]:
    """The routes of an address that are gone from its bridge, and do not come by themselves.

    None where the bridge is down, and with it its routes, or bound to a VRF, which has a table of
    its own. Raises OSError.
    """
    seen = links.get(ifindex=row.ifindex)
    if seen is None or not seen.up or seen.master:
        return []
    address = address_spec(row)["address"]
    family = family_of(address)
    for more in reversed(range(_LOOKS)):
        try:
            gone = decide.lost(address, devroutes.of_device(row.ifindex, family))
        except DumpInterrupted:
            return []  # they change: what is asked next time tells
        if family == 4 or not more or all(route.kind != "local" for route in gone):
            break
        time.sleep(_PAUSE)
    return gone


def missing(row: Resource, links: Links) -> str | None:
    """What is gone, in words."""
    gone = lost(row, links)
    return decide.words(gone) if gone else None


def put_back(row: Resource, links: Links) -> None:
    """Make them again. Raises OSError."""
    for route in sorted(lost(row, links), key=lambda r: r.kind != "local"):
        devroutes.put(row.ifindex, route)
