"""What of bridges in firewalld's zone `hvtx` is made, put back, or left to whoever put them there."""

from __future__ import annotations

import pytest

from hvtx.model.firewalld_zone import Zone
from hvtx.model.resource import Resource
from hvtx.model.traffic import Flow, Stop, Way
from hvtx.model.vm import Network
from hvtx.planner.firewalld_zone import Seen, compare, is_for_want_of_a_zone, want

MARK = "hvtx:1:abcdefghij:7.aaaaaaaaaaaaaaaa"
NETWORK = Network(
    id="n", name="lan", bridge="hvlan", mac="02:00:00:00:00:01", subnets=["10.77.0.0/24"],
    gateways=["10.77.0.1"], gateway6="fe80::1", mtu=1500, nat=True, isolate=False,
    firewall="nftables",
)  # fmt: skip
ROW = Resource(7, *want("hvlan")[:2], "committed", MARK, want("hvlan").spec, {}, 1, 1, None, "n")
KEPT = Zone(("hvlan",), f"about hvlan={MARK}")
FREE = Seen({"hvtx": (), "public": ("eth0",)}, None, {})
WHOLE = Seen({"hvtx": ("hvlan",)}, KEPT, {})


def test_a_network_without_a_row_gets_one() -> None:
    found = compare([NETWORK], [], FREE)
    assert found.make == {"n": [want("hvlan")]}
    assert (found.drop, found.move) == ((), ())
    assert found.lacks == ("firewalld zone hvtx: hvlan is not in it yet",)


def test_without_passage_it_gets_none_and_loses_its_own() -> None:
    shut = NETWORK._replace(passage=False)
    assert compare([shut], [], FREE).make == {}
    assert compare([shut], [ROW], WHOLE).drop == (ROW,)
    assert compare([shut], [ROW], None).drop == (ROW,)


@pytest.mark.parametrize(
    "seen",
    [
        Seen({"hvtx": (), "trusted": ("hvlan",)}, None, {}),
        Seen({"hvtx": ()}, None, {"hvlan": "trusted"}),
        Seen({"hvtx": (), "trusted": ("hvlan",)}, KEPT, {"hvlan": "hvtx"}),
        Seen({"hvtx": ("hvlan",)}, None, {}),
        Seen({"hvtx": ()}, Zone(("hvlan",), ""), {"hvlan": "hvtx"}),
        Seen({"hvtx": ()}, Zone((), "somebody's"), {}),
    ],
)
def test_where_somebody_put_it_it_stays(seen: Seen) -> None:
    found = compare([NETWORK], [], seen)
    assert (found.make, found.drop, found.move) == ({}, (), ())


def test_what_an_earlier_life_left_does_not_count_as_somebodys() -> None:
    assert compare([NETWORK], [], WHOLE).make == {"n": [want("hvlan")]}


def test_what_is_whole_stays() -> None:
    assert compare([NETWORK], [ROW], WHOLE) == ({}, (), (), ())


def test_firewalld_that_was_not_asked_changes_nothing() -> None:
    assert compare([NETWORK], [ROW], None) == ({}, (), (), ())
    assert compare([NETWORK], [], None) == ({}, (), (), ())


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen({"hvtx": ()}, KEPT, {}), "was not in it"),
        (Seen({"hvtx": ("hvlan",)}, None, {}), "permanent"),
        (Seen({"hvtx": ("hvlan",)}, Zone((), KEPT.description), {}), "permanent"),
        (Seen({"hvtx": ("hvlan",)}, Zone(("hvlan",), "about"), {}), "without its mark"),
    ],
)
def test_what_is_missing_is_put_back(seen: Seen, words: str) -> None:
    found = compare([NETWORK], [ROW], seen)
    assert found.move == (ROW,)
    assert words in found.lacks[0]


def test_a_zone_that_is_not_in_force_yet_is_no_repairs_work() -> None:
    assert compare([NETWORK], [ROW], Seen({"public": ()}, KEPT, {})) == ({}, (), (), ())


@pytest.mark.parametrize(
    "seen",
    [
        Seen({"hvtx": (), "trusted": ("hvlan",)}, KEPT, {}),
        Seen({"hvtx": ("hvlan",)}, Zone(("hvlan",), "hvlan=hvtx:1:zzzzzzzzzz:1.b"), {}),
    ],
)
def test_what_somebody_moved_is_not_fought_for(seen: Seen) -> None:
    found = compare([NETWORK], [ROW], seen)
    assert (found.make, found.drop, found.move) == ({}, (ROW,), ())


def test_what_somebody_keeps_elsewhere_stays_until_it_is_there() -> None:
    """Until firewalld's reload the bridge is in both; what is in force is not cut off."""
    moved = Seen({"hvtx": ("hvlan",)}, Zone((), KEPT.description), {"hvlan": "dmz"})
    assert compare([NETWORK], [ROW], moved) == ({}, (), (), ())
    nowhere = moved._replace(zones={"hvtx": ()})
    assert compare([NETWORK], [ROW], nowhere) == ({}, (ROW,), (), ())


@pytest.mark.parametrize(
    ("place", "is_so"),
    [
        (("inet", "firewalld", "filter_FWD_public"), True),
        (("inet", "firewalld", "raw_PREROUTING"), False),
        (("inet", "firewalld_policy_drop", "filter_forward"), False),
        (("ip", "filter", "FORWARD"), False),
    ],
)
def test_a_panic_is_no_want_of_a_zone(place: tuple[str, ...], is_so: bool) -> None:
    flow = Flow("lan", "hvlan", Way.GUEST_TO_WORLD, 4, "tcp", None)
    assert is_for_want_of_a_zone(Stop(flow, "nft", place, "policy drop")) is is_so
