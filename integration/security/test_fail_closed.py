"""What stays shut: loopback ports to the wire, everything when rules are flushed, others' fe80.

Guests are `integration/lab/guest.py`; a flush is what restarting nftables.service does, or its
likenesses of the legacy tables.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import lab
from integration.lab import HOST4, WORLD4
from integration.lab.firewall_contract import (
    ALL_NODES_MAC,
    LONG,
    QUICK,
    arp,
    bridged_frames_see_iptables,
    ether,
    icmp6,
    inside,
    ipv4,
    ipv6,
    neighbour,
    reach,
    setting,
    udp4,
    udp6,
)
from integration.lab.program import Forked, Program, preload
from integration.network.test_guests_network import GuestVm, drain, make_network, packets, run

GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
SUBNETS = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")


@contextlib.contextmanager
def program(firewall: str, **environment: str) -> Iterator[Program]:
    preload()
    found = Forked(HVTX_FIREWALL=firewall, **environment)
    try:
        yield found
    finally:
        for vm in found("vm", "ls", "--json").json()["vms"]:
            if vm["pid"]:
                lab.end(vm["pid"])


@pytest.fixture
def hvtx(firewall: str, world: lab.Namespace) -> Iterator[Program]:
    bridged_frames_see_iptables(False)
    with program(firewall) as found:
        yield found


def mac_of(device: str, place: lab.Namespace | GuestVm | None = None) -> str:
    text = (place.run if place else lab.run)("ip", "-j", "link", "show", device)
    return str(json.loads(text)[0]["address"])


def bridge_of(hvtx: Program, network: str = "net") -> str:
    return str(hvtx("network", "show", network, "--json").json()["bridge"])


def eui64(mac: str) -> str:
    raw = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + tail)


# -- 127.0.0.0/8 from elsewhere (R2) -----------------------------------------------------------------


def tcp4(source: str, target: str, ports: tuple[int, int], cookie: bytes) -> bytes:
    """A SYN with data; its checksum is right, or connection tracking would not look at it."""
    head = struct.pack(">HHIIBBHHH", *ports, 1, 0, 5 << 4, 2, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target)
    whole = pseudo + struct.pack(">HH", 6, len(head + cookie)) + head + cookie
    total = sum(struct.unpack(f">{(len(whole) + 1) // 2}H", whole + bytes(len(whole) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ipv4(
        source, target, 6, head[:16] + struct.pack(">H", ~total & 0xFFFF) + head[18:] + cookie
    )


class Neighbour:
    """Somebody on a wire of the host: sends packets raw to the MAC address of the host's device."""

    def __init__(self, place: Any, device: str, address: str) -> None:
        self.address, self._macs = address, (mac_of("eth0", place), mac_of(device))
        with inside(place):
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._wire.bind(("eth0", 0))

    def send(self, packet: bytes) -> None:
        self._wire.send(ether(*self._macs, 0x0800, packet))

    def close(self) -> None:
        self._wire.close()


def stranger_on(bridge: str, subnet: str) -> lab.Namespace:
    """A container on a bridge of somebody else's, whose administrator opened what can be opened."""
    place = lab.Namespace()
    lab.run("ip", "link", "add", bridge, "type", "bridge")
    lab.run("ip", "addr", "add", f"{subnet}.1/24", "dev", bridge)
    lab.run("ip", "link", "set", bridge, "up")
    lab.run("ip", "link", "add", "theirs", "type", "veth", "peer", "eth0", "netns", str(place.pid))
    lab.run("ip", "link", "set", "theirs", "master", bridge, "up")
    place.run("ip", "addr", "add", f"{subnet}.2/24", "dev", "eth0")
    place.run("ip", "link", "set", "eth0", "up")
    for name in ("route_localnet", "accept_local"):
        setting(f"ipv4/conf/{bridge}/{name}", "1")
    return place


