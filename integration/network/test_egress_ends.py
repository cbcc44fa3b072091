"""Egress policies beside what others translate, next to neighbours, and on the host itself.

What a policy refuses to begin ends too when it is changed: flows from link-local addresses, flows
that somebody else translates, flows to another address of the host than the gateway's.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from hvtx.rulesets.nftables_egress import UNDECIDED
from integration import lab
from integration.lab import HOST4, HOST6, WORLD4
from integration.lab.firewall_contract import bridged_frames_see_iptables, inside, reach
from integration.lab.program import Program
from integration.network.test_egress import (
    GATEWAY4,
    GATEWAY6,
    INTERNET,
    LONG,
    PATIENCE,
    answers,
    goes_on,
    hvtx,
    network,
    run,
    silent,
)
from integration.network.test_guests_network import GuestVm

__all__ = ["hvtx"]  # the fixture

Ends = tuple[socket.socket, socket.socket]
PRIVATE = {HOST4: "10.1.2.3", HOST6: "fd12::5"}  # where somebody leads what comes for the host
ROUTED = {4: "11.7.0", 6: "2606:4700:7:"}  # addresses of the world that are a neighbour's
TRANSLATED, PUBLISHED = 9443, 8080
DECIDING = f"{int(UNDECIDED, 16) | 0x20000000:#x}"


@contextlib.contextmanager
def flow(
    guest: GuestVm,
    server: lab.Namespace | GuestVm | None,
    to: str,
    port: int = 443,
    inner: int = 443,
    *,
    source: str = "",
    scope: tuple[str, str] = ("eth0", ""),
    listen: str | None = None,
) -> Iterator[Ends]:
    """A connection of a guest's to an address and port: its end, and that of ``server``.

    ``scope``: devices of a link-local ``source`` and ``to``, inside and on the host.
    """
    six = ":" in to
    with inside(server):  # type: ignore[arg-type]
        door = socket.create_server(
            (listen or ("::" if six else "0.0.0.0"), inner),
            family=socket.AF_INET6 if six else socket.AF_INET,
        )
    with inside(guest):  # type: ignore[arg-type]
        near = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
        index = socket.if_nametoindex(scope[0])
    near.settimeout(LONG)
    where: tuple[object, ...] = (
        (to, port, 0, index) if six and to.startswith("fe80") else (to, port)
    )
    if source:
        near.bind((source, 0, 0, index))
    near.connect(where)
    far, _ = door.accept()
    door.close()
    with near, far:
        assert goes_on(near, far)
        yield near, far


def ended(ends: Ends) -> bool:
    return not goes_on(*ends, patience=PATIENCE)


def link_local(device: str) -> str:
    """The address of a bridge for its own link."""
    shown = json.loads(lab.run("ip", "-j", "-6", "addr", "show", "dev", device))[0]["addr_info"]
    return next(str(one["local"]) for one in shown if one["local"].startswith("fe80"))


def bridge_of(program: Program, name: str) -> str:
    return str(program("network", "show", name, "--json").json()["bridge"])


def leads_elsewhere() -> None:
    """Somebody else's rules: what comes for a port of the host goes to a server behind it."""
    for family, word, host in (("ip", "ip", HOST4), ("ip6", "ip6", HOST6)):
        to = PRIVATE[host] if family == "ip" else f"[{PRIVATE[host]}]"
        for line in (
            f"add table {family} theirs",
            f"add chain {family} theirs pre {{ type nat hook prerouting priority -99; }}",
            f"add rule {family} theirs pre {word} daddr {host} tcp dport {TRANSLATED} dnat to {to}:443",
        ):
            lab.run("nft", line)


@pytest.mark.parametrize("chosen", [False, True], ids=["from-its-mac", "chosen"])
def test_a_flow_from_a_link_local_address_ends(hvtx: Program, chosen: bool) -> None:
    """And that of a guest which may go on goes on, by whichever of its addresses it is."""
    network(hvtx, "net", 0)
    a, b = run(hvtx, "a", "net"), run(hvtx, "b", "net")
    gateway = link_local(bridge_of(hvtx, "net"))
    sources = []
    for guest, own in ((a, "fe80::aa:1"), (b, "fe80::bb:1")):
        guest.run("ip", "addr", "add", f"{own}/64", "dev", "eth0", "nodad")
        sources.append(own if chosen else guest.link_local)
    with (
        flow(a, None, gateway, 8000, 8000, source=sources[0]) as mine,
        flow(a, None, gateway, 53, 53, source=sources[0]) as needed,
        flow(b, None, gateway, 8001, 8001, source=sources[1]) as other,
    ):
        hvtx("vm", "set", "a", "--egress", "none")
        assert ended(mine)
        assert goes_on(*needed)
        assert goes_on(*other)
        hvtx("network", "set", "net", "--egress", "internet")
        assert ended(other)


