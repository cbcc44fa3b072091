"""The eBPF program that holds what passes a device in one direction to a rate. Pure.

It is put at the ingress of a TAP for what leaves the guest, and at its egress for what goes to it
(tc, ``clsact``): it is neither of nftables nor of iptables, and holds when all rules are flushed.
A rule of nftables will not do: the bucket of its ``limit rate`` in bytes is never smaller than what
the rate lets through in a whole second (net/netfilter/nft_limit.c, nft_limit_init), and a guest
that was idle would send twice its rate for the next one.

There is one moment on record for bytes and one for frames (a virtual clock): when all that passed
would have passed at the rate. A frame passes where that moment is not ahead of now, and moves it
by what the frame takes; it is never further behind than the burst. So a frame that is larger than
the burst, as those that the kernel segments later are (GSO, 64 KiB), passes too, and is paid for by
what comes after. Queues of one device run at the same time: the moment is moved by an atomic
addition, so that each frame is paid for.

What a guest's network stands on is not to starve: ARP, neighbour discovery and DHCP pass while the
moment is at most a second, and the time of one largest frame, ahead.

``struct bpf_insn``, ``struct __sk_buff``: include/uapi/linux/bpf.h. BPF_PSEUDO_MAP_VALUE is in
Linux since 5.2, ``gso_size`` since 5.7; the clock is for programs of any licence since 5.8.
"""

from __future__ import annotations

import _socket as socket
import struct
from collections.abc import Iterator

from hvtx.model.typed import NamedTuple

MAP_SIZE = 16  # two moments of 8 bytes
_INSTRUCTION = struct.Struct("=BBhi")
_SECOND = 1_000_000_000
_BURST = _SECOND // 5  # TCP waits so long before it sends again what was lost (RTO_MIN)
_LARGEST = 65536 + 14  # bytes of a frame
_KTIME_GET_NS, _LOAD_BYTES = 5, 26  # enum bpf_func_id
_R0, _R1, _R2, _R3, _R4, _R5, _SKB, _NOW, _STATE, _AHEAD, _FRAME = range(11)
_LEN, _PROTOCOL, _GSO_SIZE = 0, 16, 176  # struct __sk_buff
_MOV, _MOV_X, _ADD, _ADD_X, _SUB, _SUB_X = 0xB7, 0xBF, 0x07, 0x0F, 0x17, 0x1F
_MUL, _MUL_X, _DIV_X, _AND = 0x27, 0x2F, 0x3F, 0x57
_JA, _JEQ, _JNE, _JGT, _JGT_X, _JGE_X = 0x05, 0x15, 0x55, 0x25, 0x2D, 0x3D
_LD64, _LDW, _LDH, _LDB, _LDDW, _STDW_X, _XADD, _CALL, _EXIT = (
    0x18, 0x61, 0x69, 0x71, 0x79, 0x7B, 0xDB, 0x85, 0x95,
)  # fmt: skip
_MAP_VALUE = 2
_DROP, _NEXT_FILTER = 2, -1  # TC_ACT_SHOT, TC_ACT_UNSPEC
_IP = 14
_HEADERS = 14 + 40 + 32  # of IPv6, and TCP with timestamps; others' are hardly shorter
_ND = (133, 137)  # router solicitation … redirect


class Rate(NamedTuple):
    """What may pass: bits, and frames, a second; None: no limit of it."""

    bits: int | None = None
    frames: int | None = None


