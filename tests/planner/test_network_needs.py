"""Networks need nothing before a start but what the record or a look says; each kind by itself."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.policy import NO_POLICY, Policy
from hvtx.model.resource import Kind, Resource, State
from hvtx.model.vm import Network
from hvtx.planner.network_needs import (
    Needs,
    Policies,
    has_accepts,
    made_otherwise,
    missing_tables,
    needs_of,
    policies_of,
)
from hvtx.planner.scope import NetworkScope
from tests.planner.test_provision import DMZ, LAN, VM
from tests.planner.test_scope import NOW, row

LIMITED = Policy("none")
LEGACY = LAN._replace(id="net-old", name="old", firewall="iptables")


def base(identity: int, backend: str = "nftables", **more: Any) -> Resource:
    found = row(identity, Kind.FILTER, **more)
    return found._replace(spec={"backend": backend, "what": "base"})


def bridge(identity: int, network: Network) -> Resource:
    return row(identity, Kind.BRIDGE, network.id)


def scope(*networks: Network, rows: tuple[Resource, ...] = ()) -> NetworkScope:
    standing = [bridge(100 + n, network) for n, network in enumerate(networks)]
    return NetworkScope(NOW, {each.id: each for each in networks}, [*standing, *rows])


def needed(found: NetworkScope, policies: Policies | None = None, **facts: Any) -> Needs:
    given = {"outdated": lambda _: False, "filters": False, **facts}
    return needs_of(found, policies or {}, **given)


def test_networks_that_stand_need_nothing() -> None:
    found = needed(scope(LAN, DMZ, rows=(base(1),)), policies_of([VM]))
    assert found == Needs([], [], tables=[])
    assert not any(found)


def test_each_need_is_told_by_itself() -> None:
    there = scope(LAN, rows=(base(1),))
    assert needed(there, outdated=lambda _: True).anew == [base(1)]
    assert needed(there._replace(rows=[base(1)])).missing == [LAN]
    assert needed(scope(LAN._replace(dhcp=True))).services
    assert needed(there, filters=True).accepts
    bare = scope(LEGACY, rows=(base(1, "iptables"),))
    assert needed(bare, {LEGACY.id: [LIMITED]}).tables


@pytest.mark.parametrize(
    "other", [{"life": 6}, {"state": State.INTENDED}, {"vm": None, "kind": Kind.BRIDGE}]
)
def test_only_rules_of_this_life_can_be_out_of_date(other: dict[str, Any]) -> None:
    assert made_otherwise([base(1)], [LAN], NOW, lambda _: True) == [base(1)]
    odd = base(1)._replace(**other)
    assert made_otherwise([odd], [LAN], NOW, lambda _: True) == []


def test_networks_have_rules_of_their_own_with_iptables_alone() -> None:
    """Those of nftables are elements, which every version makes alike."""
    own = [row(n, Kind.FILTER, network.id) for n, network in enumerate((LAN, LEGACY))]
    assert made_otherwise(own, [LAN, LEGACY], NOW, lambda _: True) == own[1:]
    assert made_otherwise(own, [LAN], NOW, lambda _: True) == []


@pytest.mark.parametrize(
    ("network", "policy", "bases", "lacks"),
    [
        (LEGACY, LIMITED, (), True),
        (LEGACY, NO_POLICY, (), False),
        (LEGACY._replace(policy=LIMITED), NO_POLICY, (), True),
        (LEGACY, LIMITED, (base(9),), False),
        (LAN, LIMITED, (base(9),), False),
    ],
)
def test_a_policy_stands_on_a_table_of_nftables(
    network: Network, policy: Policy, bases: tuple[Resource, ...], lacks: bool
) -> None:
    found = scope(network, rows=(base(1, "iptables"), *bases))
    if network.firewall == "iptables" and not bases:
        found = found.with_rows(
            [base(2)._replace(spec={"backend": "nftables", "families": ["bridge"]})]
        )
    lacking = missing_tables(found, {network.id: [policy]})
    assert lacking == (["nftables inet"] if lacks else [])
    assert missing_tables(found, {}) == [], "nobody starts there"


def test_policies_are_those_of_all_who_start_in_a_network() -> None:
    other = VM._replace(interfaces=VM.interfaces[:1], policy=LIMITED)
    assert policies_of([VM, other]) == {LAN.id: [NO_POLICY, LIMITED], DMZ.id: [NO_POLICY]}


def test_accepts_are_known_without_a_look_where_the_record_has_them() -> None:
    passage = row(1, Kind.FILTER, LAN.id)._replace(spec={"backend": "iptables", "what": "passage"})
    assert not has_accepts(scope(LAN))
    assert has_accepts(scope(LAN, rows=(passage,)))
    assert has_accepts(scope(LEGACY))
    assert has_accepts(scope(LAN)._replace(every=[LAN, LEGACY]))
