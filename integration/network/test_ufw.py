"""Beside a real ufw: guests get their addresses, and what an administrator drops is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import ufw
from integration.lab.neighbourhood import flows
from integration.lab.neighbourhood.flows import Ask
from integration.lab.neighbourhood.scene import commands
from integration.lab.program import Forked, Program, preload
from integration.lab.ufw import Ufw
from integration.network.test_dhcp import Guest, end, network, start
from integration.network.test_passages import TOOLS, saved

KINDS = ("nft", "legacy")
FIREWALLS = ("nftables", "iptables")


@pytest.fixture(scope="module")
def package() -> Path:
    return ufw.root()


@pytest.fixture
def beside(package: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Ufw:
    return Ufw(package, tmp_path / "ufw", request.param)


@pytest.fixture(params=FIREWALLS)
def hvtx(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The program, with DHCP as a new installation has it."""
    preload()
    program = Forked(HVTX_FIREWALL=str(request.param), HVTX_DHCP="auto")
    yield program
    end(program)


def served(guest: Guest) -> set[str]:
    """What a guest that knows nothing is given."""
    found = set()
    guest.link()
    if told := guest.does("four", "eth0"):
        assert told["address"] == guest.ipv4
        found.add("DHCPv4")
    if told := guest.does("six", "eth0"):
        assert told["addresses"] == [guest.ipv6]
        found.add("DHCPv6")
    return found


ALL = {"DHCPv4", "DHCPv6"}


def asked_for(guest: Guest) -> dict[str, str]:
    """The same as the cells of the neighbours ask it."""
    asks = [
        Ask("DHCPv4", "guest", "dhcp", "255.255.255.255", 67, "host", 0),
        Ask("DHCPv6", "guest", "dhcp", "ff02::1:2", 547, "host", 0),
    ]
    return flows.asked({"guest": f"/proc/{guest.pid}/ns/net"}, asks, 1.5)


def is_own(line: str) -> bool:
    """Whether a line that was saved is a rule or a chain of hvtx's."""
    return "hvtx:" in line or "HVTX-" in line


def accepts(kind: str, family: int = 4) -> list[str]:
    """What INPUT does, in order: hvtx's accepts as one, and others' rules."""
    lines = lab.run(TOOLS[kind][family == 6], "-S", "INPUT").splitlines()
    found = ["hvtx" if "hvtx:1:" in one else one.partition(" INPUT ")[2] for one in lines]
    return [one for n, one in enumerate(found) if one != "hvtx" or found[n - 1] != "hvtx"]


@pytest.mark.parametrize("beside", KINDS, indirect=True)
@pytest.mark.parametrize("first", ["hvtx", "ufw"])
def test_guests_get_their_addresses(beside: Ufw, hvtx: Program, first: str) -> None:
    """Both backends, both kinds of tables, both start orders; and nothing of ufw's changes."""
    if first == "ufw":
        beside.run("ufw --force enable")
        before = saved(beside.kind)
        network(hvtx)
    else:
        network(hvtx)
        beside.run("ufw --force enable")
        hvtx("repair")
    web = start(hvtx, "web")
    assert served(web) == ALL
    for family, prefix in ((4, "ufw"), (6, "ufw6")):
        order = accepts(beside.kind, family)
        assert order[order.index(f"-j {prefix}-after-input") - 1] == "hvtx"
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()
    if first == "ufw":
        assert [line for line in saved(beside.kind) if not is_own(line)] == before
    beside.run("ufw reload")
    assert served(web) == ALL
    hvtx("vm", "rm", "--force", "web")
    hvtx("network", "rm", "net")
    assert not [line for line in saved(beside.kind) if is_own(line)]


@pytest.mark.parametrize("beside", KINDS, indirect=True)
@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_where_it_rejects_by_default(beside: Ufw, hvtx: Program) -> None:
    beside.run("ufw default reject incoming; ufw --force enable")
    network(hvtx)
    assert served(start(hvtx, "web")) == ALL


@pytest.mark.parametrize("beside", KINDS, indirect=True)
@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_accepts_that_come_too_late_are_moved(beside: Ufw, hvtx: Program) -> None:
    """As earlier versions put them: at the very end."""
    beside.run("ufw --force enable")
    network(hvtx)
    right = accepts(beside.kind)
    tool = TOOLS[beside.kind][0]
    for line in lab.run(tool, "-S", "INPUT").splitlines():
        if "hvtx:1:" in line:
            rule = line.replace('"', "").split()[2:]
            lab.run(tool, "-D", "INPUT", *rule)
            lab.run(tool, "-A", "INPUT", *rule)
    assert accepts(beside.kind)[-1] == "hvtx"
    told = hvtx("doctor", "--json", code=None).json()["findings"]
    (late,) = [one for one in told if "comes after the first rule" in one["message"]]
    assert (late["level"], late["hint"]) == ("warning", "hvtx repair")
    stops = [one for one in told if one["check"] == "forward" and one["level"] == "error"]
    assert [one["hint"] for one in stops] == ["hvtx repair"]
    assert "guest to DHCP server (67/udp; IPv4)" in stops[0]["message"]
    hvtx("repair")
    assert accepts(beside.kind) == right


@pytest.mark.parametrize("beside", KINDS, indirect=True)
@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
@pytest.mark.parametrize("where", ["ufw-after-input", "INPUT"])
def test_what_an_administrator_drops_is_dropped(beside: Ufw, hvtx: Program, where: str) -> None:
    """Beside ufw's default, or after it: hvtx's accepts come behind it then."""
    drop = "-p tcp -m tcp --dport 53 -j DROP"
    beside.run("ufw --force enable")
    lab.run(TOOLS[beside.kind][0], "-A", where, *drop.split())
    network(hvtx)
    assert accepts(beside.kind)[-1] == "hvtx"
    web = start(hvtx, "web")
    assert served(web) == ALL - {"DHCPv4"}
    assert asked_for(web) == {"DHCPv4": "no answer", "DHCPv6": ""}
    told = hvtx("doctor", "--json", code=1).json()["findings"]
    hints = [one["hint"] for one in told if one["check"] == "forward"]
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    assert f"ufw allow in on {bridge} to any port 67 proto udp" in hints
    for hint in hints:
        for command in commands(hint):
            beside.run(command)
    assert served(web) == ALL
    assert asked_for(web) == dict.fromkeys(ALL, "")
    told = hvtx("doctor", "--json").json()["findings"]
    assert [one["level"] for one in told if one["check"] == "forward"] == ["ok"]
