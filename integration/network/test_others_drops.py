"""A drop of somebody else holds, on both backends and in every order; only what needs it passes."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integration import lab
from integration.commands.test_printed_commands import follow
from integration.kernel.test_iptables import Answering, ask
from integration.lab.program import Forked, preload
from integration.lab.waiting import until

GUEST = Path(__file__).parents[1] / "lab/guest.py"
CONTAINER, INTERNAL, OUTSIDE = "172.17.0.2", "172.18.0.2", "203.0.113.7"

# What dockerd 20.10 writes to the legacy tables: a bridge with a container that publishes nothing,
# and an --internal one. Its rules go to the top, at each of its starts.
DOCKER = """
-N DOCKER-USER
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-A DOCKER-ISOLATION-STAGE-1 ! -s 172.18.0.0/16 -o docker1 -j DROP
-A DOCKER-ISOLATION-STAGE-1 ! -d 172.18.0.0/16 -i docker1 -j DROP
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
-I FORWARD -i docker0 -o docker0 -j ACCEPT
-I FORWARD -i docker0 ! -o docker0 -j ACCEPT
-I FORWARD -o docker0 -j DOCKER
-I FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-I FORWARD -j DOCKER-ISOLATION-STAGE-1
-I FORWARD -j DOCKER-USER
-P FORWARD DROP
"""
USER_DROP = f"-I DOCKER-USER -d {OUTSIDE} -p tcp --dport 80 -j DROP"


def ipt(text: str, tool: str = "iptables-legacy") -> None:
    """Rules, one a line."""
    for line in filter(None, text.splitlines()):
        lab.run(tool, "-w", *line.split())


def restart_docker() -> None:
    """As dockerd at its start: its jumps and accepts go, and come back on top."""
    for line in DOCKER.splitlines():
        if line.startswith("-I FORWARD"):
            lab.run("iptables-legacy", "-w", *line.replace("-I", "-D", 1).split())
            lab.run("iptables-legacy", "-w", *line.split())
    for line in DOCKER.splitlines()[::-1]:
        if line == "-I FORWARD -j DOCKER-USER":
            lab.run("iptables-legacy", "-w", *line.replace("-I", "-D", 1).split())
            lab.run("iptables-legacy", "-w", *line.split())


class Host:
    """A network with guests `web` (which publishes) and `two`, containers, and a world."""

    def __init__(self, world: lab.Namespace, firewall: str) -> None:
        self.world, self.hvtx = world, Forked(HVTX_FIREWALL=firewall)
        self.containers = []
        for number, address in ((0, CONTAINER), (1, INTERNAL)):
            bridge, place = f"docker{number}", lab.Namespace()
            gateway = address.replace(".0.2", ".0.1")
            lab.run("ip", "link", "add", bridge, "type", "bridge")
            lab.run("ip", "addr", "add", f"{gateway}/16", "dev", bridge)
            lab.run("ip", "link", "add", f"veth{number}", "type", "veth",
                    "peer", "eth0", "netns", str(place.pid))  # fmt: skip
            lab.run("ip", "link", "set", f"veth{number}", "master", bridge, "up")
            lab.run("ip", "link", "set", bridge, "up")
            place.run("ip", "addr", "add", f"{address}/16", "dev", "eth0")
            place.run("ip", "link", "set", "eth0", "up")
            place.run("ip", "route", "add", "default", "via", gateway)
            self.containers.append(place)
        world.run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "eth0")
        self.places = {"world": world, "container": self.containers[0],
                       "internal": self.containers[1]}  # fmt: skip
        self.servers = [Answering(name, place, 80) for name, place in self.places.items()]

    def start(self, *more: str) -> None:
        """The network and both guests."""
        run = ("--network", "net", "--", sys.executable, str(GUEST))
        self.hvtx(
            "network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet", *more
        )
        self.hvtx("vm", "run", "web", "-p", "8080:80", *run)
        self.hvtx("vm", "run", "two", *run)
        for name in ("web", "two"):
            inside = Inside(self.hvtx.vm(name)["pid"])
            self.places[name] = inside
            until(
                "address", lambda there=inside: "10.77.0." in there.run("ip", "addr", check=False)
            )
            self.servers.append(Answering(name, inside, 80))

    def start_beside(self, others: Callable[[], None], first: str) -> None:
        """Start, before or after others make their rules."""
        if first == "hvtx":
            self.start()
        others()
        if first != "hvtx":
            self.start()

    def passing(self) -> set[str]:
        """The flows that pass."""
        web, two = self.places["web"], self.places["two"]
        address = self.hvtx.vm("web")["interfaces"][0]["ipv4"]
        other = self.hvtx.vm("two")["interfaces"][0]["ipv4"]
        flows = {
            "guest to world": (web, lab.WORLD4, 80),
            "guest to guest": (web, other, 80),
            "world to published": (self.world, lab.HOST4, 8080),
            "guest to published": (two, lab.HOST4, 8080),
            "guest to its own published": (web, lab.HOST4, 8080),
            "host to published": (None, "127.0.0.1", 8080),
            "container to published": (self.containers[0], "172.17.0.1", 8080),
            "guest to container": (web, CONTAINER, 80),
            "guest to internal container": (web, INTERNAL, 80),
            "guest to dropped address": (web, OUTSIDE, 80),
            "container to guest": (self.containers[0], address, 80),
            "world to guest": (self.world, address, 80),
        }
        with ThreadPoolExecutor(len(flows)) as pool:
            network = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

            def passes(flow: tuple[lab.Namespace | None, str, int]) -> bool:
                lab.setns(network)
                return ask(*flow, wait=0.7) is not None

            try:
                return {
                    n for n, yes in zip(flows, pool.map(passes, flows.values()), strict=True) if yes
                }
            finally:
                os.close(network)

    def hints(self, check: str) -> list[str]:
        """The hints of what `doctor` has to say in a check; none where it is content."""
        every = self.hvtx("doctor", "--json", code=None).json()["findings"]
        return [f["hint"] for f in every if f["check"] == check and f["level"] != "ok"]

    def finding(self, check: str) -> str | None:
        """The first of them."""
        return next(iter(self.hints(check)), None)

    def leave(self) -> None:
        """Take VMs and network away."""
        for vm in self.hvtx("vm", "ls", "--json").json()["vms"]:
            self.hvtx("vm", "rm", vm["name"], "--force")
        self.hvtx("network", "rm", "net", code=None)

    def close(self) -> None:
        """End it all."""
        for server in self.servers:
            server.close()
        self.leave()
        for place in self.containers:
            place.close()


class Inside(lab.Namespace):
    """What is inside of a guest."""

    def __init__(self, pid: int) -> None:  # the guest itself keeps it
        self.pid = pid

    def close(self) -> None:
        """Nothing: it ends with its VM."""


@pytest.fixture
def host(world: lab.Namespace, request: pytest.FixtureRequest) -> Iterator[Host]:
    preload()
    there = Host(world, request.param)
    try:
        yield there
    finally:
        there.close()


both = pytest.mark.parametrize("host", ["nftables", "iptables"], indirect=True)
orders = pytest.mark.parametrize("first", ["others", "hvtx"])
PROMISED = frozenset({
    "guest to world", "guest to guest", "world to published", "guest to published",
    "guest to its own published", "host to published", "container to published",
})  # fmt: skip


@both
@orders
def test_what_docker_closes_stays_closed(host: Host, first: str) -> None:
    """Whoever starts first, and when dockerd starts again; its policy is ACCEPT, as forwarding was on."""
    text = (DOCKER + USER_DROP).replace("-P FORWARD DROP", "")
    host.start_beside(lambda: ipt(text), first)
    # with that policy Docker itself closes none but its internal networks
    assert host.passing() == {*PROMISED, "guest to container"}
    restart_docker()
    assert host.passing() == {*PROMISED, "guest to container"}


@pytest.mark.parametrize("host", ["iptables"], indirect=True)
@orders
def test_where_the_policy_drops_only_what_needs_it_passes(host: Host, first: str) -> None:
    """Docker's policy keeps containers closed; guests pass by the accept behind all of its rules."""
    host.start_beside(lambda: ipt(DOCKER + USER_DROP), first)
    if first == "hvtx":  # what closed FORWARD under running VMs is told, and fixed
        assert host.finding("damage") == "hvtx repair"
        host.hvtx("repair")
    assert host.passing() == PROMISED
    restart_docker()
    assert host.passing() == PROMISED
    assert host.finding("damage") is None
    lab.run("ip", "link", "add", "docker7", "type", "bridge")  # a network of Docker's that is new
    assert "repaired" not in host.hvtx("repair").out
    ipt("-P FORWARD ACCEPT")
    host.hvtx("repair")
    assert "PASS" not in lab.run("iptables-legacy", "-S", "FORWARD")  # not needed any more


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("first", ["hvtx", "docker"])
def test_an_accept_of_ours_opens_no_container(host: Host, tool: str, first: str) -> None:
    """With nftables too: guests pass Docker's policy, and nothing that Docker keeps shut is open."""
    host.start_beside(lambda: ipt(DOCKER + USER_DROP, tool), first)
    if first == "hvtx":
        assert "guest to world" not in host.passing()
        assert set(host.hints("forward")) == {"hvtx repair"}
        host.hvtx("repair")
    assert host.passing() == PROMISED
    assert host.hints("forward") == []


