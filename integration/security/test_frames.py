"""The frames' table, sent by a guest over its own TAP device, through the whole program.

On both firewall backends, with and without br_netfilter's calls. The guests are `external` VMs whose
devices this process holds: it writes frames as a hypervisor does, with the header of virtio-net
before them, and reads what comes out at the other guest, on the host's bridge and at a neighbour of
the host. What was sent is known by its cookie, so all frames go out before anything is looked at,
and an honest frame behind them tells that all have come.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from integration import lab
from integration.lab import WORLD4, WORLD6
from integration.lab.firewall_contract import bridged_frames_see_iptables, inside
from integration.lab.frames import (
    ANY_LINK,
    BY_RULES,
    EVERYBODY,
    FORGED,
    HONEST,
    Scene,
    Try,
    asks,
    packed_mac,
    target,
    udp_over_4,
)
from integration.lab.program import Forked, Program, preload

TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000
NO_GSO = bytes(10)  # struct virtio_net_hdr: nothing to be done for the frame that follows
MOST = 100  # frames between two looks: each queue on the way holds as many
GATEWAY4, GATEWAY6 = "10.77.0.1", "fd77::1"


def tap(name: str) -> int:
    """A descriptor of a TAP device, as hypervisors open it."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return descriptor


def listener(place: lab.Namespace | None, device: str) -> socket.socket:
    """A socket that sees every frame that comes in by a device (after the bridge's filters)."""
    with inside(place):
        found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        found.bind((device, 3))
    found.setblocking(False)
    found.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    return found


class Guest(NamedTuple):
    """A VM: its leases, and its device."""

    mac: str
    ipv4: str
    ipv6: str
    device: str


