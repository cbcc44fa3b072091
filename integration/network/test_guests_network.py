"""What a VM's network does, with packets, through the whole program: `command` VMs as guests.

On both firewall backends, with and without br_netfilter's calls (as Docker sets them, and as a plain
Debian has them). Guests are `integration/lab/guest.py`: real TAP devices, real stacks behind them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.lab import HOST4, HOST6, WORLD4, WORLD6
from integration.lab.firewall_contract import (
    LONG,
    QUICK,
    bridged_frames_see_iptables,
    ether,
    inside,
    reach,
    setting,
    udp4,
    unreachable,
)
from integration.lab.program import Forked, Program, preload
from integration.lab.vms import end_vms
from integration.lab.waiting import until

GUEST = Path(__file__).parents[1] / "lab/guest.py"
GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"
SECOND4, SECOND6 = "203.0.113.9", "2001:db8:113::9"
HOST_ADDRESSES = [HOST4, SECOND4, GATEWAY4, HOST6, SECOND6, GATEWAY6]


class GuestVm:
    """A running VM, seen from inside: usable wherever a namespace or a guest is asked for."""

    def __init__(self, hvtx: Program, name: str) -> None:
        shown = hvtx.vm(name)
        assert shown["state"] == "running", shown
        first = shown["interfaces"][0]
        self.name, self.pid = name, int(shown["pid"])
        self.device, self.mac = first["device"], first["mac"]
        self.ipv4, self.ipv6 = first["ipv4"], first["ipv6"]
        self.namespace = self
        until(f"{name} is ready", lambda: "the guest is ready" in hvtx("vm", "logs", name).out)
        until(
            "the end of duplicate detection",
            lambda: not self.run("ip", "-6", "addr", "show", "tentative"),
        )
        addresses = json.loads(self.run("ip", "-j", "addr", "show", "eth0"))[0]["addr_info"]
        self.link_local = next(
            (a["local"] for a in addresses if a["local"].startswith("fe80:")), ""
        )

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program inside."""
        return lab.run("nsenter", "-t", str(self.pid), "-n", "--", *argv, check=check)


@pytest.fixture
def hvtx(firewall: str, bridged: bool, world: lab.Namespace) -> Iterator[Program]:
    """The program, and a host with two addresses of each family towards the world."""
    preload()
    lab.duplicate_detection("1")
    bridged_frames_see_iptables(bridged)
    lab.run("ip", "addr", "add", f"{SECOND4}/24", "dev", "uplink")
    lab.run("ip", "addr", "add", f"{SECOND6}/64", "dev", "uplink", "nodad")
    program = Forked(HVTX_FIREWALL=firewall)
    yield program
    end_vms(program)


def make_network(hvtx: Program, *more: str) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", *more)


def run(hvtx: Program, name: str, *more: str) -> GuestVm:
    hvtx("vm", "run", name, "--network", "net", *more, "--", sys.executable, str(GUEST))
    return GuestVm(hvtx, name)


def kill(guest: GuestVm) -> None:
    """End a VM process as a crash does, and wait until it is dead."""
    descriptor = os.pidfd_open(guest.pid)
    os.kill(guest.pid, signal.SIGKILL)
    assert select.select([descriptor], [], [], 10)[0]
    os.close(descriptor)


def both(guest: GuestVm) -> tuple[str, str]:
    return guest.ipv4, guest.ipv6


