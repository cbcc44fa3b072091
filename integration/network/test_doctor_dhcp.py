"""doctor names what keeps guests from an address, and its commands let them have one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from integration import lab
from integration.lab.neighbourhood.scene import commands
from integration.lab.program import Forked, Program, preload
from integration.network.test_dhcp import end, network, start
from integration.network.test_passages import ipt
from integration.network.test_ufw import ALL, served

KNOWN = """ct state established,related accept
 meta l4proto { icmp, ipv6-icmp } accept
 meta l4proto { tcp, udp } th dport 53 accept"""
WALLS = {
    "a policy": f"chain c {{ type filter hook input priority 0; policy drop;\n {KNOWN}\n }}",
    "a rule": f"chain c {{ type filter hook input priority 0;\n {KNOWN}\n counter drop\n }}",
    "of answers": "chain c { type filter hook output priority 0;\n udp sport { 67, 547 } drop\n }",
    "of routers": "chain c { type filter hook input priority 0;\n icmpv6 type nd-router-solicit"
    " drop\n }",
}  # fmt: skip
ASKED = {
    "of answers": {"guest to DHCP server (67/udp, 547/udp; IPv4 and IPv6)"},
    "of routers": {"guest to router (router solicitation; IPv6)"},
}


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Program]:
    """The program, with DHCP as a new installation has it."""
    preload()
    program = Forked(HVTX_FIREWALL=str(request.param), HVTX_DHCP="auto")
    yield program
    end(program)


def stops(hvtx: Program) -> list[dict[str, Any]]:
    """The errors of doctor's check of flows."""
    told = hvtx("doctor", "--json", code=None).json()["findings"]
    return [f for f in told if f["check"] == "forward" and f["level"] != "ok"]


def opened(hvtx: Program) -> list[str]:
    """Run what doctor prints, until it names nothing more; the commands."""
    run: list[str] = []
    for _ in range(3):
        for command in [one for stop in stops(hvtx) for one in commands(stop["hint"])]:
            lab.run("sh", "-c", command)
            run.append(command)
    assert stops(hvtx) == []
    return run


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
@pytest.mark.parametrize("wall", WALLS)
def test_a_table_of_nft_itself(hvtx: Program, wall: str) -> None:
    """What guests are not given, doctor says, be names and echoes let pass as they may."""
    bridge = network(hvtx)["bridge"]
    assert stops(hvtx) == []
    lab.run("nft", "-f", "-", stdin=f"table inet wall {{\n {WALLS[wall]}\n}}\n")
    web = start(hvtx, "web")
    if wall != "of routers":
        assert served(web) == set()
    found = stops(hvtx)
    every = {
        "guest to DHCP server (67/udp, 547/udp; IPv4 and IPv6)",
        "guest to DHCP server (67/udp, 547/udp; IPv4 and IPv6), guest to router",
    }
    wanted = ASKED.get(wall, every)
    assert any(words in one["message"] for one in found for words in wanted), found
    assert all("inet wall c" in one["message"] for one in found)
    assert all(bridge in command for command in opened(hvtx))
    assert served(web) == ALL


@pytest.mark.parametrize("hvtx", ["nftables"], indirect=True)
def test_a_host_without_a_network(hvtx: Program) -> None:
    """What the next one's guests would be given is told before, and only where it has a service."""
    lab.run("nft", "-f", "-", stdin=f"table inet wall {{\n {WALLS['a policy']}\n}}\n")
    (found,) = stops(hvtx)
    assert found["level"] == "warning"
    assert "the next network: guest to DHCP server (67/udp; IPv4)" in found["message"]
    told = hvtx("doctor", "--json", HVTX_DHCP="off", code=None).json()["findings"]
    assert [f["level"] for f in told if f["check"] == "forward"] == ["ok"]


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_a_policy_where_no_passage_is_wanted(hvtx: Program, variant: str) -> None:
    network(hvtx, "--subnet", "10.77.0.0/24", "--no-passage")
    accepts = "-A INPUT -p udp --dport 53 -j ACCEPT\n-A INPUT -p tcp --dport 53 -j ACCEPT"
    known = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    ipt(variant, f"{known}\n-A INPUT -p icmp -j ACCEPT\n{accepts}\n-P INPUT DROP")
    web = start(hvtx, "web")
    assert web.does("four", "eth0") is None
    (found,) = stops(hvtx)
    assert "guest to DHCP server (67/udp; IPv4) stopped by" in found["message"]
    opened(hvtx)
    assert web.does("four", "eth0")["address"] == web.ipv4
