"""`--uplink` and `--source`: by which device guests leave the host, and as whom.

Two neighbours of the host hear by which of its devices a guest's datagrams leave, on both firewall
backends and in both families. What must not arrive is sent before what must, by the same device of
the guest, so that once the latter has come nothing is still on its way.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from integration import lab
from integration.lab import HOST4, WORLD4, WORLD6
from integration.lab.firewall_contract import LONG, bridged_frames_see_iptables, inside, udp4, udp6
from integration.lab.frames import IP4, IP6, bare
from integration.lab.program import Forked, Program, preload
from integration.security.test_frames import NO_GSO, tap

NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
TUNNEL = {4: "198.51.100.2", 6: "2001:db8:51::2"}
TUNNEL_HOST = {4: "198.51.100.1", 6: "2001:db8:51::1"}
WORLD = {4: WORLD4, 6: WORLD6}
SOURCE = {4: "203.0.113.77", 6: "2001:db8:113::77"}
PORT = 9
FAMILIES = [4, 6]


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Program:
    preload()
    return Forked(HVTX_FIREWALL=str(request.param))


@pytest.fixture
def tunnel(hvtx: Program) -> Iterator[lab.Namespace]:
    """A second neighbour, behind the device ``other``."""
    place = lab.Namespace()
    try:
        lab.run(
            "ip", "link", "add", "other", "type", "veth", "peer", "eth0", "netns", str(place.pid)
        )
        lab.run("ip", "link", "set", "other", "up")
        place.run("ip", "link", "set", "eth0", "up")
        for family, length in ((4, 24), (6, 64)):
            flag = ("nodad",) if family == 6 else ()
            lab.run("ip", "addr", "add", f"{TUNNEL_HOST[family]}/{length}", "dev", "other", *flag)
            place.run("ip", "addr", "add", f"{TUNNEL[family]}/{length}", "dev", "eth0", *flag)
            six = ("-6",) if family == 6 else ()
            place.run("ip", *six, "route", "add", "default", "via", TUNNEL_HOST[family])
        yield place
    finally:
        place.close()
        lab.run("ip", "link", "del", "other", check=False)


class Guest:
    """A VM whose device this process holds."""

    def __init__(self, hvtx: Program, name: str, network: str, *more: str) -> None:
        hvtx("vm", "create", name, "--network", network, "--hypervisor", "external", *more)
        hvtx("vm", "start", name)
        shown = hvtx.vm(name)["interfaces"][0]
        self.mac, self.own = shown["mac"], {4: shown["ipv4"], 6: shown["ipv6"]}
        self.bridge = hvtx("network", "show", network, "--json").json()["bridge"]
        (link,) = json.loads(lab.run("ip", "-j", "link", "show", self.bridge))
        self.gateway = link["address"]
        self.device = tap(shown["device"])
        for _ in range(2000):  # its carrier comes a moment after it is opened
            if '"forwarding"' in lab.run("bridge", "-j", "link", "show", "dev", shown["device"]):
                break
            time.sleep(0.02)
        for address in filter(None, self.own.values()):
            to = ("lladdr", self.mac, "dev", self.bridge, "nud", "permanent")
            lab.run("ip", "neigh", "replace", address, *to)

    def sends(self, family: int, to: str, cookie: bytes, mac: str = "", port: int = PORT) -> None:
        """Send a datagram, by way of the host."""
        packet = (udp4 if family == 4 else udp6)(self.own[family], to, (PORT, port), cookie)
        kind = IP4 if family == 4 else IP6
        os.write(self.device, NO_GSO + bare(self.mac, mac or self.gateway, kind, packet))

    def hears(self, cookie: bytes, *, patience: float = LONG) -> bool:
        """Whether a frame with the cookie comes within so many seconds."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                while frame := os.read(self.device, 1 << 17):
                    if cookie in frame:
                        return True
            time.sleep(0.02)
        return False


