"""Addresses, routes and leases: what others route, what they change of ours, what may not leak."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.program import Forked, Program, preload


@pytest.fixture
def hvtx() -> Iterator[Program]:
    """A program; the host has an uplink."""
    preload()
    device("uplink")
    lab.run("ip", "addr", "add", "203.0.113.1/24", "dev", "uplink")
    program = Forked(HVTX_FIREWALL="nftables")
    yield program
    for vm in program("vm", "ls", "--json", code=None).json().get("vms", []):
        if vm["pid"]:
            lab.end(vm["pid"])


def device(name: str) -> None:
    """A device that is up, without automatic addresses, which would come at their own time."""
    lab.run("ip", "link", "add", name, "type", "bridge")
    lab.run("ip", "link", "set", name, "addrgenmode", "none")
    lab.run("ip", "link", "set", name, "up")


def route(*words: str) -> None:
    lab.run("ip", "route", *words)


ELSEWHERE = {
    "main": ("route", "add", "10.77.0.0/25", "dev", "uplink"),
    "another table": ("route", "add", "10.77.0.128/26", "dev", "uplink", "table", "51820"),
    "blackhole": ("route", "add", "blackhole", "10.77.0.64/26"),
    "wider": ("route", "add", "unreachable", "10.0.0.0/8", "table", "100"),
    "no route": ("addr", "add", "10.77.0.200/24", "dev", "uplink", "noprefixroute"),
    "ipv6": ("-6", "route", "add", "fd77::/96", "dev", "uplink", "table", "77"),
    "a prefix on lo": ("addr", "add", "10.77.0.200/24", "dev", "lo"),
}


@pytest.mark.parametrize("where", list(ELSEWHERE))
def test_a_subnet_that_the_host_routes_elsewhere(hvtx: Program, where: str) -> None:
    """In whatever table, of whatever kind: 4, and nothing is made."""
    lab.run("ip", *ELSEWHERE[where])
    hvtx("network", "ls")
    words = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    with witness.unchanged():
        assert "overlaps" in hvtx(*words, code=4).err


DIVERTING = {
    "half of it": ("route", "add", "10.77.0.0/25", "dev", "uplink"),
    "one guest": ("route", "add", "blackhole", "10.77.0.2/32"),
    "another table": ("route", "add", "10.77.0.0/24", "dev", "uplink", "table", "99"),
    "a prefix on lo": ("addr", "add", "10.77.0.200/24", "dev", "lo"),  # all of it is the host's own
}


@pytest.mark.parametrize("what", [*DIVERTING, "the same subnet on two bridges"])
def test_a_route_that_comes_later(hvtx: Program, what: str) -> None:
    """No packet would reach the guest: its start is refused, and `doctor` names the route."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    if what == "another table":
        lab.run("ip", "rule", "add", "to", "10.77.0.0/24", "lookup", "99", "pref", "10")
    if what in DIVERTING:
        lab.run("ip", *DIVERTING[what])
    else:
        device("theirs")
        lab.run("ip", "addr", "add", "10.77.0.1/24", "dev", "theirs", "metric", "0")
        bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
        lab.run("ip", "route", "change", "10.77.0.0/24", "dev", bridge, "metric", "9", check=False)
        lab.run("ip", "route", "prepend", "10.77.0.0/24", "dev", "theirs", check=False)
    with witness.unchanged():
        found = hvtx("doctor", "--json", code=1).json()["findings"]
        assert [f["level"] for f in found if f["check"] == "routes"] == ["error"]
        assert "diverts packets" in hvtx("vm", "start", "web", code=4).err
    hvtx("vm", "rm", "web")
    with witness.undone():
        words = ("vm", "run", "two", "--network", "net", "--ip", "10.77.0.2", "--", "sleep", "600")
        assert "diverts packets" in hvtx(*words, code=4).err


