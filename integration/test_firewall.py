"""The firewall contract, for each registered backend, with and without br_netfilter's calls."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from hvtx.errors import Conflict
from integration import lab
from integration.firewall_contract import (
    ALL_NODES_MAC,
    BACKENDS,
    BRIDGE,
    BRIDGE_MAC,
    BROADCAST,
    GATEWAY4,
    GATEWAY6,
    GATEWAY_LINK,
    SECOND4,
    Firewall,
    Guest,
    Wire,
    arp,
    bridged_frames_see_iptables,
    ether,
    icmp6,
    inside,
    ipv6,
    make_bridge,
    neighbour,
    option,
    reach,
    setting,
    udp,
    udp4,
    udp6,
    unreachable,
)
from integration.lab import HOST4, HOST6, WORLD4, WORLD6

Scene = tuple[Firewall, Guest, Guest, lab.Namespace]


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["call-iptables", "no-call-iptables"])
def bridged(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


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


def host_hears(one: Guest, two: Guest, source: str, target: str) -> bool:
    """Whether a service on ``target`` of the host hears a datagram that a guest sends raw."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((target, 9999))
        service.settimeout(0.4)
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
        assert host_hears(one, two, one.ipv4, "127.0.0.1")  # the danger is real
        setting(f"ipv4/conf/{BRIDGE}/accept_local", "1")  # as some administrators set it
        assert host_hears(one, two, "127.0.0.1", GATEWAY4)
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

    def world_hears() -> bool:
        with inside(world):
            service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with service, Wire(one, two) as wire:
            service.bind(("0.0.0.0", 9999))
            service.settimeout(0.4)
            knock = udp4(one.ipv4, "127.0.0.1", (7, 9998), b"x")
            wire.send(ether(one.mac, BRIDGE_MAC, 0x0800, knock))
            try:
                return service.recv(16) == b"x"
            except TimeoutError:
                return False

    try:
        lab.run(*nat, "-A", "PREROUTING", "-d", "127.0.0.1", *to_world)
        lab.run(*nat, "-A", "POSTROUTING", "-o", "uplink", "-j", "MASQUERADE")
        assert world_hears()  # the danger is real
        lab.run("conntrack", "-F")
        firewall.make(firewall.network())
        assert not world_hears()
        firewall.make(firewall.guest(one))
        lab.run("iptables-legacy", "-I", "INPUT", "-j", "ACCEPT")
        lab.run(*nat, "-I", "PREROUTING", "-j", "ACCEPT")
        assert not host_hears(one, two, one.ipv4, "127.0.0.1")
        assert host_hears(one, two, one.ipv4, GATEWAY4)
        lab.run(*nat, "-I", "PREROUTING", *to_world)
        assert not world_hears()
    finally:
        firewall.close()
        one.close()
        two.close()


Make = Callable[[Guest, Guest, bytes], bytes]


def from_mac(mac: str) -> str:
    """The link-local address that follows from a MAC address."""
    raw = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + tail)


LINK_TARGET = "ff02::1"


def _nd(source: str, kind: int, target: str) -> Make:
    """A neighbour message; ``{own}`` and the like stand for addresses of the scene."""

    def make(one: Guest, two: Guest, cookie: bytes) -> bytes:
        names = {
            "own": one.ipv6,
            "link": one.link_local,
            "other": two.ipv6,
            "gateway": GATEWAY6,
            "gateway-link": GATEWAY_LINK,
            "any-link": "fe80::1:2:3:4",
            "own-mac": from_mac(one.mac),
            "other-mac": from_mac(two.mac),
            "::": "::",
        }
        sender = names[source]
        body = neighbour(kind, names[target], cookie)
        packet = ipv6(sender, LINK_TARGET, 58, icmp6(sender, LINK_TARGET, body))
        return ether(one.mac, ALL_NODES_MAC, 0x86DD, packet)

    return make


def _ip4(source: str | None, ports: tuple[int, int], *, mac: str | None = None) -> Make:
    def make(one: Guest, two: Guest, cookie: bytes) -> bytes:
        sender = source or one.ipv4
        broadcast = ports == (68, 67) and sender == "0.0.0.0"
        target = "255.255.255.255" if broadcast else two.ipv4
        to = BROADCAST if broadcast else two.mac
        return ether(mac or one.mac, to, 0x0800, udp4(sender, target, ports, cookie))

    return make


