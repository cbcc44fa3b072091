"""Beside a real firewalld: bridges are put into its zone `hvtx`, by its bus and without a reload."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx import api
from hvtx.drivers.base import Host
from hvtx.drivers.firewalld import FirewalldDriver
from hvtx.engine.installed_zone import install_zone, remove_zone
from hvtx.engine.packaged_units import packaged_zone
from hvtx.host import firewalld as host_firewalld
from hvtx.host import firewalld_zones
from hvtx.model.firewalld_zone import Zone, marks_in, stays, zone_in
from hvtx.model.mark import make_mark
from hvtx.model.resource import Resource
from integration import lab
from integration.boot.test_reboots import forget_everything
from integration.commands.test_cni_plugin import Answer, Plugin
from integration.lab import firewalld
from integration.lab.firewalld import Firewalld
from integration.lab.neighbourhood import flows
from integration.lab.neighbourhood.flows import Ask
from integration.lab.program import Forked, preload
from integration.lab.waiting import until
from integration.network.test_others_drops import Inside

GUEST = Path(__file__).parents[1] / "lab/guest.py"
GATEWAY4, GATEWAY6, PORT, FAR = "10.77.0.1", "fd77::1", 8080, 9000
OPEN, SHUT = 7000, 7001  # of the host, by its firewall
ALL, STOPPED = 15, 7


class Site:
    """A host with an uplink to a world, and hvtx on it."""

    def __init__(self, world: lab.Namespace, daemon: Firewalld) -> None:
        self.world, self.daemon, self.hvtx = world, daemon, Forked()
        self.guests: dict[str, dict[str, str]] = {}

    def create(self, *more: str) -> str:
        """The network; what was said besides."""
        subnets = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
        return self.hvtx("network", "create", "lan", *subnets, "--bridge", "hvlan", *more).err

    def run(self) -> None:
        """The guests."""
        for name, more in {"web": ("-p", f"{PORT}:80"), "two": ()}.items():
            self.hvtx("vm", "run", name, "--network", "lan", *more,
                      "--", sys.executable, str(GUEST))  # fmt: skip
            self.look(name)

    def look(self, name: str) -> None:
        """Find a guest, and wait for its addresses."""
        told = self.hvtx.vm(name)
        own = told["interfaces"][0]
        self.guests[name] = {"4": own["ipv4"], "6": own["ipv6"], "pid": told["pid"]}
        inside, wanted = Inside(told["pid"]), (own["ipv4"], own["ipv6"])
        until("addresses", lambda: all(a in inside.run("ip", "addr", check=False) for a in wanted))

    def asks(self) -> list[Ask]:
        """The fifteen flows."""
        web4, web6 = self.guests["web"]["4"], self.guests["web"]["6"]
        return [
            Ask("out, tcp", "two", "tcp", lab.WORLD4, FAR, "world", FAR),
            Ask("out, udp", "two", "udp", lab.WORLD4, FAR, "world", FAR),
            Ask("out, IPv6", "two", "tcp", lab.WORLD6, FAR, "world", FAR),
            Ask("published", "world", "tcp", lab.HOST4, PORT, "web", 80),
            Ask("published, IPv6", "world", "tcp", lab.HOST6, PORT, "web", 80),
            Ask("guests", "two", "tcp", web4, 80, "web", 80),
            Ask("guests, IPv6", "two", "tcp", web6, 80, "web", 80),
            Ask("gateway, tcp", "two", "tcp", GATEWAY4, 53, "host", 53),
            Ask("gateway, udp", "two", "udp", GATEWAY4, 53, "host", 53),
            Ask("gateway, IPv6", "two", "tcp", GATEWAY6, 53, "host", 53),
            Ask("host", "host", "tcp", web4, 80, "web", 80),
            Ask("host, IPv6", "host", "tcp", web6, 80, "web", 80),
            Ask("loopback", "host", "tcp", "127.0.0.1", PORT, "web", 80),
            Ask("other's published", "two", "tcp", lab.HOST4, PORT, "web", 80),
            Ask("own published", "web", "tcp", lab.HOST4, PORT, "web", 80),
        ]

    def answers(self, asks: list[Ask]) -> set[str]:
        """The names of those that are answered."""
        places = {name: f"/proc/{guest['pid']}/ns/net" for name, guest in self.guests.items()}
        world = f"/proc/{self.world.pid}/ns/net"
        places |= {"host": "/proc/thread-self/ns/net", "world": world}
        found: set[str] = set()
        for patience in (2.2, 1.5):  # the first asks for neighbours' addresses
            left = [ask for ask in asks if ask.name not in found]
            heard = flows.asked(places, left, patience)
            found |= {name for name, what in heard.items() if what == ""}
        return found

    def passing(self) -> int:
        """How many of the fifteen pass."""
        return len(self.answers(self.asks()))

    def leave(self) -> None:
        """Take everything of hvtx away."""
        for name in self.guests:
            self.hvtx("vm", "rm", "--force", name)
        self.hvtx("network", "rm", "lan")

    def errors(self) -> dict[str, str]:
        """What doctor calls an error, with its hint."""
        told = self.hvtx("doctor", "--json", code=None).json()["findings"]
        return {one["message"]: one["hint"] for one in told if one["level"] == "error"}

    def theirs(self) -> tuple[str, dict[str, str]]:
        """firewalld's rules, and its configuration but for copies that it keeps of what was."""
        every = sorted(self.daemon.zones.parent.rglob("*.*"))
        files = {str(f): f.read_text() for f in every if f.is_file() and f.suffix != ".old"}
        return self.daemon.table(), files