@pytest.mark.parametrize("what", ["wider", "no carrier counts", "own"])
def test_routes_that_are_in_nobodys_way(hvtx: Program, what: str) -> None:
    """A wider route, a bridge that counts as down, a route through the bridge: it starts."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    if what == "wider":
        route("add", "10.0.0.0/8", "dev", "uplink")
    elif what == "own":
        route("add", "10.77.0.128/25", "dev", "hvnet")
    else:
        for name in ("all", "hvnet"):
            lab.run("sysctl", "-qw", f"net.ipv4.conf.{name}.ignore_routes_with_linkdown=1")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    assert [f["level"] for f in found if f["check"] == "routes"] == ["ok"]


def test_a_network_that_cannot_be_rebuilt(hvtx: Program) -> None:
    """After a boot somebody was quicker with its subnet: told, and whole once that is gone."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    with lab.private_network():
        route("add", "blackhole", "10.77.0.0/24")
        done = hvtx("recover", "--new-namespace", "--json", code=None).json()
        assert [("overlaps" in f["why"], f["what"]) for f in done["failed"]] == [
            (True, "network net")
        ]
        assert "overlaps" in hvtx("vm", "start", "web", code=4).err
        route("del", "blackhole", "10.77.0.0/24")
        hvtx("vm", "start", "web")
        assert hvtx.is_clean()
        hvtx("vm", "rm", "--force", "web")
        hvtx("network", "rm", "net")


def test_an_address_that_was_replaced(hvtx: Program) -> None:
    """`ip addr replace` leaves nothing of a mark; it stands on our bridge, so it is ours."""
    clean = lab.dump()
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    lab.run(
        "ip",
        "addr",
        "replace",
        "10.77.0.1/24",
        "dev",
        "hvnet",
        "preferred_lft",
        "99",
        "valid_lft",
        "9999",
    )
    assert not [key for key in hvtx.plan() if key[0] != "skip"]
    hvtx("network", "rm", "net")
    left = lab.dump()
    for part in ("links", "addresses", "routes4", "routes6", "nft"):
        assert lab.difference(clean[part], left[part]) == ""


def test_rules_of_routing_are_not_ours(hvtx: Program) -> None:
    """hvtx makes no `ip rule` and no route of its own; others' twins stay twins."""
    for pref in ("100", "100", "101"):
        lab.run(
            "ip", "rule", "add", "from", "10.77.0.0/24", "lookup", "77", "pref", pref, check=False
        )
    before = [lab.run("ip", family, "rule") for family in ("-4", "-6")]
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    assert [lab.run("ip", family, "rule") for family in ("-4", "-6")] == before
    hvtx("vm", "rm", "--force", "web")
    hvtx("network", "rm", "net")
    assert [lab.run("ip", family, "rule") for family in ("-4", "-6")] == before


def test_a_start_on_a_bridge_that_is_gone(hvtx: Program) -> None:
    """Told with its fix, and undone; after the fix it starts."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    lab.run("ip", "link", "del", "hvnet")
    with witness.undone():
        assert "repair" in hvtx("vm", "start", "web", code=6).err
    hvtx("repair")
    hvtx("vm", "start", "web")


def test_a_start_on_a_bridge_that_is_down(hvtx: Program) -> None:
    """Told with its fix, and undone: its guest would reach nobody."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    hvtx("vm", "create", "web", "--network", "net", "--", "sleep", "600")
    lab.run("ip", "link", "set", "hvnet", "down")
    with witness.undone():
        refused = hvtx("vm", "start", "web", code=6).err
    assert "bridge hvnet of network 'net' is down" in refused
    assert "hint: hvtx repair" in refused
    hvtx("repair")
    hvtx("vm", "start", "web")


def test_failures_use_up_no_lease(hvtx: Program) -> None:
    """In a subnet with room for one guest: failed and killed runs leave the address free."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/30")
    run = ("vm", "run", "web", "--network", "net", "--")
    for point in ("", "intended:kill", "acted:tap:kill", "spawned:kill"):
        failing = ("false",) if not point else ("sleep", "600")
        hvtx(*run, *failing, code=None, HVTX_FAILPOINT=point or "up:fail")
    hvtx(*run, "sleep", "600")
    assert hvtx.vm("web")["interfaces"][0]["ipv4"] == "10.77.0.2"