def came(sniffer: socket.socket, cookies: dict[bytes, str], last: bytes) -> list[str]:
    """The names of the cookies that arrived before ``last`` did."""
    seen = b""
    for _ in range(1000):
        seen += b"".join(drain(sniffer))
        if last in seen:
            break
        time.sleep(0.02)
    assert last in seen, "the test can hear"
    return [name for cookie, name in cookies.items() if cookie in seen]


@pytest.mark.parametrize("place", ["uplink", "a stranger's bridge", "another installation's"])
def test_what_is_published_on_loopback_is_the_hosts_alone(
    hvtx: Program, firewall: str, world: lab.Namespace, tmp_path: Path, place: str
) -> None:
    """No packet with an address of 127.0.0.0/8 that came in by another device is translated."""
    make_network(hvtx)
    ports = ("127.0.0.1:8080:80", "8081:80", "0.0.0.0:8082:80", "127.0.0.7:8083:80")
    both = [word for port in ports for word in ("-p", port, "-p", f"{port}/udp")]
    web = run(hvtx, "web", *both)
    for name in ("route_localnet", "accept_local"):
        setting(f"ipv4/conf/uplink/{name}", "1")
    with contextlib.ExitStack() as cleanup:
        if place == "uplink":
            sender = Neighbour(world, "uplink", WORLD4)
        elif place == "a stranger's bridge":
            there = stranger_on("brx", "192.0.2")
            cleanup.callback(there.close)
            sender = Neighbour(there, "brx", "192.0.2.2")
        else:
            other = cleanup.enter_context(
                program(
                    firewall,
                    HVTX_STATE_DIR=str(tmp_path / "two"),
                    HVTX_RUN_DIR=str(tmp_path / "run2"),
                )
            )
            other("network", "create", "net", "--subnet", "10.78.0.0/24")
            there = run(other, "there", "-p", "9000:80")  # so that its bridge has route_localnet
            sender = Neighbour(there, bridge_of(other), there.ipv4)
        cleanup.callback(sender.close)
        sniffer = packets(web)
        cleanup.callback(sniffer.close)
        cookies: dict[bytes, str] = {}
        for number, (make, source, target, port) in enumerate(
            (make, source, target, port)
            for make in (udp4, tcp4)
            for source, target, port in (
                (sender.address, "127.0.0.1", 8080), (sender.address, "127.0.0.1", 8081),
                (sender.address, "127.0.0.1", 8082), (sender.address, "127.0.0.7", 8083),
                (sender.address, "127.0.0.7", 8081), ("127.0.0.1", HOST4, 8081),
                ("127.0.0.1", "127.0.0.1", 8080), ("127.0.0.1", HOST4, 8082),
            )
        ):  # fmt: skip
            cookie = b"cookie%04d" % number
            cookies[cookie] = f"{make.__name__} from {source} to {target}:{port}"
            sender.send(make(source, target, (4000 + number, port), cookie))
        sender.send(udp4(sender.address, HOST4, (5000, 8081), b"the last"))
        assert came(sniffer, cookies, b"the last") == []
    for address, port in (("127.0.0.1", 8080), ("127.0.0.1", 8081), ("127.0.0.7", 8083)):
        assert reach(None, web, "tcp", address, port, 80), (address, port)


# -- the setting that leads 127.0.0.1 to guests (R3) -------------------------------------------------


def leads(bridge: str) -> bool:
    return Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").read_text() == "1\n"


def test_loopback_is_led_to_guests_only_while_a_port_needs_it(hvtx: Program) -> None:
    make_network(hvtx)
    bridge = bridge_of(hvtx)
    sleep = ("--network", "net", "--", "sleep", "600")
    assert not leads(bridge)
    hvtx("vm", "run", "none", *sleep)
    hvtx("vm", "run", "far", "-p", f"{HOST4}:8079:80", *sleep)
    assert not leads(bridge)
    hvtx("vm", "run", "one", "-p", "127.0.0.1:8080:80", *sleep)
    hvtx("vm", "run", "two", "-p", "8081:80", *sleep)
    assert leads(bridge)
    hvtx("vm", "stop", "one", "--force")
    assert leads(bridge), "another port needs it"
    hvtx("vm", "stop", "two", "--force")
    assert not leads(bridge)
    hvtx("vm", "start", "one")
    assert leads(bridge)
    lab.end(hvtx.vm("one")["pid"])
    hvtx("gc", "--apply")
    assert not leads(bridge)
    assert hvtx.is_clean()