@pytest.fixture(scope="module")
def packages() -> Path:
    """Before a test has a namespace of its own, from which nothing can be downloaded."""
    return firewalld.root()


@pytest.fixture
def daemon(packages: Path, netns: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Firewalld]:
    """A firewalld that does not run yet."""
    made = Firewalld(packages, lab.open_place())
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    monkeypatch.setattr(firewalld_zones, "ZONES", str(made.zones))
    monkeypatch.setattr(firewalld_zones, "LOCK", str(made.zones.parent.with_name("lock")))
    yield made
    made.close()


@pytest.fixture
def site(world: lab.Namespace, daemon: Firewalld) -> Iterator[Site]:
    """A host whose bridges show the firewall what they forward."""
    preload()
    made = Site(world, daemon)
    yield made
    for vm in made.hvtx("vm", "ls", "--json", code=None).json().get("vms", []):
        if vm["pid"]:
            lab.end(vm["pid"])


@pytest.fixture
def own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the checkout could change it, which `cni install` refuses."""
    monkeypatch.setattr("hvtx.commands.cni_install.changeable", lambda: None)


def never() -> None:
    """What stands in the place of a look for firewalld."""
    raise AssertionError("the bus was asked")


def rows(site: Site, network: str = "lan") -> list[str]:
    """What a network has in firewalld's zone, by its record."""
    told = site.hvtx("network", "show", network, "--json").json()["resources"]
    return [row["key"] for row in told if row["key"].startswith("zone ")]


def of_host(port: int) -> list[Ask]:
    """A port of the host, asked for by the world and by a guest."""
    return [
        Ask("world", "world", "tcp", lab.HOST4, port, "host", port, port == OPEN),
        Ask("guest", "two", "tcp", GATEWAY4, port, "host", port, expected=False),
    ]


