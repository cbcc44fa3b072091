"""The filter of a TAP that is filled in is the one that is put together, whatever the guest."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hvtx.rulesets.port_filter import port_program
from hvtx.rulesets.port_shape import program_of

_FOUR = st.ip_addresses(v=4).map(str)
_SIX = st.ip_addresses(v=6).map(str)
_MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
GUARDS = st.fixed_dictionaries(
    {
        "mac": _MACS,
        "ipv4": st.none() | _FOUR,
        "ipv6": st.none() | _SIX,
        "more": st.lists(_FOUR | _SIX, max_size=3),
        "gateway6": st.none() | _SIX,
        "apart": st.none()
        | st.just({"bridge": "02:aa:bb:cc:dd:ee", "addresses": ["10.77.0.1/24", "fd77::1/64"]}),
    }
)


@given(GUARDS)
def test_it_is_the_same_program(guard: dict[str, Any]) -> None:
    assert program_of(guard) == port_program(guard)


@given(_MACS, _FOUR, st.sampled_from(["a1:b2:c3:d4:e5:f6", "02:00:00:00:00:05"]))
def test_what_an_older_row_does_not_say(mac: str, address: str, other: str) -> None:
    """Nor does the shape remember a guest of before."""
    program_of({"mac": other, "ipv4": "241.226.211.2", "ipv6": None})
    guard = {"mac": mac, "ipv4": address, "ipv6": None}
    assert program_of(guard) == port_program(guard)