def test_a_flow_that_somebody_else_translates_ends(hvtx: Program, world: lab.Namespace) -> None:
    """By where it leads, as a new one is refused; by a port of hvtx's own it goes on."""
    network(hvtx, "net", 0)
    network(hvtx, "near", 1)
    a = run(hvtx, "a", "net")
    server = run(hvtx, "server", "near", "-p", f"{PUBLISHED}:443")
    leads_elsewhere()
    with contextlib.ExitStack() as stack:
        theirs, ours = (
            [stack.enter_context(flow(a, there, host, port)) for host in (HOST4, HOST6)]
            for there, port in ((world, TRANSLATED), (server, PUBLISHED))
        )
        hvtx("vm", "set", "a", "--egress", "internet")
        assert [ended(ends) for ends in theirs] == [True, True]
        assert [goes_on(*ends) for ends in ours] == [True, True]


@pytest.mark.parametrize("other", ["nftables", "iptables"])
@pytest.mark.parametrize("mode", ["internet", "none"])
def test_what_others_translate_is_judged_by_where_it_leads(
    hvtx: Program, world: lab.Namespace, mode: str, other: str
) -> None:
    """And published ports of hvtx's are reached, whichever backend their network has."""
    network(hvtx, "net", 0, "--egress", mode)
    subnets = ("--subnet", "10.77.1.0/24", "--subnet", "fd77:1::/64")
    hvtx("--firewall", other, "network", "create", "near", *subnets)
    a = run(hvtx, "a", "net", "-p", f"{PUBLISHED + 1}:443")
    mate = run(hvtx, "mate", "net", "-p", f"{PUBLISHED + 2}:443")
    server = run(hvtx, "server", "near", "-p", f"{PUBLISHED}:443")
    leads_elsewhere()
    for host in (HOST4, HOST6):
        assert not_reached(a, world, host, TRANSLATED), host
        for there, port in ((server, 0), (a, 1), (mate, 2)):
            assert reached(a, there, host, PUBLISHED + port), (host, port)
    shown = hvtx("vm", "show", "a", "--json").json()["interfaces"][0]["egress"]
    assert shown["dropped"]["packets"] >= 2


@pytest.mark.parametrize("other", ["nftables", "iptables"])
def test_a_mark_of_others_decides_nothing(hvtx: Program, world: lab.Namespace, other: str) -> None:
    """Somebody marks all packets with the bits that decide, and bridged frames are seen."""
    bridged_frames_see_iptables(True)
    network(hvtx, "net", 0, "--egress", "none")
    a, near = run(hvtx, "a", "net"), routed(hvtx, other, "-p", f"{PUBLISHED}:443")
    mate = run(hvtx, "mate", "net", "-p", f"{PUBLISHED + 1}:443", "--egress", "open")
    leads_elsewhere()
    for line in (
        "add table inet others",
        "add chain inet others marks { type filter hook prerouting priority -140; }",
        f"add rule inet others marks meta mark set {DECIDING}",
    ):
        lab.run("nft", line)
    for host in (HOST4, HOST6):
        assert not_reached(a, world, host, TRANSLATED), host
        assert reached(mate, world, host, TRANSLATED), host
        assert reached(a, mate, host, PUBLISHED + 1), host
        for client in (a, mate, world):
            assert reached(client, near, host, PUBLISHED), (client, host)
    for address in (near.ipv4, near.ipv6):
        assert silent(a, near, address)
        assert answers(mate, near, address)
    for own, host in ((mate.ipv4, HOST4), (mate.ipv6, HOST6)):  # behind NAT
        world.run("ip", *("-6",) * (":" in own), "route", "add", own, "via", host)
        assert reach(world, mate, "tcp", own, 443, 443, patience=PATIENCE) is None  # type: ignore[arg-type]