@pytest.mark.parametrize("host", ["nftables"], indirect=True)
@pytest.mark.parametrize("tool", ["iptables-legacy", "iptables-nft"])
def test_the_fix_of_doctor_opens_no_container(host: Host, tool: str) -> None:
    """Where no accept of ours may stand: its commands are as narrow as that accept."""
    ipt(DOCKER + USER_DROP, tool)
    host.start("--no-passage")
    assert "guest to world" not in host.passing()
    for hint in host.hints("forward"):
        assert f"{tool} -A FORWARD -i hvnet -o uplink -j ACCEPT" in hint
        follow(hint)
    assert host.hints("forward") == []
    assert host.passing() == PROMISED


_ADMIN = "-N ADMIN\n-A ADMIN -s 10.77.0.0/24 -d 203.0.113.0/24 -j DROP\n"
ADMINS = {
    "appended": _ADMIN + "-A FORWARD -j ADMIN",
    "inserted": _ADMIN + "-I FORWARD -j ADMIN",
    "gone to": _ADMIN + "-A FORWARD -g ADMIN",
    "in mangle": "-t mangle -A FORWARD -s 10.77.0.0/24 -d 203.0.113.0/24 -j DROP",
    "known flows": "-A FORWARD -d 203.0.113.0/24 -m conntrack --ctstate ESTABLISHED -j DROP",
}
KEPT = {*PROMISED, "guest to container", "guest to internal container"} - {
    "guest to world", "guest to dropped address", "world to published"
}  # fmt: skip


