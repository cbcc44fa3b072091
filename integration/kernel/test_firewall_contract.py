"""The firewall contract, for each registered backend, with and without br_netfilter's calls."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from hvtx.errors import Conflict
from integration import lab
from integration.lab import HOST4, HOST6, WORLD4, WORLD6, frames
from integration.lab.firewall_contract import (
    BACKENDS,
    BRIDGE,
    BRIDGE_MAC,
    BROADCAST,
    GATEWAY4,
    GATEWAY6,
    GATEWAY_LINK,
    LONG,
    QUICK,
    SECOND4,
    Firewall,
    Guest,
    Wire,
    bridged_frames_see_iptables,
    ether,
    inside,
    make_bridge,
    reach,
    setting,
    udp4,
    udp6,
    unreachable,
)

GATEWAYS = (GATEWAY4, GATEWAY6, GATEWAY_LINK)
Scene = tuple[Firewall, Guest, Guest, lab.Namespace]


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def scene(
    backend: str, world: lab.Namespace, *, bridged: bool, nat: bool = True, isolate: bool = False
) -> Iterator[Scene]:
    """A bridge, two guests with all their rows, the world beyond."""
    bridged_frames_see_iptables(bridged)
    make_bridge()
    lab.run("ip", "addr", "add", f"{SECOND4}/24", "dev", "uplink")
    firewall = Firewall(backend, nat=nat, isolate=isolate)
    one, two = Guest(2), Guest(3)
    try:
        firewall.make(firewall.network() + firewall.guest(one) + firewall.guest(two))
        yield firewall, one, two, world
    finally:
        firewall.close()
        one.close()
        two.close()


HOST_ADDRESSES = [HOST4, SECOND4, GATEWAY4, HOST6, GATEWAY6]


def test_published_port(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged) as (firewall, one, two, _):
        rows = [firewall.publish(one, protocol, 8080, 80) for protocol in ("tcp", "udp")]
        firewall.make(rows)
        for protocol in ("tcp", "udp"):
            call = (one.namespace, protocol)
            assert reach(world, *call, HOST4, 8080, 80) == WORLD4
            assert reach(world, *call, SECOND4, 8080, 80) == WORLD4
            assert reach(world, *call, HOST6, 8080, 80) == WORLD6
            for address in [*HOST_ADDRESSES, "127.0.0.1", "127.0.0.7"]:
                assert reach(None, *call, address, 8080, 80), (protocol, address)
            for address in HOST_ADDRESSES:
                hairpin = GATEWAY6 if ":" in address else GATEWAY4
                for guest in (one, two):
                    seen = reach(guest.namespace, *call, address, 8080, 80)
                    assert seen == hairpin, (protocol, address, guest.device)
            # the same port elsewhere is not hijacked, neither on the way through nor on the way out
            assert reach(two.namespace, world, protocol, WORLD4, 8080, 8080) == HOST4
            assert reach(None, world, protocol, WORLD4, 8080, 8080) == HOST4
            assert reach(None, world, protocol, WORLD6, 8080, 8080) == HOST6
        firewall.release(rows)
        for protocol in ("tcp", "udp"):
            assert unreachable(world, one.namespace, protocol, HOST4, 8080, 80)


def test_host_ip_publishes_only_there(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged) as (firewall, one, two, _):
        firewall.make(
            [
                firewall.publish(one, "tcp", 8080, 80, host_ip=SECOND4),
                firewall.publish(two, "tcp", 8080, 80, host_ip=HOST4),
                firewall.publish(one, "tcp", 8081, 81, host_ip=HOST6),
                firewall.publish(one, "tcp", 8082, 82, host_ip="127.0.0.1"),
                firewall.publish(one, "tcp", 8083, 83, host_ip="0.0.0.0"),
                firewall.publish(one, "tcp", 8084, 84, host_ip="::"),
            ]
        )
        web = one.namespace, "tcp"
        assert reach(world, *web, SECOND4, 8080, 80) == WORLD4
        assert reach(world, two.namespace, "tcp", HOST4, 8080, 80) == WORLD4
        assert reach(two.namespace, *web, SECOND4, 8080, 80) == GATEWAY4
        assert reach(None, *web, "127.0.0.1", 8082, 82)
        assert reach(world, *web, HOST6, 8081, 81) == WORLD6
        assert reach(world, *web, HOST4, 8083, 83) == WORLD4
        assert reach(world, *web, HOST6, 8084, 84) == WORLD6
        assert unreachable(None, *web, GATEWAY4, 8080, 80)
        assert unreachable(None, *web, "127.0.0.1", 8080, 80)
        assert unreachable(None, *web, GATEWAY6, 8081, 81)
        assert unreachable(world, *web, HOST4, 8081, 81)
        assert unreachable(world, *web, HOST4, 8082, 82)
        assert unreachable(world, *web, HOST6, 8083, 83)
        assert unreachable(world, *web, HOST4, 8084, 84)


def test_nat_outwards(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged) as (_, one, two, _w):
        for protocol in ("tcp", "udp"):
            assert reach(one.namespace, world, protocol, WORLD4, 7000, 7000) == HOST4
            assert reach(one.namespace, world, protocol, WORLD6, 7000, 7000) == HOST6
            assert reach(one.namespace, two.namespace, protocol, two.ipv4, 80, 80) == one.ipv4
            assert reach(one.namespace, two.namespace, protocol, two.ipv6, 80, 80) == one.ipv6
            assert reach(one.namespace, None, protocol, GATEWAY4, 7000, 7000) == one.ipv4
            assert reach(None, one.namespace, protocol, one.ipv4, 80, 80) == GATEWAY4
        assert reach(one.namespace, two.namespace, "tcp", f"{two.ipv4}", 80, 80) == one.ipv4


def test_without_nat(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged, nat=False) as (firewall, one, two, _):
        world.run("ip", "route", "add", "10.77.0.0/24", "via", HOST4)
        world.run("ip", "-6", "route", "add", "fd77::/64", "via", HOST6)
        assert reach(one.namespace, world, "tcp", WORLD4, 7000, 7000) == one.ipv4
        assert reach(one.namespace, world, "tcp", WORLD6, 7000, 7000) == one.ipv6
        assert reach(world, one.namespace, "tcp", one.ipv4, 80, 80) == WORLD4
        assert reach(world, one.namespace, "tcp", one.ipv6, 80, 80) == WORLD6
        firewall.make([firewall.publish(one, "tcp", 8080, 80)])
        assert reach(two.namespace, one.namespace, "tcp", GATEWAY4, 8080, 80) == GATEWAY4
        assert reach(one.namespace, one.namespace, "tcp", GATEWAY6, 8080, 80) == GATEWAY6


def test_unpublished_is_not_reached(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged) as (firewall, one, _two, _):
        world.run("ip", "route", "add", "10.77.0.0/24", "via", HOST4)
        world.run("ip", "-6", "route", "add", "fd77::/64", "via", HOST6)
        firewall.make([firewall.publish(one, "tcp", 8080, 80)])
        assert reach(world, one.namespace, "tcp", HOST4, 8080, 80) == WORLD4
        for protocol in ("tcp", "udp"):
            assert unreachable(world, one.namespace, protocol, one.ipv4, 81, 81)
            assert unreachable(world, one.namespace, protocol, one.ipv6, 81, 81)
            assert unreachable(world, one.namespace, protocol, HOST4, 81, 81)
        assert unreachable(world, one.namespace, "udp", HOST4, 8080, 80)


def host_hears(
    one: Guest, two: Guest, source: str, target: str, *, patience: float = QUICK
) -> bool:
    """Whether a service on ``target`` of the host hears a datagram that a guest sends raw."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((target, 9999))
        service.settimeout(patience)
        with Wire(one, two) as wire:
            wire.send(ether(one.mac, BRIDGE_MAC, 0x0800, udp4(source, target, (7, 9999), b"x")))
        try:
            return service.recv(16) == b"x"
        except TimeoutError:
            return False


