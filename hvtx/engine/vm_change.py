"""A VM that is up becomes another: what its record says, its ports, and what the kernel has of it.

Whatever a VM has beside its devices and its process follows from its record
(:func:`hvtx.planner.provision.want_vm`): a change of the record is a change of these rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine import exchange, living_limits, network_needs, privileges
from hvtx.engine.interrupted import close_interrupted
from hvtx.engine.peer_ports import Peers, holding_ports
from hvtx.engine.resolve import resolve
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now, vm_scope
from hvtx.errors import Conflict
from hvtx.model.resource import is_changing
from hvtx.model.typed import Any
from hvtx.model.vm import Liveness, Vm
from hvtx.planner import changes, service_changes
from hvtx.planner.network_needs import policies_of
from hvtx.planner.scope import VmScope
from hvtx.planner.start import families_of
from hvtx.store import leases, records
from hvtx.store.history import Event


def settled_scope(runtime: Runtime, name: str) -> VmScope:
    """A VM whose lock is held, once a change of it that was interrupted is carried through.

    Raises NotFound, Conflict or HostRefused where that change cannot be.
    """
    scope = vm_scope(runtime, name)
    if is_changing(scope.rows):
        plan = resolve(runtime, name)
        scope = vm_scope(runtime, name)
        if is_changing(scope.rows):
            left = "; ".join(dict.fromkeys(i.message for i in plan.items if i.message))
            raise Conflict(
                f"a change of VM {name!r} was interrupted, and cannot be carried through: {left}",
                hint=f"hvtx gc --plan shows it; hvtx repair {name} puts back what is missing",
            )
    elif (
        living_limits.VERB in scope.unended
    ):  # of limits alone: their devices' rows say the new ones
        close_interrupted(runtime)
        scope = vm_scope(runtime, name)
        if living_limits.VERB in scope.unended and scope.liveness is not Liveness.DEAD:
            devices = living_limits.devices_of(scope.rows, runtime.life.id)
            living_limits.hold(runtime.devices(), devices)  # once more, to tell why it cannot be
    return scope


def change_running(
    runtime: Runtime, scope: VmScope, wanted: Vm, events: Sequence[Event]
) -> VmScope:
    """Change a VM that is up, whose lock is held: the record and the kernel, whole or not at all.

    Raises Conflict (a port is taken, what carries another mark is in the way), HostRefused (all is
    as it was), PartialFailure (changed, and flows that may go on).
    """
    vm = scope.vm
    for network in scope.networks.values():
        runtime.lock("network", network.name, shared=True)
    networks = networks_now(runtime, scope.networks)  # as they are now that they are locked
    privileges.need_to_start(networks.networks.values())
    there = network_needs.ready(runtime, networks, policies_of([wanted]))  # in this layout
    before = changes.of_vm(vm, there.networks, scope.rows)
    if not before:
        raise Conflict(
            f"VM {vm.name!r} runs with devices that hvtx did not make: its rules stay as they are",
            hint=f"stop it, change it, and let hvtx start it: hvtx vm stop {vm.name}",
        )
    after = changes.of_vm(wanted, there.networks, scope.rows)
    told = [
        service_changes.want_policy_names(each, there.networks, runtime.store.run_directory)
        for each in (vm, wanted)
    ]
    difference = changes.difference(scope.rows, before + told[0], after + told[1])
    families = families_of(wanted)
    with holding_ports(Peers(runtime), wanted.ports, families, vm.ports) as held:
        old = living_limits.devices_of(scope.rows, runtime.life.id)
        devices = old if wanted.limits != vm.limits else []
        change = exchange.Change(
            difference,
            record_of(wanted, vm),
            record_of(vm, wanted),
            events,
            held,
            devices,
            [living_limits.with_limits(row, wanted.limits) for row in devices],
        )
        exchange.exchange(runtime, change, vm=vm.name)
    return vm_scope(runtime, vm.name)


def record_of(vm: Vm, other: Vm) -> exchange.Record:
    """What puts a VM on record as ``vm``, which is on record as ``other``."""

    def put(sql: Any) -> None:
        records.set_vm(sql, vm)
        if vm.interfaces != other.interfaces:
            leases.set_ports(sql, vm.id, vm.interfaces)

    return put
