"""Two who want one thing: a port, an address, a bridge; hvtx and the real daemons (the long job)."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator

import pytest

from integration import lab
from integration.lab.neighbourhood import fixtures
from integration.lab.neighbourhood.flows import Ask, inside
from integration.lab.neighbourhood.host import HOST4, UPLINK, Host
from integration.lab.neighbourhood.rows import KEEPALIVED, chosen, matching
from integration.lab.neighbourhood.scene import NETWORK, PORT, PROGRAM, Scene, commands
from integration.lab.waiting import until

pytestmark = fixtures.only_in_the_long_job
layers, here = fixtures.layers, fixtures.here
TOOLS = {
    "docker": "systemctl start docker\ntar -c -C / bin/busybox | docker import - bb",
    "podman": "tar -c -C / bin/busybox | podman import - bb",
}
SLEEP = "bb /bin/busybox sleep 1000"
LIMITS = {"docker": "", "podman": "--runtime=runc --ulimit=host --pids-limit=-1"}


@pytest.fixture
def scene(here: Host) -> Iterator[Scene]:
    made = Scene(here)
    yield made
    made.close()


def world_to_our_port(scene: Scene) -> dict[str, str]:
    return scene.wrong([Ask("world to our port", "world", "tcp", HOST4, PORT, "web", 80)])


def refused(host: Host, *arguments: str) -> str:
    """What hvtx says when it refuses with a conflict."""
    done = host.ran("hvtx", *arguments)
    assert done.returncode == 4, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stderr


# -- ports -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["hvtx", "daemon"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_container_does_not_get_a_port_that_a_vm_has(scene: Scene, tool: str, first: str) -> None:
    host = scene.host
    if first == "daemon":
        host.sh(TOOLS[tool])
    scene.begin()
    if first == "hvtx":
        host.sh(TOOLS[tool])
    for command in [c for f in scene.doctor().errors for c in commands(f["hint"])]:
        host.sh(command)
    done = host.ran("sh", "-c", f"{tool} run -d {LIMITS[tool]} --name one -p {PORT}:80 {SLEEP}")
    assert done.returncode != 0, done.stdout
    assert "in use" in done.stderr or "already allocated" in done.stderr, done.stderr
    assert world_to_our_port(scene) == {}
    for verb in ("stop", "start"):
        host.hvtx("vm", verb, "web")
    scene.settle()
    assert world_to_our_port(scene) == {}
    assert scene.doctor().errors == []


@pytest.mark.parametrize("tool", TOOLS)
def test_a_vm_does_not_get_a_port_that_a_container_has(scene: Scene, tool: str) -> None:
    host = scene.host
    host.sh(TOOLS[tool])
    host.sh(f"{tool} run -d {LIMITS[tool]} --name one -p {PORT}:80 {SLEEP}")
    host.hvtx(*NETWORK)
    assert str(PORT) in refused(
        host, "vm", "create", "web", "--network", "lan", "-p", f"{PORT}:80", *PROGRAM
    )


FORWARDS = {
    "firewalld": (
        "systemctl start firewalld\nfirewall-cmd --state\nfirewall-cmd --add-forward-port="
        "port=7777:proto=tcp:toport=80:toaddr=10.99.0.2"
    ),
    "iptables-nft": "iptables-nft -t nat -A PREROUTING -p tcp --dport 7777 -j DNAT --to 10.99.0.2:80",
    "iptables-legacy": (
        f"{chosen('legacy')}\n"
        "iptables-legacy -t nat -A PREROUTING -p tcp --dport 7777 -j REDIRECT --to-ports 22"
    ),
    "nft": (
        "nft 'table ip n { chain p { type nat hook prerouting priority dstnat;"
        " tcp dport 7777 dnat to 10.99.0.2:80; }; }'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("whose", FORWARDS)
def test_a_port_that_another_forwards_is_not_taken(scene: Scene, whose: str) -> None:
    """F4: at create, at start, and a finding where the rule came later."""
    host = scene.host
    host.sh(FORWARDS[whose])
    host.hvtx(*NETWORK)
    words = refused(host, "vm", "create", "y", "--network", "lan", "-p", "7777:80", *PROGRAM)
    assert "7777" in words


@pytest.mark.parametrize("whose", FORWARDS)
def test_a_port_that_another_forwards_later_is_a_finding(scene: Scene, whose: str) -> None:
    host = scene.host
    host.hvtx(*NETWORK)
    host.hvtx("vm", "run", "y", "--network", "lan", "-p", "7777:80", *PROGRAM)
    host.sh(FORWARDS[whose])
    said = scene.doctor()
    assert any("7777" in json.dumps(f) for f in said.findings if f["level"] != "ok"), said.words()
    host.hvtx("vm", "stop", "y")
    assert "7777" in refused(host, "vm", "start", "y")


def test_a_service_does_not_get_a_port_that_a_vm_has(scene: Scene) -> None:
    host = scene.host
    host.hvtx(*NETWORK, "--no-dhcp")  # or the network's own service has the port
    host.hvtx("vm", "run", "dns", "--network", "lan", "-p", "53:5353/udp", *PROGRAM)
    assert host.ran("systemctl", "start", "dnsmasq").returncode != 0
    host.hvtx("vm", "stop", "dns")
    host.run("systemctl", "restart", "dnsmasq")
    assert "53" in refused(host, "vm", "start", "dns")


# -- addresses ---------------------------------------------------------------------------------------


def test_an_address_of_the_host_is_not_leased(scene: Scene) -> None:
    """F8: keepalived's, in the subnet of a network."""
    host = scene.host
    scene.begin()
    free = "10.77.0.4"
    host.sh(KEEPALIVED.replace(UPLINK, scene.bridge).replace("198.51.100.50", free))
    host.run("systemctl", "start", "keepalived")
    until("the address", lambda: free in host.run("ip", "-4", "addr", "show", scene.bridge), 20)
    host.hvtx("vm", "create", "x", "--network", "lan", *PROGRAM)
    assert host.json("vm", "show", "x")["interfaces"][0]["ipv4"] != free
    refused(host, "vm", "create", "y", "--network", "lan", "--ip", free, *PROGRAM)