@both
def test_a_chain_of_an_administrator_holds(host: Host) -> None:
    """Equal on both backends, however a packet comes to the drop."""
    host.start()
    for how, text in ADMINS.items():
        ipt(text)
        assert host.passing() == KEPT, how
        for line in filter(None, text.splitlines()[::-1]):
            undone = line.replace("-A ", "-D ", 1).replace("-I ", "-D ", 1).replace("-N ", "-X ", 1)
            ipt(undone)
    assert "guest to world" in host.passing()


@both
def test_a_chain_of_an_administrator_that_was_there_first_holds(host: Host) -> None:
    """As one that comes later."""
    ipt(ADMINS["appended"])
    host.start()
    assert host.passing() == KEPT


@pytest.mark.parametrize("host", ["iptables"], indirect=True)
def test_what_is_appended_where_the_policy_drops(host: Host) -> None:
    """It is told that it stands behind our accept; any start, and `repair`, put ours behind it."""
    ipt("-P FORWARD DROP")
    host.start()
    assert "guest to world" in host.passing()
    ipt(ADMINS["appended"])
    assert host.finding("damage") == "hvtx repair"
    host.hvtx("vm", "run", "more", "--network", "net", "--", "sleep", "600")
    assert host.finding("damage") is None
    assert "guest to world" not in host.passing()


