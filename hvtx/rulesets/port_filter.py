"""The filter on a TAP that holds a guest to its own addresses when all rules are flushed. Pure.

It is a classic BPF program at the ingress of the device (tc, ``clsact``), so it is neither of
nftables nor of iptables, and goes with the device. It says again, in short, what the ``guard``
chains of :mod:`nftables_bridge` say, and lets nothing through less than they do. What it cannot
know without a set (another guest's fe80, how many of them) it leaves to them.

The kernel runs it on the whole frame (``skb`` is pushed back to its Ethernet header); a tag of a
VLAN is already taken off, and seen only beside the frame. Source: net/sched/cls_bpf.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvtx.model.address import guest_addresses
from hvtx.model.typed import Any
from hvtx.rulesets.cbpf import (
    ADD,
    ADD_X,
    AND,
    ARP,
    IP4,
    IP6,
    JEQ,
    JGE,
    JSET,
    LDB,
    LDB_X,
    LDH,
    LDH_X,
    LDI,
    LDW,
    LDW_X,
    LDX,
    LEN,
    MEM,
    MSH,
    SHIFT,
    ST,
    SUB_X,
    TAX,
    TXA,
    VLAN,
    Program,
    words,
)
from hvtx.rulesets.cbpf import ETH_HLEN as _IP
from hvtx.rulesets.packing import packed, packed_mac

_HEADERS = 5  # so many extension headers are read
_NEXT, _NOBODY, _TYPE = 0, 1, 2  # scratch memory
_IGMP, _IGMP_QUERY, _UDP = 2, 0x11, 17  # RFC 2236
_MLD_QUERY, _ADVERTISES, _RELAY_FORW = 130, 134, 12  # RFC 2710, 4861; of DHCPv6, RFC 8415


def port_program(guard: Mapping[str, Any]) -> bytes:
    """The program for a TAP.

    ``guard`` holds ``mac``, ``ipv4``, ``ipv6``, ``gateway6`` (or None); where the guest has further
    addresses ``more``; and for a guest that is kept apart from others, ``apart``:
    ``{"bridge": MAC, "addresses": […]}`` of the host there.
    """
    program = Program()
    program.room(_IP)
    program.add(LDB, VLAN)
    program.need(JEQ, 0)
    mac = packed_mac(guard["mac"])
    program.need_mac(6, mac)
    if guard.get("apart"):
        _to_bridge_only(program, packed_mac(guard["apart"]["bridge"]))
    for kind, block in ((ARP, _arp), (IP4, _ip4), (IP6, _ip6)):
        inside, behind = program.label(), program.label()
        program.add(LDH, 12)
        program.add(JEQ, kind, inside)
        program.go(behind)
        program.at(inside)
        block(program, guard)
        program.at(behind)
    program.drop()
    return program.bytes()


def _own(guard: Mapping[str, Any], size: int) -> list[bytes]:
    """The guest's addresses of ``size`` bytes."""
    return [raw for address in guest_addresses(guard) if len(raw := packed(address)) == size]


def _to_bridge_only(program: Program, bridge: bytes) -> None:
    """Frames to one receiver go to the host; those to many are held by flags of the ports."""
    on = program.label()
    program.add(LDB, 0)
    program.add(JSET, 1, on)
    program.need_mac(0, bridge)
    program.at(on)


def _arp(program: Program, guard: Mapping[str, Any]) -> None:
    program.room(_IP + 28)
    program.add(LDW, _IP)
    program.need(JEQ, 0x00010800)
    program.add(LDH, _IP + 4)
    program.need(JEQ, 0x0604)
    program.need_mac(_IP + 8, packed_mac(guard["mac"]))
    own = _own(guard, 4)
    if own:
        for raw in own:
            other = program.label()
            program.unless_equal(LDW, _IP + 14, raw, other)
            program.let_pass()
            program.at(other)
        program.add(LDW, _IP + 14)
        program.need(JEQ, 0)
        program.add(LDH, _IP + 6)
        program.need(JEQ, 1)
        program.add(LDW, _IP + 24)
        good = program.label()
        for raw in own[:-1]:
            program.add(JEQ, int.from_bytes(raw, "big"), good)
        program.need(JEQ, int.from_bytes(own[-1], "big"))
        program.at(good)
        program.let_pass()
    program.drop()


def _apart(guard: Mapping[str, Any], size: int) -> Iterable[tuple[bytes, bytes]]:
    """The host's addresses (of ``size`` bytes) in the networks whose guests are kept apart."""
    for address in (guard.get("apart") or {"addresses": ()})["addresses"]:
        host, _, length = address.partition("/")
        raw, bits = packed(host), int(length)
        if len(raw) == size:
            yield raw, ((1 << 8 * size) - (1 << 8 * size - bits)).to_bytes(size, "big")


