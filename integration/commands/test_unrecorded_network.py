"""A network that an older copy of the store does not know: bridge, addresses, dnsmasq, rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_off_record import doubted
from integration.commands.test_unrecorded_files import SLEEP, planned, put_back, whole
from integration.lab.program import Forked, Program, preload
from integration.lab.services import services
from integration.lab.vms import end_vms

SUBNETS = ("--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A program with a network and a running VM `web`."""
    preload()
    program = Forked(HVTX_FIREWALL=request.param)
    both = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")  # the kernel has all tables then
    program("network", "create", "net", *both, "--no-dhcp")
    program("vm", "run", "web", "--network", "net", *SLEEP)
    yield program
    end_vms(program)


def bridge_of(hvtx: Program, network: str) -> str:
    bridge: str = hvtx("network", "show", network, "--json").json()["bridge"]
    return bridge


@pytest.mark.parametrize("dhcp", ["--dhcp", "--no-dhcp"])
def test_all_of_it_goes_by_a_persons_word(hvtx: Program, tmp_path: Path, dhcp: str) -> None:
    """At once, with a dead VM of it; then nothing is off the record, and its subnet is free."""
    before = whole()
    hvtx("store", "backup", str(tmp_path / "backup"))
    hvtx("network", "create", "lan2", *SUBNETS, dhcp)
    hvtx("vm", "run", "later", "--network", "lan2", *SLEEP)
    pid = hvtx.vm("later")["pid"]
    serving = services()
    assert len(serving) == (dhcp == "--dhcp")
    put_back(hvtx, tmp_path / "backup")
    lab.end(pid)
    listed = [line for item in planned(hvtx).values() for line in item["evidence"]]
    assert [who for who in serving if f"dnsmasq (pid {who}) is at it" not in listed] == []
    hvtx("gc", "--apply")
    assert services() == serving
    done = hvtx("gc", "--apply", "--unrecorded", "--json").json()["items"]
    assert {item["outcome"] for item in done if item["action"] == "delete"} == {"done"}
    assert services() == []
    assert lab.difference(before, whole()) == ""
    assert not doubted()
    told = hvtx("log", "--event", "removed", "--json").json()["entries"]
    ended = [one["message"] for one in told if "its dnsmasq" in one["message"]]
    assert [f"pid {who}, was ended" in ended[0] for who in serving] == [True] * len(ended)
    hvtx("network", "create", "lan3", *SUBNETS, "--no-dhcp")
    hvtx("network", "rm", "lan3")
    assert hvtx.is_clean()


def test_what_somebody_put_on_its_bridge_keeps_it(hvtx: Program, tmp_path: Path) -> None:
    hvtx("store", "backup", str(tmp_path / "backup"))
    hvtx("network", "create", "lan2", *SUBNETS, "--no-dhcp")
    bridge = bridge_of(hvtx, "lan2")
    put_back(hvtx, tmp_path / "backup")
    lab.run("ip", "addr", "add", "192.0.2.77/32", "dev", bridge)
    hvtx("gc", "--apply", "--unrecorded")
    assert "192.0.2.77" in lab.run("ip", "addr", "show", "dev", bridge)
    assert hvtx.reasons("bridge", bridge) == {("skip", "unrecorded")}
    lab.run("ip", "addr", "del", "192.0.2.77/32", "dev", bridge)
    hvtx("gc", "--apply", "--unrecorded")
    assert bridge not in lab.run("ip", "-o", "link")


def test_a_bridge_that_was_brought_back_goes_with_its_addresses(hvtx: Program) -> None:
    """A restore has put back what was released: the record of that tells which are its own."""
    hvtx("network", "create", "lan2", "--subnet", "10.78.0.0/24", "--no-dhcp")
    bridge = bridge_of(hvtx, "lan2")
    shown = hvtx("network", "show", "lan2", "--json").json()
    mark = next(r["mark"] for r in shown["resources"] if r["kind"] == "bridge")
    index = json.loads(lab.run("ip", "-j", "link", "show", "dev", bridge))[0]["ifindex"]
    hvtx("network", "rm", "lan2")
    before = whole()
    lab.run("ip", "link", "add", bridge, "index", str(index), "type", "bridge")
    lab.run("ip", "link", "set", bridge, "alias", mark)
    lab.run("ip", "addr", "add", "10.78.0.1/24", "dev", bridge)
    assert hvtx.reasons("bridge", bridge) == {("delete", "released-leftover")}
    hvtx("gc", "--apply")
    assert lab.difference(before, whole()) == ""