def test_marks_stay_on_what_passes_between_devices_of_others(
    hvtx: Program, world: lab.Namespace
) -> None:
    """A tunnel and a card, say, of which somebody reads these bits of the mark later."""
    network(hvtx, "net", 0, "--egress", "internet")
    beyond = lab.Namespace()
    try:
        ends = ("beyond", "type", "veth", "peer", "eth0", "netns", str(beyond.pid))
        lab.run("ip", "link", "add", *ends)
        lab.run("ip", "addr", "add", "198.51.100.1/24", "dev", "beyond")
        lab.run("ip", "link", "set", "beyond", "up")
        beyond.run("ip", "addr", "add", "198.51.100.2/24", "dev", "eth0")
        beyond.run("ip", "link", "set", "eth0", "up")
        beyond.run("ip", "route", "add", "default", "via", "198.51.100.1")
        world.run("ip", "route", "add", "198.51.100.0/24", "via", HOST4)
        for line in (
            "add table inet others",
            "add chain inet others marks { type filter hook prerouting priority -140; }",
            f"add rule inet others marks meta mark set {DECIDING}",
            "add chain inet others reads { type filter hook forward priority 50; }",
            f'add rule inet others reads iifname "beyond" meta mark {DECIDING} counter',
        ):
            lab.run("nft", line)
        assert reach(beyond, world, "udp", WORLD4, 443, 443) is not None
        assert "counter packets 0 " not in lab.run(
            "nft", "list", "chain", "inet", "others", "reads"
        )
    finally:
        beyond.close()


def reached(
    guest: GuestVm | lab.Namespace,
    there: lab.Namespace | GuestVm,
    to: str,
    port: int,
    *,
    patience: float = LONG,
) -> bool:
    """Whether what comes for a port of the host is led to port 443 of a server."""
    return reach(guest, there, "tcp", to, port, 443, patience=patience) is not None  # type: ignore[arg-type]


def not_reached(guest: GuestVm, there: lab.Namespace | GuestVm, to: str, port: int) -> bool:
    return not reached(guest, there, to, port, patience=PATIENCE)


def test_a_flow_to_the_names_of_another_address_of_the_host_ends(
    hvtx: Program, world: lab.Namespace
) -> None:
    network(hvtx, "net", 0)
    a = run(hvtx, "a", "net")
    with contextlib.ExitStack() as stack:
        others, needed = (
            [stack.enter_context(flow(a, None, host, 53, 53, listen=host)) for host in hosts]
            for hosts in ((HOST4, HOST6), (GATEWAY4, GATEWAY6))
        )
        hvtx("vm", "set", "a", "--egress", "none")
        assert [ended(ends) for ends in others] == [True, True]
        assert [goes_on(*ends) for ends in needed] == [True, True]


def routed(program: Program, other: str, *more: str) -> GuestVm:
    """A guest of a network with addresses of the world, whom the world could reach."""
    subnets = ("--subnet", f"{ROUTED[4]}.0/24", "--subnet", f"{ROUTED[6]}:/64")
    program("--firewall", other, "network", "create", "near", *subnets, "--no-nat")
    return run(program, "near", "near", *more)


@pytest.mark.parametrize("other", ["nftables", "iptables"])
def test_a_routed_neighbour_with_addresses_of_the_world_is_not_the_internet(
    hvtx: Program, world: lab.Namespace, other: str
) -> None:
    network(hvtx, "net", 0, "--egress", "internet")
    a, near = run(hvtx, "a", "net"), routed(hvtx, other)
    both = (near.ipv4, near.ipv6)
    assert [silent(a, near, address) for address in both] == [True, True]
    assert [answers(a, world, address) for address in INTERNET.values()] == [True, True]
    hvtx("vm", "set", "a", "--allow", f"{near.ipv4}:443", "--allow", f"[{near.ipv6}]:443")
    assert [answers(a, near, address) for address in both] == [True, True]
    hvtx("vm", "set", "a", "--egress", "open", "--no-rules")
    assert [answers(a, near, address) for address in both] == [True, True]


@pytest.mark.parametrize("other", ["nftables", "iptables"])
def test_a_flow_to_a_routed_neighbour_ends(hvtx: Program, other: str) -> None:
    network(hvtx, "net", 0)
    a, near = run(hvtx, "a", "net"), routed(hvtx, other)
    with flow(a, near, near.ipv4) as four, flow(a, near, near.ipv6) as six:
        hvtx("vm", "set", "a", "--egress", "internet")
        assert [ended(four), ended(six)] == [True, True]