def _keep_apart(program: Program, guard: Mapping[str, Any], size: int, at: int) -> None:
    """What is for the subnet goes to the host in it only, as it would route the rest back."""
    for gateway, mask in _apart(guard, size):
        on, closed = program.label(), program.label()
        for number, (part, bits) in enumerate(zip(words(gateway), words(mask), strict=True)):
            if bits:
                program.add(LDW, at + 4 * number)
                program.add(AND, bits)
                program.add(JEQ, part & bits, "", on)
        program.unless_equal(LDW, at, gateway, closed)
        program.go(on)
        program.at(closed)
        program.drop()
        program.at(on)


def _ip4(program: Program, guard: Mapping[str, Any]) -> None:
    program.room(_IP + 20)
    program.add(LDW, _IP + 16)
    program.add(AND, 0xFF000000)
    program.refuse(JEQ, 0x7F000000)
    source, nobody, first = program.label(), program.label(), program.label()
    program.add(LDB, _IP + 9)
    _no_query4(program, source)
    program.add(JEQ, _UDP, "", source)
    program.add(LDH, _IP + 6)
    program.add(JSET, 0x1FFF, source, first)
    program.at(first)
    program.add(MSH, _IP)
    program.room(_IP + 4, behind=True)
    program.add(LDH_X, _IP)
    program.refuse(JEQ, 67)
    program.add(LDH_X, _IP + 2)
    program.refuse(JEQ, 68)
    _own_lease(program, packed_mac(guard["mac"]), source)
    program.at(source)
    own = _own(guard, 4)
    if own:
        good = program.label()
        if own[1:]:
            program.add(LDW, _IP + 12)
        for raw in own[1:]:
            program.add(JEQ, int.from_bytes(raw, "big"), good)
        program.unless_equal(LDW, _IP + 12, own[0], nobody)
        program.at(good)
        _keep_apart(program, guard, 4, _IP + 16)
        program.let_pass()
    program.at(nobody)  # asking for an address
    for load, at, wanted in (
        (LDW, _IP + 12, 0), (LDW, _IP + 16, 0xFFFFFFFF), (LDB, _IP + 9, _UDP),
    ):  # fmt: skip
        program.add(load, at)
        program.need(JEQ, wanted)
    program.add(LDH, _IP + 6)
    program.refuse(JSET, 0x1FFF)
    program.add(MSH, _IP)
    program.room(_IP + 4, behind=True)
    program.add(LDW_X, _IP)
    program.need(JEQ, 68 << 16 | 67)
    program.let_pass()


def _no_query4(program: Program, on: str) -> None:
    """Drop IGMP's queries, and fragments, which a bridge reads as if whole; ``on``: its others.

    What is loaded is the protocol, and stays so. Why: see ``guard_igmp`` in nftables_bridge.
    """
    asks, other = program.label(), program.label()
    program.add(JEQ, _IGMP, asks, other)
    program.at(asks)
    program.add(LDH, _IP + 6)
    program.refuse(JSET, 0x1FFF)
    program.add(MSH, _IP)
    program.room(_IP + 1, behind=True)
    program.add(LDB_X, _IP)
    program.refuse(JEQ, _IGMP_QUERY)
    program.go(on)
    program.at(other)


def _own_lease(program: Program, mac: bytes, on: str) -> None:
    """Drop what asks a DHCP server for another's MAC (RFC 2131: chaddr); ``on``: all other ports.

    A forged DHCPDECLINE would keep that guest from its address. Nor is anybody a relay (giaddr).
    Who hides it in a second fragment is dropped as too short. What is loaded is the port.
    """
    asks = program.label()
    program.add(JEQ, 67, asks, on)
    program.at(asks)
    program.room(_IP + 42, behind=True)
    program.need_mac(_IP + 36, mac, behind=True)
    program.need_word(_IP + 32, 0, behind=True)


def _ip6(program: Program, guard: Mapping[str, Any]) -> None:
    program.room(_IP + 40)
    _keep_apart(program, guard, 16, _IP + 24)
    start = program.label()
    nobody = _own6(program, guard, LDW, _IP + 8, start)
    program.at(nobody)
    for number in range(4):
        program.need_word(_IP + 8 + 4 * number, 0)
    headers = program.label()
    program.add(LDI, 1)
    program.add(ST, _NOBODY)
    program.go(headers)
    program.at(start)
    program.add(LDI, 0)
    program.add(ST, _NOBODY)
    program.at(headers)
    _headers6(program, guard)


def _own6(program: Program, guard: Mapping[str, Any], load: int, at: int, good: str) -> str:
    """To ``good`` if an own address, or a link-local but the gateway's, stands there.

    Returns the label of what to do with others; it is to be set right behind.
    """
    other, not_gateway = program.label(), program.label()
    for raw in _own(guard, 16):
        link = program.label()
        program.unless_equal(load, at, raw, link)
        program.go(good)
        program.at(link)
    program.add(load, at)
    program.add(AND, 0xFFC00000)
    program.add(JEQ, 0xFE800000, "", other)
    if guard.get("gateway6"):
        program.unless_equal(load, at, packed(guard["gateway6"]), not_gateway)
        program.drop()
    program.at(not_gateway)
    program.go(good)
    return other


