"""`recover` at any time, after a boot, and a start before it."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from integration import lab
from integration.lab.program import Forked, Program, preload
from integration.lab.verbs import BACKENDS, SLEEP, create, hvtx, network, state

__all__ = ["hvtx"]  # the fixture


def test_recover_at_any_time(hvtx: Program) -> None:
    """With nothing to do, any number of times; a VM stopped by hand stays stopped."""
    assert hvtx("recover", "--json").json()["schema"].startswith("hvtx/")
    network(hvtx)
    hvtx("vm", "run", "web", "--network", "net", "--autostart", *SLEEP)
    hvtx("vm", "run", "two", "--network", "net", *SLEEP)
    hvtx("recover")
    assert [state(hvtx, n) for n in ("web", "two")] == ["running", "running"]
    for name in ("web", "two"):
        hvtx("vm", "stop", name, "--force")
    for _ in range(2):
        hvtx("recover")
    assert [state(hvtx, n) for n in ("web", "two")] == ["defined", "defined"]


def other_boot() -> None:
    """Let the store remember another boot than this one, as after a reboot; the host is bare."""
    path = Path(os.environ["HVTX_STATE_DIR"], "hvtx.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        old = "00000000-0000-4000-8000-000000000000"
        connection.execute("UPDATE life SET boot_id = ?", (old,))
        rows = connection.execute(
            "SELECT id, observed FROM resource WHERE kind = 'process'"
        ).fetchall()
        for number, text in rows:
            seen = json.loads(text)
            if seen:
                seen["boot_id"] = old
                connection.execute(
                    "UPDATE resource SET observed = ? WHERE id = ?", (json.dumps(seen), number)
                )


@pytest.mark.parametrize("firewall", BACKENDS)
def test_a_new_life(firewall: str) -> None:
    """After a reboot: rows are closed, networks rebuilt, --autostart VMs started, once."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=firewall)
    network(hvtx, "--subnet", "fd77::/64")
    hvtx("vm", "run", "auto", "--network", "net", "--autostart", "-p", "8080:80", *SLEEP)
    hvtx("vm", "run", "manual", "--network", "net", *SLEEP)
    before = {n: hvtx.vm(n) for n in ("auto", "manual")}
    for vm in before.values():
        lab.end(vm["pid"])
    other_boot()
    with lab.private_network():  # bare, as a rebooted host is
        assert ("forget", "rebooted") in hvtx.plan()
        hvtx("recover")
        try:
            assert [state(hvtx, n) for n in ("auto", "manual")] == ["running", "defined"]
            for name, vm in before.items():
                now = hvtx.vm(name)["interfaces"][0]
                assert [now[k] for k in ("mac", "ipv4", "ipv6")] == [
                    vm["interfaces"][0][k] for k in ("mac", "ipv4", "ipv6")
                ]
            assert hvtx.is_clean()
            hvtx("vm", "start", "manual")
            hvtx("vm", "stop", "auto", "--force")
            hvtx("recover")
            assert [state(hvtx, n) for n in ("auto", "manual")] == ["defined", "running"]
        finally:
            for name in before:
                hvtx("vm", "rm", name, "--force")
        hvtx("network", "rm", "net")
        assert hvtx.is_clean()


def test_a_network_that_could_not_be_rebuilt_is_tried_again(hvtx: Program) -> None:
    """Each run tells of it until it is there; then what could not start without it is started."""
    network(hvtx)
    hvtx("network", "create", "other", "--subnet", "10.78.0.0/24")
    create(hvtx, "web", "--autostart")
    hvtx("vm", "create", "two", "--network", "other", "--autostart", "--", "false")
    other_boot()
    with lab.private_network():
        lab.run("ip", "link", "add", "vpn", "type", "veth", "peer", "name", "far")
        lab.run("ip", "link", "set", "vpn", "up")
        lab.run("ip", "route", "add", "10.77.0.0/25", "dev", "vpn")
        first = hvtx("recover", code=9).out
        assert "network net: 10.77.0.0/24 overlaps" in first
        assert "network other is rebuilt" in first
        assert "VM two" in first
        again = hvtx("recover", code=9).out
        assert "network net: 10.77.0.0/24 overlaps" in again
        assert "network other" not in again
        assert "VM two" not in again, "it was tried"
        assert [state(hvtx, name) for name in ("web", "two")] == ["defined", "defined"]
        lab.run("ip", "link", "del", "vpn")
        last = hvtx("recover").out
        assert "network net is rebuilt" in last
        assert state(hvtx) == "running"
        hvtx("vm", "stop", "web", "--force")
        assert "nothing to recover" in hvtx("recover").out
        assert state(hvtx) == "defined", "stopped by hand"
        assert hvtx.is_clean()


def test_a_network_that_a_start_has_rebuilt_keeps_no_life_unrecovered(hvtx: Program) -> None:
    """What stood in the way was gone when the VMs were started: all is there then."""
    network(hvtx)
    create(hvtx, "web", "--autostart")
    other_boot()
    with lab.private_network():
        hvtx("recover", code=9, HVTX_FAILPOINT="acted:bridge:error")
        assert state(hvtx) == "running"
        assert "\nhvtx_recovered 1" in hvtx("metrics").out
        hvtx("vm", "stop", "web", "--force")
        assert "nothing to recover" in hvtx("recover").out
        assert state(hvtx) == "defined"


def test_start_in_an_unrecovered_life_rebuilds_what_it_needs(hvtx: Program) -> None:
    network(hvtx)
    hvtx("network", "create", "other", "--subnet", "10.78.0.0/24")
    create(hvtx)
    other_boot()
    with lab.private_network():
        hvtx("vm", "start", "web")
        bridges = {n["ifname"] for n in json.loads(lab.run("ip", "-j", "link"))}
        assert hvtx("network", "show", "net", "--json").json()["bridge"] in bridges
        hvtx("recover")
        bridges = {n["ifname"] for n in json.loads(lab.run("ip", "-j", "link"))}
        assert hvtx("network", "show", "other", "--json").json()["bridge"] in bridges
        assert state(hvtx) == "running"
        hvtx("vm", "rm", "web", "--force")
