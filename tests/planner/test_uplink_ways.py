"""What guests reach by their network's uplink, in words and commands."""

from __future__ import annotations

from hvtx.model.routing import Route
from hvtx.model.vm import Network
from hvtx.planner.uplink_ways import Way, free_table, prefixes, samples, told

NET = Network("n1", "lab", "br0", "02:00:00:00:00:99", 1500, True, False, "nftables",
              ("10.77.0.0/24", "fd77::/64"), ("10.77.0.1", "fd77::1"), "fe80::1", uplink="wg0")  # fmt: skip
ROUTES = [
    Route("10.9.0.0/24", 7, 254), Route("10.9.0.1/32", 7, 255, "local"), Route("10.0.0.0/8", 3, 254),
    Route("0.0.0.0/0", 0, 100, devices=(3, 7)), Route("10.9.0.0/24", 7, 254, metric=9),
    Route("fe80::/64", 7, 254), Route("ff00::/8", 7, 255, "multicast"),
]  # fmt: skip


def test_what_routes_lead_to_by_a_device() -> None:
    assert prefixes(ROUTES, 7) == ["10.9.0.0/24", "0.0.0.0/0"]
    assert list(samples("10.9.0.0/24")) == ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"]
    assert list(samples("10.9.0.1/32")) == ["10.9.0.1"]
    assert free_table(ROUTES) == 101
    assert free_table(()) == 100


def test_who_reaches_the_world_is_told_nothing() -> None:
    assert told(NET, {}) is None
    assert told(NET, {4: Way("9.9.9.9", world=True), 6: Way(None)}) is None


def test_what_is_behind_a_device_is_named() -> None:
    many = tuple(f"10.{n}.0.0/16" for n in range(5))
    found = told(NET, {4: Way("10.0.0.1", behind=many), 6: Way(None)})
    assert found is not None
    level, words, fix = found
    assert level == "note"
    assert "reach 10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16 and 2 more by its uplink wg0" in words
    assert fix.split("; ") == [
        "ip route add default via GATEWAY dev wg0 table 100", "ip rule add iif br0 lookup 100",
        "ip -6 route add default via GATEWAY dev wg0 table 100",
        "ip -6 rule add iif br0 lookup 100",
    ]  # fmt: skip


def test_a_device_that_leads_nowhere_is_a_warning() -> None:
    found = told(NET, {4: Way(None, gateway=False, table=102)})
    assert found is not None
    level, words, fix = found
    assert level == "warning"
    assert words.endswith("so they reach nothing beyond this host")
    assert fix == "ip route add default dev wg0 table 102; ip rule add iif br0 lookup 102"
