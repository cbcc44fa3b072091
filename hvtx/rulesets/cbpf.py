"""Programs of the classic packet filter (BPF), put together from steps with labels. Pure.

A load past the end of the frame ends a program with 0, which is TC_ACT_OK here: so each length is
asked for before. Sources: net/core/filter.c; include/uapi/linux/{filter,bpf_common,pkt_cls}.h.
"""

from __future__ import annotations

import struct

LDW, LDH, LDB = 0x20, 0x28, 0x30  # absolute
LDW_X, LDH_X, LDB_X = 0x40, 0x48, 0x50  # relative to X
LDI = 0x00  # the number itself
LEN, MEM, ST, LDX, MSH, TAX, TXA = 0x80, 0x60, 0x02, 0x01, 0xB1, 0x07, 0x87
ADD, ADD_X, SUB_X, SHIFT, AND = 0x04, 0x0C, 0x1C, 0x64, 0x54
JA, JEQ, JGE, JGE_X, JSET, RET = 0x05, 0x15, 0x35, 0x3D, 0x45, 0x06
VLAN, MARK = 0xFFFFF000 + 48, 0xFFFFF000 + 20  # SKF_AD_VLAN_TAG_PRESENT, SKF_AD_MARK
ETH_HLEN = 14  # where the packet begins in a frame
ARP, IP4, IP6 = 0x0806, 0x0800, 0x86DD
DROP, PASS = 2, 0xFFFFFFFF  # TC_ACT_SHOT; TC_ACT_UNSPEC: the next filter, if there is one

Step = tuple[int, int, str, str] | str  # code, k, labels if true and if false; or a label


def words(raw: bytes) -> tuple[int, ...]:
    """Bytes as the numbers that a program compares, four at a time."""
    return struct.unpack(f">{len(raw) // 4}I", raw)


class Program:
    """Steps with labels; a label is used only ahead of where it stands."""

    def __init__(self) -> None:
        """No steps yet."""
        self.steps: list[Step] = []
        self._labels = 0

    def label(self) -> str:
        """A new label."""
        self._labels += 1
        return f"_{self._labels}"

    def add(self, code: int, k: int = 0, true: str = "", false: str = "") -> None:
        """One step; a comparison goes on to one of two labels, or to the next step."""
        self.steps.append((code, k, true, false))

    def at(self, label: str) -> None:
        """The label stands here."""
        self.steps.append(label)

    def drop(self) -> None:
        """End: the frame goes nowhere."""
        self.add(RET, DROP)

    def let_pass(self) -> None:
        """End: the frame is passed on."""
        self.add(RET, PASS)

    def go(self, label: str) -> None:
        """Go on at a label."""
        self.add(JA, 0, label)

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
        self.add(LEN)
        if behind:
            self.need(JGE_X, 0)  # or the difference would be a great number
            self.add(SUB_X)
        self.need(JGE, size)

    def need_mac(self, at: int, mac: bytes, *, behind: bool = False) -> None:
        """Drop unless this MAC address stands at ``at``, or (``behind``) there from X on."""
        self.add(LDW_X if behind else LDW, at)
        self.need(JEQ, int.from_bytes(mac[:4], "big"))
        self.add(LDH_X if behind else LDH, at + 4)
        self.need(JEQ, int.from_bytes(mac[4:], "big"))

    def need_word(self, at: int, number: int, *, behind: bool = False) -> None:
        """Drop unless this number stands at ``at``, or (``behind``) there from X on."""
        self.add(LDW_X if behind else LDW, at)
        self.need(JEQ, number)

    def unless_equal(self, load: int, at: int, raw: bytes, other: str) -> None:
        """Go on if these bytes (a multiple of 4) stand at ``at``, else to ``other``."""
        for number, word in enumerate(words(raw)):
            self.add(load, at + 4 * number)
            self.add(JEQ, word, "", other)

    def bytes(self) -> bytes:
        """The program as ``struct sock_filter[]``."""
        places: dict[str, int] = {}
        number = 0
        for step in self.steps:
            if isinstance(step, str):
                places[step] = number
            else:
                number += 1
        found: list[int] = []
        here = 0
        for step in self.steps:
            if isinstance(step, str):
                continue
            code, k, true, false = step
            here += 1
            if code == JA:
                found += (code, 0, 0, places[true] - here)
                continue
            there = places[true] - here if true else 0
            found += (code, there, places[false] - here if false else 0, k)
        return struct.pack("=" + "HBBI" * here, *found)