class Air:
    """Two guests' devices, the host's bridge and its neighbour: one sends, all are heard."""

    def __init__(
        self, one: Guest, two: Guest, bridge: str, world: lab.Namespace, *, apart: bool
    ) -> None:
        """``apart``: the guests do not hear each other."""
        (shown,) = json.loads(lab.run("ip", "-j", "addr", "show", bridge))
        links = [a["local"] for a in shown["addr_info"] if a["local"].startswith("fe80:")]
        self.bridge, self.one, self.two = bridge, one, two
        self.scene = Scene(
            *(one.mac, one.ipv4, one.ipv6, link_local(one.mac)),
            *(two.mac, two.ipv4, two.ipv6, link_local(two.mac)),
            *(shown["address"], GATEWAY4, GATEWAY6, links[0]),
        )
        self.own, self._other = tap(one.device), tap(two.device)
        self._host, self._world = listener(None, bridge), listener(world, "eth0")
        self._heard_by = {"host", "world"} if apart else {"guest", "host", "world"}
        self._fences = 0

    def __enter__(self) -> Self:
        """Wait until the devices are up."""
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the devices."""
        os.close(self.own)
        os.close(self._other)
        self._host.close()
        self._world.close()

    def frames(self) -> Iterator[tuple[str, bytes]]:
        """What has come since the last look: where, and the frame."""
        for name, descriptor in (("guest", self._other), ("itself", self.own)):
            with contextlib.suppress(BlockingIOError):
                while True:
                    yield name, os.read(descriptor, 1 << 17)[10:]
        for name, sniffer in (("host", self._host), ("world", self._world)):
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, origin = sniffer.recvfrom(1 << 17)
                    if origin[2] != socket.PACKET_OUTGOING:
                        yield name, frame

    def wait(self) -> list[tuple[str, bytes]]:
        """Send honest frames to all; what came, until they have.

        The other guest speaks first, so that the bridge knows where it is.
        """
        hello = asks(1, "other4", "gateway4", mac="other")(self.scene, EVERYBODY, b"hello   ")
        hello = hello[:6] + packed_mac(self.two.mac) + hello[12:]
        self._fences += 1
        cookie = struct.pack(">8sI", b"fence   ", self._fences)
        left, found = set(self._heard_by), []
        for _ in range(3000):
            os.write(self._other, NO_GSO + hello)
            for name in left:
                to = target(self.scene, name, "")
                os.write(self.own, NO_GSO + udp_over_4()(self.scene, to, cookie))
            for where, frame in self.frames():
                if cookie in frame:
                    left.discard(where)
                else:
                    found.append((where, frame))
            if not left:
                return found
            time.sleep(0.02)
        raise AssertionError(f"honest frames do not arrive: {left}")

    def send(self, tries: Mapping[str, Try]) -> dict[tuple[str, str], set[str]]:
        """Send all; where each ``(name, target)`` was seen."""
        heard: dict[tuple[str, str], set[str]] = {}
        waiting: dict[tuple[str, str], bytes] = {}
        for name, what in tries.items():
            for whom in what.targets:
                cookie = os.urandom(8)
                frame = what.make(self.scene, target(self.scene, whom, what.group), cookie)
                head = what.gso.packed(len(frame) - 4000) if what.gso else NO_GSO
                os.write(self.own, head + frame)
                waiting[name, whom] = cookie if cookie in frame else frame
                heard[name, whom] = set()
            if len(waiting) > MOST:
                self._look(waiting, heard)
        self._look(waiting, heard)
        return heard

    def _look(
        self, waiting: dict[tuple[str, str], bytes], heard: dict[tuple[str, str], set[str]]
    ) -> None:
        for where, frame in self.wait():
            for key, sign in waiting.items():
                if sign in frame if len(sign) == 8 else sign == frame:
                    heard[key].add(where)
        waiting.clear()


def link_local(mac: str) -> str:
    """The link-local address that follows from a MAC address (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    packed = (
        bytes.fromhex("fe80" + "00" * 6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    )
    return socket.inet_ntop(socket.AF_INET6, packed)


@pytest.fixture
def hvtx(firewall: str, bridged: bool, world: lab.Namespace) -> Program:
    preload()
    bridged_frames_see_iptables(bridged)
    return Forked(HVTX_FIREWALL=firewall)


@pytest.fixture
def air(hvtx: Program, world: lab.Namespace) -> Iterator[Air]:
    with laboratory(hvtx, world) as found:
        yield found


@contextlib.contextmanager
def laboratory(hvtx: Program, world: lab.Namespace, *more: str) -> Iterator[Air]:
    """A network with two guests."""
    subnets = ("--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
    hvtx("network", "create", "net", *subnets, *more)

    def guest(name: str) -> Guest:
        hvtx("vm", "create", name, "--network", "net", "--hypervisor", "external")
        hvtx("vm", "start", name)
        shown = hvtx.vm(name)["interfaces"][0]
        return Guest(shown["mac"], shown["ipv4"], shown["ipv6"], shown["device"])

    (beyond,) = json.loads(world.run("ip", "-j", "link", "show", "eth0"))
    for address in (WORLD4, WORLD6):  # a frame that waits for its neighbour would be late
        to = ("lladdr", beyond["address"], "dev", "uplink", "nud", "permanent")
        lab.run("ip", "neigh", "replace", address, *to)
    bridge = hvtx("network", "show", "net", "--json").json()["bridge"]
    with Air(guest("one"), guest("two"), bridge, world, apart="--isolate" in more) as found:
        yield found


def expected(tries: Mapping[str, Try], bridged: bool) -> dict[tuple[str, str], set[str]]:
    """Where each try must be seen."""
    return {
        (name, whom): set() if bridged and what.held else set(what.arrives.get(whom, ()))
        for name, what in tries.items()
        for whom in what.targets
    }


def differing(
    heard: Mapping[tuple[str, str], set[str]], wanted: Mapping[tuple[str, str], set[str]]
) -> list[str]:
    """What is not as it must be, for a person."""
    return [
        f"{name}, to {whom}: at {', '.join(sorted(at)) or 'nobody'}"
        for (name, whom), at in heard.items()
        if at != wanted[name, whom]
    ]


SECURITY = Path(__file__).resolve().parents[2] / "docs/security.md"


def believed(air: Air) -> list[str]:
    """What the bridge and the host's neighbour tables took from the sender that is not its own."""
    own = {air.scene.ipv4, air.scene.ipv6, air.scene.link, ANY_LINK}
    learned = json.loads(lab.run("bridge", "-j", "fdb", "show", "br", air.bridge))
    wrong = [
        f"{entry['mac']} is at {entry['ifname']}"
        for entry in learned
        if "permanent" not in entry.get("state", "")
        and (entry["mac"], entry["ifname"])
        not in ((air.one.mac, air.one.device), (air.two.mac, air.two.device))
    ]
    for entry in json.loads(lab.run("ip", "-j", "neigh", "show", "dev", air.bridge)):
        mac, address = entry.get("lladdr"), entry["dst"]
        if mac and (mac == air.one.mac) != (address in own):
            wrong.append(f"{address} is at {mac}")
    routes = json.loads(lab.run("ip", "-j", "-6", "route", "show", "dev", air.bridge))
    return wrong + [str(route) for route in routes if route["protocol"] == "ra"]


def lost_of(air: Air, bridged: bool) -> list[str]:
    """What is the guest's own to send, and was not seen where it must be."""
    arrived = air.send(HONEST)
    for (_, whom), at in arrived.items():
        if whom != "everybody":  # answers come back, a frame to everybody must not
            at.discard("itself")
    return differing(arrived, expected(HONEST, bridged))


def test_frames_of_a_guest(air: Air, bridged: bool) -> None:
    """None that is not the guest's own comes through anywhere, all that are its own arrive."""
    lost = lost_of(air, bridged)
    heard = air.send(FORGED)
    through = differing(heard, expected(FORGED, bridged))
    lab.tell(kinds=len(FORGED), tries=len(heard), through=len(through), honest=len(HONEST))
    assert f"{len(heard)} frames of {len(FORGED)} kinds" in SECURITY.read_text()
    assert not through, "\n".join(through)
    assert not lost, "\n".join(lost)
    assert believed(air) == []


def test_frames_of_a_guest_that_is_kept_apart(
    hvtx: Program, world: lab.Namespace, bridged: bool
) -> None:
    """On an isolated network nothing at all comes to another guest, with rules and without."""
    with laboratory(hvtx, world, "--isolate") as air:
        for _ in range(2):
            heard = {**air.send(HONEST), **air.send(FORGED)}
            met = [key for key, at in heard.items() if "guest" in at]
            assert met == []
            lab.run("nft", "flush", "ruleset")


def test_without_rules_all_of_them_arrive(air: Air, bridged: bool) -> None:
    """Each try of the table is a frame that the kernel would carry: none is idle."""
    lab.run("nft", "flush", "ruleset")
    for guest in (air.one, air.two):
        lab.run("tc", "qdisc", "del", "dev", guest.device, "clsact", check=False)
    heard = air.send(FORGED)
    deaf = {
        name for name, what in FORGED.items() if not what.unheard and not (bridged and what.held)
    }
    deaf -= {name for (name, _), at in heard.items() if at}
    unheard = {name for (name, _), at in heard.items() if at and FORGED[name].unheard}
    assert not deaf
    assert not unheard


def test_frames_after_a_flush(air: Air, bridged: bool) -> None:
    """Without any rule each guest is held to its addresses; only what takes a set to tell is not."""
    lab.run("nft", "flush", "ruleset")
    arrived, wanted = air.send(HONEST), expected(HONEST, bridged)
    near = {"guest", "host"}  # broadcasts come back too, and nothing is translated for the world
    lost = [
        key
        for key, at in arrived.items()
        if not HONEST[key[0]].held and at & near != wanted[key] & near
    ]
    heard = air.send(FORGED)
    through = differing(heard, expected(FORGED, bridged))
    lab.tell(tries=len(heard), through=len(through))
    others = [words for words in through if words.rpartition(", to ")[0] not in BY_RULES]
    assert not others, "\n".join(others)
    assert lost == []
