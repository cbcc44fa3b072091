"""Where the filter of somebody else drops what nobody decided, hvtx puts accepts of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.kernel.test_iptables import Answering, ask
from integration.lab.program import Forked, preload
from integration.lab.waiting import until
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
        until("addresses", lambda: all(a in self.web.run("ip", "addr", check=False) for a in ready))
        until("checked ones", lambda: "tentative" not in self.web.run("ip", "addr", check=False))
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
    # who asked while all was shut may keep the guest's server for another moment
    until("all that passes", lambda: host.passing() == ALL)
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


def ipt(variant: str, text: str) -> None:
    """Rules of IPv4, one a line."""
    for line in filter(None, (one.strip() for one in text.splitlines())):
        lab.run(TOOLS[variant][0], "-w", *line.split())


def order(variant: str) -> list[str]:
    """Who has the rules of FORWARD, in order: hvtx, or what a rule of somebody says."""
    text = lab.run(TOOLS[variant][0], "-S", "FORWARD").splitlines()[1:]
    found = ["hvtx" if "hvtx:1:" in line else line.partition("-A FORWARD ")[2] for line in text]
    return [one for n, one in enumerate(found) if n == 0 or one != "hvtx" or found[n - 1] != "hvtx"]


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_others_drop_holds_and_what_they_append_is_met(host: Host, variant: str) -> None:
    """Behind all explicit drops, before the default reject; what is appended holds after repair."""
    ipt(variant, "-A FORWARD -p tcp --dport 81 -j DROP\n-N last\n-A last -j LOG\n-A last -j REJECT")
    ipt(variant, "-A FORWARD -j last")
    host.start()
    Answering("other", host.world, 81)
    drop = "-p tcp -m tcp --dport 81 -j DROP"
    assert order(variant) == [drop, "hvtx", "-j last"]
    assert "out" in host.passing()
    assert ask(host.web, lab.WORLD4, 81, wait=0.7) is None
    later = "-p tcp -m tcp --dport 82 -j DROP"
    ipt(variant, f"-D FORWARD -j last\n-A FORWARD {later}\n-A FORWARD -j last")
    assert order(variant) == [drop, "hvtx", later, "-j last"]
    findings = host.hvtx("doctor", "--json", code=1).json()["findings"]
    (told,) = [one for one in findings if "foreign rules come after" in one["message"]]
    assert told["hint"] == "hvtx repair"
    host.hvtx("repair")
    assert order(variant) == [drop, later, "hvtx", "-j last"]
    ipt(variant, "-D FORWARD -j last")  # nothing drops any more: nothing of ours stays
    host.hvtx("repair")
    assert order(variant) == [drop, later]
    host.leave()


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_flush_is_mended_and_the_tool_goes_on_reading(host: Host, variant: str) -> None:
    """`iptables -F` takes ours with all: `repair` and the next start put it back, once."""
    ipt(variant, "-P FORWARD DROP")
    host.start()
    ours = marked(variant)
    assert ours
    lab.run(TOOLS[variant][0], "-F", "FORWARD")
    assert not marked(variant)
    assert "hvtx repair" in host.hvtx("doctor", code=1).out
    host.hvtx("repair")
    assert marked(variant) == ours
    lab.run(TOOLS[variant][0], "-F", "FORWARD")
    host.hvtx("vm", "stop", "web", "--force")
    host.hvtx("vm", "start", "web")
    assert marked(variant) == ours
    lab.run(TOOLS[variant][0], "-A", *ours[0].replace("-A ", "", 1).replace('"', "").split())
    host.hvtx("repair")
    assert marked(variant) == ours, "a copy is taken away"
    mark = ours[0].split('"')[1]
    told = host.hvtx("explain", mark, "--json").json()
    assert (told["owner"], told["network"]) == ("hvtx", "net")
    rows = host.hvtx("network", "show", "net", "--json").json()["resources"]
    assert mark in {row["mark"] for row in rows if row["kind"] == "filter"}
    host.leave()
    assert not marked(variant)


@pytest.mark.parametrize("host", FIREWALLS, indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_that_wants_no_passage_gets_none(host: Host, variant: str) -> None:
    """And doctor says what stops its guests, with the commands for them alone."""
    ipt(variant, "-P FORWARD DROP")
    host.create("--no-passage")
    host.hvtx("network", "create", "open", "--subnet", "10.78.0.0/24", "--bridge", "hvopen")
    assert host.hvtx("network", "show", "net", "--json").json()["passage"] is False
    run = ("--network", "net", "--", sys.executable, str(GUEST))
    host.hvtx("vm", "run", "web", "-p", "8080:80", *run)
    host.enter()
    assert not [line for line in marked(variant) if "hvnet" in line]
    passing = host.passing()
    assert "out" not in passing
    assert "out 6" in passing, "of IPv6 nothing is dropped"
    findings = host.hvtx("doctor", "--json", code=1).json()["findings"]
    stops = [one for one in findings if one["check"] == "forward" and one["level"] == "error"]
    assert stops
    assert all("olicy" in one["message"] and TOOLS[variant][0] in one["hint"] for one in stops)
    host.hvtx("repair")
    assert "out" not in host.passing()
    host.hvtx("network", "rm", "open")
    host.leave()


@pytest.mark.parametrize("host", FIREWALLS, indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_accepts_come_and_go_with_what_is_set(host: Host, variant: str) -> None:
    """Under guests that run: asked for or not, by which device they leave, what they ask the host.

    With legacy tables and the iptables backend FORWARD has hvtx's own way, for all networks.
    """

    def accepted() -> list[str]:
        return [line for line in marked(variant, "INPUT") if "ACCEPT" in line]

    ipt(variant, "-P FORWARD DROP\n-A INPUT -i lo -j ACCEPT\n-P INPUT DROP")
    host.start("--no-passage")
    assert "out" not in host.passing()
    assert not accepted()
    host.hvtx("network", "set", "net", "--passage")
    until("all that passes", lambda: host.passing() == ALL)
    before = accepted()
    assert not [line for line in before if "--dport 67" in line]
    host.hvtx("network", "set", "net", "--dhcp")
    assert [line for line in accepted() if "--dport 67" in line]
    host.hvtx("network", "set", "net", "--no-dhcp", "--uplink", "uplink")
    assert len(accepted()) == len(before)
    until("all that passes", lambda: host.passing() == ALL)
    assert host.hvtx("repair", "--json").json()["repaired"] == []
    assert host.hvtx.is_clean()
    host.hvtx("network", "set", "net", "--no-passage")
    assert "out" not in host.passing()
    assert not accepted()
    assert not [line for line in marked(variant) if "hvnet" in line]
    assert host.hvtx.is_clean()
    host.leave()


@pytest.mark.parametrize("host", FIREWALLS, indirect=True)
def test_accepts_come_though_known_flows_may_go_on(host: Host) -> None:
    """The network is changed, and what could not be ended is told when all else is done."""
    ipt("nft", "-P FORWARD DROP")
    host.create("--no-passage")
    wish = ("network", "set", "net", "--passage", "--egress", "internet")
    told = host.hvtx(*wish, code=9, HVTX_FAILPOINT="flushing:refused:error").err
    assert "connections that" in told
    assert marked("nft")
    host.hvtx("gc", "--apply")
    assert host.hvtx.is_clean()
    host.hvtx("network", "rm", "net")


@pytest.mark.parametrize("host", FIREWALLS, indirect=True)
def test_accepts_come_with_what_was_cut_off_before_them(host: Host) -> None:
    """The record says all that is wanted, and no accept does yet: the same once more settles it."""
    ipt("nft", "-P FORWARD DROP")
    host.create("--no-passage")
    wish = ("network", "set", "net", "--passage")
    host.hvtx(*wish, code=-signal.SIGKILL, HVTX_FAILPOINT="committed:kill")
    assert not marked("nft")
    host.hvtx("network", "set", "net", "--no-isolate")
    assert not marked("nft"), "only who asks for what they follow from looks at them"
    host.hvtx(*wish)
    assert marked("nft")
    assert host.hvtx.is_clean()
    host.hvtx("network", "rm", "net")


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
def test_another_way_to_the_world_is_met(host: Host) -> None:
    """A device that comes later is in the accepts after the next start or repair."""
    ipt("nft", "-P FORWARD DROP")
    host.create()
    lab.run("ip", "link", "add", "second", "type", "veth", "peer", "beyond")
    lab.run("ip", "address", "add", "198.51.100.1/24", "dev", "second")
    assert not [line for line in marked("nft") if "second" in line]
    assert "out of date" in host.hvtx("doctor", code=None).out
    host.hvtx("repair")
    assert [line for line in marked("nft") if "-o second" in line]
    assert len([line for line in marked("nft") if "-o uplink" in line]) == 1
    host.hvtx("network", "rm", "net")


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
def test_tables_of_nft_itself_are_left_alone(host: Host) -> None:
    """A native table with a policy is nobody's iptables: doctor names it, nothing is placed."""
    chain = "chain out { type filter hook forward priority 0; policy drop; }"
    lab.run("nft", "-f", "-", stdin=f"table inet wall {{\n{chain}\n}}\n")
    before = lab.run("nft", "list", "table", "inet", "wall")
    host.start()
    assert lab.run("nft", "list", "table", "inet", "wall") == before
    assert "inet wall out" in host.hvtx("doctor", code=1).out
    host.leave()


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
def test_the_last_network_takes_its_own_only(host: Host) -> None:
    """Two networks beside one policy: each has its rows, and goes with them."""
    ipt("nft", "-P FORWARD DROP")
    host.create()
    host.hvtx("network", "create", "two", "--subnet", "10.78.0.0/24", "--bridge", "hvtwo")
    assert {"hvnet", "hvtwo"} <= {word for line in marked("nft") for word in line.split()}
    host.hvtx("network", "rm", "net")
    assert not [line for line in marked("nft") if "hvnet" in line]
    assert [line for line in marked("nft") if "hvtwo" in line]
    host.hvtx("network", "rm", "two")
    assert lab.run("iptables-nft", "-S", "FORWARD").split("\n")[:-1] == ["-P FORWARD DROP"]


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
@pytest.mark.parametrize("variant", VARIANTS)
def test_accepts_that_were_saved_and_restored(host: Host, variant: str) -> None:
    """Twice there is once too often, and those of a network that is gone are collected."""
    tool = TOOLS[variant][0]
    ipt(variant, "-P FORWARD DROP")
    host.create()
    ours = marked(variant)
    text = lab.run(f"{tool}-save", "-t", "filter")
    lab.run(f"{tool}-restore", "-n", stdin=text)
    assert len(marked(variant)) == 2 * len(ours)
    host.hvtx("repair")
    assert marked(variant) == ours
    host.hvtx("network", "rm", "net")
    lab.run(f"{tool}-restore", stdin=text)
    assert marked(variant) == ours
    reasons = {
        (item["action"], item["reason"])
        for item in host.hvtx("gc", "--plan", "--json").json()["items"]
    }
    assert ("delete", "released-leftover") in reasons
    host.hvtx("gc", "--apply")
    assert not marked(variant)
