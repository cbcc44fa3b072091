"""Whether a VM is started, what is left from before, and what its start makes and closes."""

from __future__ import annotations

import pytest

from hvtx.errors import Conflict
from hvtx.model.plan import Action, Item
from hvtx.model.reason import Reason
from hvtx.model.resource import FLOWS, Kind, Resource, State
from hvtx.model.vm import Epoch, Liveness
from hvtx.planner import start
from hvtx.planner.provision import want_vm
from hvtx.planner.scope import VmScope
from hvtx.planner.states import VmState
from tests.planner.test_provision import DEVICES, DMZ, LAN, PORTS, VM
from tests.planner.test_scope import NOW, row, scope

GIVEN = start.Given(DEVICES, "/run/hvtx/vms/id-web", 4096, None)


def vm_scope(state: VmState, *rows: Resource, provisional: bool = False) -> VmScope:
    life = Epoch(NOW, "boot", 1, recovered=True)
    return VmScope(life, VM, rows, {LAN.id: LAN, DMZ.id: DMZ}, provisional, state, Liveness.DEAD)


def bridge(identity: int, network: str) -> Resource:
    return row(identity, Kind.BRIDGE, network)._replace(spec={"ifindex": 100 + identity})


STANDING = scope(bridge(1, LAN.id), bridge(2, DMZ.id))


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (VmState.RUNNING, "hvtx vm restart web stops it first"),
        (VmState.UNKNOWN, "hvtx vm stop web releases what is there"),
        (VmState.STARTING, "hvtx vm show web tells when that has ended"),
        (VmState.STOPPING, "hvtx vm show web tells when that has ended"),
    ],
)
def test_a_vm_that_is_not_down_is_refused(state: VmState, hint: str) -> None:
    found = start.refusal(vm_scope(state))
    assert found is not None
    assert found.message == f"VM 'web' is {state.value}"
    assert hint in found.hint


@pytest.mark.parametrize("state", [VmState.DEFINED, VmState.CRASHED])
def test_one_that_is_down_is_not(state: VmState) -> None:
    assert start.refusal(vm_scope(state)) is None


def test_only_one_that_runs_can_be_half_recorded() -> None:
    half = row(1, Kind.PROCESS, state=State.INTENDED)
    assert start.is_half_recorded(vm_scope(VmState.RUNNING, half))
    assert not start.is_half_recorded(vm_scope(VmState.RUNNING, row(1, Kind.PROCESS)))
    assert not start.is_half_recorded(vm_scope(VmState.STARTING, half))


def test_a_crash_and_an_interrupted_run_leave_something() -> None:
    assert start.has_leftovers(vm_scope(VmState.CRASHED))
    assert start.has_leftovers(vm_scope(VmState.DEFINED, provisional=True))
    assert not start.has_leftovers(vm_scope(VmState.DEFINED))


LEASE = row(1, Kind.LEASE)
WAITING = row(2, Kind.PUBLISH, state=State.RELEASING, observed={FLOWS: True})
TAP = row(3, Kind.TAP, state=State.RELEASING)


def test_leases_and_flows_keep_no_vm_from_starting() -> None:
    assert start.kept([LEASE, WAITING, TAP]) == [TAP]


def test_the_plan_says_why_something_stays() -> None:
    def item(kept: int, words: str) -> Item:
        return Item(
            Action.SKIP, Reason.IN_USE, Kind.TAP, "key", "web", kept, State.RELEASING, (), words
        )

    items = [item(3, "it is held"), item(2, "flows"), item(3, "twice")]
    assert start.why_kept([TAP], items) == "it is held; twice"
    assert start.why_kept([LEASE], items) == "see hvtx gc --plan"


def test_ports_are_published_in_the_families_of_the_first_network() -> None:
    first, second = VM.interfaces
    assert VM.ports == list(PORTS)
    assert start.families_of(VM) == {4, 6}
    assert start.families_of(VM._replace(interfaces=(first._replace(ipv4=None), second))) == {6}
    assert start.families_of(VM._replace(interfaces=(first._replace(ipv6=None), second))) == {4}
    assert start.families_of(VM._replace(interfaces=())) == set()


def test_the_plan_of_a_start() -> None:
    plan = start.plan_start(VM, [LEASE, WAITING], STANDING, GIVEN)
    assert isinstance(plan, start.StartPlan)
    assert plan.release == [WAITING]
    assert plan.launch
    assert plan.create == want_vm(
        VM, STANDING.networks, bridges={LAN.id: 101, DMZ.id: 102}, devices=DEVICES,
        directory=GIVEN.directory, process=True, flows=4096, user=None,
    )  # fmt: skip


def test_a_vm_of_anothers_process_gets_neither_process_nor_directory() -> None:
    plan = start.plan_start(VM._replace(hypervisor="external"), [], STANDING, GIVEN)
    assert isinstance(plan, start.StartPlan)
    assert not plan.launch
    assert {want.kind for want, _ in plan.create}.isdisjoint({Kind.PROCESS, Kind.FILE})


def test_no_plan_without_a_bridge() -> None:
    for standing in (scope(bridge(1, LAN.id)), STANDING._replace(networks={LAN.id: LAN}, rows=())):
        found = start.plan_start(VM, [], standing, GIVEN)
        assert isinstance(found, Conflict)
        assert "is being changed" in found.message


def test_a_network_without_a_port_left_is_named() -> None:
    """It may be any of the VM's; what is not counted has ports enough."""
    assert start.BRIDGE_PORTS == 1023
    networks = {LAN.id: LAN, DMZ.id: DMZ}
    assert start.full(VM, networks, {LAN.id: 1022, DMZ.id: 1022}) is None
    for network in (LAN, DMZ):
        found = start.full(VM, networks, {network.id: 1023})
        assert found is not None
        assert f"bridge {network.bridge} has no port left for VM 'web'" in found.message
        assert "hvtx gc --plan" in found.hint


def test_only_networks_that_hold_more_guests_than_ports_are_counted() -> None:
    small = LAN._replace(id="small", subnets=("10.0.0.0/22", "fd77::/64"))
    large = LAN._replace(id="large", subnets=("10.0.0.0/21",), gateways=("10.0.0.1",))
    six = LAN._replace(id="six", subnets=("fd77::/64",), gateways=("fd77::1",))
    assert start.unbounded([small, large, six]) == ["large", "six"]
    assert start.unbounded([small]) == []