def test_guests_reach_gateway_each_other_and_the_world(hvtx: Program, world: lab.Namespace) -> None:
    """And the world sees the host, for both families and protocols; duplicate detection succeeds."""
    make_network(hvtx)
    one, two = run(hvtx, "one"), run(hvtx, "two")
    for guest in (one, two):
        addresses = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "eth0"))[0]["addr_info"]
        assert {guest.ipv6, guest.link_local} <= {a["local"] for a in addresses}
        assert not [a for a in addresses if a.get("dadfailed") or a.get("tentative")]
    for protocol in ("tcp", "udp"):
        for mine, gateway, other, beyond, seen in (
            (one.ipv4, GATEWAY4, two.ipv4, WORLD4, HOST4), (one.ipv6, GATEWAY6, two.ipv6, WORLD6, HOST6),
        ):  # fmt: skip
            assert reach(one, None, protocol, gateway, 7000, 7000, listen=gateway) == mine
            assert reach(None, one, protocol, mine, 7000, 7000) == gateway
            assert reach(one, two, protocol, other, 7000, 7000) == mine
            as_seen = reach(one, world, protocol, beyond, 7000, 7000)
            # the host has two addresses of its own towards the world, and IPv6 takes either
            assert as_seen in ({seen} if ":" not in seen else {HOST6, SECOND6})
    # nobody from outside reaches what is not published
    world.run("ip", "route", "add", "10.77.0.0/24", "via", HOST4)
    world.run("ip", "-6", "route", "add", "fd77::/64", "via", HOST6)
    for address in both(one):
        assert unreachable(world, one, "tcp", address, 7000, 7000)


def test_published_ports(hvtx: Program, world: lab.Namespace) -> None:
    """From outside, from the host by every address of its own, from guests and from the VM itself."""
    make_network(hvtx)
    server = run(hvtx, "server", "-p", "8080:80", "-p", "5353:53/udp")
    other = run(hvtx, "other")
    failed = []
    for protocol, port, inner in (("tcp", 8080, 80), ("udp", 5353, 53)):
        for who, client in (("world", world), ("host", None), ("guest", other), ("itself", server)):
            for address in HOST_ADDRESSES:
                if who == "world" and address in (GATEWAY4, GATEWAY6):
                    continue
                if reach(client, server, protocol, address, port, inner) is None:
                    failed.append((who, protocol, address))
        if reach(None, server, protocol, "127.0.0.1", port, inner) is None:
            failed.append(("host", protocol, "127.0.0.1"))
        assert reach(world, server, protocol, HOST4, port, inner) == WORLD4, (
            "clients are seen as they are"
        )
    assert failed == []
    for protocol, port, inner in (
        ("udp", 8080, 80),
        ("tcp", 5353, 53),
        ("tcp", 80, 80),
        ("tcp", 8081, 80),
    ):
        assert unreachable(world, server, protocol, HOST4, port, inner)


def test_a_host_ip_publishes_only_there(hvtx: Program, world: lab.Namespace) -> None:
    make_network(hvtx)
    server = run(
        hvtx,
        "server",
        "-p",
        f"{SECOND4}:8080:80",
        "-p",
        f"[{SECOND6}]:8080:80",
        "-p",
        "127.0.0.1:8081:80",
    )
    other = run(hvtx, "other")
    for client in (world, None, other, server):
        for address in (SECOND4, SECOND6):
            assert reach(client, server, "tcp", address, 8080, 80), (client, address)
        for address in (HOST4, HOST6):
            assert unreachable(client, server, "tcp", address, 8080, 80), (client, address)
    for address in (GATEWAY4, GATEWAY6):
        assert unreachable(other, server, "tcp", address, 8080, 80)
    assert unreachable(None, server, "tcp", "127.0.0.1", 8080, 80)
    assert reach(None, server, "tcp", "127.0.0.1", 8081, 80)
    for client in (world, other, server):
        assert unreachable(client, server, "tcp", HOST4, 8081, 80)


def test_isolated_guests(hvtx: Program, world: lab.Namespace) -> None:
    make_network(hvtx, "--isolate")
    one, two = run(hvtx, "one"), run(hvtx, "two", "-p", "8080:80")
    for address in both(two):
        assert unreachable(one, two, "tcp", address, 80, 80)
        assert unreachable(one, two, "udp", address, 80, 80)
    for address, gateway, beyond in ((one.ipv4, GATEWAY4, WORLD4), (one.ipv6, GATEWAY6, WORLD6)):
        assert reach(one, None, "tcp", gateway, 7000, 7000) == address
        assert reach(one, world, "tcp", beyond, 7000, 7000)
    for address in (HOST4, HOST6):
        for client in (world, None, one, two):
            assert reach(client, two, "tcp", address, 8080, 80), (client, address)


