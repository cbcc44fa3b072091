"""Which stops are hvtx's own to answer, and which are left to a person."""

from __future__ import annotations

import pytest

from hvtx.model.traffic import Flow, Stop, Way
from hvtx.planner.own_accepts import Net, is_ours_to_accept

NET = Net("hvbr0", ("10.77.0.0/24",), ("10.77.0.1",), "nftables")
OUT = Flow(Way.GUEST_TO_WORLD, 4, "tcp", "net", "hvbr0")
ASK = Flow(Way.GUEST_TO_GATEWAY, 4, "udp", "net", "hvbr0", 53)
DHCP = Flow(Way.GUEST_TO_DHCP, 4, "udp", "net", "hvbr0", 67)
ECHO = Flow(Way.GUEST_TO_GATEWAY, 4, "icmp", "net", "hvbr0")
NFT, LEGACY = ("ip", "filter", "FORWARD"), ("ip6tables-legacy", "filter", "FORWARD")
INTO = ("ip", "filter", "INPUT")


@pytest.mark.parametrize(
    ("flow", "by", "place", "what", "net", "ours"),
    [
        (OUT, "nft", NFT, "policy drop", NET, True),
        (OUT, "legacy", LEGACY, "policy DROP", NET, True),
        (OUT, "nft", NFT, "counter drop", NET, False),  # a rule of somebody: it holds
        (OUT, "nft", ("inet", "filter", "FORWARD"), "policy drop", NET, False),
        (OUT, "nft", ("ip", "wall", "FORWARD"), "policy drop", NET, False),
        (OUT, "nft", ("ip", "filter", "forward"), "policy drop", NET, False),
        (OUT, "nft", NFT, "policy drop", NET._replace(passage=False), False),
        (OUT, "route", (), "policy drop", NET, False),
        (ECHO, "nft", INTO, "policy drop", NET, True),
        (ASK, "nft", INTO, "policy drop", NET, False),  # a service that hvtx does not have there
        (ASK, "nft", INTO, "policy drop", NET._replace(dhcp=True), True),
        (DHCP, "nft", INTO, "policy drop", NET._replace(dhcp=True), True),
        (DHCP, "nft", ("inet", "wall", "c"), "policy drop", NET._replace(dhcp=True), False),
    ],
)
def test_what_repair_answers(
    flow: Flow, by: str, place: tuple[str, ...], what: str, net: Net, ours: bool
) -> None:
    assert is_ours_to_accept(Stop(flow, by, place, what), net, {}) is ours


def test_a_table_with_an_owner_is_left_alone() -> None:
    stop = Stop(OUT, "nft", NFT, "policy drop")
    assert not is_ours_to_accept(stop, NET, {("ip", "filter"): "guardd"})


def test_the_policy_that_ufw_says_earlier() -> None:
    """It is hvtx's own to answer only while its accept is not where it belongs."""
    stop = Stop(DHCP, "nft", ("ip", "filter", "ufw-skip-to-policy-input"), "counter drop")
    assert is_ours_to_accept(stop, NET, {}, {"hvbr0"})
    assert not is_ours_to_accept(stop, NET, {}, {"hvbr1"})
    assert not is_ours_to_accept(stop, NET._replace(passage=False), {}, {"hvbr0"})