def test_firewalld_is_there_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reload, by a person, as firewalld learns of a new zone by no less; then all passes."""
    daemon = site.daemon
    daemon.start()
    daemon.run(f"firewall-cmd --permanent --add-port={OPEN}/tcp && firewall-cmd --reload")
    before = site.theirs()
    made = site.hvtx(
        "network", "create", "lan", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64",
        "--bridge", "hvlan",
    )  # fmt: skip
    assert "firewall-cmd --reload" in made.err
    assert rows(site) == ["zone hvtx of hvlan"]
    assert daemon.table() == before[0]  # nothing of the others' rules, nor of what counts now
    site.run()
    assert site.passing() == STOPPED
    assert set(site.errors().values()) == {"firewall-cmd --reload"}
    daemon.run("firewall-cmd --reload")
    assert site.passing() == ALL
    assert site.errors() == {}
    assert site.hvtx("repair", "--json").json()["repaired"] == []
    assert site.hvtx("gc", "--plan", "--json").json()["summary"].get("delete", 0) == 0
    with monkeypatch.context() as patched:  # a start asks no bus where the row is there
        patched.setattr(host_firewalld, "running", never)
        site.hvtx("vm", "stop", "--force", "two")
        site.hvtx("vm", "start", "two")
    site.look("two")
    # what the host keeps shut stays shut, and what it opens is for the zones where it is open
    assert site.answers(of_host(OPEN)) == {"world"}
    assert site.answers(of_host(SHUT)) == set()
    # hvtx's own policy holds where firewalld lets all pass
    site.hvtx("vm", "set", "two", "--deny", f"{lab.WORLD4}:{FAR}")
    assert site.answers(site.asks()[:3]) == {"out, IPv6"}
    site.hvtx("vm", "set", "two", "--no-rules")
    daemon.run("firewall-cmd --panic-on")
    assert site.passing() == 0
    assert "firewall-cmd --panic-off" in "".join(site.errors().values())
    daemon.run("firewall-cmd --panic-off")
    for act in ("firewall-cmd --complete-reload", "firewall-cmd --reload"):
        daemon.run(act)
        assert site.passing() == ALL, act
    daemon.stop()
    assert site.passing() == ALL
    assert site.hvtx("repair", "--json").json()["repaired"] == []
    daemon.start()
    assert site.passing() == ALL
    assert rows(site) == ["zone hvtx of hvlan"]
    site.leave()
    assert "hv" not in daemon.says("--get-active-zones")
    daemon.run("firewall-cmd --reload")
    assert lab.difference(before, site.theirs()) == ""


def test_hvtx_is_there_first(site: Site) -> None:
    """`repair`, which follows firewalld's start, and a reload; what is taken out is put back."""
    daemon = site.daemon
    site.create()
    site.run()
    assert site.passing() == ALL
    assert rows(site) == []
    daemon.start()
    assert site.passing() == STOPPED
    assert set(site.errors().values()) == {"hvtx repair; firewall-cmd --reload"}
    assert "zone hvtx" in site.hvtx("repair").out
    daemon.run("firewall-cmd --reload")
    assert site.passing() == ALL
    daemon.run("firewall-cmd --zone=hvtx --remove-interface=hvlan")
    assert site.passing() == STOPPED
    assert set(site.errors().values()) == {"hvtx repair"}
    assert "hvlan was not in it" in site.hvtx("repair").out
    assert site.passing() == ALL
    # a second network needs no reload; it goes alone, and the zone with the last
    site.hvtx("network", "create", "more", "--subnet", "10.78.0.0/24", "--bridge", "hvmore")
    assert "hvmore" in daemon.says("--zone=hvtx", "--list-interfaces")
    site.hvtx("network", "rm", "more")
    assert daemon.says("--zone=hvtx", "--list-interfaces") == "hvlan"
    assert daemon.says("--permanent", "--zone=hvtx", "--list-interfaces") == "hvlan"
    daemon.stop()
    site.leave()
    assert not (daemon.zones / "hvtx.xml").exists()
    assert site.hvtx.is_clean()


@pytest.mark.parametrize("by", ["package", "systemd install"])
def test_a_zone_that_was_brought_before_takes_bridges_at_once(site: Site, by: str) -> None:
    """No reload by anybody, from the first network on; and it stays when the last one goes."""
    daemon = site.daemon
    if by == "package":
        (daemon.vendors / "hvtx.xml").write_text(packaged_zone().text)
    else:
        assert install_zone("/") == (str(daemon.zones / "hvtx.xml"), "written")
    daemon.start()
    before = site.theirs()
    assert "firewall-cmd" not in site.create()
    assert rows(site) == ["zone hvtx of hvlan"]
    site.run()
    assert site.passing() == ALL
    assert site.errors() == {}
    assert site.hvtx("repair", "--json").json()["repaired"] == []
    daemon.run("firewall-cmd --reload")
    assert site.passing() == ALL
    site.leave()
    assert daemon.says("--zone=hvtx", "--list-interfaces") == ""
    daemon.run("firewall-cmd --reload")  # it keeps chains of a zone that was in use until then
    assert lab.difference(before, site.theirs()) == ""
    assert "hvtx" in daemon.says("--permanent", "--get-zones")
    site.guests.clear()
    site.create()
    daemon.stop()
    site.leave()  # in its file, while it does not run
    daemon.start()
    assert lab.difference(before, site.theirs()) == ""
    assert site.hvtx.is_clean()


