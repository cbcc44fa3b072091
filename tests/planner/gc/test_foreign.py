"""Whose rules speak of our subnets: as `ipaddress` compares them, and quicker."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from hvtx.planner.gc.foreign import _ADDRESS, mentions, subnet

_FEW = (10 << 24 | 77 << 16, 10 << 24 | 78 << 16, 0)  # so that some touch each other
_ADDRESSES4 = st.builds(lambda base, more: base + more, st.sampled_from(_FEW), st.integers(0, 1023))
_NETS4 = st.builds(
    lambda address, length: ipaddress.ip_network((address, length), strict=False),
    _ADDRESSES4, st.integers(0, 32),
)  # fmt: skip
_NETS6 = st.builds(
    lambda more, length: ipaddress.ip_network(((0xFD77 << 112) + more, length), strict=False),
    st.integers(0, 1 << 66), st.integers(0, 128),
)  # fmt: skip
_NETS = st.one_of(_NETS4, _NETS6)
_WORDS = st.one_of(
    _NETS.map(str),
    _NETS.map(lambda net: str(net.network_address)),
    st.sampled_from(
        ["999.1.2.3", "10.77.0.5/99", "fd77::g", "::", "-s", "0.0.0.0/0", "a10.77.0.1"]
    ),
)


def compared(words: str, subnets: list[tuple[str, str]]) -> str | None:
    """The same by the networks of `ipaddress` alone."""
    for found in _ADDRESS.finditer(words):
        try:
            network = ipaddress.ip_network(found[1] + (found[2] or ""), strict=False)
        except ValueError:
            continue
        for cidr, name in subnets:
            own = ipaddress.ip_network(cidr)
            if network.version == own.version and network.prefixlen and network.overlaps(own):
                return name
    return None


@given(st.lists(_WORDS, max_size=4), st.lists(_NETS, max_size=4))
def test_the_first_network_that_is_touched_is_named(
    words: list[str], subnets: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> None:
    known = [(str(net), f"net{number}") for number, net in enumerate(subnets)]
    text = " ".join(words)
    assert mentions(text, [subnet(*each) for each in known]) == compared(text, known)
