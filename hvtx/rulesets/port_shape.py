"""The filter of a TAP, put together once for each shape of guest, filled in for each. Pure.

Guests of one shape (how many addresses of which size, in which order, with a gateway of IPv6 or
without) have the same program but for the numbers that it compares: their MAC and their addresses.
So :func:`hvtx.rulesets.port_filter.port_program` is asked with addresses that stand nowhere else
in it, and where they are found the guest's own are written. It takes a hundredth of the time.

A guest that is kept apart from others has a program of its own: words of a mask are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache

from hvtx.model.typed import Any, NamedTuple
from hvtx.rulesets.cbpf import words
from hvtx.rulesets.packing import packed, packed_mac
from hvtx.rulesets.port_filter import port_program

_STEP, _NUMBER = struct.Struct("=HBBI"), struct.Struct("=I")
_NUMBER_AT = 4  # in a step
_SIZE4 = 4  # bytes of an address of IPv4
# Numbers that no program compares with: of the MAC that stands for any, and the first of a row.
_MAC, _MAC_WORDS = "a1:b2:c3:d4:e5:f6", (0xA1B2C3D4, 0xE5F6)
_FIRST = 0xF1E2D300


class _Shape(NamedTuple):
    sizes: tuple[int, ...]  # of the addresses: ipv4, ipv6 and those that are more; 0: none
    gateway6: bool


class _Form(NamedTuple):
    program: bytes
    places: tuple[tuple[int, int], ...]  # where a number stands, and which of the guest's it is


def program_of(guard: Mapping[str, Any]) -> bytes:
    """What :func:`port_program` gives for a guest, to the byte."""
    if guard.get("apart"):
        return port_program(guard)
    told = (guard.get("ipv4"), guard.get("ipv6"), *guard.get("more", ()))
    raw = [packed(address) if address else b"" for address in told]
    gateway = packed(guard["gateway6"]) if guard.get("gateway6") else b""
    form = _form(_Shape(tuple(map(len, raw)), bool(gateway)))
    mac = packed_mac(guard["mac"])
    numbers = [int.from_bytes(mac[:4], "big"), int.from_bytes(mac[4:], "big")]
    for address in (*raw, gateway):
        numbers += words(address)
    made = bytearray(form.program)
    for at, number in form.places:
        _NUMBER.pack_into(made, at, numbers[number])
    return bytes(made)


@cache
def _form(shape: _Shape) -> _Form:
    """The program of a shape, and where the numbers of a guest belong in it."""
    sizes = (*shape.sizes, 16 if shape.gateway6 else 0)
    numbers = list(_MAC_WORDS)
    texts: list[str | None] = []
    for size in sizes:
        own = [_FIRST + len(numbers) + n for n in range(size // 4)]
        numbers += own
        texts.append(_text(own))
    *told, gateway = texts
    guard = {"mac": _MAC, "ipv4": told[0], "ipv6": told[1], "more": told[2:], "gateway6": gateway}
    program = port_program(guard)
    places = tuple(
        (at + _NUMBER_AT, numbers.index(k))
        for at, (_, _, _, k) in zip(
            range(0, len(program), _STEP.size), _STEP.iter_unpack(program), strict=True
        )
        if k in numbers
    )
    return _Form(program, places)


def _text(numbers: list[int]) -> str | None:
    """An address of these words of four bytes, as text; None for none."""
    raw = b"".join(number.to_bytes(4, "big") for number in numbers)
    if not raw:
        return None
    if len(raw) == _SIZE4:
        return ".".join(map(str, raw))
    return ":".join(raw[n : n + 2].hex() for n in range(0, len(raw), 2))