def test_without_nat(hvtx: Program, world: lab.Namespace) -> None:
    """Routed as they are: the world sees, and reaches, the guest's own addresses."""
    make_network(hvtx, "--no-nat")
    one = run(hvtx, "one", "-p", "8080:80")
    world.run("ip", "route", "add", "10.77.0.0/24", "via", HOST4)
    world.run("ip", "-6", "route", "add", "fd77::/64", "via", HOST6)
    for mine, beyond in ((one.ipv4, WORLD4), (one.ipv6, WORLD6)):
        assert reach(one, world, "tcp", beyond, 7000, 7000) == mine
        assert reach(world, one, "tcp", mine, 7000, 7000) == beyond
    assert reach(world, one, "tcp", HOST4, 8080, 80) == WORLD4


def test_two_networks(hvtx: Program, world: lab.Namespace) -> None:
    """A VM in both reaches both; two networks do not reach each other's guests."""
    make_network(hvtx)
    hvtx("network", "create", "far", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    one = run(hvtx, "one")
    hvtx("vm", "run", "two", "--network", "far", "--", sys.executable, str(GUEST))
    two = GuestVm(hvtx, "two")
    dual = run(hvtx, "dual", "--network", "far", "-p", "8080:80")
    for address in both(one):
        assert reach(dual, one, "tcp", address, 7000, 7000)
        assert unreachable(two, one, "tcp", address, 7000, 7000)
    for address in both(two):
        assert reach(dual, two, "tcp", address, 7000, 7000)
        assert unreachable(one, two, "tcp", address, 7000, 7000)
    assert reach(world, dual, "tcp", HOST4, 8080, 80) == WORLD4


def test_the_host_reaches_a_port_of_a_guest_with_two_networks(hvtx: Program) -> None:
    """By each of its addresses, in whichever of the networks the port is published."""
    make_network(hvtx)
    hvtx("network", "create", "far", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    dual = run(hvtx, "dual", "--network", "far", "-p", "8080:80", "-p", "far/8090:80")
    seen = {
        (port, address): reach(None, dual, "tcp", address, port, 80)
        for address in [*HOST_ADDRESSES, "10.78.0.1", "fd78::1"]
        for port in (8080, 8090)
    }
    gateways = {8080: (GATEWAY4, GATEWAY6), 8090: ("10.78.0.1", "fd78::1")}
    assert seen == {(port, to): gateways[port][":" in to] for port, to in seen}


def host_hears(
    sender: GuestVm | lab.Namespace, source: str, target: str, mac: tuple[str, str],
    *, patience: float = QUICK,
) -> bool:  # fmt: skip
    """Whether a service on the host's loopback hears a datagram from someone's wire."""
    with inside(None), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((target, 9999))
        service.settimeout(patience)
        with inside(sender), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:  # type: ignore[arg-type]
            wire.bind(("eth0", 0))
            wire.send(ether(mac[0], mac[1], 0x0800, udp4(source, target, (7, 9999), b"knock")))
        try:
            return service.recv(64) == b"knock"
        except TimeoutError:
            return False


def test_loopback_services_of_the_host_stay_private(hvtx: Program, world: lab.Namespace) -> None:
    """Publishing a port of 127.0.0.1 opens the host's own loopback to nobody."""
    make_network(hvtx)
    one = run(hvtx, "one", "-p", "127.0.0.1:8080:80", "-p", "8081:80")
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]

    def mac(device: str, place: lab.Namespace | None = None) -> str:
        text = (place.run if place else lab.run)("ip", "-j", "link", "show", device)
        return str(json.loads(text)[0]["address"])

    wires = (
        (one, one.ipv4, (one.mac, mac(bridge))),
        (world, WORLD4, (mac("eth0", world), mac("uplink"))),
    )
    hears = host_hears(one, one.ipv4, GATEWAY4, wires[0][2], patience=LONG)
    assert hears, "the test can hear"
    for sender, source, macs in wires:
        assert not host_hears(sender, source, "127.0.0.1", macs)
        assert not host_hears(sender, source, "127.8.8.8", macs)
        assert not host_hears(sender, "127.0.0.1", GATEWAY4, macs)
    assert unreachable(world, None, "tcp", HOST4, 8080, 9999, listen="127.0.0.1")
    with pytest.raises(OSError, match="in use"):  # the port is the VM's: no service gets it
        reach(None, None, "tcp", "127.0.0.1", 8080, 8080, listen="127.0.0.1")


def flows() -> str:
    return "".join(
        lab.run("conntrack", "-L", "-f", family, check=False) for family in ("ipv4", "ipv6")
    )


@pytest.mark.parametrize("how", ["stop", "gc"])
def test_the_next_owner_inherits_nothing(hvtx: Program, world: lab.Namespace, how: str) -> None:
    """Flows to the address and to the port end with the VM, conntrack's memory included."""
    make_network(hvtx)
    old = run(hvtx, "old", "-p", "8080:80", "-p", "5353:53/udp")
    address = old.ipv4
    with inside(world):  # type: ignore[arg-type]
        caller = socket.create_connection
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect((HOST4, 5353))
    with inside(old):  # type: ignore[arg-type]
        service = socket.create_server((old.ipv4, 80))
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        names.bind((old.ipv4, 53))
    with inside(world):  # type: ignore[arg-type]
        stream = caller((HOST4, 8080), timeout=LONG)
    accepted, _ = service.accept()
    stream.sendall(b"before")
    assert accepted.recv(16) == b"before"
    datagrams.send(b"before")
    assert names.recv(16) == b"before"
    assert address in flows()
    if how == "stop":
        hvtx("vm", "stop", "old", "--force")
    else:
        kill(old)
        hvtx("gc", "--apply")
    assert address not in flows()
    for mute in (accepted, service, names):
        mute.close()
    hvtx("vm", "rm", "old")
    new = run(hvtx, "new", "--ip", address)
    with inside(new):  # type: ignore[arg-type]
        heirs = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        heirs[0].bind((address, 53))
    sniffer = packets(new)
    stream.sendall(b"after!")
    datagrams.send(b"after!")
    readable, _, _ = select.select([*heirs], [], [], 0.5)
    assert readable == []
    assert b"after!" not in b"".join(drain(sniffer))
    for open_socket in (stream, datagrams, sniffer, *heirs):
        open_socket.close()


def packets(guest: GuestVm) -> socket.socket:
    with inside(guest):  # type: ignore[arg-type]
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sniffer.bind(("eth0", 3))
    sniffer.setblocking(False)
    return sniffer


def drain(sniffer: socket.socket) -> Iterator[bytes]:
    for _ in range(10000):
        try:
            yield sniffer.recv(65536)
        except BlockingIOError:
            return


def test_a_running_vm_keeps_talking_while_others_come_and_go(
    hvtx: Program, world: lab.Namespace
) -> None:
    make_network(hvtx)
    stays = run(hvtx, "stays", "-p", "8080:80")
    goes = run(hvtx, "goes", "-p", "8081:80")
    with inside(stays):  # type: ignore[arg-type]
        service = socket.create_server((stays.ipv4, 80))
    with inside(world):  # type: ignore[arg-type]
        stream = socket.create_connection((HOST4, 8080), timeout=LONG)
    accepted, _ = service.accept()
    accepted.settimeout(LONG)
    kill(goes)
    hvtx("gc", "--apply")
    hvtx("recover")
    hvtx("vm", "rm", "goes")
    again = run(hvtx, "again")
    hvtx("vm", "stop", "again", "--force")
    del again
    stream.sendall(b"still")
    assert accepted.recv(16) == b"still"
    assert reach(world, stays, "udp", HOST4, 8080, 80, patience=0.4) is None
    for end in (accepted, service, stream):
        end.close()


def test_ipv6_alone(hvtx: Program, world: lab.Namespace) -> None:
    setting("ipv4/ip_forward", "0")
    hvtx("network", "create", "net", "--subnet", "fd77::/64")
    one, two = run(hvtx, "one", "-p", "8080:80"), run(hvtx, "two")
    assert (one.ipv4, one.ipv6) == (None, "fd77::2")
    assert reach(two, one, "tcp", one.ipv6, 7000, 7000) == two.ipv6
    assert reach(one, world, "tcp", WORLD6, 7000, 7000)
    assert reach(world, one, "tcp", HOST6, 8080, 80) == WORLD6
    assert reach(one, None, "tcp", GATEWAY6, 7000, 7000) == one.ipv6
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0"
