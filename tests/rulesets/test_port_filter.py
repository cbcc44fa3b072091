"""The filter of a TAP, run as the kernel runs it: what passes, what is dropped, what is too short."""

from __future__ import annotations

import operator
import socket
import struct
from collections.abc import Callable

import pytest

from hvtx.rulesets.bridge_filter import SEEN, bridge_program
from hvtx.rulesets.port_filter import port_program

PASS, DROP = 0xFFFFFFFF, 2
MAC, BRIDGE = "02:00:00:00:00:05", "02:aa:bb:cc:dd:ee"
GUARD = {
    "mac": MAC, "ipv4": "10.77.0.5", "ipv6": "fd77::5", "gateway6": "fe80::1", "apart": None,
}  # fmt: skip
APART = {**GUARD, "apart": {"bridge": BRIDGE, "addresses": ["10.77.0.1/24", "fd77::1/64"]}}


_ARITHMETIC: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add, 0x10: operator.sub, 0x60: operator.lshift, 0x50: operator.and_,
}  # fmt: skip


def run(program: bytes, frame: bytes, *, mark: int = 0, tag: int = 0) -> int:
    """A classic BPF machine, as far as the programs need it; a load past the end answers 0."""
    a = x = at = 0
    memory: dict[int, int] = {}
    sizes = {0x00: 4, 0x08: 2, 0x10: 1}
    for _ in range(4096):
        code, true, false, k = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        kind, mode, size = code & 7, code & 0xE0, sizes.get(code & 0x18, 4)
        if kind == 6:
            return k
        if kind == 0 and mode in (0x20, 0x40):
            if k >= 0xFFFFF000:
                a = {0xFFFFF000 + 48: tag, 0xFFFFF000 + 20: mark}[k]
                continue
            start = k + (x if mode == 0x40 else 0)
            if start + size > len(frame):
                return 0
            a = int.from_bytes(frame[start : start + size], "big")
        elif code == 0xB1:
            x = 4 * (frame[k] & 15)
        elif kind == 0:
            a = {0x80: len(frame), 0x60: memory.get(k, 0), 0x00: k}[mode]
        elif code == 0x01:
            x = k
        elif code == 0x02:
            memory[k] = a
        elif code == 0x07:
            x = a
        elif code == 0x87:
            a = x
        elif kind == 4:
            by = x if code & 8 else k
            a = _ARITHMETIC[code & 0xF0](a, by) & 0xFFFFFFFF
        else:
            assert kind == 5, code
            if code == 0x05:
                at += k
                continue
            holds = {0x10: a == k, 0x30: a >= k, 0x40: bool(a & k)}[code & 0xF0]
            at += true if holds else false
    raise AssertionError("no end")


def frame(kind: int, packet: bytes, *, source: str = MAC, target: str = BRIDGE) -> bytes:
    macs = bytes.fromhex((target + source).replace(":", ""))
    return macs + struct.pack(">H", kind) + packet


def ip4(
    source: str, target: str, ports: tuple[int, int] = (7, 8), body: bytes = b"", *, at: int = 0
) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(body), 0, at, 64, 17, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return frame(0x0800, head + addresses + struct.pack(">HHHH", *ports, 8, 0) + body)


