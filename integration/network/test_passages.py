"""Where the filter of somebody else drops what nobody decided, hvtx puts accepts of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.kernel.test_iptables import Answering, ask
from integration.lab.program import Forked, preload
from integration.network.test_guests_network import until
from integration.network.test_others_drops import Inside

GUEST = Path(__file__).parents[1] / "lab/guest.py"
FIREWALLS = ("nftables", "iptables")
VARIANTS = ("nft", "legacy")
TOOLS = {
    "nft": ("iptables-nft", "ip6tables-nft"),
    "legacy": ("iptables-legacy", "ip6tables-legacy"),
}


def saved(variant: str) -> list[str]:
    """The tables `filter` of both families, without counters."""
    found = [lab.run(f"{tool}-save", "-t", "filter") for tool in TOOLS[variant]]
    lines = [line for text in found for line in text.splitlines() if line[:1] in ":-"]
    return [line.partition(" [")[0] if line[0] == ":" else line for line in lines]


def marked(variant: str, chain: str = "FORWARD") -> list[str]:
    """Rules of hvtx in a built-in chain of the table of IPv4."""
    text = lab.run(TOOLS[variant][0], "-S", chain)
    return [line for line in text.splitlines() if "hvtx:1:" in line]


class Host:
    """A network with guests `web` (which publishes) and `two`, and a world."""

    def __init__(self, world: lab.Namespace, firewall: str) -> None:
        self.world, self.hvtx = world, Forked(HVTX_FIREWALL=firewall)
        self.servers = [Answering("world", world, 80)]
        self.web: lab.Namespace | None = None

    def create(self, *more: str) -> None:
        """The network."""
        subnets = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
        self.hvtx("network", "create", "net", *subnets, "--bridge", "hvnet", *more)

    def start(self, *more: str) -> None:
        """The network and its guest."""
        self.create(*more)
        run = ("--network", "net", "--", sys.executable, str(GUEST))
        self.hvtx("vm", "run", "web", "-p", "8080:80", *run)
        self.enter()

    def enter(self) -> None:
        """Wait for the guest."""
        self.web = Inside(self.hvtx.vm("web")["pid"])
        ready = ("10.77.0.", "fd77::")
        until(lambda: all(a in self.web.run("ip", "addr", check=False) for a in ready), "addresses")
        until(lambda: "tentative" not in self.web.run("ip", "addr", check=False), "checked ones")
        self.servers.append(Answering("web", self.web, 80))

    def passing(self) -> set[str]:
        """The flows that pass."""
        flows = {
            "out": (self.web, lab.WORLD4, 80),
            "out 6": (self.web, lab.WORLD6, 80),
            "published": (self.world, lab.HOST4, 8080),
            "host to published": (None, "127.0.0.1", 8080),
        }
        return {name for name, flow in flows.items() if ask(*flow, wait=1.5) is not None}

    def leave(self) -> None:
        """Take everything away."""
        self.hvtx("vm", "rm", "--force", "web")
        self.hvtx("network", "rm", "net")


ALL = {"out", "out 6", "published", "host to published"}


@pytest.fixture
def host(request: pytest.FixtureRequest, world: lab.Namespace) -> Iterator[Host]:
    """A host on a backend."""
    preload()
    made = Host(world, request.param)
    yield made
    for vm in made.hvtx("vm", "ls", "--json", code=None).json().get("vms", []):
        if vm["pid"]:
            lab.end(vm["pid"])


@pytest.mark.parametrize("host", FIREWALLS, indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("first", ["hvtx", "neighbour"])
def test_a_policy_that_drops_is_answered(host: Host, variant: str, first: str) -> None:
    """Both backends, both kinds of tables, both start orders; and nothing of others changes."""
    theirs = """
        -A FORWARD -d 192.0.2.0/24 -j DROP
        -P FORWARD DROP
        -A INPUT -i lo -j ACCEPT
        -P INPUT DROP
    """
    if first == "hvtx":
        host.start()
        _apply(variant, theirs)
        assert "out" not in host.passing()
        told = host.hvtx("doctor", "--json", code=1).json()["findings"]
        assert "hvtx repair" in {one["hint"] for one in told if one["level"] == "error"}
        host.hvtx("repair")
    else:
        _apply(variant, theirs)
        before = saved(variant)
        host.start()
    assert host.passing() == ALL
    assert host.hvtx("gc", "--plan", "--json").json()["summary"].get("delete", 0) == 0
    assert host.hvtx("repair", "--json").json()["repaired"] == []
    host.leave()
    assert not marked(variant)
    assert not [line for line in saved(variant) if "hvtx:" in line]
    if first != "hvtx":
        assert saved(variant) == before


def _apply(variant: str, text: str) -> None:
    four, six = TOOLS[variant]
    for line in filter(None, (one.strip() for one in text.splitlines())):
        lab.run(four, "-w", *line.split())
        if "192.0.2" not in line:
            lab.run(six, "-w", *line.split())
    lab.run(six, "-w", "-A", "INPUT", "-i", "uplink", "-p", "ipv6-icmp", "-j", "ACCEPT")