def test_loopback_services_stay_private(backend: str, bridged: bool, world: lab.Namespace) -> None:
    bridged_frames_see_iptables(bridged)
    make_bridge()
    one, two = Guest(2), Guest(3)
    firewall = Firewall(backend)
    try:
        # the danger is real
        assert host_hears(one, two, one.ipv4, "127.0.0.1", patience=LONG)
        setting(f"ipv4/conf/{BRIDGE}/accept_local", "1")  # as some administrators set it
        assert host_hears(one, two, "127.0.0.1", GATEWAY4, patience=LONG)
        firewall.make(firewall.network())
        assert not host_hears(one, two, one.ipv4, "127.0.0.1")
        assert not host_hears(one, two, "127.0.0.1", GATEWAY4)
        firewall.make([*firewall.guest(one), firewall.publish(one, "udp", 9999, 9999)])
        assert not host_hears(one, two, one.ipv4, "127.0.0.1")
    finally:
        firewall.close()
        one.close()
        two.close()


def test_loopback_stays_private_beside_rules_of_others(
    backend: str, bridged: bool, world: lab.Namespace
) -> None:
    """What somebody published on 127.0.0.1 only, and what he accepts before anybody else does."""
    bridged_frames_see_iptables(bridged)
    make_bridge()
    one, two = Guest(2), Guest(3)
    firewall = Firewall(backend)
    nat = ("iptables-legacy", "-t", "nat")
    to_world = ("-p", "udp", "--dport", "9998", "-j", "DNAT", "--to-destination", f"{WORLD4}:9999")

    def world_hears(patience: float = QUICK) -> bool:
        with inside(world):
            service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with service, Wire(one, two) as wire:
            service.bind(("0.0.0.0", 9999))
            service.settimeout(patience)
            knock = udp4(one.ipv4, "127.0.0.1", (7, 9998), b"x")
            wire.send(ether(one.mac, BRIDGE_MAC, 0x0800, knock))
            try:
                return service.recv(16) == b"x"
            except TimeoutError:
                return False

    try:
        lab.run(*nat, "-A", "PREROUTING", "-d", "127.0.0.1", *to_world)
        lab.run(*nat, "-A", "POSTROUTING", "-o", "uplink", "-j", "MASQUERADE")
        assert world_hears(LONG)  # the danger is real
        lab.run("conntrack", "-F")
        firewall.make(firewall.network())
        assert not world_hears()
        firewall.make(firewall.guest(one))
        lab.run("iptables-legacy", "-I", "INPUT", "-j", "ACCEPT")
        lab.run(*nat, "-I", "PREROUTING", "-j", "ACCEPT")
        assert not host_hears(one, two, one.ipv4, "127.0.0.1")
        assert host_hears(one, two, one.ipv4, GATEWAY4, patience=LONG)
        lab.run(*nat, "-I", "PREROUTING", *to_world)
        assert not world_hears()
    finally:
        firewall.close()
        one.close()
        two.close()