def igmp(kind: int, *, at: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBHI", 0x46, 0, 32, 0, at, 1, 2, 0, 0)[:12]
    addresses = socket.inet_aton("10.77.0.5") + socket.inet_aton("224.0.0.1")
    return frame(0x0800, head + addresses + bytes((0x94, 4, 0, 0, kind, 0, 0, 0)) + bytes(4))


def bootp(mac: str, relay: str = "0.0.0.0") -> bytes:
    ends = bytes(21) + socket.inet_aton(relay) + bytes.fromhex(mac.replace(":", ""))
    return b"\1\1\6" + ends + bytes(202)


def ip6(source: str, target: str, following: int, body: bytes, *before: int) -> bytes:
    """``before``: extension headers of eight bytes in front, by number."""
    chain = [*before, following]
    for number, inside in reversed(list(zip(before, chain[1:], strict=True))):
        body = bytes((inside, 0)) + (b"\0\1" if number == 44 else bytes(2)) + bytes(4) + body
    head = struct.pack(">IHBB", 6 << 28, len(body), chain[0], 255)
    packed = (socket.inet_pton(socket.AF_INET6, a) for a in (source, target))
    return frame(0x86DD, head + b"".join(packed) + body)


def icmp6(kind: int, target: str = "::") -> bytes:
    return bytes((kind, 0)) + bytes(6) + socket.inet_pton(socket.AF_INET6, target)


UDP = struct.pack(">HHHH", 7, 8, 8, 0)
GOOD = {
    "own": ip4("10.77.0.5", "10.77.0.1"),
    "a later fragment": ip4("10.77.0.5", "10.77.0.1", (67, 68), at=8),
    "dhcp": ip4("0.0.0.0", "255.255.255.255", (68, 67), bootp(MAC)),
    "dhcp with its address": ip4("10.77.0.5", "10.77.0.1", (68, 67), bootp(MAC)),
    "dhcp6": ip6("fe80::9", "ff02::1:2", 17, struct.pack(">HHHHI", 546, 547, 12, 0, 1 << 24)),
    "own6": ip6("fd77::5", "fd77::1", 17, UDP),
    "a link-local": ip6("fe80::9", "ff02::1", 17, UDP),
    "its own advertisement": ip6("fe80::9", "ff02::1", 58, icmp6(136, "fd77::5")),
    "duplicate detection": ip6("::", "ff02::1", 58, icmp6(135, "fd77::5")),
    "a report": ip6("::", "ff02::16", 58, icmp6(143), 0),
    "a report of igmp": igmp(0x16),
}
BAD = {
    "another MAC": frame(0x0800, GOOD["own"][14:], source="02:00:00:00:00:06"),
    "another address": ip4("10.77.0.6", "10.77.0.1"),
    "loopback": ip4("10.77.0.5", "127.0.0.1"),
    "from loopback": ip4("127.0.0.1", "10.77.0.1"),
    "a server of dhcp": ip4("10.77.0.5", "10.77.0.9", (67, 1068)),
    "an answer of dhcp": ip4("10.77.0.5", "10.77.0.9", (1067, 68)),
    "dhcp for another": ip4("0.0.0.0", "255.255.255.255", (68, 67), bootp("02:00:00:00:00:06")),
    "dhcp for another, with its address":
        ip4("10.77.0.5", "10.77.0.1", (68, 67), bootp("02:00:00:00:01:05")),
    "a relay of dhcp": ip4("10.77.0.5", "10.77.0.1", (68, 67), bootp(MAC, "10.77.0.5")),
    "a relay of dhcp without an address":
        ip4("0.0.0.0", "255.255.255.255", (68, 67), bootp(MAC, "10.77.0.9")),
    "dhcp in fragments": ip4("10.77.0.5", "10.77.0.1", (68, 67), at=0x2000),
    "a relay of dhcp6": ip6("fe80::9", "ff02::1:2", 17, struct.pack(">HHHHI", 546, 547, 12, 0, 12 << 24)),
    "dhcp6 in fragments": ip6("fe80::9", "ff02::1:2", 17, struct.pack(">HHHH", 546, 547, 12, 0), 44),
    "a query of igmp": igmp(0x11),
    "a query of igmp in fragments": igmp(0x16, at=1),
    "a cut off igmp": igmp(0x16)[:34],
    "a query of mld": ip6("fe80::9", "ff02::1", 58, icmp6(130), 0),
    "a query of mld behind options": ip6("fe80::9", "ff02::1", 58, icmp6(130), 0, 60),
    "nobody": ip4("0.0.0.0", "10.77.0.1"),
    "another of six": ip6("fd77::6", "fd77::1", 17, UDP),
    "the gateway's link-local": ip6("fe80::1", "ff02::1", 17, UDP),
    "a router": ip6("fe80::9", "ff02::1", 58, icmp6(134)),
    "another's advertisement": ip6("fe80::9", "ff02::1", 58, icmp6(136, "fd77::6")),
    "the gateway's": ip6("fe80::9", "ff02::1", 58, icmp6(136, "fe80::1")),
    "another's duplicate detection": ip6("::", "ff02::1", 58, icmp6(135, "fd77::6")),
    "nobody of six": ip6("::", "fd77::1", 17, UDP),
    "a server of dhcp6": ip6("fe80::9", "ff02::1", 17, struct.pack(">HHHH", 547, 9, 8, 0)),
    **{
        f"a router behind {'-'.join(map(str, headers))}":
            ip6("fe80::9", "ff02::1", 58, icmp6(134), *headers)
        for headers in ((0,), (60,), (43,), (44,), (0, 60), (60, 44, 60), (0, 43, 60, 60, 60, 60))
    },
    "another protocol": frame(0x8035, bytes(46)),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_is_its_own_passes(name: str) -> None:
    assert run(port_program(GUARD), GOOD[name]) == PASS
    assert run(port_program(GUARD), GOOD[name], tag=1) == DROP


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_is_dropped(name: str) -> None:
    assert run(port_program(GUARD), BAD[name]) == DROP


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_nothing_cut_short_ends_the_program_early(name: str) -> None:
    """A load past the end answers TC_ACT_OK, which would let it through."""
    program, whole = port_program(APART), {**GOOD, **BAD}[name]
    for length in range(len(whole) + 1):
        assert run(program, whole[:length]) in (PASS, DROP), length


def test_who_is_apart_reaches_the_host_alone() -> None:
    program = port_program(APART)
    assert run(program, GOOD["own"]) == PASS
    assert run(program, ip4("10.77.0.5", "198.51.100.7")) == PASS
    assert run(program, ip4("10.77.0.5", "10.77.0.6")) == DROP
    assert run(program, ip6("fd77::5", "fd77::6", 17, UDP)) == DROP
    assert run(program, ip6("fd77::5", "2001:db8::6", 17, UDP)) == PASS
    other = frame(0x0800, GOOD["own"][14:], target="02:00:00:00:00:06")
    assert (run(program, other), run(port_program(GUARD), other)) == (DROP, PASS)


def test_what_no_rule_has_seen_reaches_no_guest() -> None:
    program = bridge_program(["10.77.0.1", "fd77::1"])
    for packet in (ip4("203.0.113.2", "10.77.0.5"), ip6("2001:db8::2", "fd77::5", 17, UDP)):
        assert run(program, packet) == DROP
        assert run(program, packet, mark=SEEN | 5) == PASS
    for packet in (ip4("10.77.0.1", "10.77.0.5"), ip6("fd77::1", "fd77::5", 17, UDP),
                   ip6("fe80::1", "ff02::1", 58, icmp6(135)), ip6("::", "ff02::1", 58, icmp6(135)),
                   frame(0x0806, bytes(46))):  # fmt: skip
        assert run(program, packet) == PASS
