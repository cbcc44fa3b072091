"""The filter on a TAP that holds a guest to its own addresses when all rules are flushed. Pure.

It is a classic BPF program at the ingress of the device (tc, ``clsact``), so it is neither of
nftables nor of iptables, and goes with the device. It says again, in short, what the ``guard``
chains of :mod:`hvtx.host.nftlayout` say, and lets nothing through less than they do. What it cannot
know without a set (another guest's fe80, how many of them) it leaves to them.

The kernel runs it on the whole frame (``skb`` is pushed back to its Ethernet header); a tag of a
VLAN is already taken off, and seen only beside the frame. A load past the end ends the program with
0, which is TC_ACT_OK here: so each length is asked for before. Sources: net/sched/cls_bpf.c,
net/core/filter.c; include/uapi/linux/{filter,bpf_common,pkt_cls}.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from hvtx.host.inet import packed

_LDW, _LDH, _LDB = 0x20, 0x28, 0x30  # absolute
_LDW_X, _LDH_X, _LDB_X = 0x40, 0x48, 0x50  # relative to X
_LEN, _MEM, _ST, _LDX, _MSH, _TAX, _TXA = 0x80, 0x60, 0x02, 0x01, 0xB1, 0x07, 0x87
_ADD, _ADD_X, _SUB_X, _SHIFT, _AND = 0x04, 0x0C, 0x1C, 0x64, 0x54
_JA, _JEQ, _JGE, _JGE_X, _JSET, _RET = 0x05, 0x15, 0x35, 0x3D, 0x45, 0x06
_VLAN, _MARK = 0xFFFFF000 + 48, 0xFFFFF000 + 20  # SKF_AD_VLAN_TAG_PRESENT, SKF_AD_MARK
_DROP, _PASS = 2, 0xFFFFFFFF  # TC_ACT_SHOT; TC_ACT_UNSPEC: the next filter, if there is one
_IP, _HEADERS = 14, 5  # where the packet begins in a frame; so many extension headers are read
_NEXT, _NOBODY, _TYPE = 0, 1, 2  # scratch memory
_ARP, _IP4, _IP6 = 0x0806, 0x0800, 0x86DD
SEEN = 0x10000000  # the bit of a packet's mark that says that our rules let it through to a bridge

Step = tuple[int, int, str, str] | str  # code, k, labels if true and if false; or a label


def _words(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(raw) // 4}I", raw)


class _Program:
    """Steps with labels; a label is used only ahead of where it stands."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._labels = 0

    def label(self) -> str:
        self._labels += 1
        return f"_{self._labels}"

    def add(self, code: int, k: int = 0, true: str = "", false: str = "") -> None:
        self.steps.append((code, k, true, false))

    def at(self, label: str) -> None:
        self.steps.append(label)

    def drop(self) -> None:
        self.add(_RET, _DROP)

    def let_pass(self) -> None:
        self.add(_RET, _PASS)

    def go(self, label: str) -> None:
        self.add(_JA, 0, label)

    def need(self, code: int, k: int) -> None:
        """Drop unless the comparison holds."""
        on = self.label()
        self.add(code, k, on)
        self.drop()
        self.at(on)

    def refuse(self, code: int, k: int) -> None:
        """Drop if the comparison holds."""
        on = self.label()
        self.add(code, k, "", on)
        self.drop()
        self.at(on)

    def room(self, size: int, *, behind: bool = False) -> None:
        """Drop what is shorter than ``size``, or (``behind``) has no ``size`` bytes from X on."""
        self.add(_LEN)
        if behind:
            self.need(_JGE_X, 0)  # or the difference would be a great number
            self.add(_SUB_X)
        self.need(_JGE, size)

    def unless_equal(self, load: int, at: int, raw: bytes, other: str) -> None:
        """Go on if these bytes (a multiple of 4) stand at ``at``, else to ``other``."""
        for number, word in enumerate(_words(raw)):
            self.add(load, at + 4 * number)
            self.add(_JEQ, word, "", other)

    def bytes(self) -> bytes:
        """The program as ``struct sock_filter[]``."""
        places: dict[str, int] = {}
        number = 0
        for step in self.steps:
            if isinstance(step, str):
                places[step] = number
            else:
                number += 1
        found: list[bytes] = []
        for step in self.steps:
            if isinstance(step, str):
                continue
            code, k, true, false = step
            here = len(found) + 1
            if code == _JA:
                found.append(struct.pack("=HBBI", code, 0, 0, places[true] - here))
                continue
            jumps = [places[label] - here if label else 0 for label in (true, false)]
            found.append(struct.pack("=HBBI", code, *jumps, k))
        return b"".join(found)