@pytest.mark.parametrize("point", ["acted:filter", "acted:iptables", "spawned", "released:nftables",
                                   "released:iptables", "removed", "forgotten"])  # fmt: skip
def test_a_killed_command_leaves_no_way_to_loopback(
    hvtx: Program, firewall: str, point: str
) -> None:
    """Whatever was on record when it died: `recover` leaves it as the ports need it."""
    if "iptables" in point and firewall == "nftables":
        pytest.skip("the other backend's")
    make_network(hvtx)
    bridge = bridge_of(hvtx)
    sleep = ("--network", "net", "--", "sleep", "600")
    hvtx("vm", "create", "one", "-p", "127.0.0.1:8080:80", *sleep)
    if point.startswith(("acted", "spawned")):
        hvtx("vm", "start", "one", code=None, HVTX_FAILPOINT=f"{point}:kill")
    else:
        hvtx("vm", "start", "one")
        hvtx("vm", "stop", "one", "--force", code=None, HVTX_FAILPOINT=f"{point}:kill")
    hvtx("recover")
    assert not leads(bridge)
    hvtx("vm", "start", "one")
    assert leads(bridge)


def test_the_setting_of_a_strangers_bridge_stays(hvtx: Program) -> None:
    """Somebody made a bridge of the name that a network's had, and leads 127.0.0.1 to it."""
    make_network(hvtx)
    bridge = bridge_of(hvtx)
    hvtx("vm", "run", "one", "-p", "127.0.0.1:8080:80", "--network", "net", "--", "sleep", "600")
    lab.end(hvtx.vm("one")["pid"])
    lab.run("ip", "link", "del", bridge)
    lab.run("ip", "link", "add", bridge, "type", "bridge")
    setting(f"ipv4/conf/{bridge}/route_localnet", "1")
    hvtx("gc", "--apply", code=None)
    hvtx("vm", "stop", "one", "--force", code=None)
    assert leads(bridge)


def test_repair_settles_the_setting(hvtx: Program) -> None:
    """Also where an earlier version left it on, or rules were flushed before a VM died."""
    make_network(hvtx)
    bridge = bridge_of(hvtx)
    path = Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet")
    path.write_text("1")
    found = hvtx("doctor", "--json", code=None).json()["findings"]
    assert [f["hint"] for f in found if bridge in f["message"]] == ["hvtx repair"]
    hvtx("repair")
    assert not leads(bridge)
    hvtx("vm", "run", "one", "-p", "8080:80", "--network", "net", "--", "sleep", "600")
    path.write_text("0")
    hvtx("repair")
    assert leads(bridge)
    lab.run("nft", "flush", "ruleset")
    lab.end(hvtx.vm("one")["pid"])
    hvtx("gc", "--apply")
    assert not leads(bridge)


# -- what a flush opens (R3) -------------------------------------------------------------------------

FLUSHES: dict[str, Callable[[], object]] = {
    "nft flush ruleset": lambda: lab.run("nft", "flush", "ruleset"),
    "iptables -F": lambda: [
        lab.run("iptables-legacy", "-w", *table, "-F") for table in ((), ("-t", "nat"))
    ],
    "iptables -F of every table": lambda: [
        lab.run("iptables-legacy", "-w", "-t", table, "-F") for table in ("filter", "nat", "mangle")
    ],
    "iptables-restore": lambda: lab.run(
        "iptables-legacy-restore", "-w",
        stdin="*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"
        "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n",
    ),
}  # fmt: skip


