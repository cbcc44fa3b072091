"""What a scope says of the rows in it: of this life or an earlier one, of a network or of all."""

from __future__ import annotations

from typing import Any

from hvtx.model.resource import FLOWS, Kind, Resource, State
from hvtx.model.vm import Epoch, Liveness
from hvtx.planner.scope import NetworkScope, VmScope
from hvtx.planner.states import VmState
from tests.planner.test_provision import DMZ, LAN, VM

NOW = 7


def row(identity: int, kind: Kind, network: str | None = None, **more: Any) -> Resource:
    fields = {"state": State.COMMITTED, "life": NOW, "observed": {}, "vm": None, **more}
    return Resource(
        id=identity, kind=kind, key=f"key{identity}", mark=f"mark{identity}", spec={},
        operation=1, network=network, **fields,
    )  # fmt: skip


def scope(*rows: Resource) -> NetworkScope:
    return NetworkScope(NOW, {LAN.id: LAN, DMZ.id: DMZ}, rows)


def test_a_bridge_counts_once_it_is_committed_in_this_life() -> None:
    for other in ({"life": 6}, {"state": State.INTENDED}, {"state": State.RELEASING}):
        away = scope(row(1, Kind.BRIDGE, LAN.id, **other))
        assert (away.bridge(LAN.id), away.bridges()) == (None, {})
        assert away.missing() == [LAN, DMZ]
    bridge = row(2, Kind.BRIDGE, LAN.id)
    here = scope(row(1, Kind.BRIDGE, LAN.id, life=6), bridge)
    assert (here.bridge(LAN.id), here.bridge(DMZ.id)) == (bridge, None)
    assert (here.bridges(), here.missing()) == ({LAN.id: bridge}, [DMZ])
    assert here.of(LAN).missing() == []
    assert here.with_rows([row(3, Kind.BRIDGE, DMZ.id)]).missing() == []


def test_what_networks_stand_on_is_the_installations_own() -> None:
    base, setting = row(1, Kind.FILTER), row(2, Kind.SYSCTL)
    mixed = scope(base, setting, row(3, Kind.FILTER, LAN.id), row(4, Kind.FILTER, life=6))
    assert mixed.bases() == [base]
    assert mixed.settings() == [setting]


def test_rows_of_earlier_lives_go_with_their_networks_alone() -> None:
    old = [row(n, Kind.BRIDGE, network, life=6) for n, network in enumerate((None, LAN.id, DMZ.id))]
    assert scope(*old, row(9, Kind.BRIDGE, LAN.id)).of_earlier_lives([LAN]) == old[:2]


def test_what_is_half_done_is_unsettled() -> None:
    half = [
        row(1, Kind.BRIDGE, LAN.id, state=State.INTENDED),
        row(2, Kind.FILTER, state="releasing"),
    ]
    assert scope(*half, row(3, Kind.FILTER)).half_done() == half


def test_leases_outlive_a_stop_and_flows_a_release() -> None:
    lease = row(1, Kind.LEASE, LAN.id, vm=VM.id)
    waiting = row(2, Kind.PUBLISH, LAN.id, vm=VM.id, state=State.RELEASING, observed={FLOWS: True})
    stuck = row(3, Kind.TAP, LAN.id, vm=VM.id, state=State.RELEASING)
    life = Epoch(NOW, "boot", 1, recovered=True)
    found = VmScope(
        life, VM, [lease, waiting, stuck], {}, False, VmState.CRASHED, Liveness.DEAD
    )  # fmt: skip
    assert (found.leases, found.waiting) == ([lease], [waiting])
