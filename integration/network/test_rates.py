"""`--limit`: what a guest sends and gets is held to it, whatever it is, and nothing starves.

Frames are written to the TAP devices of two guests and counted where they come out. How many may
pass is told by a virtual clock of the test's own, by when each frame was sent: nothing depends on
how fast this machine is. The limits come and go under devices that are held open.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from hvtx import HostRefused
from hvtx.drivers.tap.driver import TapDriver
from hvtx.model.resource import Resource
from integration import lab
from integration.lab.firewall_contract import arp, icmp6, ipv4, ipv6, udp4, udp6
from integration.lab.frames import ARP, IP4, IP6, TCP, Gso, bare, packed_ip, packed_mac
from integration.lab.program import Forked, Program, preload
from integration.security.test_frames import NO_GSO, Air, laboratory

SECONDS, BURST = 0.8, 0.2
_QUIET = 3  # twentieths of a second in which nothing comes any more
SIZE = 1400  # bytes of a frame


@pytest.fixture(params=["nftables", "iptables"])
def hvtx(request: pytest.FixtureRequest, world: lab.Namespace) -> Program:
    preload()
    return Forked(HVTX_FIREWALL=str(request.param))


@pytest.fixture
def air(hvtx: Program, world: lab.Namespace) -> Iterator[Air]:
    with laboratory(hvtx, world) as found:
        yield found


class Way(NamedTuple):
    """From one guest to the other: descriptors of the devices, MAC and IP addresses."""

    source: int
    sink: int
    macs: tuple[str, str]
    ipv4: tuple[str, str]
    ipv6: tuple[str, str]

    def frame(self, kind: int, packet: bytes) -> bytes:
        """A frame on this way."""
        return bare(*self.macs, kind, packet)

    def datagram(self, family: int, cookie: bytes) -> bytes:
        """A frame of SIZE bytes."""
        if family == 4:
            return self.frame(IP4, udp4(*self.ipv4, (9, 9), cookie + bytes(SIZE - 42 - 8)))
        return self.frame(IP6, udp6(*self.ipv6, (9, 9), cookie + bytes(SIZE - 62 - 8)))


def way_of(air: Air, side: str) -> Way:
    """``out`` of the first guest, whose limits are looked at, or ``in`` to it."""
    one, two = (air.one, air.two) if side == "out" else (air.two, air.one)
    ends = (air.own, air._other) if side == "out" else (air._other, air.own)
    return Way(*ends, (one.mac, two.mac), (one.ipv4, two.ipv4), (one.ipv6, two.ipv6))


def drained(sink: int, cookie: bytes) -> int:
    """How many frames with the cookie have come."""
    found = 0
    while True:
        try:
            found += cookie in os.read(sink, 1 << 17)
        except BlockingIOError:
            return found


def rest(sink: int, cookie: bytes) -> int:
    """How many more come until none has come for a while: a busy kernel hands them over late."""
    found, quiet = 0, 0
    for _ in range(200):
        time.sleep(0.05)
        came = drained(sink, cookie)
        found, quiet = found + came, 0 if came else quiet + 1
        if quiet == _QUIET:
            break
    return found


def held_to(way: Way, frame: bytes, cookie: bytes, each: float, head: bytes = NO_GSO) -> None:
    """Flood the way: as many arrive as a clock says that is moved by ``each`` for each that passes.

    ``cookie`` stands in each segment of the frame, of which there is one without a ``head``.
    """
    segments = max(1, frame.count(cookie)) if head != NO_GSO else 1
    drained(way.sink, cookie)
    moment = allowed = 0.0
    sent = came = 0
    end = time.monotonic() + SECONDS
    while (now := time.monotonic()) < end:
        os.write(way.source, head + frame)
        sent += segments
        moment = max(moment, now - BURST)
        if moment <= now:
            moment += each * segments
            allowed += segments
        came += drained(way.sink, cookie)
    came += rest(way.sink, cookie)
    lab.tell(sent=sent, came=came, allowed=allowed)
    assert sent > 2 * allowed, "the way was not flooded"
    assert abs(came - allowed) <= max(2 * segments, 0.05 * allowed)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("side", ["in", "out"])
def test_bits_a_second(hvtx: Program, air: Air, side: str, family: int) -> None:
    """Each direction has a limit of its own, and guests meet it among themselves."""
    hvtx("vm", "set", "one", "--limit", "in=8mbit,out=4mbit")
    way, cookie = way_of(air, side), os.urandom(8)
    rate = {"in": 8e6, "out": 4e6}[side]
    held_to(way, way.datagram(family, cookie), cookie, SIZE * 8 / rate)


@pytest.mark.parametrize("side", ["in", "out"])
def test_packets_a_second(hvtx: Program, air: Air, side: str) -> None:
    hvtx("vm", "set", "one", "--limit", "in-packets=500,out-packets=900")
    way, cookie = way_of(air, side), os.urandom(8)
    rate = {"in": 500, "out": 900}[side]
    held_to(way, way.datagram(4, cookie), cookie, 1 / rate)


@pytest.mark.parametrize(("limit", "each"), [("out=8mbit", 8e-3), ("out-packets=1000", 1e-3)])
def test_what_the_kernel_segments_later(hvtx: Program, air: Air, limit: str, each: float) -> None:
    """A frame that is larger than the burst passes, and is paid for whole."""
    hvtx("vm", "set", "one", "--limit", limit)
    way, cookie = way_of(air, "out"), os.urandom(8)
    head = struct.pack(">HHIIBBHHH", 9, 9, 1, 1, 5 << 4, 16, 1000, 0, 0)
    body = (cookie + bytes(8000 - 8) if limit == "out=8mbit" else cookie + bytes(992)) * 6
    size = len(body) // 6
    frame = way.frame(IP4, ipv4(*way.ipv4, TCP, head + body))
    if size > 1460:  # one cookie for eight segments: bytes are counted
        held_to(way, frame, cookie, each * (len(frame) / len(body)), Gso(1, 1000).packed(54))
    else:
        held_to(way, frame, cookie, each, Gso(1, 1000).packed(54))


def test_neighbours_are_found_beyond_the_limit(hvtx: Program, air: Air) -> None:
    """ARP and neighbour discovery pass where nothing else does; so does what asks for a lease."""
    hvtx("vm", "set", "one", "--limit", "in=400kbit,out=400kbit")
    for side in ("in", "out"):
        way, cookie = way_of(air, side), os.urandom(8)
        flood = way.datagram(4, cookie)
        asks4 = way.frame(ARP, arp(1, way.macs[0], way.ipv4[0], way.ipv4[1]))
        link = b"\1\1" + packed_mac(way.macs[0])  # an option: the sender's link-layer address
        asks6 = icmp6(*way.ipv6, struct.pack(">BBHI", 135, 0, 0, 0) + packed_ip(way.ipv6[1]) + link)
        sent = found4 = found6 = 0
        for number in range(1400):
            os.write(way.source, NO_GSO + flood)
            if number % 100 == 0:
                os.write(way.source, NO_GSO + asks4)
                os.write(way.source, NO_GSO + way.frame(IP6, ipv6(*way.ipv6, 58, asks6)))
                sent += 1
            while True:
                try:
                    frame = os.read(way.sink, 1 << 17)[10:]
                except BlockingIOError:
                    break
                found4 += frame[12:14] == b"\x08\x06" and frame[22:28] == asks4[22:28]
                found6 += frame[12:14] == b"\x86\xdd" and frame.endswith(link)
        assert (found4, found6) == (sent, sent), side


def filters_of(device: str) -> list[str]:
    """The handles of a device's filters of what its guest sends, in the kernel's order."""
    told = lab.run("tc", "filter", "show", "dev", device, "ingress")
    return [line.split("handle ")[1].split()[0] for line in told.splitlines() if "handle" in line]


def test_limits_come_and_go_under_a_running_vm(hvtx: Program, air: Air) -> None:
    """They are shown, are of one VM alone, and leave nothing behind."""
    before = lab.run("tc", "filter", "show", "dev", air.one.device, "ingress")
    done = hvtx("vm", "set", "one", "--limit", "in=1gbit,out=2mbit,out-packets=3", "--json").json()
    assert done["limit"] == {"in": 10**9, "out": 2 * 10**6, "out-packets": 3}
    assert hvtx.vm("two")["limit"] is None
    assert "limit:       in=1gbit,out=2mbit,out-packets=3" in hvtx("vm", "show", "one").out
    assert hvtx.is_clean()
    assert hvtx("repair", "--json").json()["repaired"] == []
    lab.run("tc", "filter", "del", "dev", air.one.device, "egress")
    lab.run("tc", "qdisc", "del", "dev", air.two.device, "clsact")
    told = hvtx("repair").out
    assert "the limit of what goes into its guest was missing or another" in told
    assert "hvtx-rate 1000000000bit 0pps" in lab.run(
        "tc", "filter", "show", "dev", air.one.device, "egress"
    )
    order = filters_of(air.one.device)
    assert len(order) == 3
    lab.run("tc", "filter", "del", "dev", air.one.device, "ingress")
    hvtx("repair")
    assert filters_of(air.one.device) == order
    hvtx("vm", "set", "one", "--limit", "none")
    assert hvtx.vm("one")["limit"] is None
    after = lab.run("tc", "filter", "show", "dev", air.one.device, "ingress")
    assert after.count("handle") == before.count("handle")
    assert "hvtx-rate" not in lab.run("tc", "filter", "show", "dev", air.one.device, "egress")
    way, cookie = way_of(air, "out"), os.urandom(8)
    for _ in range(300):
        os.write(way.source, NO_GSO + way.datagram(4, cookie))
    assert rest(way.sink, cookie) == 300


def test_a_limit_is_there_from_the_first_frame(hvtx: Program, world: lab.Namespace) -> None:
    """Given at `create`, it stands at the start, again after a stop, and in the history."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    limit = ("--limit", "out=1mbit")
    hvtx("vm", "run", "web", "--network", "net", *limit, "--", "sleep", "600")
    for _ in range(2):
        device = hvtx.vm("web")["interfaces"][0]["device"]
        assert "hvtx-rate 1000000bit 0pps" in lab.run(
            "tc", "filter", "show", "dev", device, "ingress"
        )
        hvtx("vm", "restart", "web", "--timeout", "1")
    hvtx("vm", "rm", "web", "--force")
    hvtx("vm", "create", "web", "--from-log")
    assert hvtx.vm("web")["limit"] == {"out": 10**6}
    hvtx("vm", "set", "web", "--limit", "in=5mbit")
    assert hvtx.vm("web")["limit"] == {"in": 5 * 10**6}