def port_program(guard: Mapping[str, Any]) -> bytes:
    """The program for a TAP.

    ``guard`` holds ``mac``, ``ipv4``, ``ipv6``, ``gateway6`` (or None) and, for a guest that is
    kept apart from others, ``apart``: ``{"bridge": MAC, "addresses": […]}`` of the host there.
    """
    program = _Program()
    program.room(_IP)
    program.add(_LDB, _VLAN)
    program.need(_JEQ, 0)
    mac = bytes.fromhex(guard["mac"].replace(":", ""))
    _need_mac(program, 6, mac)
    if guard.get("apart"):
        _to_bridge_only(program, bytes.fromhex(guard["apart"]["bridge"].replace(":", "")))
    for kind, block in ((_ARP, _arp), (_IP4, _ip4), (_IP6, _ip6)):
        inside, behind = program.label(), program.label()
        program.add(_LDH, 12)
        program.add(_JEQ, kind, inside)
        program.go(behind)
        program.at(inside)
        block(program, guard)
        program.at(behind)
    program.drop()
    return program.bytes()


def _need_mac(program: _Program, at: int, mac: bytes) -> None:
    program.add(_LDW, at)
    program.need(_JEQ, int.from_bytes(mac[:4], "big"))
    program.add(_LDH, at + 4)
    program.need(_JEQ, int.from_bytes(mac[4:], "big"))


def _to_bridge_only(program: _Program, bridge: bytes) -> None:
    """Frames to one receiver go to the host; those to many are held by flags of the ports."""
    on = program.label()
    program.add(_LDB, 0)
    program.add(_JSET, 1, on)
    _need_mac(program, 0, bridge)
    program.at(on)


def _arp(program: _Program, guard: Mapping[str, Any]) -> None:
    program.room(_IP + 28)
    program.add(_LDW, _IP)
    program.need(_JEQ, 0x00010800)
    program.add(_LDH, _IP + 4)
    program.need(_JEQ, 0x0604)
    _need_mac(program, _IP + 8, bytes.fromhex(guard["mac"].replace(":", "")))
    if guard.get("ipv4"):
        own, probe = packed(guard["ipv4"]), program.label()
        program.unless_equal(_LDW, _IP + 14, own, probe)
        program.let_pass()
        program.at(probe)
        program.add(_LDW, _IP + 14)
        program.need(_JEQ, 0)
        program.add(_LDH, _IP + 6)
        program.need(_JEQ, 1)
        program.add(_LDW, _IP + 24)
        program.need(_JEQ, int.from_bytes(own, "big"))
        program.let_pass()
    program.drop()


def _apart(guard: Mapping[str, Any], size: int) -> Iterable[tuple[bytes, bytes]]:
    """The host's addresses (of ``size`` bytes) in the networks whose guests are kept apart."""
    for address in (guard.get("apart") or {"addresses": ()})["addresses"]:
        host, _, length = address.partition("/")
        raw, bits = packed(host), int(length)
        if len(raw) == size:
            yield raw, ((1 << 8 * size) - (1 << 8 * size - bits)).to_bytes(size, "big")


def _keep_apart(program: _Program, guard: Mapping[str, Any], size: int, at: int) -> None:
    """What is for the subnet goes to the host in it only, as it would route the rest back."""
    for gateway, mask in _apart(guard, size):
        on, closed = program.label(), program.label()
        for number, (part, bits) in enumerate(zip(_words(gateway), _words(mask), strict=True)):
            if bits:
                program.add(_LDW, at + 4 * number)
                program.add(_AND, bits)
                program.add(_JEQ, part & bits, "", on)
        program.unless_equal(_LDW, at, gateway, closed)
        program.go(on)
        program.at(closed)
        program.drop()
        program.at(on)


