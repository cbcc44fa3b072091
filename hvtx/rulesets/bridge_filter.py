"""The filter of a bridge with NAT: what is routed to its guests must carry a mark. Pure.

Rules of ours give the mark to what they let through, so without them nothing from elsewhere reaches
guests. It is a program at the egress of the bridge (tc, ``clsact``), as :mod:`port_filter` is one
at the ingress of a TAP.
"""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.rulesets.cbpf import (
    AND,
    IP4,
    IP6,
    JEQ,
    JSET,
    LDH,
    LDW,
    MARK,
    Program,
)
from hvtx.rulesets.cbpf import ETH_HLEN as _IP
from hvtx.rulesets.packing import packed

SEEN = 0x10000000  # the bit of a packet's mark that says that our rules let it through to a bridge


def bridge_program(gateways: Iterable[str]) -> bytes:
    """The program for the egress of a bridge with NAT: what is routed to it must carry SEEN.

    Rules of ours give it to what they let through, so without them nothing from elsewhere reaches
    guests. What the host sends with its own address on the bridge, or a link-local one, passes.
    """
    program = Program()
    own = [packed(gateway) for gateway in gateways]
    for kind, size, at in ((IP4, 20, 12), (IP6, 40, 8)):
        inside, behind = program.label(), program.label()
        program.room(_IP)
        program.add(LDH, 12)
        program.add(JEQ, kind, inside)
        program.go(behind)
        program.at(inside)
        program.room(_IP + size)
        program.add(LDW, MARK)
        unseen = program.label()
        program.add(JSET, SEEN, "", unseen)
        program.let_pass()
        program.at(unseen)
        _from_host(program, [raw for raw in own if len(raw) == (4 if size == 20 else 16)], at)
        program.drop()
        program.at(behind)
    program.let_pass()
    return program.bytes()


def _from_host(program: Program, own: list[bytes], at: int) -> None:
    for raw in own:
        other = program.label()
        program.unless_equal(LDW, _IP + at, raw, other)
        program.let_pass()
        program.at(other)
    if at == 8:  # IPv6: link-local, or none yet
        other = program.label()
        program.add(LDW, _IP + at)
        program.add(AND, 0xFFC00000)
        program.add(JEQ, 0xFE800000, "", other)
        program.let_pass()
        program.at(other)
        other = program.label()
        program.unless_equal(LDW, _IP + at, bytes(16), other)
        program.let_pass()
        program.at(other)