def _headers6(program: Program, guard: Mapping[str, Any]) -> None:
    """Read extension headers up to the upper one; X is where it begins behind the Ethernet one."""
    icmp, udp, other = program.label(), program.label(), program.label()
    program.add(LDB, _IP + 6)
    program.add(ST, _NEXT)
    program.add(LDX, 40)
    for _ in range(_HEADERS):
        _header6(program, icmp, udp, other)
    program.drop()
    _upper6(program, guard, icmp, udp, other)


def _header6(program: Program, icmp: str, udp: str, other: str) -> None:
    """Go to what the next header is, or past it if it is an extension."""
    fragment, option, hidden, after = (program.label() for _ in range(4))
    for number, label in ((58, icmp), (17, udp)):
        on = program.label()
        program.add(MEM, _NEXT)
        program.add(JEQ, number, "", on)
        program.go(label)
        program.at(on)
    program.add(JEQ, 44, fragment)
    for number in (0, 43, 60):
        program.add(JEQ, number, option)
    program.add(JEQ, 51, hidden)
    program.go(other)
    program.at(hidden)
    _authenticated6(program, other)
    program.at(option)
    _past_option6(program)
    program.go(after)
    program.at(fragment)
    _past_fragment6(program, other)
    program.at(after)


def _authenticated6(program: Program, other: str) -> None:
    """Behind an authentication header: TCP and ESP only."""
    program.room(_IP + 8, behind=True)
    program.add(LDB_X, _IP)
    tcp = program.label()
    program.add(JEQ, 6, tcp)
    program.need(JEQ, 50)
    program.at(tcp)
    program.go(other)


def _past_option6(program: Program) -> None:
    program.room(_IP + 8, behind=True)
    program.add(LDB_X, _IP)
    program.add(ST, _NEXT)
    program.add(LDB_X, _IP + 1)
    program.add(ADD, 1)
    program.add(SHIFT, 3)
    program.add(ADD_X)
    program.add(TAX)


def _past_fragment6(program: Program, other: str) -> None:
    """Past the header of a first fragment; a later one has no upper header."""
    program.room(_IP + 8, behind=True)
    program.add(LDH_X, _IP + 2)
    whole = program.label()
    program.add(JSET, 0xFFF8, "", whole)
    program.go(other)
    program.at(whole)
    program.add(LDB_X, _IP)
    program.add(ST, _NEXT)
    program.add(TXA)
    program.add(ADD, 8)
    program.add(TAX)


def _upper6(program: Program, guard: Mapping[str, Any], icmp: str, udp: str, other: str) -> None:
    program.at(icmp)
    program.room(_IP + 4, behind=True)
    program.add(LDB_X, _IP)
    program.add(ST, _TYPE)
    target, nobody, good = program.label(), program.label(), program.label()
    program.add(MEM, _NOBODY)
    program.add(JEQ, 1, nobody)
    program.add(MEM, _TYPE)
    program.refuse(JEQ, _ADVERTISES)
    program.refuse(JEQ, _MLD_QUERY)
    mac = packed_mac(guard["mac"])
    for kind, at, option in ((133, 8, 1), (135, 24, 1), (136, 24, 2)):
        another = program.label()
        program.add(MEM, _TYPE)
        program.add(JEQ, kind, "", another)
        _own_link(program, mac, at, option)
        program.at(another)
    program.add(MEM, _TYPE)
    program.add(JEQ, 136, target)
    program.let_pass()
    program.at(nobody)
    program.add(MEM, _TYPE)
    for report in (131, 132, 143):
        program.add(JEQ, report, good)
    program.need(JEQ, 135)
    program.at(target)
    program.room(_IP + 24, behind=True)
    program.at(_own6(program, guard, LDW_X, _IP + 8, good))
    program.drop()
    program.at(good)
    program.let_pass()
    program.at(udp)
    program.room(_IP + 4, behind=True)
    program.add(LDH_X, _IP)
    program.refuse(JEQ, 547)
    program.add(LDH_X, _IP + 2)
    program.refuse(JEQ, 546)
    program.add(JEQ, 547, "", other)
    program.room(_IP + 9, behind=True)
    program.add(LDB_X, _IP + 8)
    program.refuse(JEQ, _RELAY_FORW)  # a relay names other guests' addresses
    program.at(other)
    program.add(MEM, _NOBODY)
    program.refuse(JEQ, 1)
    program.let_pass()


def _own_link(program: Program, mac: bytes, at: int, option: int) -> None:
    """Drop unless the first option of a message is its sender's link-layer address, or none is."""
    none = program.label()
    program.add(LEN)
    program.add(SUB_X)
    program.add(JGE, _IP + at + 8, "", none)
    program.add(LDB_X, _IP + at)
    program.need(JEQ, option)
    program.need_mac(_IP + at + 2, mac, behind=True)
    program.at(none)