def _ip4(program: _Program, guard: Mapping[str, Any]) -> None:
    program.room(_IP + 20)
    program.add(_LDW, _IP + 16)
    program.add(_AND, 0xFF000000)
    program.refuse(_JEQ, 0x7F000000)
    source, nobody, first = program.label(), program.label(), program.label()
    program.add(_LDB, _IP + 9)
    program.add(_JEQ, socket.IPPROTO_UDP, "", source)
    program.add(_LDH, _IP + 6)
    program.add(_JSET, 0x1FFF, source, first)
    program.at(first)
    program.add(_MSH, _IP)
    program.room(_IP + 4, behind=True)
    program.add(_LDH_X, _IP)
    program.refuse(_JEQ, 67)
    program.add(_LDH_X, _IP + 2)
    program.refuse(_JEQ, 68)
    program.at(source)
    if guard.get("ipv4"):
        program.unless_equal(_LDW, _IP + 12, packed(guard["ipv4"]), nobody)
        _keep_apart(program, guard, 4, _IP + 16)
        program.let_pass()
    program.at(nobody)  # asking for an address
    for load, at, wanted in (
        (_LDW, _IP + 12, 0), (_LDW, _IP + 16, 0xFFFFFFFF), (_LDB, _IP + 9, socket.IPPROTO_UDP),
    ):  # fmt: skip
        program.add(load, at)
        program.need(_JEQ, wanted)
    program.add(_LDH, _IP + 6)
    program.refuse(_JSET, 0x1FFF)
    program.add(_MSH, _IP)
    program.room(_IP + 4, behind=True)
    program.add(_LDW_X, _IP)
    program.need(_JEQ, 68 << 16 | 67)
    program.let_pass()


def _ip6(program: _Program, guard: Mapping[str, Any]) -> None:
    program.room(_IP + 40)
    _keep_apart(program, guard, 16, _IP + 24)
    start = program.label()
    nobody = _own6(program, guard, _LDW, _IP + 8, start)
    program.at(nobody)
    for number in range(4):
        program.add(_LDW, _IP + 8 + 4 * number)
        program.need(_JEQ, 0)
    headers = program.label()
    program.add(0, 1)  # A = 1
    program.add(_ST, _NOBODY)
    program.go(headers)
    program.at(start)
    program.add(0, 0)
    program.add(_ST, _NOBODY)
    program.at(headers)
    _headers6(program, guard)


def _own6(program: _Program, guard: Mapping[str, Any], load: int, at: int, good: str) -> str:
    """To ``good`` if an own address, or a link-local but the gateway's, stands there.

    Returns the label of what to do with others; it is to be set right behind.
    """
    other, link, not_gateway = program.label(), program.label(), program.label()
    if guard.get("ipv6"):
        program.unless_equal(load, at, packed(guard["ipv6"]), link)
        program.go(good)
    program.at(link)
    program.add(load, at)
    program.add(_AND, 0xFFC00000)
    program.add(_JEQ, 0xFE800000, "", other)
    if guard.get("gateway6"):
        program.unless_equal(load, at, packed(guard["gateway6"]), not_gateway)
        program.drop()
    program.at(not_gateway)
    program.go(good)
    return other


def _headers6(program: _Program, guard: Mapping[str, Any]) -> None:
    """Read extension headers up to the upper one; X is where it begins behind the Ethernet one."""
    icmp, udp, other = program.label(), program.label(), program.label()
    program.add(_LDB, _IP + 6)
    program.add(_ST, _NEXT)
    program.add(_LDX, 40)
    for _ in range(_HEADERS):
        fragment, option, hidden, after, last = (program.label() for _ in range(5))
        for number, label in ((58, icmp), (17, udp)):
            on = program.label()
            program.add(_MEM, _NEXT)
            program.add(_JEQ, number, "", on)
            program.go(label)
            program.at(on)
        program.add(_JEQ, 44, fragment)
        for number in (0, 43, 60):
            program.add(_JEQ, number, option)
        program.add(_JEQ, 51, hidden)
        program.at(last)
        program.go(other)
        program.at(hidden)  # behind an authentication header: TCP and ESP only
        program.room(_IP + 8, behind=True)
        program.add(_LDB_X, _IP)
        tcp = program.label()
        program.add(_JEQ, 6, tcp)
        program.need(_JEQ, 50)
        program.at(tcp)
        program.go(other)
        program.at(option)
        program.room(_IP + 8, behind=True)
        program.add(_LDB_X, _IP)
        program.add(_ST, _NEXT)
        program.add(_LDB_X, _IP + 1)
        program.add(_ADD, 1)
        program.add(_SHIFT, 3)
        program.add(_ADD_X)
        program.add(_TAX)
        program.go(after)
        program.at(fragment)
        program.room(_IP + 8, behind=True)
        program.add(_LDH_X, _IP + 2)
        whole = program.label()
        program.add(_JSET, 0xFFF8, "", whole)
        program.go(other)
        program.at(whole)
        program.add(_LDB_X, _IP)
        program.add(_ST, _NEXT)
        program.add(_TXA)
        program.add(_ADD, 8)
        program.add(_TAX)
        program.at(after)
    program.drop()
    _upper6(program, guard, icmp, udp, other)


