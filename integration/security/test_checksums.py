"""The two bytes that the host fills in for a guest: nowhere in what was checked.

The guest says by the header of virtio-net where the kernel is to write a checksum. Each place is
tried from the first one that the kernel takes up to the checksum of the frame itself; what comes
out at a TAP and at a veth without checksum offload has to be what was sent, or nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from hvtx.host import checksum_filter
from integration import lab
from integration.lab.firewall_contract import (
    arp,
    bridged_frames_see_iptables,
    checksum,
    icmp6,
    ipv4,
    ipv6,
    neighbour,
)
from integration.lab.frames import IP4, IP6, bare, packed_ip
from integration.lab.program import Forked, Program, preload
from integration.security.test_frames import Air, laboratory

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIRST = 20  # Linux takes no place before it (include/linux/virtio_net.h)
GSO_TCP4, GSO_TCP6, GSO_UDP_L4 = 1, 4, 5
BACKENDS = ["nftables", "iptables"]


@pytest.fixture(params=BACKENDS)
def firewall(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hvtx(firewall: str, world: lab.Namespace) -> Program:
    preload()
    bridged_frames_see_iptables(False)
    ethtool("uplink", 0x17, 0)  # ETHTOOL_STXCSUM
    return Forked(HVTX_FIREWALL=firewall)


@pytest.fixture
def air(hvtx: Program, world: lab.Namespace) -> Iterator[Air]:
    with laboratory(hvtx, world, "--no-nat") as found:
        yield found


def ethtool(device: str, command: int, value: int) -> None:
    """Set a value of a device by the ioctl of ethtool (SIOCETHTOOL)."""
    import ctypes

    told = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(
            asking, 0x8946, struct.pack("=16sQ16x", device.encode(), ctypes.addressof(told))
        )


class Frame(NamedTuple):
    """A frame of the guest's own, and where its checksum is (0: it has none of this kind)."""

    raw: bytes
    place: int = 0
    start: int = 0


def pseudo(source: str, to: str, protocol: int, size: int) -> int:
    """What stands in the place of a checksum that is to be written: that of the pseudo header."""
    ends = packed_ip(source) + packed_ip(to)
    return checksum(ends + struct.pack(">II", size, protocol)) ^ 0xFFFF


def tcp(source: str, to: str, payload: bytes) -> bytes:
    total = pseudo(source, to, TCP, 20 + len(payload))
    return struct.pack(">HHIIBBHHH", 7, 7, 1, 0, 5 << 4, 16, 1024, total, 0) + payload


def udp(source: str, to: str, payload: bytes) -> bytes:
    total = pseudo(source, to, UDP, 8 + len(payload))
    return struct.pack(">HHHH", 7, 7, 8 + len(payload), total) + payload


def options4(packet: bytes) -> bytes:
    """The packet with eight bytes of IPv4 options."""
    size = struct.pack(">H", len(packet) + 8)
    head = b"\x47" + packet[1:2] + size + packet[4:10] + bytes(2) + packet[12:20] + b"\x01" * 8
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + packet[20:]


def behind_options6(source: str, to: str, protocol: int, body: bytes) -> bytes:
    """An IPv6 packet with a header of destination options before ``body``."""
    return ipv6(source, to, 60, bytes((protocol, 0, 1, 4, 0, 0, 0, 0)) + body)


def fragment4(packet: bytes) -> bytes:
    head = packet[:6] + b"\x20\x00" + packet[8:10] + bytes(2) + packet[12:20]
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + packet[20:]


def to_guest(air: Air, cookie: bytes) -> dict[str, Frame]:
    """Frames for the other guest, of kinds whose senders are looked at."""
    s, data = air.scene, cookie + bytes(24)
    own4, own6, to4, to6 = s.ipv4, s.ipv6, s.other4, s.other6

    def over4(packet: bytes, at: int, start: int = 34) -> Frame:
        return Frame(bare(s.mac, s.other_mac, IP4, packet), start + at if at else 0, start)

    def over6(packet: bytes, at: int, start: int = 54) -> Frame:
        return Frame(bare(s.mac, s.other_mac, IP6, packet), start + at if at else 0, start)

    told = neighbour(136, own6, cookie)
    echo = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + data
    echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
    return {
        "arp": Frame(bare(s.mac, s.other_mac, 0x0806, arp(1, s.mac, own4, to4) + data)),
        "tcp4": over4(ipv4(own4, to4, TCP, tcp(own4, to4, data)), 16),
        "udp4": over4(ipv4(own4, to4, UDP, udp(own4, to4, data)), 6),
        "udp4, options": over4(options4(ipv4(own4, to4, UDP, udp(own4, to4, data))), 6, 42),
        "icmp": over4(ipv4(own4, to4, ICMP, echo), 0),
        "fragment": over4(fragment4(ipv4(own4, to4, UDP, udp(own4, to4, data))), 0),
        "tcp6": over6(ipv6(own6, to6, TCP, tcp(own6, to6, data)), 16),
        "udp6": over6(ipv6(own6, to6, UDP, udp(own6, to6, data)), 6),
        "udp6, options": over6(behind_options6(own6, to6, UDP, udp(own6, to6, data)), 6, 62),
        "advertisement": over6(ipv6(own6, to6, ICMP6, icmp6(own6, to6, told)), 0),
        "sctp": over6(ipv6(own6, to6, 132, bytes(12) + data), 0),
    }  # fmt: skip


