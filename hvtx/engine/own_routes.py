"""The routes of our own bridges' addresses: what others removed of them, and how it comes back."""

from __future__ import annotations

from hvtx.host import devroutes
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import family_of
from hvtx.model.resource import Resource, address_spec
from hvtx.model.routing import OwnRoute
from hvtx.planner import own_routes as decide


def lost(row: Resource, links: Links) -> list[OwnRoute]:
    """The routes of an address that are gone from its bridge.

    None where the bridge is down, and with it its routes, or bound to a VRF, which has a table of
    its own. Raises OSError.
    """
    seen = links.get(ifindex=row.ifindex)
    if seen is None or not seen.up or seen.master:
        return []
    address = address_spec(row)["address"]
    try:
        there = devroutes.of_device(row.ifindex, family_of(address))
    except DumpInterrupted:
        return []  # they change: what is asked next time tells
    return decide.lost(address, there)


def missing(row: Resource, links: Links) -> str | None:
    """What is gone, in words."""
    gone = lost(row, links)
    return decide.words(gone) if gone else None


def put_back(row: Resource, links: Links) -> None:
    """Make them again. Raises OSError."""
    for route in sorted(lost(row, links), key=lambda r: r.kind != "local"):
        devroutes.put(row.ifindex, route)
