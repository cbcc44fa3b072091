"""The program that holds a device to a rate: instructions that go nowhere but ahead."""

from __future__ import annotations

import struct

import pytest

from hvtx.host.rate_filter import name_of
from hvtx.host.rate_program import Rate, program

_JUMPS = {0x05, 0x15, 0x55, 0x25, 0x2D, 0x3D}
RATES = [Rate(1000), Rate(10**12), Rate(None, 1), Rate(None, 10**9), Rate(10**6, 20_000)]


def instructions(rate: Rate) -> list[tuple[int, int, int, int]]:
    return [struct.unpack("=BBhi", raw) for raw in _pieces(program(rate, 3))]


def _pieces(code: bytes) -> list[bytes]:
    assert len(code) % 8 == 0
    return [code[at : at + 8] for at in range(0, len(code), 8)]


@pytest.mark.parametrize("rate", RATES)
def test_jumps_lead_ahead_to_an_instruction(rate: Rate) -> None:
    code = instructions(rate)
    for number, (operation, _, offset, _) in enumerate(code):
        if operation in _JUMPS:
            assert 0 <= offset < len(code) - number - 1
    assert code[-1][0] == 0x95


@pytest.mark.parametrize("rate", RATES)
def test_only_what_is_limited_has_a_moment(rate: Rate) -> None:
    code = instructions(rate)
    places = {
        code[number + 1][3]
        for number, (operation, registers, _, value) in enumerate(code)
        if operation == 0x18 and registers >> 4 == 2 and value == 3
    }
    assert places == ({0} if rate.bits else set()) | ({8} if rate.frames else set())


def test_the_name_says_the_rate() -> None:
    names = {name_of(rate) for rate in RATES}
    assert len(names) == len(RATES)
    assert name_of(Rate(10**6, 5)) == "hvtx-rate 1000000bit 5pps"
