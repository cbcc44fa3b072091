"""The eBPF program of a TAP, run by a few lines of interpreter: what it lets pass, and what not."""

from __future__ import annotations

import operator
import socket
import struct
from collections.abc import Callable

import pytest

from hvtx.host import tap_filter_check
from hvtx.host.checksum_program import program

DROP, PASS = 2, -1
EINVAL = 22
MACS = bytes(range(12))
_WORD = (1 << 64) - 1
_CHANGES: dict[int, Callable[[int, int], int]] = {
    0xB7: lambda _, by: by, 0x07: operator.add, 0x57: operator.and_, 0x67: operator.lshift,
    0x77: operator.rshift,
}  # fmt: skip


class Skb:
    """A frame, and the place that it asks the host to write to (None: it does not ask)."""

    def __init__(self, raw: bytes, place: int | None) -> None:
        self.raw, self.place, self.cut = bytearray(raw), place, False

    def load(self, at: int, size: int) -> bytes | None:
        return bytes(self.raw[at : at + size]) if at + size <= len(self.raw) else None

    def replace(self, at: int, old: int, new: int, flags: int) -> int:
        assert (old, new, flags) == (0, 1, 2)
        if self.place is None:
            total = int.from_bytes(self.raw[at : at + 2], "little")
            self.raw[at : at + 2] = ((total - 1) % 0xFFFF).to_bytes(2, "little")
        return 0

    def change_tail(self, size: int) -> int:
        assert self.place is not None, "a frame that asks for nothing would be cut"
        if size < self.place + 2:
            return -EINVAL
        self.cut = True
        return 0


def run(skb: Skb) -> int:
    """The program's answer (net/core/filter.c: what the helpers do)."""
    registers, stack = [0] * 11, bytearray(512)
    registers[10] = 512
    code, at = program(), 0

    def jumps(kind: int, one: int, two: int) -> bool:
        return {0x05: True, 0x15: one == two, 0x1D: one == two, 0x55: one != two,
                0xA5: one < two, 0x25: one > two}[kind]  # fmt: skip

    for _ in range(1000):
        kind, which, offset, value = struct.unpack_from("=BBhi", code, 8 * at)
        to, source, wide = which & 15, which >> 4, value & _WORD
        at += 1
        if kind == 0x95:
            answer = registers[0]
            return answer - (1 << 64) if answer >> 63 else answer
        if kind == 0x85:
            _, two, three, four, five = registers[1:6]
            if value == 26:
                found = skb.load(two, four)
                if found is not None:
                    stack[three : three + four] = found
                registers[0] = 0 if found is not None else -14 & _WORD
            elif value == 11:
                registers[0] = skb.replace(two, three, four, five)
            elif value == 9:
                skb.raw[two : two + four] = stack[three : three + four]
                registers[0] = 0
            else:
                assert (value, three) == (38, 0)
                registers[0] = skb.change_tail(two) & _WORD
            registers[1:6] = [7 << 40] * 5  # a call leaves nothing there
        elif kind in (0x69, 0x71):
            size, place = (2, registers[source] + offset) if kind == 0x69 else (
                1, registers[source] + offset)  # fmt: skip
            registers[to] = int.from_bytes(stack[place : place + size], "little")
        elif kind & 7 == 5:
            if jumps(kind, registers[to], registers[source] if kind & 8 else wide):
                at += offset
        else:
            by = registers[source] if kind & 8 else wide
            registers[to] = _CHANGES[kind & ~8](registers[to], by) & _WORD
    raise AssertionError("it has no end")


def ip4(protocol: int, *, words: int = 5, fragment: int = 0, version: int = 4) -> bytes:
    head = struct.pack(">BBHHHBBH", version << 4 | words, 0, 0, 0, fragment, 64, protocol, 0)
    return MACS + b"\x08\x00" + head.ljust(4 * words, b"\x01") + bytes(40)


def ip6(protocol: int, *headers: tuple[int, int]) -> bytes:
    """An IPv6 packet; ``headers``: kind and length (in eights, less one) of each before it."""
    kinds = [kind for kind, _ in headers] + [protocol]
    raw = b"".join(
        bytes((kinds[n + 1], size)).ljust(8 * (size + 1), b"\0")
        for n, (_, size) in enumerate(headers)
    )
    head = struct.pack(">IHB", 6 << 28, 0, kinds[0]).ljust(40, b"\0")
    return MACS + b"\x86\xdd" + head + raw + bytes(40)


# frame, where its own checksum is
RIGHT = {
    "tcp4": (ip4(6), 50),
    "udp4": (ip4(17), 40),
    "udp4, options": (ip4(17, words=15), 80),
    "udp4, not to be cut": (ip4(17, fragment=0x4000), 40),
    "tcp6": (ip6(6), 70),
    "udp6": (ip6(17), 60),
    "udp6, options": (ip6(17, (0, 0), (60, 2), (43, 0)), 100),
    "tcp6, as many headers as are read": (ip6(6, *[(60, 0)] * 5), 110),
}
WRONG = {
    "arp": MACS + b"\x08\x06" + bytes(60),
    "no kind": MACS,
    "vlan": MACS + b"\x81\x00" + bytes(60),
    "icmp": ip4(1),
    "sctp": ip4(132),
    "first fragment": ip4(17, fragment=0x2000),
    "later fragment": ip4(17, fragment=1),
    "a header too short": ip4(17, words=4),
    "another version": ip4(17, version=6),
    "half a header": ip4(17)[:30],
    "icmp6": ip6(58),
    "fragment6": ip6(17, (44, 0)),
    "icmp6 behind options": ip6(58, (0, 0)),
    "more headers than are read": ip6(6, *[(60, 0)] * 6),
    "headers too long": ip6(6, *[(60, 31)] * 3),
    "headers without an end": ip6(6, (60, 0))[:55],
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_checksum_in_its_place_or_behind_passes(name: str) -> None:
    raw, place = RIGHT[name]
    for at in (place, place + 1, place + 8):
        skb = Skb(raw, at)
        assert (run(skb), bytes(skb.raw), skb.cut) == (PASS, raw, False)


@pytest.mark.parametrize("name", RIGHT)
def test_no_place_before_it_passes(name: str) -> None:
    raw, place = RIGHT[name]
    assert {run(Skb(raw, at)) for at in range(20, place)} == {DROP}


@pytest.mark.parametrize("name", WRONG)
def test_all_else_that_asks_is_dropped(name: str) -> None:
    assert {run(Skb(WRONG[name], at)) for at in range(20, 120)} == {DROP}


@pytest.mark.parametrize("start", [b"\0\0", b"\xff\xff", b"\0\1", b"\1\0", b"\x02\0"])
def test_what_asks_for_nothing_passes_as_it_was(start: bytes) -> None:
    """For the rules and the other filter to decide, with each receiver that there can be."""
    for raw in (*(raw for raw, _ in RIGHT.values()), *WRONG.values()):
        skb = Skb(start + raw[2:], None)
        assert (run(skb), bytes(skb.raw)) == (PASS, start + raw[2:])


def test_the_tags_are_of_the_program() -> None:
    assert [len(tag) for tag in tap_filter_check.tags()] == [8, 8]
    assert len(program()) % 8 == 0
    assert socket.htons(0x0800).to_bytes(2, "little") in program()