class Site:
    """Two guests that are kept apart, one that publishes on 127.0.0.1, and a neighbour."""

    def __init__(self, hvtx: Program, world: lab.Namespace) -> None:
        make_network(hvtx, "--isolate")
        self.world = world
        self.one, self.two = run(hvtx, "one"), run(hvtx, "two", "-p", "127.0.0.1:8080:80")
        self.mac = mac_of(bridge_of(hvtx))
        world.run("ip", "route", "add", "10.77.0.0/24", "via", HOST4)
        world.run("ip", "-6", "route", "add", "fd77::/64", "via", lab.HOST6)

    def open(self) -> set[str]:
        """What of the page's table does not hold now."""
        cells = {
            "services of the host's loopback": self.loopback,
            "guests, from a neighbour": self.direct,
            "other addresses than its own": self.spoofing,
            "guests that are kept apart": self.apart,
        }
        return {name for name, broken in cells.items() if broken()}

    def hears(self, receiver: GuestVm | None, frames: list[bytes], port: int) -> bool:
        """Whether a UDP socket of a guest, or of the host's loopback, hears one of guest one's."""
        with inside(receiver):  # type: ignore[arg-type]
            service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with service, inside(self.one), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
            service.bind(("127.0.0.1" if receiver is None else "0.0.0.0", port))
            service.settimeout(0.3)
            wire.bind(("eth0", 0))
            for frame in frames:
                wire.send(frame)
            try:
                return bool(service.recv(64))
            except TimeoutError:
                return False

    def loopback(self) -> bool:
        to = (self.one.mac, self.mac, 0x0800)
        frames = [
            ether(*to, udp4(self.one.ipv4, target, (7, 9999), b"knock"))
            for target in ("127.0.0.1", "127.9.9.9")
        ]
        frames.append(ether(*to, udp4("127.0.0.1", GATEWAY4, (7, 9999), b"knock")))
        return self.hears(None, frames, 9999)

    def direct(self) -> bool:
        return any(
            reach(self.world, guest, "udp", address, 7000, 7000, patience=0.3)
            for guest in (self.one, self.two)
            for address in (guest.ipv4, guest.ipv6)
        )

    def spoofing(self) -> bool:
        """Frames to the host, from others' addresses; each arrives where nothing holds it."""
        forged = {
            "mac": ether("02:00:00:00:00:99", self.mac, 0x0800,
                         udp4(self.one.ipv4, GATEWAY4, (7, 8), b"cookie-1")),
            "ipv4": ether(self.one.mac, self.mac, 0x0800,
                          udp4(self.two.ipv4, GATEWAY4, (7, 8), b"cookie-2")),
            "ipv6": ether(self.one.mac, self.mac, 0x86DD,
                          udp6(self.two.ipv6, GATEWAY6, (7, 8), b"cookie-3")),
            "arp": ether(self.one.mac, "ff:ff:ff:ff:ff:ff", 0x0806,
                         arp(2, self.one.mac, self.two.ipv4, GATEWAY4) + bytes(10) + b"cookie-4"),
            "advertisement": ether(self.one.mac, ALL_NODES_MAC, 0x86DD, ipv6(
                eui64(self.one.mac), "ff02::1", 58, icmp6(
                    eui64(self.one.mac), "ff02::1", neighbour(136, self.two.ipv6, b"cookie-5")))),
            "dhcp server": ether(self.one.mac, self.mac, 0x0800,
                                 udp4(self.one.ipv4, GATEWAY4, (67, 68), b"cookie-6")),
        }  # fmt: skip
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        bridge = next(d["ifname"] for d in json.loads(lab.run("ip", "-j", "link")) if d["address"] == self.mac)  # fmt: skip
        ear.bind((bridge, 3))
        ear.setblocking(False)
        with ear, inside(self.one), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
            wire.bind(("eth0", 0))
            for frame in forged.values():
                wire.send(frame)
            honest = udp4(self.one.ipv4, GATEWAY4, (7, 8), b"cookie-0")
            wire.send(ether(self.one.mac, self.mac, 0x0800, honest))
            cookies = {b"cookie-%d" % n: name for n, name in enumerate(forged, 1)}
            return bool(came(ear, cookies, b"cookie-0"))

    def apart(self) -> bool:
        packet = udp4(self.one.ipv4, self.two.ipv4, (7, 7007), b"hello")
        every = (self.two.mac, self.mac, "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01")
        return self.hears(self.two, [ether(self.one.mac, to, 0x0800, packet) for to in every], 7007)


