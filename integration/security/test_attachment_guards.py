"""A container's port: shut until what holds it is there, and gone before that goes.

A container that runs already (a second network, `podman network connect`) sees its new interface as
soon as it is made, and may bring it up itself.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import attachments
from integration.lab.firewall_contract import (
    ALL_NODES_MAC,
    BROADCAST,
    QUICK,
    arp,
    ether,
    icmp6,
    inside,
    ipv6,
    setting,
    udp4,
    udp6,
)
from integration.lab.program import Forked, Program, preload
from integration.network.test_guests_network import drain
from integration.security.test_fail_closed import bridge_of, came, eui64, mac_of

GATEWAY, NEIGHBOUR, NOBODY = "10.77.0.1", "c0", "02:00:00:00:00:99"
ADVERTISEMENT = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)


@pytest.fixture
def hvtx(firewall: str) -> Iterator[Program]:
    """A network of both families in which a container is attached."""
    preload()
    found = Forked(HVTX_FIREWALL=firewall)
    attachments.box()
    found(*add(NEIGHBOUR))
    yield found
    attachments.end_boxes()


def add(container: str = "") -> tuple[str, ...]:
    """ADD of the last container."""
    return (attachments.WORD, "add", attachments.path(), *([container] if container else []))


def forged(mac: str) -> dict[bytes, tuple[str, bytes]]:
    """Frames that no guest may send, by what is told in them."""
    link, neighbours = "fe80::5", eui64(mac_of("eth0", attachments.BOXES[0]))
    made = {
        "as another": ether(NOBODY, BROADCAST, 0x0800,
                            udp4("10.77.0.99", "10.77.0.255", (7, 8), b"forged-1")),
        "from another address": ether(mac, BROADCAST, 0x0800,
                                      udp4("10.77.0.99", "10.77.0.255", (7, 8), b"forged-2")),
        "for the gateway": ether(mac, BROADCAST, 0x0806,
                                 arp(2, mac, GATEWAY, "10.77.0.2") + bytes(10) + b"forged-3"),
        "as a router": ether(mac, ALL_NODES_MAC, 0x86DD, ipv6(
            link, "ff02::1", 58, icmp6(link, "ff02::1", ADVERTISEMENT + b"forged-4"))),
        "as a server of DHCP": ether(mac, BROADCAST, 0x0800,
                                     udp4(GATEWAY, "255.255.255.255", (67, 68), b"forged-5")),
        "from the neighbour's link-local address": ether(
            mac, ALL_NODES_MAC, 0x86DD, udp6(neighbours, "ff02::1", (7, 8), b"forged-6")),
    }  # fmt: skip
    return {b"forged-%d" % n: (name, frame) for n, (name, frame) in enumerate(made.items(), 1)}


@contextlib.contextmanager
def ears(bridge: str) -> Iterator[list[socket.socket]]:
    """What the host hears on its bridge, and the neighbour on its interface."""
    found = []
    for place, device in ((None, bridge), (attachments.BOXES[0], "eth0")):
        with inside(place):
            found.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        with inside(place):
            found[-1].bind((device, 3))
        found[-1].setblocking(False)
    yield found
    for ear in found:
        ear.close()


def send(box: lab.Namespace, *frames: bytes) -> bool:
    """From the container, which brings its interface up by itself; whether it has one."""
    names = {link["ifname"] for link in json.loads(box.run("ip", "-j", "link"))}
    if "eth0" not in names:
        return False
    box.run("ip", "link", "set", "eth0", "up")
    with inside(box), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        for frame in frames:
            with contextlib.suppress(OSError):  # its other end is down
                wire.send(frame)
    return True


def passing(bridge: str) -> list[tuple[str, str]]:
    """Which of the forged frames of the last container arrive, and where, in a moment."""
    box = attachments.BOXES[-1]
    has = "eth0" in box.run("ip", "link")
    frames = forged(mac_of("eth0", box) if has else NOBODY)
    with ears(bridge) as listening:
        for _ in range(2):  # the first is seen by who learns addresses
            send(box, *(frame for _, frame in frames.values()))
        time.sleep(QUICK)
        heard = [(place, b"".join(drain(ear))) for place, ear in zip(("host", "neighbour"), listening, strict=True)]  # fmt: skip
    return [(name, place) for place, data in heard for cookie, (name, _) in frames.items() if cookie in data]  # fmt: skip


def test_an_add_that_is_killed_leaves_no_port_without_its_guards(
    hvtx: Program, tmp_path: Path
) -> None:
    """At each of its points, with the container awake; nor does it while it goes on."""
    bridge, log = bridge_of(hvtx), tmp_path / "points"
    box = attachments.box()
    hvtx(*add(), HVTX_FAILPOINT_LOG=str(log))
    mac = mac_of("eth0", box)
    with ears(bridge) as listening:
        own = json.loads(box.run("ip", "-j", "-4", "addr", "show", "eth0"))[0]["addr_info"][0]
        send(box, ether(mac, BROADCAST, 0x0800,
                        udp4(own["local"], "10.77.0.255", (7, 8), b"the honest one")))  # fmt: skip
        for ear in listening:
            assert came(ear, {}, b"the honest one") == []
    points = list(dict.fromkeys(log.read_text().split()))
    assert {"made:veth", "marked:veth", "guarded:veth", "acted:filter", "committed"} <= {*points}
    assert passing(bridge) == []
    hvtx(attachments.WORD, "del")
    for point in points:
        attachments.box()
        hvtx(*add(), code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
        assert passing(bridge) == [], point
        hvtx("recover")
        hvtx(attachments.WORD, "del")
        attachments.BOXES.pop().close()


WITHOUT_END = """
import socket
from itertools import count
print("ready", flush=True)
for number in count():
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", ("10.77.0.1", 7 + number % 60000))
    except OSError:
        pass