@pytest.mark.parametrize("host", ["iptables"], indirect=True)
def test_no_accept_of_others_comes_before_what_must_be_dropped(host: Host) -> None:
    """Isolation, and guests that nobody may reach, whatever is let through in FORWARD."""
    host.start()
    ipt("-I FORWARD -j ACCEPT")
    assert {"container to guest", "world to guest"}.isdisjoint(host.passing())


@pytest.mark.parametrize("host", ["iptables"], indirect=True)
def test_the_world_moves_to_another_device(host: Host) -> None:
    """The devices that guests may go out by are looked at again."""
    ipt("-P FORWARD DROP")
    host.start()
    lab.run("ip", "link", "set", "uplink", "down")
    lab.run("ip", "link", "set", "uplink", "name", "wan0", "up")
    lab.run("ip", "route", "add", "default", "via", lab.WORLD4)
    assert "guest to world" not in host.passing()
    assert host.finding("damage") == "hvtx repair"
    host.hvtx("repair")
    assert {"guest to world", "world to published"} <= host.passing()
    assert host.hvtx.is_clean()


def filter_table() -> list[str]:
    """Its rules and policies, without what they counted: a bridge that comes up sends reports (IGMP)."""
    saved = lab.run("iptables-legacy-save", "-t", "filter").splitlines()[2:-2]
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in saved]


@pytest.mark.parametrize("host", ["iptables"], indirect=True)
def test_nothing_is_left(host: Host) -> None:
    """The accept goes with the last network, and its chains do."""
    ipt("-P FORWARD DROP")
    before = filter_table()
    host.start()
    assert lab.run("iptables-legacy", "-S", "FORWARD").splitlines()[-1].endswith("-PASS")
    host.leave()
    assert filter_table() == before
    assert "HVTX" not in lab.run("iptables-legacy-save")


@pytest.mark.parametrize(
    "point", ["intended", "acted:iptables", "committed", "releasing", "removed"]
)
def test_killed_while_the_accept_is_made_or_replaced(world: lab.Namespace, point: str) -> None:
    """`recover` finds nothing that it cannot resolve, and the next start makes it whole."""
    preload()
    hvtx = Forked(HVTX_FIREWALL="iptables")
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--bridge", "hvnet")
    run = ("--network", "net", "--", "sleep", "600")
    hvtx("vm", "run", "zero", *run)
    ipt("-P FORWARD DROP")
    if point in ("releasing", "removed"):  # the row before is replaced, under a VM that runs
        hvtx("vm", "run", "one", *run)
        lab.run("ip", "link", "add", "vlan7", "link", "uplink", "type", "macvlan")
        lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", "vlan7")
    hvtx("vm", "run", "two", *run, code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    hvtx("recover")
    assert hvtx.is_clean()
    hvtx("vm", "run", "three", *run)
    assert hvtx("repair", "--json").json()["repaired"] == []
    jumps = lab.run("iptables-legacy", "-S", "FORWARD").splitlines()
    assert [line for line in jumps if "PASS" in line] == jumps[-1:]
    assert hvtx.is_clean()
    for vm in hvtx("vm", "ls", "--json").json()["vms"]:
        hvtx("vm", "rm", vm["name"], "--force")
    hvtx("network", "rm", "net")
    assert "HVTX" not in lab.run("iptables-legacy-save")
