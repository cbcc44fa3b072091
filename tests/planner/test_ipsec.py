"""Which policies of IPsec speak of guests."""

from __future__ import annotations

import pytest

from hvtx.model.xfrm import Meant, Policy
from hvtx.planner import ipsec

ALL = "0.0.0.0/0"
BLOCK = Policy("fwd", 4, "10.77.0.0/24", ALL, True, 0)
ALLOW = BLOCK._replace(block=False)
TUNNEL = Policy("out", 4, "10.77.0.0/24", "192.0.2.0/24", False, 1)
GUEST = Meant("10.77.0.2", "192.0.2.7", 6, 443)


def test_the_lowest_priority_decides() -> None:
    before = ALLOW._replace(priority=5, source="10.77.0.0/25")
    assert ipsec.decides([BLOCK._replace(priority=9), before], "fwd", GUEST) == before
    assert ipsec.decides([BLOCK, before], "fwd", GUEST) == BLOCK
    assert ipsec.decides([BLOCK], "out", GUEST) is None
    assert ipsec.stopping([ALLOW], [GUEST]) is None
    assert ipsec.stopping([TUNNEL], [GUEST]) == TUNNEL


@pytest.mark.parametrize(
    "other",
    [
        {"source": "10.78.0.0/24"}, {"destination": "198.51.100.0/24"}, {"protocol": 17},
        {"dport": 80}, {"sport": 80}, {"mark": 7}, {"interface": 3}, {"family": 6},
    ],
)  # fmt: skip
def test_a_policy_that_speaks_of_others(other: dict[str, object]) -> None:
    assert not ipsec.speaks_of(BLOCK._replace(**other), GUEST)


def test_parts_of_what_guests_send() -> None:
    """Also for guests; not behind one that lets them pass, and not what speaks of everybody."""
    back = TUNNEL._replace(direction="in", source="192.0.2.0/24", destination="10.77.0.0/24")
    for policy in (
        TUNNEL,
        back,
        BLOCK,
        BLOCK._replace(source="10.77.0.2/32", dport=443, protocol=6),
    ):
        assert ipsec.over([policy], "10.77.0.0/24") == [policy]
    assert ipsec.over([BLOCK._replace(priority=9), ALLOW], "10.77.0.0/24") == []
    assert ipsec.over([BLOCK, TUNNEL], "10.78.0.0/24") == []
    assert ipsec.over([BLOCK], "fd77::/64") == []
    assert ipsec.over([BLOCK._replace(source=ALL)], "10.77.0.0/24") == []


def test_a_fix_names_the_selector() -> None:
    policy = BLOCK._replace(protocol=6, dport=443, priority=7)
    words = "src 10.77.0.0/24 dst 0.0.0.0/0 proto tcp dport 443 dir fwd"
    assert ipsec.shown(policy) == f"{words} action block priority 7"
    assert ipsec.fix(policy) == f"ip xfrm policy delete {words}"