def to_world(air: Air, cookie: bytes) -> dict[str, Frame]:
    """Frames that the host routes."""
    s, data = air.scene, cookie + bytes(24)
    four = ipv4(s.ipv4, lab.WORLD4, UDP, udp(s.ipv4, lab.WORLD4, data))
    six = ipv6(s.ipv6, lab.WORLD6, TCP, tcp(s.ipv6, lab.WORLD6, data))
    return {
        "udp4": Frame(bare(s.mac, s.host_mac, IP4, four), 40, 34),
        "tcp6": Frame(bare(s.mac, s.host_mac, IP6, six), 70, 54),
    }


def header(place: int, start: int, kind: int = 0, size: int = 0, head: int = 0) -> bytes:
    """struct virtio_net_hdr that asks for a checksum."""
    return struct.pack("=BBHHHH", 1, kind, head, size, start, place - start)


def written(sent: bytes, came: bytes, where: str) -> bool:
    """Whether what came is another frame than was sent; routing changes MACs, hops and sums."""
    if where != "world":
        return sent != came
    four = sent[12:14] == b"\x08\x00"
    kept = [slice(26, 38)] if four else [slice(18, 21), slice(22, 58)]
    return any(sent[part] != came[part] for part in kept)


def changed(air: Air, where: str) -> tuple[int, list[str]]:
    """How many frames were sent, and which came out changed before their own checksum."""
    make = to_world if where == "world" else to_guest
    tries, through = 0, []
    waiting: dict[bytes, tuple[str, bytes, int]] = {}

    def look() -> None:
        for at, frame in air.wait():
            for cookie, (name, sent, end) in waiting.items():
                if at == where and cookie in frame and written(sent[:end], frame[:end], where):
                    through.append(name)
        waiting.clear()

    sign = b"a cookie"
    for kind, whole in make(air, sign).items():
        end = whole.place or whole.raw.index(sign)  # a frame without a checksum: its whole head
        for start in (FIRST, None):
            for place in range(FIRST, end):
                cookie = os.urandom(8)
                one = make(air, cookie)[kind]
                begin = place if start is None else start
                os.write(air.own, header(place, begin) + one.raw)
                waiting[cookie] = (f"{kind}: {place} from {begin}", one.raw, end)
                tries += 1
                if len(waiting) >= 60:
                    look()
    look()
    return tries, through


def test_nothing_is_written_into_what_was_checked(air: Air) -> None:
    for where in ("guest", "world"):
        tries, through = changed(air, where)
        lab.tell(where=where, tries=tries, through=len(through))
        assert not through, f"{len(through)} of {tries}: {through[:20]}"


def own(air: Air, frame: bytes) -> bytes:
    """What of a frame shows its owner: all of ARP and ND, the addresses and ports of the rest."""
    kind, protocol = frame[12:14], frame[20]
    if kind == b"\x08\x00":
        head = 14 + 4 * (frame[14] & 15)
        return (
            frame[6:14] + frame[26:34] + (frame[head : head + 4] if frame[23] in (6, 17) else b"")
        )
    if kind == b"\x86\xdd" and protocol != ICMP6:
        return frame[6:14] + frame[22:54]
    return frame


def test_nor_into_what_is_cut_up(air: Air) -> None:
    """Frames that are to be cut up (GSO), with and without a checksum, at the other guest."""
    sign, tries, through = b"a cookie", 0, []
    for kind in (GSO_TCP4, 3, GSO_TCP6, GSO_UDP_L4, GSO_TCP4 | 0x80):
        waiting: dict[bytes, tuple[str, bytes]] = {}
        for name, whole in to_guest(air, sign).items():
            end = whole.place or whole.raw.index(sign)
            for place in (0, *range(FIRST, end, 3), end - 1, end - 2):
                cookie = os.urandom(8)
                one = to_guest(air, cookie)[name]
                head = (
                    header(place, FIRST, kind, 12) if place else b"\0" + header(0, 0, kind, 12)[1:]
                )
                try:
                    os.write(air.own, head + one.raw)
                except OSError as refused:  # the kernel sees that they do not fit
                    assert refused.errno == errno.EINVAL
                waiting[cookie] = (f"{name}: {place}, cut as {kind}", one.raw)
                tries += 1
        for at, frame in air.wait():
            for cookie, (what, sent) in waiting.items():
                if at == "guest" and cookie in frame and own(air, frame) != own(air, sent):
                    through.append(what)
    lab.tell(tries=tries, through=len(through))
    assert not through, f"{len(through)} of {tries}: {through[:20]}"


