"""The routes that come with an address, and which of them are gone."""

from __future__ import annotations

from hvtx.model.routing import LOCAL, MAIN, Route
from hvtx.planner import own_routes

BOTH = {
    "10.77.0.1/24": {("10.77.0.0/24", MAIN), ("10.77.0.1/32", LOCAL), ("10.77.0.255/32", LOCAL)},
    "fd77::1/64": {("fd77::/64", MAIN), ("fd77::1/128", LOCAL)},
    "fe80::1/64": {("fe80::/64", MAIN), ("fe80::1/128", LOCAL), ("ff00::/8", LOCAL)},
    "10.77.0.1/31": {("10.77.0.0/31", MAIN), ("10.77.0.1/32", LOCAL)},
}


def test_what_an_address_brings() -> None:
    for address, there in BOTH.items():
        assert {(r.prefix, r.table) for r in own_routes.expected(address)} == there
        assert own_routes.lost(address, there) == []


def test_what_is_soft() -> None:
    """Guests miss no promise for lack of a route for all at once."""
    there = BOTH["10.77.0.1/24"] - {("10.77.0.255/32", LOCAL)}
    gone = own_routes.lost("10.77.0.1/24", there)
    assert own_routes.words(gone).startswith(own_routes.SOFT)
    assert not own_routes.words(own_routes.lost("10.77.0.1/24", ())).startswith(own_routes.SOFT)


def test_a_lack_is_told_of_the_bridge_only() -> None:
    routes = [Route(prefix, 7, table) for prefix, table in BOTH["10.77.0.1/24"]]
    device = (7, "hvnet")
    assert own_routes.lack("10.77.0.0/24", "10.77.0.1", device, routes) is None
    told = own_routes.lack("10.77.0.0/24", "10.77.0.1", (8, "other"), routes)
    assert told is not None
    assert "the lack of a route 10.77.0.0/24, local 10.77.0.1/32 by bridge other" in told