def _upper6(program: _Program, guard: Mapping[str, Any], icmp: str, udp: str, other: str) -> None:
    program.at(icmp)
    program.room(_IP + 4, behind=True)
    program.add(_LDB_X, _IP)
    program.add(_ST, _TYPE)
    target, nobody, good = program.label(), program.label(), program.label()
    program.add(_MEM, _NOBODY)
    program.add(_JEQ, 1, nobody)
    program.add(_MEM, _TYPE)
    program.refuse(_JEQ, 134)
    mac = bytes.fromhex(guard["mac"].replace(":", ""))
    for kind, at, option in ((133, 8, 1), (135, 24, 1), (136, 24, 2)):
        another = program.label()
        program.add(_MEM, _TYPE)
        program.add(_JEQ, kind, "", another)
        _own_link(program, mac, at, option)
        program.at(another)
    program.add(_MEM, _TYPE)
    program.add(_JEQ, 136, target)
    program.let_pass()
    program.at(nobody)
    program.add(_MEM, _TYPE)
    for report in (131, 132, 143):
        program.add(_JEQ, report, good)
    program.need(_JEQ, 135)
    program.at(target)
    program.room(_IP + 24, behind=True)
    program.at(_own6(program, guard, _LDW_X, _IP + 8, good))
    program.drop()
    program.at(good)
    program.let_pass()
    program.at(udp)
    program.room(_IP + 4, behind=True)
    program.add(_LDH_X, _IP)
    program.refuse(_JEQ, 547)
    program.add(_LDH_X, _IP + 2)
    program.refuse(_JEQ, 546)
    program.at(other)
    program.add(_MEM, _NOBODY)
    program.refuse(_JEQ, 1)
    program.let_pass()


def _own_link(program: _Program, mac: bytes, at: int, option: int) -> None:
    """Drop unless the first option of a message is its sender's link-layer address, or none is."""
    none = program.label()
    program.add(_LEN)
    program.add(_SUB_X)
    program.add(_JGE, _IP + at + 8, "", none)
    program.add(_LDB_X, _IP + at)
    program.need(_JEQ, option)
    program.add(_LDW_X, _IP + at + 2)
    program.need(_JEQ, int.from_bytes(mac[:4], "big"))
    program.add(_LDH_X, _IP + at + 6)
    program.need(_JEQ, int.from_bytes(mac[4:], "big"))
    program.at(none)


def bridge_program(gateways: Iterable[str]) -> bytes:
    """The program for the egress of a bridge with NAT: what is routed to it must carry SEEN.

    Rules of ours give it to what they let through, so without them nothing from elsewhere reaches
    guests. What the host sends with its own address on the bridge, or a link-local one, passes.
    """
    program = _Program()
    own = [packed(gateway) for gateway in gateways]
    for kind, size, at in ((_IP4, 20, 12), (_IP6, 40, 8)):
        inside, behind = program.label(), program.label()
        program.room(_IP)
        program.add(_LDH, 12)
        program.add(_JEQ, kind, inside)
        program.go(behind)
        program.at(inside)
        program.room(_IP + size)
        program.add(_LDW, _MARK)
        unseen = program.label()
        program.add(_JSET, SEEN, "", unseen)
        program.let_pass()
        program.at(unseen)
        _from_host(program, [raw for raw in own if len(raw) == (4 if size == 20 else 16)], at)
        program.drop()
        program.at(behind)
    program.let_pass()
    return program.bytes()


def _from_host(program: _Program, own: list[bytes], at: int) -> None:
    for raw in own:
        other = program.label()
        program.unless_equal(_LDW, _IP + at, raw, other)
        program.let_pass()
        program.at(other)
    if at == 8:  # IPv6: link-local, or none yet
        other = program.label()
        program.add(_LDW, _IP + at)
        program.add(_AND, 0xFFC00000)
        program.add(_JEQ, 0xFE800000, "", other)
        program.let_pass()
        program.at(other)
        other = program.label()
        program.unless_equal(_LDW, _IP + at, bytes(16), other)
        program.let_pass()
        program.at(other)