# docs/security.md shows this table
OPENS: dict[tuple[str, str], set[str]] = {
    ("nftables", "nft flush ruleset"): set(),
    ("iptables", "nft flush ruleset"): set(),
    ("iptables", "iptables -F"): set(),
    ("iptables", "iptables -F of every table"): {"guests, from a neighbour"},
    ("iptables", "iptables-restore"): set(),
}


@pytest.mark.parametrize(("firewall", "flush"), OPENS)
def test_what_a_flush_opens(firewall: str, flush: str, bridged: bool, world: lab.Namespace) -> None:
    bridged_frames_see_iptables(bridged)
    with program(firewall) as hvtx:
        site = Site(hvtx, world)
        assert reach(None, site.two, "tcp", "127.0.0.1", 8080, 80)
        assert site.open() == set()
        FLUSHES[flush]()
        assert site.open() == OPENS[firewall, flush]
        assert reach(None, site.one, "tcp", site.one.ipv4, 7000, 7000), "the host still can"
        hvtx("repair")
        assert site.open() == set()
        assert reach(None, site.two, "tcp", "127.0.0.1", 8080, 80)
        assert reach(site.one, world, "tcp", WORLD4, 7000, 7000)


# -- what all share: connection tracking, and the host's neighbours (R15) ---------------------------


def tracked(address: str) -> int:
    """How many connections are tracked with this address as their source."""
    family = "ipv6" if ":" in address else "ipv4"
    listed = lab.run("conntrack", "-L", "-f", family, "-s", address, check=False)
    return len(listed.splitlines())