"""


def test_a_container_that_sends_without_end_is_removed_at_once(hvtx: Program) -> None:
    """Its port goes first: no flow of its own is new afterwards."""
    box = attachments.box()
    hvtx(*add())
    with subprocess.Popen(
        box.argv(sys.executable, "-c", WITHOUT_END), stdout=subprocess.PIPE
    ) as sender:
        try:
            assert sender.stdout is not None
            sender.stdout.readline()
            hvtx(attachments.WORD, "del")
        finally:
            sender.kill()
    assert len(hvtx("vm", "ls", "--json").json()["vms"]) == 1, "the neighbour"
    assert hvtx.is_clean()


@pytest.mark.parametrize("point", ["flushing", "released:nftables", "removed"])
def test_a_del_that_is_killed_leaves_no_port_without_its_guards(hvtx: Program, point: str) -> None:
    bridge = bridge_of(hvtx)
    attachments.box()
    hvtx(*add())
    hvtx(attachments.WORD, "del", code=-signal.SIGKILL, HVTX_FAILPOINT=f"{point}:kill")
    assert passing(bridge) == []
    hvtx("recover")
    assert hvtx.is_clean()


def advertised(place: lab.Namespace, bridge: str) -> bool:
    """Whether the host takes a default route from whoever is on a bridge, in a moment."""
    link = eui64(mac_of("eth0", place))
    told = ipv6(link, "ff02::1", 58, icmp6(link, "ff02::1", ADVERTISEMENT))
    with inside(place), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        wire.send(ether(mac_of("eth0", place), ALL_NODES_MAC, 0x86DD, told))
    time.sleep(QUICK)
    return bridge in lab.run("ip", "-6", "route", "show", "default")


@pytest.mark.parametrize("subnet", ["10.77.0.0/24", "fd77::/64"])
def test_a_bridge_takes_no_route_from_anybody(firewall: str, subnet: str) -> None:
    """In a network without IPv6 neither; whoever put a device of its own there is held by no rule."""
    preload()
    hvtx = Forked(HVTX_FIREWALL=firewall)
    setting("ipv6/conf/default/accept_ra", "1")
    hvtx("network", "create", "net", "--subnet", subnet)
    bridge, place = bridge_of(hvtx), attachments.box()
    lab.run("ip", "link", "add", "theirs", "type", "veth", "peer", "eth0", "netns", str(place.pid))
    lab.run("ip", "link", "set", "theirs", "master", bridge, "up")
    place.run("ip", "link", "set", "eth0", "up")
    for name in ("accept_ra", "accept_redirects"):
        value = Path(f"/proc/sys/net/ipv6/conf/{bridge}/{name}")
        assert value.read_text() == "0\n"
        value.write_text("2")
    assert advertised(place, bridge), "the test can tell"
    lab.run("ip", "-6", "route", "flush", "default")
    hvtx("repair")
    assert not advertised(place, bridge)
    attachments.end_boxes()


def test_a_port_that_has_to_stay_keeps_its_guards(hvtx: Program) -> None:
    """Somebody's address is on it: DEL goes on when that is gone, and so does whoever collects."""
    bridge, before = bridge_of(hvtx), pairs()
    attachments.box()
    hvtx(*add())
    (name,) = pairs() - before
    lab.run("ip", "addr", "add", "192.0.2.9/32", "dev", name)
    assert " is kept: " in hvtx(attachments.WORD, "del", code=9).err
    assert passing(bridge) == []
    leased = leases(hvtx)
    for collector in (("gc", "--apply"), ("recover",), (attachments.WORD, "gc")):
        hvtx(*collector, code=None)
        assert passing(bridge) == [], collector
        assert leases(hvtx) == leased, collector
    lab.run("ip", "addr", "del", "192.0.2.9/32", "dev", name)
    hvtx("gc", "--apply")
    assert pairs() == before
    assert hvtx.is_clean()


def leases(hvtx: Program) -> set[tuple[str, str]]:
    """The addresses that are leased, each with its state on record."""
    items = hvtx("gc", "--plan", "--json", code=None).json()["items"]
    return {(item["key"], item["record"]["state"]) for item in items if item["kind"] == "lease"}


def pairs() -> set[str]:
    """The host's ends of containers' pairs."""
    return {link["ifname"] for link in json.loads(lab.run("ip", "-j", "link", "show", "type", "veth"))}  # fmt: skip