def _ip6(source: str | None, ports: tuple[int, int], to: str = "") -> Make:
    """From an address (``own-mac``, ``other-mac``: what follows from a guest's) to the other guest.

    Or to the host, or to all nodes.
    """

    def make(one: Guest, two: Guest, cookie: bytes) -> bytes:
        macs = {"own-mac": from_mac(one.mac), "other-mac": from_mac(two.mac)}
        sender = macs.get(source or "", source) or one.ipv6
        if to == "all":
            packet = udp6(sender, LINK_TARGET, ports, cookie)
            return ether(one.mac, ALL_NODES_MAC, 0x86DD, packet)
        return ether(one.mac, two.mac, 0x86DD, udp6(sender, two.ipv6, ports, cookie))

    return make


def _arp(operation: int, sender: str, target: str, *, mac: str | None = None) -> Make:
    def make(one: Guest, two: Guest, cookie: bytes) -> bytes:
        names = {"own": one.ipv4, "other": two.ipv4, "gateway": GATEWAY4, "none": "0.0.0.0"}
        body = arp(operation, mac or one.mac, names[sender], names[target])
        return ether(one.mac, BROADCAST, 0x0806, body + bytes(10) + cookie)

    return make


def _odd_arp(hardware: int, protocol: int, lengths: tuple[int, int]) -> Make:
    """An ARP packet that is honest but for what kinds of addresses it says that it holds."""

    def make(one: Guest, two: Guest, cookie: bytes) -> bytes:
        body = struct.pack(">HHBB", hardware, protocol, *lengths)
        body += arp(1, one.mac, one.ipv4, two.ipv4)[6:]
        return ether(one.mac, BROADCAST, 0x0806, body + bytes(10) + cookie)

    return make


def _overlong(one: Guest, _two: Guest, cookie: bytes) -> bytes:
    packet = ipv6(one.link_local, LINK_TARGET, 58, cookie)
    return ether(one.mac, ALL_NODES_MAC, 0x86DD, packet[:4] + b"\x04\0" + packet[6:])


def _mld1(kind: int) -> Make:
    def make(one: Guest, _two: Guest, cookie: bytes) -> bytes:
        body = struct.pack(">BBHI", kind, 0, 0, 0) + _bytes("ff02::1:ff00:2") + cookie
        packet = ipv6("::", "ff02::16", 58, icmp6("::", "ff02::16", body))
        return ether(one.mac, "33:33:00:00:00:16", 0x86DD, packet)

    return make