def test_install_and_uninstall_beside_networks(site: Site) -> None:
    """A zone with bridges becomes one that stays, and goes with the last network again."""
    daemon, zone = site.daemon, site.daemon.zones / "hvtx.xml"
    daemon.start()
    site.create()
    daemon.run("firewall-cmd --reload")
    assert install_zone("/") == (str(zone), "written")
    until(
        "inotify", lambda: "systemd install" in daemon.says("--permanent", "--info-zone=hvtx", "-v")
    )
    site.hvtx("network", "create", "more", "--subnet", "10.78.0.0/24", "--bridge", "hvmore")
    assert daemon.says("--zone=hvtx", "--list-interfaces") == "hvlan hvmore"
    site.hvtx("network", "rm", "lan")
    site.hvtx("network", "rm", "more")
    assert stays(zone_in(zone.read_text()))
    assert remove_zone("/") == (str(zone), "removed")
    assert not zone.exists()
    daemon.run("firewall-cmd --reload")
    site.create()
    install_zone("/")
    assert remove_zone("/") == (str(zone), "removed")
    assert daemon.says("--permanent", "--zone=hvtx", "--list-interfaces") == "hvlan"
    site.hvtx("network", "rm", "lan")
    assert not zone.exists()


POSTINST = Path(__file__).parents[2] / "scripts/debian/firewalld.sh"
FOREIGN = {
    "nothing": "true",
    "a port": "firewall-cmd --add-port=9/tcp",
    "an interface": "firewall-cmd --zone=trusted --add-interface=hvx",
    "a direct rule": "firewall-cmd --direct --add-rule ipv4 filter FORWARD 0 -j ACCEPT",
    "a rule of iptables": "iptables-nft -A FORWARD -s 192.0.2.1 -j DROP",
    "a table of somebody": "nft add table ip mine",
    "a zone of nearly that name": "firewall-cmd --permanent --new-zone=my-hvtx && firewall-cmd --reload",
}
HARMLESS = {"nothing", "a table of somebody", "a zone of nearly that name"}


@pytest.mark.parametrize("theirs", FOREIGN)
def test_the_package_reloads_only_where_nothing_is_lost(daemon: Firewalld, theirs: str) -> None:
    """A reload ends what was set at run time alone, and empties the tables of iptables."""
    daemon.start()
    daemon.run(FOREIGN[theirs])
    (daemon.vendors / "hvtx.xml").write_text(packaged_zone().text)
    before = lab.run("nft", "list", "ruleset")
    said = daemon.run(f". {POSTINST}; bring_zone_into_force")
    if theirs in HARMLESS:
        assert "was reloaded" in said
        assert "hvtx" in daemon.says("--get-zones").split()
        kept = "table ip mine" in lab.run("nft", "list", "ruleset")
        assert kept == (theirs == "a table of somebody")
        assert daemon.run(f". {POSTINST}; bring_zone_into_force") == ""  # an upgrade
    else:
        assert "`firewall-cmd --reload`" in said
        assert lab.run("nft", "list", "ruleset") == before
        assert "hvtx" not in daemon.says("--get-zones").split()
    daemon.stop()
    assert daemon.run(f". {POSTINST}; bring_zone_into_force") == ""


