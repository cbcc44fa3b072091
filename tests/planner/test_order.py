"""What is made before what, and what is released before what: both orders beside each other."""

from __future__ import annotations

import random
from typing import Any

from hvtx.model.resource import FIREWALL_KINDS, Kind, Resource, State
from hvtx.planner.order import MADE, RELEASED, creation_order, release_order


def row(number: int, kind: Kind, **spec: Any) -> Resource:
    if kind in FIREWALL_KINDS:
        spec = {"backend": "nftables", "what": "port", **spec}
    return Resource(number, kind, str(number), State.INTENDED, "", spec, {}, 1, 1, "web", None)


ROWS = [
    row(1, Kind.LEASE),
    row(2, Kind.PROCESS),
    row(3, Kind.FILTER, backend="iptables"),
    row(4, Kind.FILTER, what="base"),
    row(5, Kind.PUBLISH),
    row(6, Kind.TAP),
    row(7, Kind.BRIDGE),
    row(8, Kind.ADDRESS),
    row(9, Kind.SYSCTL),
    row(10, Kind.FILE),
    row(11, Kind.VETH),
]


def ids(rows: list[Resource]) -> list[int]:
    return [each.id for each in rows]


def test_every_kind_has_its_place_in_both() -> None:
    assert set(MADE) == set(RELEASED) == set(Kind)


def test_what_others_stand_on_is_made_first_and_nftables_before_iptables() -> None:
    assert ids(creation_order(ROWS)) == [10, 7, 8, 6, 4, 5, 3, 11, 9, 2, 1]


def test_a_containers_port_is_released_first_then_what_forwards_and_a_base_after_all_that_stands_in_it() -> (
    None
):
    assert ids(release_order(ROWS)) == [11, 3, 5, 4, 2, 6, 7, 8, 9, 10, 1]


def test_the_order_of_release_does_not_hang_on_how_rows_come() -> None:
    mixed = ROWS.copy()
    random.Random(7).shuffle(mixed)
    assert release_order(mixed) == release_order(ROWS)