def flood(guest: GuestVm, source: str, target: str, mac: str, count: int) -> None:
    """Datagrams from so many ports."""
    make, kind = (udp6, 0x86DD) if ":" in source else (udp4, 0x0800)
    with inside(guest), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
        wire.bind(("eth0", 0))
        for number in range(count):
            ports = (1024 + number % 60000, 7 + number // 60000)
            wire.send(ether(guest.mac, mac, kind, make(source, target, ports, b"flood")))
            if number % 100 == 99:
                time.sleep(0.002)  # the guest moves frames one by one


@pytest.mark.parametrize("beyond", ["the world", "the host"])
def test_a_guest_uses_up_no_more_connections_than_its_own(
    firewall: str, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch, beyond: str
) -> None:
    """Its flood ends at the limit; another guest's new flows, and its own to neighbours, go on."""
    bridged_frames_see_iptables(False)
    monkeypatch.setattr("hvtx.commands.vm_start.flow_limit", lambda: 300)
    monkeypatch.setattr("hvtx.engine.network_build.flow_limit", lambda: 300)
    with program(firewall) as hvtx:
        make_network(hvtx)
        one, two = run(hvtx, "one"), run(hvtx, "two")
        mac = mac_of(bridge_of(hvtx))
        targets = (WORLD4, lab.WORLD6) if beyond == "the world" else (GATEWAY4, GATEWAY6)
        for source, target in zip((one.ipv4, one.ipv6), targets, strict=True):
            flood(one, source, target, mac, 2000)
            assert 250 <= tracked(source) <= 310
            theirs = two.ipv4 if ":" not in source else two.ipv6
            where = world if beyond == "the world" else None
            assert reach(two, where, "tcp", target, 7000, 7000)
            assert reach(one, two, "tcp", theirs, 7001, 7001)


def test_connections_to_the_host_and_beyond_it_are_counted_together(
    firewall: str, bridged: bool, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one limit for an address, wherever its connections lead: to a neighbour, too."""
    bridged_frames_see_iptables(bridged)
    limited(monkeypatch, 300)
    with program(firewall) as hvtx:
        make_network(hvtx)
        one, two = run(hvtx, "one"), run(hvtx, "two")
        mac = mac_of(bridge_of(hvtx))
        for source, there in ((one.ipv4, (WORLD4, GATEWAY4, two.ipv4)),
                              (one.ipv6, (lab.WORLD6, GATEWAY6, two.ipv6))):  # fmt: skip
            for target in there:
                to = two.mac if target in (two.ipv4, two.ipv6) else mac
                flood(one, source, target, to, 600)
            assert reach(two, None, "tcp", GATEWAY4, 7000, 7000)
            assert 250 <= tracked(source) <= 310


def test_link_local_sources_are_few(hvtx: Program) -> None:
    """A guest cannot fill the host's table of neighbours, nor connection tracking, by fe80s."""
    make_network(hvtx)
    one, two = run(hvtx, "one"), run(hvtx, "two")
    bridge = bridge_of(hvtx)
    mac = mac_of(bridge)
    (shown,) = json.loads(lab.run("ip", "-j", "addr", "show", bridge))
    gateway = next(a["local"] for a in shown["addr_info"] if a["local"].startswith("fe80:"))
    with inside(one), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
        wire.bind(("eth0", 0))
        for number in range(600):
            source = f"fe80::aaaa:{number + 1:x}"
            body = struct.pack(">BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, gateway)
            body += bytes((1, 1)) + bytes.fromhex(one.mac.replace(":", ""))
            packet = ipv6(source, gateway, 58, icmp6(source, gateway, body))
            wire.send(ether(one.mac, mac, 0x86DD, packet))
            if number % 100 == 99:
                time.sleep(0.005)
    assert reach(one, None, "udp", GATEWAY6, 7000, 7000)
    known = lab.run("ip", "-6", "neigh", "show", "dev", bridge).count("fe80::aaaa")
    assert 10 <= known <= 25
    assert reach(two, None, "udp", GATEWAY6, 7000, 7000)
    index = json.loads(two.run("ip", "-j", "link", "show", "eth0"))[0]["ifindex"]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as service, inside(two):  # type: ignore[arg-type]
        service.bind(("::", 7000))
        service.settimeout(LONG)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as caller:
            caller.sendto(b"its own passes", (gateway, 7000, 0, index))
        assert service.recv(64) == b"its own passes"


def test_where_link_local_sources_have_no_room_left_no_other_gets_in(hvtx: Program) -> None:
    """A rule ends where its set is full (findings/nft-full-set-ends-the-rule.sh): a drop follows."""
    make_network(hvtx)
    one = run(hvtx, "one")
    bridge = bridge_of(hvtx)
    mac = mac_of(bridge)
    (shown,) = json.loads(lab.run("ip", "-j", "addr", "show", bridge))
    gateway = next(a["local"] for a in shown["addr_info"] if a["local"].startswith("fe80:"))

    def is_heard(source: str) -> bool:
        """Whether the host learns of a neighbour with this address from guest one."""
        with inside(one), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
            wire.bind(("eth0", 0))
            body = struct.pack(">BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, gateway)
            body += bytes((1, 1)) + bytes.fromhex(one.mac.replace(":", ""))
            packet = ipv6(source, gateway, 58, icmp6(source, gateway, body))
            wire.send(ether(one.mac, mac, 0x86DD, packet))
        time.sleep(0.2)
        return source in lab.run("ip", "-6", "neigh", "show", "dev", bridge)

    (inner,) = json.loads(one.run("ip", "-j", "addr", "show", "eth0"))
    assert is_heard(next(a["local"] for a in inner["addr_info"] if a["local"].startswith("fe80:")))
    assert is_heard("fe80::aaaa:1")
    table = next(t for t in lab.run("nft", "list", "tables").split() if t.startswith("hvtx-"))
    there = lab.run("nft", "list", "set", "bridge", table, "seen6").count("expires")
    fillers = (f'"filler" . {0xFE80 << 112 | number:#x}' for number in range(65535 - there))
    words = f"add element bridge {table} seen6 {{ {', '.join(fillers)} }}\n"
    lab.run("nft", "-f", "-", stdin=words)
    assert not is_heard("fe80::aaaa:2")
    lab.run("ip", "-6", "neigh", "flush", "dev", bridge)
    assert is_heard("fe80::aaaa:1")
    assert reach(one, None, "udp", GATEWAY6, 7000, 7000)
    lab.run("nft", "flush", "set", "bridge", table, "seen6")
    assert is_heard("fe80::aaaa:2")


def test_all_link_local_sources_have_one_limit_of_connections(
    firewall: str, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest chooses such addresses by itself; another still opens connections from its lease."""
    bridged_frames_see_iptables(False)
    monkeypatch.setattr("hvtx.commands.vm_start.flow_limit", lambda: 100)
    monkeypatch.setattr("hvtx.engine.network_build.flow_limit", lambda: 100)
    with program(firewall) as hvtx:
        make_network(hvtx)
        one, two = run(hvtx, "one"), run(hvtx, "two")
        bridge = bridge_of(hvtx)
        mac = mac_of(bridge)
        (shown,) = json.loads(lab.run("ip", "-j", "addr", "show", bridge))
        gateway = next(a["local"] for a in shown["addr_info"] if a["local"].startswith("fe80:"))
        for number in range(8):
            flood(one, f"fe80::bbbb:{number + 1:x}", gateway, mac, 90)
        assert reach(one, None, "udp", GATEWAY6, 7000, 7000)
        assert 80 <= tracked("fe80::/10") <= 105
        assert reach(two, None, "udp", GATEWAY6, 7000, 7000)


def limited(monkeypatch: pytest.MonkeyPatch, flows: int) -> None:
    """So many connections for each, for networks and VMs that are made now."""
    monkeypatch.setattr("hvtx.commands.vm_start.flow_limit", lambda: flows)
    monkeypatch.setattr("hvtx.engine.network_build.flow_limit", lambda: flows)


def flood_from_link_locals(guest: GuestVm, target: str, mac: str) -> None:
    """720 connections, from eight addresses that a guest has chosen."""
    for number in range(8):
        flood(guest, f"fe80::bbbb:{number + 1:x}", target, mac, 90)


@pytest.mark.parametrize("subnets", [SUBNETS, SUBNETS[:2]], ids=["both families", "IPv4"])
def test_what_guests_send_from_link_local_sources_is_not_tracked(
    firewall: str, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch, subnets: tuple[str, ...]
) -> None:
    """Else each of their flows is, where br_netfilter shows the frames of a bridge to iptables."""
    bridged_frames_see_iptables(True)
    limited(monkeypatch, 100)
    with program(firewall) as hvtx, tracking():
        hvtx("network", "create", "net", *subnets)
        one, two = run(hvtx, "one"), run(hvtx, "two")
        flood_from_link_locals(one, two.link_local, two.mac)
        assert reach(one, two, "udp", two.ipv4, 7000, 7000)
        assert tracked("fe80::/10") == 0
        flood_from_link_locals(one, "ff02::1", ALL_NODES_MAC)
        assert reach(two, one, "udp", one.ipv4, 7000, 7000)
        assert tracked("fe80::/10") == 0


@pytest.mark.parametrize("to", ["all nodes", "the host"])
def test_the_host_tracks_no_ipv6_of_a_network_without_it(
    firewall: str, bridged: bool, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Its bridge hears what is for all nodes, and for any address that the host has elsewhere."""
    bridged_frames_see_iptables(bridged)
    limited(monkeypatch, 100)
    with program(firewall) as hvtx, tracking():
        hvtx("network", "create", "net", *SUBNETS[:2])
        one = run(hvtx, "one")
        host = (lab.HOST6, mac_of(bridge_of(hvtx)))
        flood_from_link_locals(one, *(("ff02::1", ALL_NODES_MAC) if to == "all nodes" else host))
        assert reach(one, None, "udp", GATEWAY4, 7000, 7000)
        assert tracked("fe80::/10") == 0


GROUPS = {"ff02::1": ALL_NODES_MAC, "ff02::fb": "33:33:00:00:00:fb", "ff02::9": "33:33:00:00:00:09"}


@pytest.mark.parametrize("subnets", [SUBNETS, SUBNETS[:2]], ids=["both families", "IPv4"])
def test_the_host_hears_no_ipv6_of_a_network_without_it(
    firewall: str, bridged: bool, world: lab.Namespace, subnets: tuple[str, ...]
) -> None:
    """Of what is for a group that a service of the host is in; guests hear one another."""
    bridged_frames_see_iptables(bridged)
    with program(firewall) as hvtx:
        hvtx("network", "create", "net", *subnets)
        one, two = run(hvtx, "one"), run(hvtx, "two")
        index = socket.if_nametoindex(bridge_of(hvtx))
        with ear6(5353) as service, contextlib.ExitStack() as stack:
            for group in GROUPS:
                member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
                with contextlib.suppress(OSError):  # it is in ff02::1 without asking
                    service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
            with inside(two):
                other = stack.enter_context(
                    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                )
            with inside(two):
                other.bind(("eth0", 3))
            other.setblocking(False)
            with inside(one), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
                wire.bind(("eth0", 0))
                for group, mac in GROUPS.items():
                    said = udp6(one.link_local, group, (5353, 5353), f"to {group}".encode())
                    wire.send(ether(one.mac, mac, 0x86DD, said))
                last = ether(one.mac, "ff:ff:ff:ff:ff:ff", 0x0800,
                             udp4(one.ipv4, "255.255.255.255", (7, 8), b"the last one"))  # fmt: skip
                wire.send(last)
            cookies = {f"to {group}".encode(): group for group in GROUPS}
            assert came(other, cookies, b"the last one") == list(GROUPS)
            time.sleep(QUICK)
            heard = {words.decode().removeprefix("to ") for words in drain(service)}
            assert heard == (set(GROUPS) if subnets == SUBNETS else set())


@contextlib.contextmanager
def ear6(port: int) -> Iterator[socket.socket]:
    """A service of the host on [::]."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind(("::", port))
        ear.setblocking(False)
        yield ear


@contextlib.contextmanager
def tracking() -> Iterator[None]:
    """Somebody's firewall, which asks for the state of connections of both families."""
    chain = "chain in {\ntype filter hook input priority 0\nct state invalid drop\n}"
    lab.run("nft", "-f", "-", stdin=f"table inet theirs {{\n{chain}\n}}\n")
    yield
    lab.run("nft", "delete", "table", "inet", "theirs")


def test_a_guest_makes_the_host_ask_for_few_neighbours(firewall: str, world: lab.Namespace) -> None:
    """Sent through the host to addresses of its own subnet that are nobody's."""
    if firewall == "iptables":
        pytest.skip("docs/security.md: open there")
    bridged_frames_see_iptables(False)
    with program(firewall) as hvtx:
        make_network(hvtx)
        one = run(hvtx, "one")
        bridge = bridge_of(hvtx)
        mac = mac_of(bridge)
        with inside(one), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
            wire.bind(("eth0", 0))
            for number in range(600):
                target = f"fd77::bbbb:{number + 1:x}"
                wire.send(ether(one.mac, mac, 0x86DD, udp6(one.ipv6, target, (7, 8), b"x")))
                if number % 100 == 99:
                    time.sleep(0.005)
        assert reach(one, None, "udp", GATEWAY6, 7000, 7000)
        asked = lab.run("ip", "-6", "neigh", "show", "dev", bridge).count("fd77::bbbb")
        assert 10 <= asked <= 200