def test_what_an_administrator_decided_stays(site: Site) -> None:
    """A bridge in a zone of somebody's choice, before and afterwards; and what he adds to ours."""
    daemon = site.daemon
    daemon.start()
    trust = "--zone=trusted --add-interface=hvlan"
    daemon.run(f"firewall-cmd {trust} && firewall-cmd --permanent {trust}")
    before = site.theirs()
    site.create()
    assert rows(site) == []
    site.hvtx("repair")
    site.hvtx("network", "rm", "lan")
    assert lab.difference(before, site.theirs()) == ""
    # taken over later: hvtx's record goes, his zone stays
    site.hvtx("network", "create", "more", "--subnet", "10.78.0.0/24", "--bridge", "hvmore")
    daemon.run("firewall-cmd --permanent --zone=hvtx --add-port=9/tcp; firewall-cmd --reload")
    assert rows(site, "more") == ["zone hvtx of hvmore"]
    assert site.hvtx("repair", "--json").json()["repaired"] == []
    daemon.run("firewall-cmd --permanent --zone=dmz --change-interface=hvmore")
    assert site.hvtx("repair", "--json").json()["repaired"] == []  # it counts from the reload on
    assert daemon.says("--get-zone-of-interface=hvmore") == "hvtx"
    daemon.run("firewall-cmd --reload")
    site.hvtx("repair")
    assert rows(site, "more") == []
    site.hvtx("network", "rm", "more")
    assert daemon.says("--get-zone-of-interface=hvmore") == "dmz"
    site.hvtx("network", "create", "third", "--subnet", "10.79.0.0/24", "--bridge", "hvthird")
    daemon.run("firewall-cmd --zone=dmz --change-interface=hvthird")  # at once, for now
    site.hvtx("repair")
    assert rows(site, "third") == []
    site.hvtx("network", "rm", "third")
    assert daemon.says("--get-zone-of-interface=hvthird") == "dmz"
    assert daemon.says("--permanent", "--zone=hvtx", "--list-ports") == "9/tcp"
    assert daemon.says("--permanent", "--zone=hvtx", "--list-interfaces") == ""


def test_an_administrators_zone_of_that_name_is_left_alone(site: Site) -> None:
    """It says in its description that it is his."""
    daemon = site.daemon
    daemon.start()
    own = "firewall-cmd --permanent --zone=hvtx"
    daemon.run("firewall-cmd --permanent --new-zone=hvtx")
    daemon.run(f"{own} --set-target=DROP && {own} --set-description='hypervisors of the lab'")
    daemon.run("firewall-cmd --reload")
    before = site.theirs()
    site.create()
    site.hvtx("repair")
    assert rows(site) == []
    assert lab.difference(before, site.theirs()) == ""
    assert not any("hvtx repair" in hint for hint in site.errors().values())


def test_marks_that_others_lose_are_put_back(site: Site) -> None:
    """What firewall-cmd itself drops of the description, or the whole zone; and it is released."""
    daemon = site.daemon
    daemon.start()
    site.create()
    daemon.run("firewall-cmd --reload")
    site.hvtx("network", "create", "more", "--subnet", "10.78.0.0/24", "--bridge", "hvmore")
    zone = daemon.zones / "hvtx.xml"
    lose = ("firewall-cmd --runtime-to-permanent", "firewall-cmd --permanent --delete-zone=hvtx")
    for act in lose:
        daemon.run(act)
        assert not zone.exists() or "hvmore=" not in zone.read_text()
        api.Host().attachments.status(
            "more"
        )  # what is in force is as it was: no node is to be unready
        site.hvtx("repair")
        assert "hvmore=" in zone.read_text()
        assert daemon.says("--permanent", "--zone=hvtx", "--list-interfaces") == "hvlan hvmore"
        assert site.hvtx("repair", "--json").json()["repaired"] == []
    daemon.run(lose[0])
    site.hvtx("network", "rm", "more")
    assert daemon.says("--permanent", "--zone=hvtx", "--list-interfaces") == "hvlan"
    daemon.run(lose[1])
    site.hvtx("network", "rm", "lan")
    assert daemon.says("--zone=hvtx", "--list-interfaces") == ""
    assert site.hvtx.is_clean()
    assert not zone.exists()


def test_a_firewalld_that_is_removed_leaves_nothing_to_repair(site: Site) -> None:
    """Its configuration went with it: the row stands for nothing, until there is one again."""
    daemon = site.daemon
    daemon.start()
    site.create()
    daemon.stop()
    (daemon.zones / "hvtx.xml").unlink()
    site.hvtx("repair")
    assert rows(site) == []
    daemon.start()
    site.hvtx("repair")
    assert rows(site) == ["zone hvtx of hvlan"]