def right(frame: bytes) -> bool:
    """Whether the checksum of TCP or UDP over IPv4 or IPv6 is that of its bytes."""
    if frame[12:14] == b"\x08\x00":
        size, head, protocol = frame[16:18], 14 + 4 * (frame[14] & 15), frame[23]
        body, ends = frame[head : 14 + int.from_bytes(size, "big")], frame[26:34]
    else:
        protocol, head, ends = frame[20], 54, frame[22:54]
        end = 54 + int.from_bytes(frame[18:20], "big")
        if protocol == 60:
            protocol, head = frame[54], 62
        body = frame[head:end]
    return checksum(ends + struct.pack(">II", len(body), protocol) + body) == 0


def lost(air: Air, where: str) -> list[str]:
    """What was asked for in its place and did not come, or came without its checksum."""
    make = to_world if where == "world" else to_guest
    cookies = {name: os.urandom(8) for name, one in make(air, bytes(8)).items() if one.place}
    for name, cookie in cookies.items():
        one = make(air, cookie)[name]
        os.write(air.own, header(one.place, one.start) + one.raw)
    came = [frame for at, frame in air.wait() if at == where]
    return [
        name
        for name, cookie in cookies.items()
        if not any(cookie in frame and right(frame) for frame in came)
    ]


def cut_up(air: Air, name: str) -> bool:
    """Whether a large frame of TCP or UDP (TSO, USO) comes in pieces, each with its checksum."""
    s, text = air.scene, b"".join(os.urandom(1400) for _ in range(20))
    six, udp_ = name.endswith("6"), name.startswith("udp")
    ends = (s.ipv6, s.other6) if six else (s.ipv4, s.other4)
    body = (udp if udp_ else tcp)(*ends, text)
    packet = (ipv6 if six else ipv4)(*ends, UDP if udp_ else TCP, body)
    start = 54 if six else 34
    kind = GSO_UDP_L4 if udp_ else GSO_TCP6 if six else GSO_TCP4
    place, head = start + (6 if udp_ else 16), start + (8 if udp_ else 20)
    frame = bare(s.mac, s.other_mac, IP6 if six else IP4, packet)
    os.write(air.own, header(place, start, kind, 1400, head) + frame)
    pieces = [f for at, f in air.wait() if at == "guest" and len(f) >= 1400]
    return b"".join(f[head:] for f in pieces) == text and all(right(f) for f in pieces)


def test_what_a_guest_asks_for_rightly_arrives(air: Air) -> None:
    """TCP and UDP, both families, with options, small and large."""
    assert (lost(air, "guest"), lost(air, "world")) == ([], [])
    assert [name for name in ("tcp4", "tcp6", "udp4", "udp6") if not cut_up(air, name)] == []


def filters(device: str) -> list[str]:
    """The eBPF programs at the ingress of a device, as tc shows them."""
    shown = lab.run("tc", "filter", "show", "dev", device, "ingress")
    return [line for line in shown.splitlines() if "hvtx-sums" in line]


def test_without_it_doctor_tells_and_repair_puts_it_back(air: Air, hvtx: Program) -> None:
    device = air.one.device
    (there,) = filters(device)
    handle = ("ingress", "pref", str(0x6876), "handle", hex(0x68767479), "bpf")
    for harm in ("gone", "another"):
        lab.run("tc", "filter", "del", "dev", device, *handle)
        if harm == "another":
            lab.run("tc", "filter", "add", "dev", device, *handle, "da", "bytecode", "1,6 0 0 0")
        told = hvtx("doctor", "--json", code=None).json()["findings"]
        words = [f["message"] for f in told if f["check"] == "damage" and f["level"] == "error"]
        assert any("no host writes into checked parts" in str(f) for f in told), words
        hvtx("repair")
        assert [line.split("tag")[1].split()[0] for line in filters(device)] == [
            there.split("tag")[1].split()[0]
        ]
        assert "no host writes" not in hvtx("doctor", "--json", code=None).out
    assert hvtx("repair", "--json").json()["repaired"] == []


def test_where_the_kernel_has_none_a_start_goes_on(
    hvtx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` warns, and is content when `repair` could put it there under a VM that runs."""

    def told(check: str) -> list[tuple[str, list[str]]]:
        found = hvtx("doctor", "--json", code=None).json()["findings"]
        return [(f["level"], f["evidence"]) for f in found if f["check"] == check]

    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24")
    hvtx("vm", "create", "one", "--network", "net", "--hypervisor", "external")
    with checksum_filter.program(), monkeypatch.context() as without:
        without.setattr(checksum_filter, "_kept", [])  # children inherit what this process keeps
        without.setattr("hvtx.host.bpf._SYSCALLS", {})  # a machine whose number is not known
        hvtx("vm", "start", "one")
        device = hvtx.vm("one")["interfaces"][0]["device"]
        assert filters(device) == []
        assert "bpf" in lab.run("tc", "filter", "show", "dev", device, "ingress")
        assert told("checksums") == [("warning", [f"{device} has none"])]
        assert [level for level, _ in told("damage")] == ["ok"]
        assert hvtx("repair", "--json").json()["repaired"] == []
    assert told("checksums") == [("ok", [])]
    assert [level for level, _ in told("damage")] == ["error"]
    hvtx("repair")
    assert (len(filters(device)), [level for level, _ in told("damage")]) == (1, ["ok"])
    hvtx("vm", "stop", "one")
    assert hvtx.is_clean()
