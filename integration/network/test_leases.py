"""Names of devices, leases and ports."""

from __future__ import annotations

import json
import re

from integration import lab
from integration.lab.program import Program
from integration.lab.verbs import SLEEP, conflict, create, hvtx, network

__all__ = ["hvtx"]  # the fixture


def test_names_of_devices(hvtx: Program) -> None:
    """At most 15 characters, begin with hv, 50 and more random bits, the mark in the alias."""
    network(hvtx)
    seen = set()
    for _ in range(3):
        hvtx("vm", "run", "web", "--network", "net", *SLEEP)
        device = hvtx.device("web")
        assert re.match(r"hv[a-z2-7]{10,13}\Z", device)
        seen.add(device)
        (link,) = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))
        (tap,) = [r for r in hvtx.vm("web")["resources"] if r["kind"] == "tap"]
        assert (link["ifalias"], tap["key"]) == (tap["mark"], device)
        assert link["master"] == hvtx("network", "show", "net", "--json").json()["bridge"]
        hvtx("vm", "rm", "web", "--force")
    assert len(seen) == 3
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    assert re.match(r"hv(br)?[a-z2-7]{10,13}\Z", bridge)
    assert len(bridge) <= 15


def test_leases_are_stable(hvtx: Program) -> None:
    """Through start, stop, crash and gc; freed by rm."""
    network(hvtx, "--subnet", "fd77::/64")
    create(hvtx, "a")
    create(hvtx, "b")
    was = [hvtx.vm(n)["interfaces"] for n in "ab"]
    for how in ("stop", "crash"):
        for name in "ab":
            pid = hvtx("vm", "start", name, "--json").json()["pid"]
            lab.end(pid) if how == "crash" else hvtx("vm", "stop", name, "--force")
        hvtx("gc", "--apply")
        assert [hvtx.vm(n)["interfaces"] for n in "ab"] == was
    assert [was[0][0]["ipv4"], was[1][0]["ipv4"]] == ["10.77.0.2", "10.77.0.3"]
    assert [was[0][0]["ipv6"], was[1][0]["ipv6"]] == ["fd77::2", "fd77::3"]
    hvtx("vm", "rm", "a")
    create(hvtx, "c", "--ip", "10.77.0.2", "--ip", "fd77::2", "--mac", was[0][0]["mac"])


def test_several_networks(hvtx: Program) -> None:
    """The nth --ip of a family and the nth --mac belong to the nth network, --publish to the first."""
    hvtx("network", "create", "one", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    hvtx("network", "create", "two", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    hvtx("vm", "create", "web", "--network", "one", "--network", "two", "--ip", "10.77.0.9", "--ip", "fd77::9",
         "--ip", "fd78::8", "--ip", "10.78.0.8", "--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:02",
         "-p", "8080:80", *SLEEP)  # fmt: skip
    first, second = hvtx("vm", "start", "web", "--json").json()["interfaces"]
    assert [first[k] for k in ("network", "ipv4", "ipv6", "mac")] == [
        "one", "10.77.0.9", "fd77::9", "02:00:00:00:00:01",
    ]  # fmt: skip
    assert [second[k] for k in ("network", "ipv4", "ipv6", "mac")] == [
        "two", "10.78.0.8", "fd78::8", "02:00:00:00:00:02",
    ]  # fmt: skip
    assert (len(first["publish"]), second["publish"]) == (1, [])
    masters = {
        link["ifname"]: link.get("master") for link in json.loads(lab.run("ip", "-j", "link"))
    }
    bridges = [hvtx("network", "show", n, "--json").json()["bridge"] for n in ("one", "two")]
    assert [masters[first["device"]], masters[second["device"]]] == bridges
    hvtx("vm", "stop", "web", "--force")


def test_a_small_subnet_is_full_in_the_end(hvtx: Program) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/30")
    create(hvtx, "one")
    assert hvtx.vm("one")["interfaces"][0]["ipv4"] == "10.77.0.2"
    conflict(hvtx, "vm", "create", "two", "--network", "net", *SLEEP)


def test_the_largest_mtu_works(hvtx: Program) -> None:
    """Whatever --mtu a network takes, its guests get."""
    for mtu in ("576", "9000", "65521", "65535"):
        ran = hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--mtu", mtu, code=None)
        if ran.code == 0:
            hvtx("vm", "run", "web", "--network", "net", *SLEEP)
            (link,) = json.loads(lab.run("ip", "-j", "link", "show", hvtx.device("web")))
            assert link["mtu"] == int(mtu)
            hvtx("vm", "rm", "web", "--force")
            hvtx("network", "rm", "net")
        else:
            assert ran.code == 2, ran