def test_without_passage_nothing_is_placed(site: Site) -> None:
    """And doctor prints the commands for a zone that an administrator makes."""
    site.daemon.start()
    before = site.theirs()
    site.create("--no-passage")
    site.run()
    assert rows(site) == []
    assert lab.difference(before, site.theirs()) == ""
    hints = "".join(site.errors().values())
    assert "--new-zone=hvtx" in hints
    assert "hvtx repair" not in hints
    site.hvtx("network", "set", "lan", "--passage")
    assert rows(site) == ["zone hvtx of hvlan"]
    zone = site.daemon.zones / "hvtx.xml"
    saved = zone.read_text()
    site.hvtx("network", "set", "lan", "--no-passage")
    assert lab.difference(before, site.theirs()) == ""
    # a backup of the configuration brings back what was released: it is taken for ours again
    zone.write_text(saved)
    site.daemon.run("firewall-cmd --reload")
    site.hvtx("network", "set", "lan", "--passage")
    assert rows(site) == ["zone hvtx of hvlan"]
    assert zone.read_text() != saved
    assert site.passing() == ALL
    site.leave()


class Containers:
    """The plugin as a runtime calls it, and containers of a network that its configuration declares."""

    def __init__(self, place: Path) -> None:
        subnets = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
        self.plugin = Plugin(place, "--network", "lan", *subnets)
        (self.declared,) = json.loads(self.plugin.conf.read_text())["plugins"]

    def call(self, verb: str, name: str, netns: str, **asked: object) -> Answer:
        """One call for one container; ``asked`` is its runtimeConfig."""
        variables = {"COMMAND": verb, "CONTAINERID": name, "IFNAME": "eth0", "NETNS": netns}
        environment = {f"CNI_{key}": value for key, value in variables.items()}
        said = {"cniVersion": "1.0.0", "name": "lan", **self.declared, "runtimeConfig": asked}
        place = {"CNI_PATH": str(self.plugin.program.parent)}
        return self.plugin.run({**os.environ, **environment, **place}, json.dumps(said).encode())


@pytest.mark.parametrize("known", [True, False], ids=["it knows the zone", "it does not"])
@pytest.mark.usefixtures("own_program")
def test_the_network_of_containers_is_put_into_it(site: Site, tmp_path: Path, known: bool) -> None:
    """By the first ADD as by `network create`: the same fifteen flows, and the same command."""
    daemon, containers = site.daemon, Containers(tmp_path)
    if known:
        (daemon.vendors / "hvtx.xml").write_text(packaged_zone().text)
    daemon.start()
    before = site.theirs()
    ports = [{"hostPort": PORT, "containerPort": 80, "protocol": "tcp"}]
    boxes = {"web": lab.Namespace(), "two": lab.Namespace()}
    try:
        for name, box in boxes.items():
            asked = {"portMappings": ports} if name == "web" else {}
            made = containers.call("ADD", name, f"/proc/{box.pid}/ns/net", **asked)
            assert made.code == 0, made.document
            four, six = (one["address"].partition("/")[0] for one in made.document["ips"])
            site.guests[name] = {"4": four, "6": six, "pid": box.pid}
            assert ("firewall-cmd --reload" in made.err) == (name == "web" and not known)
        bridge = site.hvtx("network", "show", "lan", "--json").json()["bridge"]
        assert rows(site) == [f"zone hvtx of {bridge}"]
        assert daemon.says("--permanent", "--zone=hvtx", "--list-interfaces") == bridge
        if not known:
            assert site.passing() == STOPPED
            assert set(site.errors().values()) == {"firewall-cmd --reload"}
            daemon.run("firewall-cmd --reload")
        assert site.passing() == ALL
        assert site.errors() == {}
        daemon.run("firewall-cmd --reload")
        assert site.passing() == ALL
        for name in boxes:
            assert containers.call("DEL", name, "").code == 0
        assert rows(site) == [f"zone hvtx of {bridge}"]
        site.hvtx("network", "rm", "lan")
        daemon.run("firewall-cmd --reload")
        assert lab.difference(before, site.theirs()) == ""
        assert site.hvtx.is_clean()
    finally:
        site.guests.clear()
        for box in boxes.values():
            box.close()


class Booted(Forked):
    """The program in another boot, as seen by a bind mount over the kernel's boot id."""

    def enter(self, out: int, err: int) -> tuple[int, int]:
        fake = Path(os.environ["HVTX_STATE_DIR"]).parent / "boot_id"
        fake.write_text(f"{uuid.UUID(int=7)}\n")
        lab.unshare(lab.CLONE_NEWNS)
        lab.run("mount", "--make-rprivate", "/")
        lab.run("mount", "--bind", str(fake), "/proc/sys/kernel/random/boot_id")
        return out, err