def arrives(wire: Wire) -> bool:
    """Whether an honest frame does."""
    scene_ = frames.scene_of(wire.sender, wire.receiver, BRIDGE_MAC, GATEWAYS)
    to = frames.target(scene_, "guest", "")
    return wire.arrives(lambda cookie: frames.HONEST["IPv4"].make(scene_, to, cookie))


def test_bridge_learns_no_forged_address(backend: str, world: lab.Namespace) -> None:
    scenery = scene(backend, world, bridged=True)
    with scenery as (firewall, one, two, _), Wire(one, two) as wire:

        def learned() -> bool:
            wire.send(ether("02:00:00:00:00:99", "01:80:c2:00:00:03", 0x888E, bytes(40)))
            assert arrives(wire)
            return "02:00:00:00:00:99" in lab.run("bridge", "fdb", "show", "br", BRIDGE)

        assert not learned()
        firewall.release([row for row in firewall.rows if row.spec.get("device") == one.device])
        assert learned()


def test_hairpin_returns_no_broadcasts(backend: str, world: lab.Namespace) -> None:
    scenery = scene(backend, world, bridged=True)
    with scenery as (firewall, one, two, _), Wire(one, one) as back:
        cookie = b"echo" * 2
        scene_ = frames.scene_of(one, two, BRIDGE_MAC, GATEWAYS)
        frame = frames.HONEST["ARP question"].make(scene_, frames.EVERYBODY, cookie)
        assert back.silent(frame, cookie)
        firewall.release([row for row in firewall.rows if row.spec.get("device") == one.device])
        assert back.comes(frame, cookie)


def test_isolated_guests(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged, isolate=True) as (firewall, one, two, _):
        for address in (two.ipv4, two.ipv6):
            assert unreachable(one.namespace, two.namespace, "tcp", address, 80, 80)
        cookie = b"isolated"
        direct = udp4(one.ipv4, two.ipv4, (7, 8), cookie)
        direct6 = udp6(one.ipv6, two.ipv6, (7, 8), cookie)
        with Wire(one, two) as wire:
            for target in (two.mac, BROADCAST, BRIDGE_MAC, "02:00:00:00:00:99"):
                assert wire.silent(ether(one.mac, target, 0x0800, direct), cookie), target
                assert wire.silent(ether(one.mac, target, 0x86DD, direct6), cookie), target
        foreign_object = Guest(9, prefix="admin")
        for sender, receiver in ((one, foreign_object), (foreign_object, two)):
            with Wire(sender, receiver) as wire:
                routed = udp4(sender.ipv4, receiver.ipv4, (7, 8), cookie)
                assert wire.silent(ether(sender.mac, BRIDGE_MAC, 0x0800, routed), cookie)
                routed = udp6(sender.ipv6, receiver.ipv6, (7, 8), cookie)
                assert wire.silent(ether(sender.mac, BRIDGE_MAC, 0x86DD, routed), cookie)
        foreign_object.close()
        assert reach(one.namespace, world, "tcp", WORLD4, 7000, 7000) == HOST4
        assert reach(one.namespace, None, "tcp", GATEWAY4, 7000, 7000) == one.ipv4
        firewall.make([firewall.publish(two, "tcp", 8080, 80)])
        assert reach(one.namespace, two.namespace, "tcp", HOST4, 8080, 80) == GATEWAY4
        assert reach(two.namespace, two.namespace, "tcp", HOST6, 8080, 80) == GATEWAY6
        assert reach(world, two.namespace, "tcp", HOST4, 8080, 80) == WORLD4