class Ears:
    """A socket for datagrams to a neighbour of the host, and all that came to it."""

    def __init__(self, place: lab.Namespace, family: int, own: str = "") -> None:
        with inside(place):
            kind = socket.AF_INET6 if family == 6 else socket.AF_INET
            self._socket = socket.socket(kind, socket.SOCK_DGRAM)
            self._socket.bind((own, PORT))
        self._came: list[tuple[bytes, tuple[str, int]]] = []
        self.sendto = self._socket.sendto

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self, cookie: bytes, *, patience: float = LONG) -> tuple[str, int] | None:
        """Who sent it, as it is seen there; None if it does not come."""
        self._socket.settimeout(patience)
        with suppress(TimeoutError):
            while cookie not in dict(self._came):
                data, sender = self._socket.recvfrom(4096)
                self._came.append((data, (sender[0], sender[1])))
        return dict(self._came).get(cookie)


def bound(place: lab.Namespace, family: int) -> Ears:
    """What hears datagrams there."""
    return Ears(place, family)


def heard(place: Ears, cookie: bytes) -> tuple[str, int] | None:
    """Who sent it, as it is seen there; None if it does not come."""
    return place.heard(cookie)


def nothing(place: Ears, cookie: bytes) -> bool:
    """That it has not come by now."""
    return place.heard(cookie, patience=0.05) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_guests_leave_by_the_uplink_only(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    """Those of another network leave by any device all the same."""
    hvtx(*NETWORK, "--uplink", "uplink")
    hvtx("network", "create", "free", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    held, free = Guest(hvtx, "held", "net"), Guest(hvtx, "free", "free")
    with bound(world, family) as there, bound(tunnel, family) as elsewhere:
        held.sends(family, TUNNEL[family], b"to the tunnel")
        held.sends(family, free.own[family], b"to another network")
        held.sends(family, WORLD[family], b"to the world")
        assert heard(there, b"to the world")
        free.sends(family, TUNNEL[family], b"from the free")
        assert heard(elsewhere, b"from the free")
        assert nothing(elsewhere, b"to the tunnel")
    assert not free.hears(b"to another network", patience=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flow_does_not_move_to_another_device(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    """A route that leads elsewhere, once the uplink's is gone, moves nothing that is established.

    With a source: what is masqueraded the kernel ends by itself.
    """
    hvtx(*NETWORK, "--uplink", "uplink", "--source", HOST4, "--source", lab.HOST6)
    guest = Guest(hvtx, "web", "net")
    six = ("-6",) if family == 6 else ()
    tunnel.run("ip", "addr", "add", f"{WORLD[family]}/{128 if six else 32}", "dev", "lo")
    with bound(world, family) as there, bound(tunnel, family) as elsewhere:
        guest.sends(family, WORLD[family], b"first")
        sender = heard(there, b"first")
        assert sender is not None
        there.sendto(b"an answer", sender)
        assert guest.hears(b"an answer")
        route = (f"{WORLD[family]}/{128 if six else 32}", "via", TUNNEL[family], "dev", "other")
        lab.run("ip", *six, "route", "add", *route)
        guest.sends(family, WORLD[family], b"second")
        lab.run("ip", *six, "route", "del", *route)
        guest.sends(family, WORLD[family], b"third")
        assert heard(there, b"third") == sender
        assert nothing(elsewhere, b"second")


@pytest.mark.parametrize("family", FAMILIES)
def test_published_ports_are_served_by_every_device(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    """Who came in by another device is answered by it; guests reach what other networks publish."""
    hvtx(*NETWORK, "--uplink", "uplink")
    hvtx("network", "create", "free", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    guest = Guest(hvtx, "web", "net", "-p", f"9000:{PORT}/udp")
    other = Guest(hvtx, "other", "free", "-p", f"9001:{PORT}/udp")
    with bound(tunnel, family) as elsewhere:
        elsewhere.sendto(b"a question", (TUNNEL_HOST[family], 9000))
        assert guest.hears(b"a question")
        guest.sends(family, TUNNEL[family], b"its answer")
        assert heard(elsewhere, b"its answer") == (TUNNEL_HOST[family], 9000)
    guest.sends(family, TUNNEL_HOST[family], b"by the host", port=9001)
    assert other.hears(b"by the host")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_routed_network_is_entered_by_its_uplink_only(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    hvtx(*NETWORK, "--no-nat", "--uplink", "uplink")
    guest = Guest(hvtx, "web", "net")
    six = ("-6",) if family == 6 else ()
    via = lab.HOST6 if six else HOST4
    world.run("ip", *six, "route", "add", "default", "via", via)
    with bound(world, family) as there, bound(tunnel, family) as elsewhere:
        elsewhere.sendto(b"from the tunnel", (guest.own[family], PORT))
        there.sendto(b"from the world", (guest.own[family], PORT))
        assert guest.hears(b"from the world")
        elsewhere.sendto(b"from the tunnel", (guest.own[family], PORT))
        assert not guest.hears(b"from the tunnel", patience=2)
        guest.sends(family, WORLD[family], b"an answer")
        assert heard(there, b"an answer") == (guest.own[family], PORT)


@pytest.mark.parametrize("bridged", [True, False], ids=["call-iptables", "no-call-iptables"])
@pytest.mark.parametrize("family", FAMILIES)
def test_neighbours_reach_each_other_beside_an_uplink(
    hvtx: Program, world: lab.Namespace, family: int, bridged: bool
) -> None:
    bridged_frames_see_iptables(bridged)
    hvtx(*NETWORK, "--uplink", "uplink")
    one, two = Guest(hvtx, "one", "net"), Guest(hvtx, "two", "net")
    one.sends(family, two.own[family], b"hello", mac=two.mac)
    assert two.hears(b"hello")
    two.sends(family, one.own[family], b"answer", mac=one.mac)
    assert one.hears(b"answer")
    group, mac = (
        ("224.0.0.251", "01:00:5e:00:00:fb") if family == 4 else ("ff02::fb", "33:33:00:00:00:fb")
    )
    one.sends(family, group, b"to all", mac=mac)
    assert two.hears(b"to all")


@pytest.mark.parametrize("family", FAMILIES)
def test_guests_have_the_source_address_outside(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    """By whatever device they leave; one without a source stays masqueraded."""
    for address, length in ((SOURCE[4], 24), (SOURCE[6], 64)):
        lab.run(
            "ip",
            "addr",
            "add",
            f"{address}/{length}",
            "dev",
            "uplink",
            *("nodad",) * (":" in address),
        )
    tunnel.run("ip", "-6", "route", "add", "2001:db8:113::/64", "via", TUNNEL_HOST[6])
    hvtx(*NETWORK, "--source", SOURCE[4], "--source", SOURCE[6])
    hvtx("network", "create", "free", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    guest, free = Guest(hvtx, "web", "net"), Guest(hvtx, "free", "free")
    assert hvtx("network", "show", "net", "--json").json()["source"] == [SOURCE[4], SOURCE[6]]
    with bound(world, family) as there, bound(tunnel, family) as elsewhere:
        for _ in range(2):
            guest.sends(family, WORLD[family], b"out")
            sender = heard(there, b"out")
            assert sender is not None
            assert sender[0] == SOURCE[family]
            there.sendto(b"back", sender)
            assert guest.hears(b"back")
            lab.run("nft", "flush", "ruleset")
            hvtx("repair")
        guest.sends(family, TUNNEL[family], b"by the other")
        seen = heard(elsewhere, b"by the other")
        assert seen is not None
        assert seen[0] == SOURCE[family]
        free.sends(family, TUNNEL[family], b"masqueraded")
        seen = heard(elsewhere, b"masqueraded")
        assert seen is not None
        assert seen[0] == TUNNEL_HOST[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_uplink_of_guests_that_run_is_changed(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    """What flows by another device ends at once; afterwards it is as if there had been none."""
    hvtx(*NETWORK)
    guest = Guest(hvtx, "web", "net")
    own = marks(hvtx)
    with bound(world, family) as there, bound(tunnel, family) as elsewhere:
        guest.sends(family, TUNNEL[family], b"free")
        sender = heard(elsewhere, b"free")
        assert sender is not None
        shown = hvtx("network", "set", "net", "--uplink", "uplink", "--json").json()
        assert shown["uplink"] == "uplink"
        guest.sends(family, TUNNEL[family], b"held")
        guest.sends(family, WORLD[family], b"to the world")
        assert heard(there, b"to the world")
        assert nothing(elsewhere, b"held")
        hvtx("network", "set", "net", "--uplink", "other")
        guest.sends(family, WORLD[family], b"by the former")
        guest.sends(family, TUNNEL[family], b"by the latter")
        assert heard(elsewhere, b"by the latter")
        assert nothing(there, b"by the former")
        hvtx("network", "set", "net", "--no-uplink")
        guest.sends(family, WORLD[family], b"free again")
        assert heard(there, b"free again")
    assert hvtx("network", "show", "net", "--json").json()["uplink"] is None
    assert marks(hvtx) == own
    assert hvtx.is_clean()
    assert "network net: uplink none" in hvtx("log").out


@pytest.mark.parametrize("family", FAMILIES)
def test_the_source_of_guests_that_run_is_changed(
    hvtx: Program, world: lab.Namespace, family: int
) -> None:
    """New flows have the new address; what is established goes on with the one that it has."""
    for address, length in ((SOURCE[4], 24), (SOURCE[6], 64)):
        # one that is deprecated is not masqueraded with, whichever came last
        other = ("nodad", "preferred_lft", "0") if ":" in address else ()
        lab.run("ip", "addr", "add", f"{address}/{length}", "dev", "uplink", *other)
    hvtx(*NETWORK)
    guest = Guest(hvtx, "web", "net", "-p", f"9000:{PORT}/udp")
    hvtx("vm", "create", "down", "--network", "net", "--", "sleep", "600")
    own = marks(hvtx)

    def outside(port: int) -> tuple[str, int]:
        """Who the guest is outside, by a flow that is new."""
        words = f"from {port}".encode()
        packet = (udp4 if family == 4 else udp6)(
            guest.own[family], WORLD[family], (port, PORT), words
        )
        kind = IP4 if family == 4 else IP6
        os.write(guest.device, NO_GSO + bare(guest.mac, guest.gateway, kind, packet))
        sender = heard(there, words)
        assert sender is not None
        return sender

    with bound(world, family) as there:
        first = outside(1001)
        assert first[0] == (HOST4 if family == 4 else lab.HOST6)
        hvtx("network", "set", "net", "--source", SOURCE[4], "--source", SOURCE[6])
        assert outside(1002)[0] == SOURCE[family]
        there.sendto(b"an answer", first)
        assert guest.hears(b"an answer")
        changed = {key for key, mark in marks(hvtx).items() if own[key] != mark}
        assert changed == {f"masquerade {address}" for address in guest.own.values()}
        assert hvtx.is_clean()
        assert hvtx("repair", "--json").json()["repaired"] == []
        hvtx("network", "set", "net", "--source", SOURCE[6 if family == 4 else 4])
        assert outside(1003)[0] == (HOST4 if family == 4 else lab.HOST6)
        shown = hvtx("network", "set", "net", "--no-source", "--json").json()
        assert shown["source"] == []
        assert outside(1004)[0] == (HOST4 if family == 4 else lab.HOST6)
    hvtx("vm", "start", "down")
    hvtx("vm", "stop", "down", "--force")
    assert hvtx.is_clean()


def marks(hvtx: Program) -> dict[str, str]:
    """The marks of what the VM has."""
    found = hvtx.vm("web")["resources"]
    return {f"{one['kind']} {one['key']}": one["mark"] for one in found}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("--uplink", "nowhere"), 3), (("--uplink", "lo"), 2), (("--uplink", ""), 2),
        (("--uplink", "hvfirst"), 4), (("--uplink", "uplink", "--no-uplink"), 2),
        (("--source", "x"), 2), (("--source", "203.0.113.99"), 4), (("--source", "10.79.0.1"), 4),
        (("--source", HOST4, "--source", HOST4), 2), (("--source", HOST4, "--no-source"), 2),
        (("--isolate", "--uplink", "uplink"), 4), (("--source", HOST4, "--uplink", "nowhere"), 3),
    ],
)  # fmt: skip
def test_what_cannot_be_changes_no_network(hvtx: Program, more: tuple[str, ...], code: int) -> None:
    hvtx("network", "create", "first", "--subnet", "10.79.0.0/24", "--bridge", "hvfirst")
    hvtx(*NETWORK)
    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "web")
    before, shown = lab.dump(), hvtx("network", "show", "net", "--json").out
    assert "hint:" in hvtx("network", "set", "net", *more, code=code).err
    assert not lab.difference(before, lab.dump())
    assert hvtx("network", "show", "net", "--json").out == shown
    routed = ("network", "set", "routed", "--source", HOST4)
    hvtx("network", "create", "routed", "--subnet", "10.80.0.0/24", "--no-nat")
    hvtx(*routed, code=2)


def test_doctor_names_what_is_gone(hvtx: Program, tunnel: lab.Namespace) -> None:
    """Nothing is told while all is there, and of devices that come back."""

    def findings() -> list[str]:
        told = hvtx("doctor", "--json", code=None).json()["findings"]
        return [
            one["message"] for one in told if one["check"] == "uplinks" and one["level"] != "ok"
        ]

    lab.run("ip", "addr", "add", f"{SOURCE[4]}/24", "dev", "other")
    hvtx(*NETWORK, "--uplink", "other", "--source", SOURCE[4])
    assert findings() == []
    lab.run("ip", "addr", "del", f"{SOURCE[4]}/24", "dev", "other")
    assert [SOURCE[4] in words for words in findings()] == [True]
    lab.run("ip", "link", "set", "other", "down")
    assert any("uplink other is down" in words for words in findings())
    lab.run("ip", "link", "set", "other", "name", "moved")
    assert any("uplink other is not there" in words for words in findings())
    lab.run("ip", "link", "set", "moved", "name", "other")
    lab.run("ip", "link", "set", "other", "up")
    lab.run("ip", "addr", "add", f"{SOURCE[4]}/24", "dev", "other")
    assert findings() == []


def forward(hvtx: Program) -> list[dict[str, Any]]:
    """What doctor's check of flows says, where others' offline notes do not matter."""
    told = hvtx("doctor", "--json", code=None).json()["findings"]
    return [one for one in told if one["check"] == "forward"]


def test_doctor_tries_what_guests_reach_by_their_uplink(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace
) -> None:
    """A neighbour's LAN, and no world: that is told when it is made, and is no error."""
    made = hvtx(*NETWORK, "--uplink", "other").err
    reach = "198.51.100.0/24, 2001:db8:51::/64 by its uplink other, and not the world"
    assert f"note: network 'net': its guests reach {reach}" in made
    (found,) = forward(hvtx)
    assert found["level"] == "ok", found
    assert any(reach in words for words in found["evidence"])
    chain = "chain c { type filter hook forward priority 0; oifname other udp dport 53 drop; }"
    lab.run("nft", "-f", "-", stdin=f"table inet wall {{ {chain}\n}}\n")
    (found,) = forward(hvtx)
    assert "guest to world (udp; IPv4 and IPv6) stopped by nft inet wall c" in found["message"]
    lab.run("sh", "-ec", found["hint"])
    assert '"other"' in found["hint"]
    assert '"uplink"' not in found["hint"]
    (found,) = forward(hvtx)
    assert found["level"] == "ok", found
    lab.run("nft", "delete", "table", "inet", "wall")
    hints = made.partition("for the world: ")[2].strip().split("; ")
    assert len(hints) == 6
    carry_out(hints)
    (found,) = forward(hvtx)
    assert found["level"] == "ok", found
    assert not any("not the world" in words for words in found["evidence"])
    guest = Guest(hvtx, "web", "net")
    tunnel.run("ip", "addr", "add", "192.0.2.7/32", "dev", "lo")
    with bound(tunnel, 4) as there:
        guest.sends(4, "192.0.2.7", b"by the rule")
        assert heard(there, b"by the rule")
    hvtx("network", "set", "net", "--no-uplink")
    assert "note:" not in hvtx("network", "set", "net", "--uplink", "other").err


def carry_out(commands: list[str]) -> None:
    """Do what is printed, with the tunnel's end as the gateway."""
    for command in commands:
        gateway = TUNNEL[6 if " -6 " in command else 4]
        lab.run(*command.replace("GATEWAY", gateway).split())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_leads_guests_by_their_uplink_leads_no_answers_there(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace, family: int
) -> None:
    """Of a published port: a neighbour by another device, somebody behind it, another network."""
    hvtx(*NETWORK)
    hvtx("network", "create", "free", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    guest = Guest(hvtx, "web", "net", "-p", f"9000:{PORT}/udp")
    other = Guest(hvtx, "other", "free", "-p", f"9001:{PORT}/udp")
    said = hvtx("network", "set", "net", "--uplink", "other").err
    carry_out(said.partition("for the world: ")[2].strip().split("; "))
    assert [(f["check"], f["message"]) for f in hvtx("doctor", "--json", code=None).json()["findings"]
            if f["check"] in ("forward", "routes") and f["level"] != "ok"] == []  # fmt: skip
    far, new = {4: ("192.0.2.77", "192.0.2.7"), 6: ("2001:db8:77::1", "2001:db8:7::1")}[family]
    length = 32 if family == 4 else 128
    world.run("ip", "addr", "add", f"{far}/{length}", "dev", "lo")
    tunnel.run("ip", "addr", "add", f"{new}/{length}", "dev", "lo")
    host = HOST4 if family == 4 else lab.HOST6
    for client in (WORLD[family], far):
        with Ears(world, family, client) as there:
            there.sendto(b"a question", (host, 9000))
            assert guest.hears(b"a question")
            guest.sends(family, client, b"an answer")
            assert there.heard(b"an answer") == (host, 9000)
    guest.sends(family, TUNNEL_HOST[family], b"by the host", port=9001)
    assert other.hears(b"by the host")
    with bound(tunnel, family) as elsewhere:
        packet = (udp4 if family == 4 else udp6)(guest.own[family], new, (1234, PORT), b"new")
        kind = IP4 if family == 4 else IP6
        os.write(guest.device, NO_GSO + bare(guest.mac, guest.gateway, kind, packet))
        assert heard(elsewhere, b"new")


def test_several_networks_are_told_of_a_table_each(hvtx: Program, world: lab.Namespace) -> None:
    """And of none that somebody's rule asks, whose routes are not there yet."""
    lab.run("ip", "rule", "add", "from", "10.0.0.5", "lookup", "100", "pref", "5000")
    for number in (8, 9):
        lab.run("ip", "tuntap", "add", f"tun{number}", "mode", "tun")
        lab.run("ip", "link", "set", f"tun{number}", "up")
        subnets = ("--subnet", f"10.7{number}.0.0/24", "--subnet", f"fd7{number}::/64")
        hvtx("network", "create", f"n{number}", *subnets, "--uplink", f"tun{number}")
    told = forward(hvtx)
    assert [found["level"] for found in told] == ["warning", "warning"]
    for found in told:
        carry_out(found["hint"].split("; "))
    hvtx("repair")
    (found,) = forward(hvtx)
    assert found["level"] == "ok", found


def test_an_uplink_without_a_route_is_told(hvtx: Program, world: lab.Namespace) -> None:
    """As a tunnel that somebody else is to route packets into; what is printed does it."""
    lab.run("ip", "tuntap", "add", "tun9", "mode", "tun")
    lab.run("ip", "link", "set", "tun9", "up")
    made = hvtx(*NETWORK, "--uplink", "tun9").err
    assert "warning: network 'net': no route leads its guests by its uplink tun9" in made
    (found,) = forward(hvtx)
    assert (found["level"], found["hint"]) == ("warning", made.partition("world: ")[2].strip())
    assert "no route leads its guests by its uplink tun9" in found["message"]
    for command in found["hint"].split("; "):
        lab.run(*command.split())
    hvtx("repair")  # IPv6 is forwarded device by device, where the kernel can
    (found,) = forward(hvtx)
    assert found["level"] == "ok", found
    assert not [one for one in hvtx("doctor", "--json", code=None).json()["findings"]
                if one["check"] == "routes" and one["level"] != "ok"]  # fmt: skip
    lab.run("ip", "link", "del", "tun9")
    assert [one["level"] for one in forward(hvtx)] == ["ok"], "the check `uplinks` tells"


def test_an_uplink_that_is_no_way_to_the_world_passes_a_default_that_drops(
    hvtx: Program, world: lab.Namespace, tunnel: lab.Namespace
) -> None:
    """A bridge is none: it is in the accepts of the network alone that has it as its uplink."""
    lab.run("ip", "link", "add", "br9", "type", "bridge")
    lab.run("ip", "addr", "flush", "dev", "other")
    lab.run("ip", "link", "set", "other", "master", "br9")
    lab.run("ip", "link", "set", "br9", "up")
    for family, length in ((4, 24), (6, 64)):
        nodad = ("nodad",) * (family == 6)
        lab.run("ip", "addr", "add", f"{TUNNEL_HOST[family]}/{length}", "dev", "br9", *nodad)
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        lab.run(tool, "-P", "FORWARD", "DROP")
    hvtx(*NETWORK, "--uplink", "uplink")
    hvtx("network", "create", "free", "--subnet", "10.78.0.0/24", "--subnet", "fd78::/64")
    held, free = Guest(hvtx, "held", "net"), Guest(hvtx, "free", "free")
    hvtx("network", "set", "net", "--uplink", "br9")
    (found,) = forward(hvtx)
    assert found["level"] == "ok", found
    for family in FAMILIES:
        with bound(tunnel, family) as there:
            free.sends(family, TUNNEL[family], b"from the free")
            held.sends(family, TUNNEL[family], b"from the held")
            sender = heard(there, b"from the held")
            assert sender is not None
            there.sendto(b"an answer", sender)
            assert held.hears(b"an answer")
            assert nothing(there, b"from the free")
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()


def test_all_of_it_goes_with_the_network(hvtx: Program) -> None:
    """The whole host is as it was before."""
    forwarding = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    lab.run("ip", "addr", "add", f"{SOURCE[4]}/24", "dev", "uplink")
    hvtx("network", "create", "first", "--subnet", "10.79.0.0/24")  # settings stay on
    hvtx("network", "create", "six", "--subnet", "fd79::/64")
    before = lab.dump()
    hvtx(*NETWORK, "--uplink", "uplink", "--source", SOURCE[4])
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()
    shown = hvtx("network", "show", "net")
    assert "uplink:    uplink" in shown.out
    assert "source:    " + SOURCE[4] in shown.out
    hvtx("vm", "rm", "web", "--force")
    hvtx("network", "rm", "net")
    assert not lab.difference(before, lab.dump())
    assert all(Path("/proc/sys/net", name).exists() for name in forwarding)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("--uplink", "nowhere"), 3), (("--uplink", "lo"), 2), (("--uplink", ""), 2),
        (("--uplink", "no/device"), 2), (("--uplink", "sixteen-letters0"), 2),
        (("--uplink", "hvfirst"), 4), (("--uplink", "hvnew", "--bridge", "hvnew"), 2),
        (("--source", "x"), 2), (("--source", "203.0.113.99"), 4), (("--source", "127.0.0.1"), 2),
        (("--source", "0.0.0.0"), 2), (("--source", "224.0.0.1"), 2), (("--source", "fe80::1"), 2),
        (("--source", "::1"), 2), (("--source", HOST4, "--source", HOST4), 2),
        (("--source", HOST4, "--no-nat"), 2), (("--source", "10.79.0.1"), 4),
        (("--source", "10.77.0.1"), 4), (("--source", f"{HOST4}/24"), 2),
    ],
)  # fmt: skip
def test_what_cannot_be_changes_nothing(hvtx: Program, more: tuple[str, ...], code: int) -> None:
    hvtx("network", "create", "first", "--subnet", "10.79.0.0/24", "--bridge", "hvfirst")
    before = lab.dump()
    done = hvtx(*NETWORK, *more, code=code)
    assert "hint:" in done.err
    assert not lab.difference(before, lab.dump())
    only4 = ("network", "create", "four", "--subnet", "10.80.0.0/24", "--source", lab.HOST6)
    hvtx(*only4, code=2)