@pytest.mark.parametrize("first", ["recover", "start"])
def test_after_a_reboot_it_is_there_again(site: Site, first: str) -> None:
    """firewalld has it from its start on; the network's row is of the new life, and goes with it."""
    daemon = site.daemon
    daemon.start()
    before = site.theirs()
    site.create()
    old = (daemon.zones / "hvtx.xml").read_text()
    daemon.stop()
    forget_everything()
    daemon.start()
    assert daemon.says("--zone=hvtx", "--list-interfaces") == "hvlan"
    site.hvtx = Booted()
    if first == "start":
        sleep = ("--hypervisor", "command", "--", "sleep", "99")
        site.hvtx("vm", "run", "web", "--network", "lan", *sleep)
        site.hvtx("vm", "rm", "--force", "web")
    else:
        site.hvtx("recover")
    assert rows(site) == ["zone hvtx of hvlan"]
    new = (daemon.zones / "hvtx.xml").read_text()
    assert new != old  # with the mark of its new row
    assert new.count("hvtx:1:") == 1
    assert daemon.says("--zone=hvtx", "--list-interfaces") == "hvlan"
    assert site.hvtx.is_clean()
    site.hvtx("network", "rm", "lan")
    daemon.run("firewall-cmd --reload")
    assert lab.difference(before, site.theirs()) == ""


@pytest.mark.parametrize("point", ["intended", "acted:firewalld", "committed"])
def test_it_is_killed(site: Site, point: str) -> None:
    """At each step of placing and of taking away; what is left is gone after `recover`."""
    daemon = site.daemon
    daemon.start()
    before = site.theirs()
    site.create("--no-passage")
    killed = site.hvtx("network", "set", "lan", "--passage", code=None,
                       HVTX_FAILPOINT=f"{point}:kill")  # fmt: skip
    assert killed.code == -9, killed
    site.hvtx("recover")
    site.hvtx("network", "set", "lan", "--passage")
    site.hvtx("repair")
    assert rows(site) == ["zone hvtx of hvlan"]
    assert "hvlan" in (daemon.zones / "hvtx.xml").read_text()
    assert site.hvtx.is_clean()
    killed = site.hvtx("network", "rm", "lan", code=None, HVTX_FAILPOINT="released:firewalld:kill")
    assert killed.code == -9, killed
    site.hvtx("recover")
    site.hvtx("network", "rm", "lan", code=None)
    assert site.hvtx.is_clean()
    assert lab.difference(before, site.theirs()) == ""


def settled(site: Site) -> bool:
    """What is on record of the zone is what stands in its file, to the mark, and nothing else is."""
    told = site.hvtx("network", "show", "lan", "--json").json()["resources"]
    recorded = [("hvlan", row["mark"]) for row in told if row["key"].startswith("zone ")]
    file = site.daemon.zones / "hvtx.xml"
    kept = zone_in(file.read_text()) if file.exists() else Zone((), "")
    there = marks_in(kept.description)
    return (
        recorded == [*there.items()] and set(kept.interfaces) == set(there) and site.hvtx.is_clean()
    )


@pytest.mark.parametrize("ends", [False, True], ids=["placed", "taken away"])
def test_it_is_killed_at_every_failpoint(site: Site, tmp_path: Path, ends: bool) -> None:
    """The crash matrix has it no other way: it puts back files and rules, and no daemon's memory.

    Before each system call nothing more could be killed: what is done goes by the bus, in which each
    call is whole or not at all, and the failpoints stand between them.
    """
    daemon, log = site.daemon, tmp_path / "points"
    daemon.start()
    site.create("--no-passage")
    begin, act = ("--passage", "--no-passage")[:: -1 if not ends else 1]
    change = ("network", "set", "lan")
    site.hvtx(*change, begin)
    site.hvtx(*change, act, HVTX_FAILPOINT_LOG=str(log))
    points = list(dict.fromkeys(log.read_text().split()))
    assert len(points) > 3
    for point in points:
        site.hvtx(*change, begin)
        assert settled(site), point
        killed = site.hvtx(*change, act, code=None, HVTX_FAILPOINT=f"{point}:kill")
        assert killed.code == -9, (point, killed)
        site.hvtx("recover")
        assert settled(site), point
        site.hvtx(*change, act)
        site.hvtx("repair")
        assert settled(site), point
        assert (rows(site) == []) == ends
    site.hvtx("network", "rm", "lan")
    assert not (daemon.zones / "hvtx.xml").exists()


