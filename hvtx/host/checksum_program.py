"""The eBPF program of the checksum filter: no host writes into checked parts of a frame. Pure.

With virtio-net a guest says of a frame that the host is to write its checksum, and where. The
kernel does so when the frame leaves by a device without checksum offload (skb_checksum_help),
behind every rule and filter, at any place from the 20th byte on: the sender of ARP, an address of
IPv6. This is an eBPF program at the ingress of the device, beside :mod:`hvtx.rulesets.port_filter`:

- what asks for no checksum passes;
- TCP and UDP pass where those two bytes are their own checksum, or behind it;
- all else that asks for one is dropped: Linux, the BSDs and Windows ask with TCP and UDP only.

No field of ``__sk_buff`` tells what a frame asks for, but two helpers do (net/core/filter.c,
net/core/utils.c): ``bpf_l4_csum_replace`` without BPF_F_PSEUDO_HDR changes two bytes of a frame
that does not ask, and no byte of one that does; ``bpf_skb_change_tail`` refuses to cut such a frame
before the end of the two checksum bytes with EINVAL. What it does cut is dropped. Both are in Linux
since 4.9.

``struct bpf_insn``: include/uapi/linux/bpf.h. A helper's answer is in r0, and r1 to r5 are lost.
"""

from __future__ import annotations

import _socket as socket
import errno
import functools
import struct

NAME = "hvtx-sums"  # what `tc filter show` calls it
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_BYTES, _STORE_BYTES, _L4_SUM, _CHANGE_TAIL = 26, 9, 11, 38  # enum bpf_func_id
_R0, _R1, _R2, _R3, _R4, _R5, _PLACE, _KIND, _SIZE, _SKB, _FRAME = range(11)
_MOV, _MOV_X, _ADD, _ADD_X, _AND, _LSH, _RSH = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x67, 0x77
_JA, _JEQ, _JNE, _JEQ_X, _JLT, _JGT = 0x05, 0x15, 0x55, 0x1D, 0xA5, 0x25
_LDB, _LDH, _CALL, _EXIT = 0x71, 0x69, 0x85, 0x95
_DROP, _NEXT_FILTER = 2, -1  # TC_ACT_SHOT, TC_ACT_UNSPEC
_IP = 14
_HEADERS = 5  # so many extension headers of IPv6 are read, as the rest of the guards do
# The kernel before 5.12 says EINVAL also of what is longer than the device's MTU.
_FAR = 512
_OPTIONS = (socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, socket.IPPROTO_DSTOPTS)
_SUMS = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}  # where the checksum is in its header
_FRAGMENT = 0x3FFF  # IP_MF and the offset