class _Program:
    """Instructions with labels; a label is used only ahead of where it stands."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, str]] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, to: int = 0, value: int = 0, *, source: int = 0, at: int = 0) -> None:
        self._code.append((code, to | source << 4, at, value, ""))

    def wide(self, to: int, value: int, *, source: int = 0) -> None:
        """Load 64 bits, or (``source``) the place in the map's value that is ``value`` >> 32."""
        low, high = value & 0xFFFFFFFF, value >> 32
        self.add(_LD64, to, low - (1 << 32) if low >> 31 else low, source=source)
        self.add(0, 0, high)

    def jump(
        self, label: str, code: int = _JA, what: int = 0, value: int = 0, *, source: int = 0
    ) -> None:
        self._code.append((code, what | source << 4, 0, value, label))

    def at(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def bytes(self) -> bytes:
        found = []
        for number, (code, registers, offset, value, label) in enumerate(self._code, 1):
            away = self._labels[label] - number if label else offset
            found.append(_INSTRUCTION.pack(code, registers, away, value))
        return b"".join(found)


def program(rate: Rate, moments: int) -> bytes:
    """The program for a rate; ``moments`` is the descriptor of a map with one value of MAP_SIZE."""
    made = _Program()
    made.add(_MOV_X, _SKB, source=_R1)
    made.add(_CALL, value=_KTIME_GET_NS)
    made.add(_MOV_X, _NOW, source=_R0)
    made.add(_MOV, _AHEAD, 0)
    for number, (each, largest) in enumerate(_buckets(rate)):
        if each:
            _look(made, moments, 8 * number, _SECOND + largest, f"{number}")
    made.jump("pay", _JEQ, _AHEAD, 0)
    _needed(made)
    made.at("pay")
    if rate.bits:
        _pay_bytes(made, moments, rate.bits)
    if rate.frames:
        _pay_frames(made, moments, rate.frames)
    made.add(_MOV, _R0, _NEXT_FILTER)
    made.add(_EXIT)
    made.at("drop")
    made.add(_MOV, _R0, _DROP)
    made.add(_EXIT)
    return made.bytes()


def _buckets(rate: Rate) -> Iterator[tuple[int | None, int]]:
    """Of bytes, then of frames: the rate, and how many nanoseconds the largest frame takes."""
    yield rate.bits, _LARGEST * 8 * _SECOND // rate.bits if rate.bits else 0
    yield rate.frames, _SECOND // rate.frames if rate.frames else 0


def _look(made: _Program, moments: int, place: int, most: int, name: str) -> None:
    """Drop where the moment is more than ``most`` ahead; _AHEAD tells whether it is ahead."""
    made.wide(_STATE, moments | place << 32, source=_MAP_VALUE)
    made.add(_LDDW, _R1, source=_STATE)
    made.add(_MOV_X, _R2, source=_NOW)
    made.add(_SUB, _R2, _BURST)
    made.jump(f"recent {name}", _JGE_X, _R1, source=_R2)
    made.add(_STDW_X, _STATE, source=_R2)
    made.jump(f"passes {name}")
    made.at(f"recent {name}")
    made.jump(f"ahead {name}", _JGT_X, _R1, source=_NOW)
    made.jump(f"passes {name}")
    made.at(f"ahead {name}")
    made.add(_MOV, _AHEAD, 1)
    made.add(_SUB_X, _R1, source=_NOW)
    made.wide(_R2, most)
    made.jump("drop", _JGT_X, _R1, source=_R2)
    made.at(f"passes {name}")


def _copy(made: _Program, size: int, at: int) -> None:
    """Copy bytes of the frame to the end of the stack; what has none is dropped."""
    made.add(_MOV_X, _R1, source=_SKB)
    made.add(_MOV, _R2, at)
    made.add(_MOV_X, _R3, source=_FRAME)
    made.add(_ADD, _R3, -8)
    made.add(_MOV, _R4, size)
    made.add(_CALL, value=_LOAD_BYTES)
    made.jump("drop", _JNE, _R0, 0)


def _needed(made: _Program) -> None:
    """Go on to pay for ARP, neighbour discovery and DHCP; drop the rest."""
    made.add(_LDW, _R1, source=_SKB, at=_PROTOCOL)
    made.jump("pay", _JEQ, _R1, socket.htons(0x0806))
    made.jump("ip4", _JEQ, _R1, socket.htons(0x0800))
    made.jump("ip6", _JEQ, _R1, socket.htons(0x86DD))
    made.jump("drop")
    made.at("ip4")
    _copy(made, 1, _IP + 9)
    made.add(_LDB, _R1, source=_FRAME, at=-8)
    made.jump("drop", _JNE, _R1, socket.IPPROTO_UDP)
    _ports(made, _IP + 20, 67)
    made.at("ip6")
    _copy(made, 1, _IP + 6)
    made.add(_LDB, _R1, source=_FRAME, at=-8)
    made.jump("icmp6", _JEQ, _R1, socket.IPPROTO_ICMPV6)
    made.jump("drop", _JNE, _R1, socket.IPPROTO_UDP)
    _ports(made, _IP + 40, 546)
    made.at("icmp6")
    _copy(made, 1, _IP + 40)
    made.add(_LDB, _R1, source=_FRAME, at=-8)
    for kind in range(_ND[0], _ND[1] + 1):
        made.jump("pay", _JEQ, _R1, kind)
    made.jump("drop")


def _ports(made: _Program, at: int, lower: int) -> None:
    """Both ports are ``lower`` or the next."""
    _copy(made, 4, at)
    for place in (-8, -6):
        name = f"port {at} {place}"
        made.add(_LDH, _R1, source=_FRAME, at=place)
        made.jump(name, _JEQ, _R1, socket.htons(lower))
        made.jump("drop", _JNE, _R1, socket.htons(lower + 1))
        made.at(name)
    made.jump("pay")


def _pay_bytes(made: _Program, moments: int, bits: int) -> None:
    made.add(_LDW, _R1, source=_SKB, at=_LEN)
    made.add(_MUL, _R1, 8)
    made.add(_MUL, _R1, _SECOND)
    made.wide(_R2, bits)
    made.add(_DIV_X, _R1, source=_R2)
    made.wide(_STATE, moments, source=_MAP_VALUE)
    made.add(_XADD, _STATE, source=_R1)


def _pay_frames(made: _Program, moments: int, frames: int) -> None:
    """What the kernel segments later is as many frames as it will be; headers are not in them."""
    made.add(_MOV, _R1, 1)
    made.add(_LDW, _R2, source=_SKB, at=_GSO_SIZE)
    made.jump("one frame", _JEQ, _R2, 0)
    made.add(_LDW, _R3, source=_SKB, at=_LEN)
    made.jump("segments", _JGT, _R3, _HEADERS)
    made.jump("one frame")
    made.at("segments")
    made.add(_MOV_X, _R1, source=_R3)
    made.add(_SUB, _R1, _HEADERS + 1)
    made.add(_ADD_X, _R1, source=_R2)
    made.add(_DIV_X, _R1, source=_R2)
    made.at("one frame")
    made.wide(_R2, _SECOND // frames or 1)
    made.add(_MUL_X, _R1, source=_R2)
    made.wide(_STATE, moments | 8 << 32, source=_MAP_VALUE)
    made.add(_XADD, _STATE, source=_R1)