def test_an_address_that_the_host_took_later_is_not_started(scene: Scene) -> None:
    host = scene.host
    host.hvtx(*NETWORK)
    bridge = host.json("network", "show", "lan")["bridge"]
    host.hvtx("vm", "create", "x", "--network", "lan", "--ip", "10.77.0.9", *PROGRAM)
    host.run("ip", "addr", "add", "10.77.0.9/24", "dev", bridge)
    assert "10.77.0.9" in refused(host, "vm", "start", "x")


# -- IPv6 --------------------------------------------------------------------------------------------


def advertise(host: Host) -> None:
    """A router advertisement of the world's, with a default route and a prefix."""
    with inside(f"/proc/{host.world.pid}/ns/net"):
        sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        index = socket.if_nametoindex("eth0")
    with sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        prefix = socket.inet_pton(socket.AF_INET6, "2001:db8:101::")
        option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + prefix
        advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        sender.sendto(advertisement + option, ("ff02::1", 0, 0, index))


@pytest.mark.parametrize("when", ["before the network", "after the network", "a later NIC"])
def test_the_host_learns_its_default_route(scene: Scene, when: str) -> None:
    """F7: forwarding does not cost the host what routers tell it."""
    host = scene.host
    host.sh("ip -6 route del default")
    until("the world's link-local address", lambda: _has_link_local(host), 10)
    if when == "before the network":
        advertise(host)
    if when == "a later NIC":
        host.sh(f"ip link set {UPLINK} down")
        host.world.run("ip", "link", "del", "eth0")
    scene.begin()
    if when == "a later NIC":
        net = ("nsenter", "-t", str(host.pid), "--net", "--")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", str(host.world.pid))
        lab.run(*net, "ip", "link", "add", UPLINK, *peer)
        lab.run(*net, "ip", "link", "set", UPLINK, "up")
        host.world.run("ip", "link", "set", "eth0", "up")
        host.hvtx("repair")
        until("the new link-local address", lambda: _has_link_local(host), 10)

    def learned() -> bool:
        advertise(host)
        return "proto ra" in host.run("ip", "-6", "route", "show", "default")

    until("the default route", learned, 10)


def _has_link_local(host: Host) -> bool:
    listed = json.loads(host.world.run("ip", "-j", "-6", "addr", "show", "dev", "eth0"))
    found = [a for link in listed for a in link.get("addr_info", ())]
    return any(a["scope"] == "link" and not a.get("tentative") for a in found)


# -- bridges -----------------------------------------------------------------------------------------

DOMAIN = """<domain type='qemu'><name>d</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64'>hvm</type></os><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<interface type='bridge'><source bridge='BRIDGE'/></interface></devices></domain>
"""


def test_a_domain_of_libvirts_on_our_bridge(scene: Scene) -> None:
    """It keeps the network there until it is gone, and nobody touches its port."""
    host = scene.host
    host.hvtx(*NETWORK)
    bridge = host.json("network", "show", "lan")["bridge"]
    host.run("systemctl", "start", "libvirtd")
    host.write("/root/d.xml", DOMAIN.replace("BRIDGE", bridge))
    host.run("virsh", "create", "--paused", "/root/d.xml")
    assert scene.plan() == []
    assert "vnet0" in refused(host, "network", "rm", "lan")
    assert "vnet0" in host.run("ip", "-o", "link", "show", "master", bridge)
    host.run("virsh", "destroy", "d")
    host.hvtx("network", "rm", "lan")


@pytest.mark.parametrize("match", ["Name=*", "Type=ether"])
def test_networks_are_made_under_a_manager_that_takes_all(scene: Scene, match: str) -> None:
    """F1: eight networks one after the other, with VMs that stop and start."""
    host = scene.host
    host.sh(f"{matching(match)}\nsystemctl start systemd-networkd")
    for n in range(8):
        host.hvtx("network", "create", f"n{n}", "--subnet", f"10.88.{n}.0/24",
                  "--subnet", f"fd88:{n}::/64")  # fmt: skip
        host.hvtx("vm", "run", f"v{n}", "--network", f"n{n}", *PROGRAM)
    for n in range(8):
        host.hvtx("vm", "stop", f"v{n}")
        host.hvtx("vm", "start", f"v{n}")
        host.hvtx("vm", "rm", f"v{n}", "--force")
        host.hvtx("network", "rm", f"n{n}")
    assert scene.plan() == []