def test_guests_not_isolated_meet(backend: str, bridged: bool, world: lab.Namespace) -> None:
    scenery = scene(backend, world, bridged=bridged)
    with scenery as (_, one, two, _w), Wire(one, two) as wire:
        packet = udp4(one.ipv4, two.ipv4, (7, 8), b"notalone")
        assert wire.comes(ether(one.mac, two.mac, 0x0800, packet), b"notalone")
        assert wire.comes(ether(one.mac, BROADCAST, 0x0800, packet), b"notalone")


# What no guest may send, and somebody else's port on our bridge may.
THEIRS = (
    *("source MAC of nobody", "IPv4 of nobody", "DHCP server", "ARP answer for nobody"),
    *("ARP of another protocol", "RARP question", "IPv6 of nobody", "advertisement of nobody"),
    *("router advertisement", "router advertisement behind hop-by-hop", "DHCPv6 server"),
    *("advertisement with nobody's MAC", "tag of VLAN 10", "a length of 40", "IPX"),
    *("PPPoE discovery", "LLDP to everybody"),
)


def test_strangers_are_untouched(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged) as (_, _one, two, _w):
        foreign_object = Guest(9, prefix="admin")  # in our bridge, but not of ours
        try:
            with Wire(foreign_object, two) as wire:
                scene_ = frames.scene_of(foreign_object, two, BRIDGE_MAC, GATEWAYS)
                to = frames.target(scene_, "guest", "")
                deaf = [
                    name
                    for name in THEIRS
                    if not wire.arrives(lambda c, n=name: frames.FORGED[n].make(scene_, to, c))
                ]
            assert deaf == []
            assert reach(foreign_object.namespace, two.namespace, "tcp", two.ipv4, 80, 80)
        finally:
            foreign_object.close()
        lab.run("ip", "addr", "add", "192.0.2.1/24", "dev", "lo")
        assert reach(world, None, "tcp", HOST4, 9000, 9000) == WORLD4
        assert reach(None, None, "tcp", "127.0.0.1", 9000, 9000) == "127.0.0.1"
        assert reach(None, None, "tcp", "::1", 9000, 9000) == "::1"


def test_loopback6_is_left_alone(backend: str, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=True) as (firewall, one, _two, _w):
        firewall.make([firewall.publish(one, "tcp", 8080, 80)])
        assert reach(None, None, "tcp", "::1", 8080, 8080) == "::1"


def test_everything_leaves(backend: str, world: lab.Namespace) -> None:
    make_bridge()
    one, two = Guest(2), Guest(3)
    firewall = Firewall(backend)
    # what a backend registers for good (a legacy table cannot be unloaded) is there beforehand
    first = firewall.network()
    firewall.make(first)
    firewall.release(first)
    firewall.rows.clear()
    before = lab.dump()
    rows = firewall.network() + firewall.guest(one) + firewall.guest(two)
    rows += [
        firewall.publish(one, "tcp", 8080, 80),
        firewall.publish(one, "udp", 53, 53, host_ip=HOST4),
        firewall.publish(two, "tcp", 443, 443, host_ip=HOST6),
    ]
    firewall.make(rows)
    expected = {(e.backend, e.place, e.text, e.mark) for e in firewall.expected(rows)}
    observed = {(e.backend, e.place, e.text, e.mark) for e in firewall.observed()}
    assert observed == expected
    assert lab.difference(before, lab.dump())
    outcomes = firewall.release(rows)
    assert all(outcome.gone for outcome in outcomes.values()), outcomes
    assert lab.difference(before, lab.dump()) == ""
    assert all(outcome.gone for outcome in firewall.release(rows).values())
    assert firewall.observed() == []
    firewall.close()
    one.close()
    two.close()


def test_a_taken_port_is_a_conflict(backend: str, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=True) as (firewall, one, two, _):
        firewall.make([firewall.publish(one, "tcp", 8080, 80)])
        if backend == "nftables":  # where the kernel itself holds the claim
            before = lab.dump()
            with pytest.raises(Conflict, match="tcp 8080"):
                firewall.make(
                    [firewall.publish(two, "udp", 99, 80), firewall.publish(two, "tcp", 8080, 80)]
                )
            assert lab.difference(before, lab.dump()) == ""


def test_scene_leaves_this_namespace(backend: str, world: lab.Namespace) -> None:
    """The places where packets are looked at are where the tests think they are."""
    with inside(world):
        assert WORLD4 in lab.run("ip", "addr")
    assert HOST4 in lab.run("ip", "addr")