@pytest.mark.parametrize(
    ("point", "then"),
    [
        ("intended", ("recover",)),
        ("acted:limit", ("recover",)),
        ("ended", ("recover",)),
        ("intended", ("vm", "set", "web", "--limit", "out=2mbit")),
        ("intended", ("vm", "set", "web", "--autostart")),
    ],
)
def test_a_change_that_is_killed_is_carried_through(
    hvtx: Program, world: lab.Namespace, point: str, then: tuple[str, ...]
) -> None:
    """By `recover` or the next `vm set` record and device agree; no guest was without a limit."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "--limit", "out=1mbit", "--", "sleep", "600")
    device = hvtx.vm("web")["interfaces"][0]["device"]
    killed = {"code": -signal.SIGKILL, "HVTX_FAILPOINT": f"{point}:kill"}
    hvtx("vm", "set", "web", "--limit", "out=2mbit", **killed)
    assert "hvtx-rate" in lab.run("tc", "filter", "show", "dev", device, "ingress")
    hvtx(*then)
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx.vm("web")["limit"] == {"out": 2 * 10**6}
    assert "hvtx-rate 2000000bit" in lab.run("tc", "filter", "show", "dev", device, "ingress")
    assert hvtx.is_clean()


def test_what_cannot_be_carried_through_is_told(
    hvtx: Program, world: lab.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No `vm set` says that all is well while the kernel has not what the record says."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "--", "sleep", "600")
    killed = {"code": -signal.SIGKILL, "HVTX_FAILPOINT": "intended:kill"}
    hvtx("vm", "set", "web", "--limit", "out=2mbit", **killed)

    def refuse(_: TapDriver, devices: Sequence[Resource]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), devices[0].key)

    with monkeypatch.context() as patch:
        patch.setattr(TapDriver, "limit", refuse)
        told = hvtx("vm", "set", "web", "--limit", "out=2mbit", code=HostRefused.exit_code).err
    assert "the kernel refused the limit of" in told
    assert [one["verb"] for one in hvtx("intents", "--json").json()["operations"]] == ["set"]
    hvtx("vm", "set", "web", "--limit", "out=2mbit")
    assert hvtx.is_clean()


@pytest.mark.parametrize("point", ["", "intended", "acted:limit", "let-go"])
def test_limits_change_with_ports_and_egress_in_one_command(
    hvtx: Program, world: lab.Namespace, point: str
) -> None:
    """Killed anywhere it is carried through; what is refused leaves all of it as it was."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--egress", "internet")
    own = ("--limit", "out=1mbit", "-p", "8080:80")
    hvtx("vm", "run", "web", "--network", "net", *own, "--", "sleep", "600")
    hvtx("vm", "run", "two", "--network", "net", "-p", "7070:70", "--", "sleep", "600")
    device = hvtx.vm("web")["interfaces"][0]["device"]

    def seen() -> str:
        return lab.run("tc", "filter", "show", "dev", device, "ingress")

    before = hvtx.vm("web")
    hvtx("vm", "set", "web", "--limit", "out=3mbit", "-p", "7070:71", code=4)
    nft = lab.run("nft", "list", "tables")
    assert hvtx.vm("web") == before
    assert "hvtx-rate 1000000bit" in seen()
    assert lab.run("nft", "list", "tables") == nft
    wish = ("--limit", "out=2mbit", "--unpublish", "8080", "-p", "9090:90", "--egress", "none")
    if point:
        killed = {"HVTX_FAILPOINT": f"{point}:kill"}
        hvtx("vm", "set", "web", *wish, code=-signal.SIGKILL, **killed)
        hvtx("recover")
    else:
        hvtx("vm", "set", "web", *wish)
        [line] = [one for one in hvtx("log").out.splitlines() if "VM web:" in one]
        for word in ("limits", "egress none", "unpublished 8080", "published 9090"):
            assert word in line
    now = hvtx.vm("web")
    assert now["limit"] == {"out": 2 * 10**6}
    assert now["interfaces"][0]["egress"]["mode"] == "none"
    assert [port["host_port"] for port in now["interfaces"][0]["publish"]] == [9090]
    assert "hvtx-rate 2000000bit" in seen()
    assert hvtx("intents", "--json").json()["operations"] == []
    assert hvtx("repair", "--json").json()["repaired"] == []
    assert hvtx.is_clean()


@pytest.mark.parametrize(
    ("given", "code"),
    [("in=0", 2), ("in=1mbyte", 2), ("", 2), ("in-packets=0", 2), ("up=1mbit", 2)],
)
def test_a_bad_limit_changes_nothing(hvtx: Program, given: str, code: int) -> None:
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "web", "--network", "net", "--limit", given, "--", "true", code=code)
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    hvtx("vm", "create", "web", "--network", "net", "--limit", "in=1mbit", "--", "true")
    hvtx("vm", "set", "web", "--limit", given, code=code)
    assert hvtx.vm("web")["limit"] == {"in": 10**6}