class _Program:
    """Instructions with labels; a label is used only ahead of where it stands."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, str]] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, to: int = 0, value: int = 0, *, source: int = 0) -> None:
        self._code.append((code, to | source << 4, 0, value, ""))

    def load(self, code: int, to: int, at: int) -> None:
        """Load from the stack; ``at`` is below 0."""
        self._code.append((code, to | _FRAME << 4, at, 0, ""))

    def jump(
        self, label: str, code: int = _JA, what: int = 0, value: int = 0, *, source: int = 0
    ) -> None:
        self._code.append((code, what | source << 4, 0, value, label))

    def at(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def call(self, helper: int, *values: int) -> None:
        """Call a helper of the frame with numbers behind it."""
        self.add(_MOV_X, _R1, source=_SKB)
        for register, value in enumerate(values, _R2):
            self.add(_MOV, register, value)
        self.add(_CALL, value=helper)

    def copy(self, to: int, size: int, at: int | None = None) -> None:
        """Copy bytes of the frame to the stack, from ``at`` or _PLACE on; drop what has none."""
        self.add(_MOV_X, _R1, source=_SKB)
        if at is None:
            self.add(_MOV_X, _R2, source=_PLACE)
        else:
            self.add(_MOV, _R2, at)
        self.add(_MOV_X, _R3, source=_FRAME)
        self.add(_ADD, _R3, to)
        self.add(_MOV, _R4, size)
        self.add(_CALL, value=_LOAD_BYTES)
        self.jump("drop", _JNE, _R0, 0)

    def bytes(self) -> bytes:
        """The program as ``struct bpf_insn[]``."""
        found = []
        for number, (code, registers, offset, value, label) in enumerate(self._code, 1):
            away = self._labels[label] - number if label else offset
            found.append(_INSTRUCTION.pack(code, registers, away, value))
        return b"".join(found)


@functools.cache
def program() -> bytes:
    """The program, the same for every TAP."""
    made = _Program()
    made.add(_MOV_X, _SKB, source=_R1)
    _ask(made)
    made.copy(-8, 2, at=12)
    made.load(_LDH, _KIND, -8)
    made.jump("ip4", _JEQ, _KIND, socket.htons(0x0800))
    made.jump("ip6", _JEQ, _KIND, socket.htons(0x86DD))
    made.jump("drop")
    made.at("ip4")
    _ip4(made)
    made.at("ip6")
    _ip6(made)
    made.at("upper")
    _upper(made)
    made.at("drop")
    made.add(_MOV, _R0, _DROP)
    made.add(_EXIT)
    return made.bytes()


def _ask(made: _Program) -> None:
    """Pass what asks for no checksum, as it was."""
    made.copy(-8, 2, at=0)
    made.call(_L4_SUM, 0, 0, 1, 2)
    made.jump("drop", _JNE, _R0, 0)
    made.copy(-16, 2, at=0)
    made.load(_LDH, _PLACE, -8)
    made.load(_LDH, _KIND, -16)
    made.jump("asks", _JEQ_X, _PLACE, source=_KIND)
    made.add(_MOV_X, _R1, source=_SKB)
    made.add(_MOV, _R2, 0)
    made.add(_MOV_X, _R3, source=_FRAME)
    made.add(_ADD, _R3, -8)
    made.add(_MOV, _R4, 2)
    made.add(_MOV, _R5, 0)
    made.add(_CALL, value=_STORE_BYTES)
    made.jump("drop", _JNE, _R0, 0)
    made.add(_MOV, _R0, _NEXT_FILTER)
    made.add(_EXIT)
    made.at("asks")


def _ip4(made: _Program) -> None:
    """No fragment; _PLACE is behind the header and its options, _KIND the protocol."""
    made.copy(-24, 20, at=_IP)
    made.load(_LDB, _PLACE, -24)
    made.add(_MOV_X, _SIZE, source=_PLACE)
    made.add(_RSH, _SIZE, 4)
    made.jump("drop", _JNE, _SIZE, 4)
    made.add(_AND, _PLACE, 15)
    made.jump("drop", _JLT, _PLACE, 5)
    made.add(_LSH, _PLACE, 2)
    made.add(_ADD, _PLACE, _IP)
    made.load(_LDH, _KIND, -24 + 6)
    made.add(_AND, _KIND, socket.htons(_FRAGMENT))
    made.jump("drop", _JNE, _KIND, 0)
    made.load(_LDB, _KIND, -24 + 9)
    made.jump("upper")


def _ip6(made: _Program) -> None:
    """The same, behind extension headers, of which none is a fragment's."""
    made.copy(-8, 1, at=_IP + 6)
    made.load(_LDB, _KIND, -8)
    made.add(_MOV, _PLACE, _IP + 40)
    for number in range(_HEADERS):
        for kind in _SUMS:
            made.jump("upper", _JEQ, _KIND, kind)
        option = f"option {number}"
        for kind in _OPTIONS:
            made.jump(option, _JEQ, _KIND, kind)
        made.jump("drop")
        made.at(option)
        made.copy(-8, 2)
        made.load(_LDB, _KIND, -8)
        made.load(_LDB, _SIZE, -7)
        made.add(_ADD, _SIZE, 1)
        made.add(_LSH, _SIZE, 3)
        made.add(_ADD_X, _PLACE, source=_SIZE)
        made.jump("drop", _JGT, _PLACE, _FAR)


def _upper(made: _Program) -> None:
    """Pass the frame if it cannot be cut before the end of its checksum."""
    for kind, at in _SUMS.items():
        other = f"not {kind}"
        made.jump(other, _JNE, _KIND, kind)
        made.add(_ADD, _PLACE, at + 1)
        made.jump("cut")
        made.at(other)
    made.jump("drop")
    made.at("cut")
    made.add(_MOV_X, _R1, source=_SKB)
    made.add(_MOV_X, _R2, source=_PLACE)
    made.add(_MOV, _R3, 0)
    made.add(_CALL, value=_CHANGE_TAIL)
    made.jump("drop", _JNE, _R0, -errno.EINVAL)
    made.add(_MOV, _R0, _NEXT_FILTER)
    made.add(_EXIT)