def _bytes(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def _ping_from_nobody(one: Guest, _two: Guest, cookie: bytes) -> bytes:
    """An echo request whose data look like a solicitation of the guest's own address."""
    body = struct.pack(">BBHI", 128, 0, 0, 0) + _bytes(one.ipv6) + cookie
    packet = ipv6("::", LINK_TARGET, 58, icmp6("::", LINK_TARGET, body))
    return ether(one.mac, ALL_NODES_MAC, 0x86DD, packet)


def _mld_from(source: str) -> Make:
    """A multicast report, second version, from a link-local address."""

    def make(one: Guest, two: Guest, cookie: bytes) -> bytes:
        sender = from_mac({"own-mac": one.mac, "other-mac": two.mac}[source])
        body = struct.pack(">BBHHH", 143, 0, 0, 0, 1) + struct.pack(">BBH", 4, 2, 0) + bytes(16)
        packet = ipv6(sender, "ff02::16", 58, icmp6(sender, "ff02::16", body + cookie))
        return ether(one.mac, "33:33:00:00:00:16", 0x86DD, packet)

    return make


def _mld(one: Guest, _two: Guest, cookie: bytes) -> bytes:
    record = struct.pack(">BBH", 4, 2, 0) + bytes(16) + cookie
    body = struct.pack(">BBHHH", 143, 0, 0, 0, 1) + record
    packet = ipv6("::", "ff02::16", 58, icmp6("::", "ff02::16", body))
    return ether(one.mac, "33:33:00:00:00:16", 0x86DD, packet)


def _router(source: str | None, following: str) -> Make:
    """A router advertisement, plain or behind a header that hides it."""

    def make(one: Guest, _two: Guest, cookie: bytes) -> bytes:
        sender = source or one.link_local
        body = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option(cookie)
        message = icmp6(sender, LINK_TARGET, body)
        if following == "options":  # eight bytes of padding as destination options
            message = bytes((58, 0, 1, 4, 0, 0, 0, 0)) + message
            packet = ipv6(sender, LINK_TARGET, 60, message)
        elif following == "fragment":  # a first fragment that ends before the upper header
            head = struct.pack(">BBHI", 60, 0, 1, 77)
            chain = bytes((58, 2, 1, 20)) + cookie.ljust(12, b"\0")
            packet = ipv6(sender, LINK_TARGET, 44, head + chain)
        else:
            packet = ipv6(sender, LINK_TARGET, 58, message)
        return ether(one.mac, ALL_NODES_MAC, 0x86DD, packet)

    return make


def _later_fragment(one: Guest, two: Guest, cookie: bytes) -> bytes:
    """A fragment that looks like a DHCP server's answer, wherever one begins to read.

    The kernel reads the transport header of such a packet at its first byte, where the flow label
    stands for the destination port (tried on Linux 6.18).
    """
    head = struct.pack(">BBHIHHHH", 17, 0, 8 << 3, 77, 547, 546, 0, 0)
    packet = ipv6(one.ipv6, two.ipv6, 44, head + cookie)
    return ether(one.mac, two.mac, 0x86DD, packet[:2] + struct.pack(">H", 546) + packet[4:])


def _later_fragment_icmp(one: Guest, two: Guest, cookie: bytes) -> bytes:
    """A fragment whose data look like a router advertisement."""
    head = struct.pack(">BBHI", 58, 0, 8 << 3, 77) + bytes((134, 0, 0, 0))
    return ether(one.mac, two.mac, 0x86DD, ipv6(one.ipv6, two.ipv6, 44, head + cookie))


def _short_udp(one: Guest, two: Guest, cookie: bytes) -> bytes:
    """A first fragment whose destination options swallow the UDP header."""
    chain = struct.pack(">BBHI", 60, 0, 1, 78) + bytes((17, 2, 1, 20)) + cookie.ljust(12, b"\0")
    return ether(one.mac, two.mac, 0x86DD, ipv6(one.link_local, two.link_local, 44, chain))


def _solicit(one: Guest, _two: Guest, cookie: bytes) -> bytes:
    body = struct.pack(">BBHI", 133, 0, 0, 0) + option(cookie)
    packet = ipv6(one.link_local, "ff02::2", 58, icmp6(one.link_local, "ff02::2", body))
    return ether(one.mac, "33:33:00:00:00:02", 0x86DD, packet)


def _raw(kind: int) -> Make:
    return lambda one, two, cookie: ether(one.mac, two.mac, kind, cookie)


def _tagged(one: Guest, two: Guest, cookie: bytes) -> bytes:
    inner = struct.pack(">HH", 5, 0x0800) + udp4(one.ipv4, two.ipv4, (7, 8), cookie)
    return ether(one.mac, two.mac, 0x8100, inner)


def _nobody6(one: Guest, two: Guest, cookie: bytes) -> bytes:
    return ether(
        one.mac, two.mac, 0x86DD, ipv6("::", two.ipv6, 17, udp("::", two.ipv6, (7, 8), cookie))
    )


HONEST: dict[str, Make] = {
    "ipv4": _ip4(None, (7, 8)),
    "ipv4 dhcp renewal": _ip4(None, (68, 67)),
    "dhcp discover": _ip4("0.0.0.0", (68, 67)),
    "arp request": _arp(1, "own", "other"),
    "arp reply": _arp(2, "own", "other"),
    "arp announcement": _arp(1, "own", "own"),
    "arp probe": _arp(1, "none", "own"),
    "ipv6": _ip6(None, (7, 8)),
    "ipv6 link-local": _ip6("fe80::1:2:3:4", (7, 8)),
    "dhcpv6 client": _ip6("fe80::1:2:3:4", (546, 547)),
    "ipv6 from its MAC": _ip6("own-mac", (7, 8)),
    "solicitation": _nd("own", 135, "other"),
    "solicitation of another's link-local": _nd("own", 135, "other-mac"),
    "advertisement of what follows from its MAC": _nd("own-mac", 136, "own-mac"),
    "duplicate detection of what follows from its MAC": _nd("::", 135, "own-mac"),
    "multicast report from its MAC": _mld_from("own-mac"),
    "advertisement of its lease": _nd("own", 136, "own"),
    "advertisement of a link-local": _nd("link", 136, "any-link"),
    "duplicate detection of its lease": _nd("::", 135, "own"),
    "duplicate detection of a link-local": _nd("::", 135, "any-link"),
    "multicast report from ::": _mld,
    "multicast report, first version": _mld1(131),
    "multicast farewell": _mld1(132),
    "router solicitation": _solicit,
    "later fragment": _later_fragment,
    "later fragment of icmp": _later_fragment_icmp,
}

STRANGE_MAC = "02:77:00:00:01:03"
FORGED: dict[str, Make] = {
    "source MAC": _ip4(None, (7, 8), mac="02:00:00:00:00:99"),
    "ipv4 of nobody": _ip4("10.77.0.99", (7, 8)),
    "ipv4 of the gateway": _ip4(GATEWAY4, (7, 8)),
    "0.0.0.0 but no dhcp": _ip4("0.0.0.0", (7, 8)),
    "dhcp server": _ip4(None, (67, 68)),
    "dhcp server, other port": _ip4(None, (1067, 68)),
    "dhcp server's port": _ip4(None, (67, 1068)),
    "arp of other hardware": _odd_arp(6, 0x0800, (6, 4)),
    "arp of another protocol": _odd_arp(1, 0x86DD, (6, 4)),
    "arp of longer hardware": _odd_arp(1, 0x0800, (8, 4)),
    "arp of longer addresses": _odd_arp(1, 0x0800, (6, 16)),
    "arp reply for the gateway": _arp(2, "gateway", "other"),
    "arp request as the gateway": _arp(1, "gateway", "other"),
    "arp announcement of another": _arp(1, "other", "other"),
    "arp probe of another": _arp(1, "none", "other"),
    "arp reply from 0.0.0.0": _arp(2, "none", "own"),
    "arp with another MAC inside": _arp(2, "own", "other", mac=STRANGE_MAC),
    "ipv6 of nobody": _ip6("fd77::99", (7, 8)),
    "ipv6 of the gateway": _ip6(GATEWAY6, (7, 8)),
    "link-local of the gateway": _ip6(GATEWAY_LINK, (7, 8)),
    "link-local of another's MAC": _ip6("other-mac", (7, 8)),
    "link-local of another's MAC, to all": _ip6("other-mac", (7, 8), "all"),
    "dhcpv6 client with another's MAC": _ip6("other-mac", (546, 547)),
    "solicitation from another's MAC": _nd("other-mac", 135, "gateway"),
    "advertisement from another's MAC": _nd("other-mac", 136, "own"),
    "advertisement of what follows from another's MAC": _nd("own", 136, "other-mac"),
    "the same, from itself": _nd("other-mac", 136, "other-mac"),
    "duplicate detection of what follows from another's MAC": _nd("::", 135, "other-mac"),
    "multicast report from another's MAC": _mld_from("other-mac"),
    "ipv6 from ::": _nobody6,
    "ping from ::": _ping_from_nobody,
    "dhcpv6 server": _ip6("fe80::1:2:3:4", (547, 546)),
    "dhcpv6 server's port": _ip6("fe80::1:2:3:4", (547, 1546)),
    "dhcpv6 server, other port": _ip6("fe80::1:2:3:4", (1547, 546)),
    "advertisement of the gateway": _nd("own", 136, "gateway"),
    "advertisement of the gateway's link-local": _nd("link", 136, "gateway-link"),
    "advertisement of another": _nd("link", 136, "other"),
    "advertisement of its lease from another": _nd("other", 136, "own"),
    "duplicate detection of another": _nd("::", 135, "other"),
    "duplicate detection of the gateway": _nd("::", 135, "gateway-link"),
    "router advertisement": _router(None, ""),
    "router advertisement behind options": _router(None, "options"),
    "fragment without upper header": _router(None, "fragment"),
    "udp fragment without upper header": _short_udp,
    "ipv6 longer than its frame": _overlong,
    "vlan tag": _tagged,
    "reverse arp": _raw(0x8035),
    "pppoe": _raw(0x8863),
    "ipx": _raw(0x8137),
    "802.3 length": _raw(40),
}


def test_frames_of_a_guest(backend: str, bridged: bool, world: lab.Namespace) -> None:
    scenery = scene(backend, world, bridged=bridged)
    with scenery as (firewall, one, two, _), Wire(one, two) as wire:
        honest, forged = dict(HONEST), dict(FORGED)
        if bridged:  # conntrack waits for the whole packet, and br_netfilter looks at lengths
            del forged["ipv6 longer than its frame"]
            del honest["later fragment"], honest["later fragment of icmp"]
        wrong = [name for name, make in honest.items() if not _arrives(wire, make)]
        wrong += [name for name, make in forged.items() if _arrives(wire, make)]
        assert not wrong
        firewall.release([row for row in firewall.rows if row.spec.get("device") == one.device])
        # without its port row every frame arrives: the list above is not idle
        deaf = [name for name, make in forged.items() if not _arrives(wire, make)]
        assert deaf == []


def _arrives(wire: Wire, make: Make) -> bool:
    return wire.arrives(lambda cookie: make(wire.sender, wire.receiver, cookie))


def test_bridge_learns_no_forged_address(backend: str, world: lab.Namespace) -> None:
    scenery = scene(backend, world, bridged=True)
    with scenery as (firewall, one, two, _), Wire(one, two) as wire:

        def learned() -> bool:
            wire.send(ether("02:00:00:00:00:99", "01:80:c2:00:00:03", 0x888E, bytes(40)))
            assert _arrives(wire, HONEST["ipv4"])
            return "02:00:00:00:00:99" in lab.run("bridge", "fdb", "show", "br", BRIDGE)

        assert not learned()
        firewall.release([row for row in firewall.rows if row.spec.get("device") == one.device])
        assert learned()


def test_hairpin_returns_no_broadcasts(backend: str, world: lab.Namespace) -> None:
    scenery = scene(backend, world, bridged=True)
    with scenery as (firewall, one, two, _), Wire(one, one) as back:

        def echoed() -> bool:
            cookie = b"echo" * 2
            frame = HONEST["arp request"](one, two, cookie)
            return not back.silent(frame, cookie)

        assert not echoed()
        firewall.release([row for row in firewall.rows if row.spec.get("device") == one.device])
        assert echoed()


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
        stranger = Guest(9, prefix="admin")
        for sender, receiver in ((one, stranger), (stranger, two)):
            with Wire(sender, receiver) as wire:
                routed = udp4(sender.ipv4, receiver.ipv4, (7, 8), cookie)
                assert wire.silent(ether(sender.mac, BRIDGE_MAC, 0x0800, routed), cookie)
                routed = udp6(sender.ipv6, receiver.ipv6, (7, 8), cookie)
                assert wire.silent(ether(sender.mac, BRIDGE_MAC, 0x86DD, routed), cookie)
        stranger.close()
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
        assert not wire.silent(ether(one.mac, two.mac, 0x0800, packet), b"notalone")
        assert not wire.silent(ether(one.mac, BROADCAST, 0x0800, packet), b"notalone")


def test_strangers_are_untouched(backend: str, bridged: bool, world: lab.Namespace) -> None:
    with scene(backend, world, bridged=bridged) as (_, _one, two, _w):
        stranger = Guest(9, prefix="admin")  # in our bridge, but not of ours
        try:
            with Wire(stranger, two) as wire:
                deaf = [name for name, make in FORGED.items() if not _arrives(wire, make)]
                if bridged:
                    deaf.remove("ipv6 longer than its frame")  # br_netfilter looks at lengths
            assert deaf == []
            assert reach(stranger.namespace, two.namespace, "tcp", two.ipv4, 80, 80)
        finally:
            stranger.close()
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