def test_nobody_asks_a_bus_where_firewalld_has_no_table(
    netns: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where filters of others are met: a program more costs a start milliseconds."""

    monkeypatch.setattr(host_firewalld, "running", never)
    hvtx = Forked()
    lab.run("iptables-nft", "-w", "-P", "FORWARD", "DROP")
    hvtx("network", "create", "lan", "--subnet", "10.77.0.0/24")
    for command in (("repair",), ("doctor",), ("gc", "--plan"), ("network", "rm", "lan")):
        assert "the bus" not in hvtx(*command, code=None).err


# -- two installations ---------------------------------------------------------------------------------


def writer(installation: str, names: list[str]) -> list[Resource]:
    """What an installation puts into the zone, and takes out again but for the last."""
    driver = FirewalldDriver(Host(installation, "/none", "/none", 30.0))
    rows = []
    for number, name in enumerate(names, 1):
        spec = {"backend": "firewalld", "what": "passage", "bridge": name}
        mark = make_mark(installation, number, b"a" * 10)
        row = Resource(number, "filter", name, "intended", mark, spec, {}, 1, 1, None, None)
        observed = driver.create([row])[number]
        rows.append(row._replace(state="committed", observed=dict(observed)))
    outcomes = driver.release(rows[:-1])
    assert all(outcome.gone for outcome in outcomes.values()), outcomes
    return rows[-1:]


def test_two_installations_lose_nothing_of_each_other(daemon: Firewalld) -> None:
    """Each adds to the one description and takes away from it, both at once, and both stay whole."""
    daemon.start()
    fork = multiprocessing.get_context("fork")
    begun = []
    for installation in ("aaaaaaaaaa", "bbbbbbbbbb"):
        names = [f"hv{installation[0]}{number}" for number in range(8)]
        begun.append(fork.Process(target=writer, args=(installation, names)))
    for process in begun:
        process.start()
    for process in begun:
        process.join(120)
    assert [process.exitcode for process in begun] == [0, 0]
    zone = zone_in((daemon.zones / "hvtx.xml").read_text())
    assert sorted(zone.interfaces) == ["hva7", "hvb7"]
    assert sorted(marks_in(zone.description)) == ["hva7", "hvb7"]


def test_who_changes_the_zone_for_too_long_is_named(daemon: Firewalld) -> None:
    """A network is made without its zone, and one that goes is on record until it has gone whole."""
    daemon.start()
    hvtx = Forked()
    hvtx("network", "create", "one", "--subnet", "10.77.0.0/24", "--bridge", "hvone")
    zone = (daemon.zones / "hvtx.xml").read_text()
    holds = "import fcntl, os, sys, time; d = os.open(sys.argv[1], os.O_RDWR);"
    holds += " fcntl.flock(d, fcntl.LOCK_EX); print(flush=True); time.sleep(600)"
    holder = subprocess.Popen(
        [sys.executable, "-c", holds, firewalld_zones.LOCK], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        quick = ("--lock-timeout", "0.2")
        told = hvtx(*quick, "network", "create", "two", "--subnet", "10.78.0.0/24")
        assert f"pid {holder.pid}" in told.err
        assert f"pid {holder.pid}" in hvtx(*quick, "repair", code=9).out
        told = hvtx(*quick, "network", "rm", "one", code=9)
        assert f"pid {holder.pid}" in told.err + told.out
        assert (daemon.zones / "hvtx.xml").read_text() == zone
    finally:
        holder.kill()
        holder.communicate()
    hvtx("recover")
    hvtx("network", "rm", "one", code=None)
    assert "hvone" not in (daemon.zones / "hvtx.xml").read_text()
    hvtx("repair")
    assert "=hvtx:1:" in (daemon.zones / "hvtx.xml").read_text()
    hvtx("network", "rm", "two")
    assert hvtx.is_clean()
    assert not (daemon.zones / "hvtx.xml").exists()
