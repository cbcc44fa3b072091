"""`vm start`, `vm run`, `vm restart`: what has to be so before a VM starts, and its intent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hvtx.drivers.vm_process import probe, stop
from hvtx.engine import holding, own_addresses, privileges
from hvtx.engine.neighbours import holding_ports
from hvtx.engine.network_build import bridge_row, ensure_networks
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.vm_launch import Means, bring_up, ports_to_publish, refuse_diverted_vm
from hvtx.engine.vm_paths import run_directory
from hvtx.engine.vm_state import state_of
from hvtx.engine.vm_stop import stop_vm
from hvtx.errors import Conflict, NotFound, PartialFailure
from hvtx.host.flows import flow_limit
from hvtx.hypervisors import base as hypervisors
from hvtx.model.address import family_of
from hvtx.model.resource import Kind, Resource, State, only_flows_remain
from hvtx.model.user import User
from hvtx.model.vm import Network, Vm
from hvtx.planner import provision
from hvtx.planner.states import VmState
from hvtx.store import intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.engine.vm_options import VmWish
    from hvtx.model.plan import Plan


def start_vm(runtime: Runtime, name: str, *, verb: str = "start") -> Vm:
    """Start a VM: its whole network and the hypervisor, or nothing.

    Raises NotFound, Conflict (state, a taken host port), HostRefused (undone), Busy.
    """
    runtime.enter()
    _lock_for_start(runtime, name)
    vm = runtime.read(records.get_vm, name)
    _free_for_start(runtime, vm)
    vm = runtime.read(records.get_vm, name)
    probes = _probe(runtime, vm)
    _let_go_of_ports(runtime, vm)
    with holding_ports(runtime, ports_to_publish(vm), _families(vm)) as held:
        networks = _networks(runtime, vm)
        own_addresses.refuse_start(vm, networks.values())
        refuse_diverted_vm(runtime, vm, networks)
        with begin(runtime, verb, vm=name) as (sql, operation):
            vm, user = _with_user(operation, sql, vm, probes)
            rows = _intend(operation, sql, vm, networks, user)
            _take_over_flows(operation, sql, vm)
        bring_up(runtime, operation, vm, rows, Means(networks, probes, user, held))
    return vm


def _families(vm: Vm) -> set[int]:
    """The families in which a VM's ports are published: those of its first network."""
    first = vm.interfaces[:1]
    addresses = [address for i in first for address in (i.ipv4, i.ipv6) if address]
    return {family_of(address) for address in addresses}


def _let_go_of_ports(runtime: Runtime, vm: Vm) -> None:
    """End who still holds ports for rows that only wait for flows to end: it starts anew."""
    rows = runtime.read(records.resources_of_vm, vm.id)
    with contextlib.suppress(OSError):
        holding.end_all(row for row in rows if only_flows_remain(row))


def _take_over_flows(operation: Operation, sql: Any, vm: Vm) -> None:
    """Close the rows that only wait for flows to end: the new ones speak of the same addresses.

    They were the VM's own, and are again; whoever releases the new rows ends the flows.
    """
    rows = [row for row in records.resources_of_vm(sql, vm.id) if only_flows_remain(row)]
    if rows:
        intents.forget(sql, rows)
        words = "what flowed to it and could not be ended is its own again"
        operation.history(sql, [Event("forgotten", words, reason="flows-remain")])


def _lock_for_start(runtime: Runtime, name: str) -> None:
    """Hold the VM; one that another command is starting is refused at once: it will be up."""
    if runtime.try_lock("vm", name):
        return
    vm = runtime.read(records.find_vm, name)
    if vm is not None and state_of(runtime, vm)[0] is VmState.STARTING:
        raise Conflict(f"VM {name!r} is starting", hint=f"hvtx vm show {name} tells when it is up")
    runtime.lock("vm", name)


def run_vm(runtime: Runtime, wish: VmWish) -> Vm:
    """`create` and `start` as one operation: if it fails, nothing of the VM remains."""
    from hvtx.engine import define

    runtime.enter()
    runtime.lock("vm", wish.name)
    leftover = runtime.read(records.find_vm, wish.name)
    if leftover is not None:
        _resolve(runtime, wish.name)  # an interrupted `run` is undone whole
    families = define.check_wish(runtime, wish, starts=True)
    define.warn_of_disks(wish.kernel, wish.disks)
    probes = _probe(runtime, _draft(wish))
    with holding_ports(runtime, wish.publish, families) as held:
        networks = {network.id: network for network in define.take_networks(runtime, wish)}
        privileges.need_to_start(networks.values())
        ensure_networks(runtime, networks.values())
        own = own_addresses.in_subnets(networks.values())
        with begin(runtime, "run", vm=wish.name) as (sql, operation):
            vm, rows = define.record_vm(
                operation, sql, wish, list(networks.values()), committed=False, taken=own
            )
            vm, user = _with_user(operation, sql, vm, probes)
            rows += _intend(operation, sql, vm, networks, user)
        bring_up(runtime, operation, vm, rows, Means(networks, probes, user, held), new=True)
    return vm


def _probe(runtime: Runtime, vm: Vm) -> hypervisors.Probes:
    """What is there for a start, with a user that processes of this VM can become."""
    if vm.hypervisor == "external":
        return probe.probe(vm, runtime.store.run_directory)
    settings = runtime.settings
    user = privileges.need_user(settings.vm_user, runtime.installation, settings.state_directory)
    return probe.probe(vm, runtime.store.run_directory, user)


def _with_user(
    operation: Operation, sql: Any, vm: Vm, probes: hypervisors.Probes
) -> tuple[Vm, User | None]:
    """The VM with the number of its user id, and its user; None: hvtx's own.

    The number is that of the operation that made it, or first started it where it was imported or
    made by an earlier hvtx: no other VM's, now or later.
    """
    if vm.hypervisor == "external":
        return vm, None
    from hvtx.host import vmuser

    runtime = operation.runtime
    if not vm.number:
        vm = vm._replace(number=operation.id)
        records.set_vm(sql, vm)
    user = vmuser.choose(runtime.settings.vm_user, runtime.installation, vm.number)
    if user is not None and (probes.kvm or vm.hypervisor != "qemu"):
        user = vmuser.with_kvm(user)
    return vm, user


def _resolve(runtime: Runtime, name: str) -> Plan:
    """Release what is left of a VM; the planner is loaded only where something is."""
    from hvtx.engine.resolve import resolve

    return resolve(runtime, vm=name)


def _draft(wish: VmWish) -> Vm:
    return Vm(
        "", wish.name, wish.hypervisor, wish.memory, wish.cpus, wish.kernel, wish.initrd,
        wish.append, wish.disks, wish.command, wish.directory, wish.autostart, (),
    )  # fmt: skip


def _free_for_start(runtime: Runtime, vm: Vm) -> None:
    """Refuse a VM that runs; release what a crash or an interruption left."""
    state, _, rows = state_of(runtime, vm)
    if state in (VmState.RUNNING, VmState.STARTING, VmState.STOPPING, VmState.UNKNOWN):
        if state is VmState.RUNNING and _interrupted(rows):
            _resolve(runtime, vm.name)  # the record of a start that was killed late
        raise Conflict(f"VM {vm.name!r} is {state.value}", hint=_first(vm.name, state))
    if state is VmState.DEFINED and not runtime.read(records.is_provisional, vm.id):
        return
    plan = _resolve(runtime, vm.name)
    rows = runtime.read(records.resources_of_vm, vm.id)
    left = [row for row in rows if row.kind != Kind.LEASE and not only_flows_remain(row)]
    if left:
        keys = {row.id for row in left}
        why = (
            "; ".join(item.message for item in plan.items if item.row in keys)
            or "see hvtx gc --plan"
        )
        from hvtx.engine import leftovers

        raise Conflict(
            f"VM {vm.name!r} crashed, and what it left cannot be released: {why}",
            hint=leftovers.hint(
                runtime, leftovers.kept_by(plan.items, left), again=f"hvtx vm start {vm.name}"
            ),
        )
    if runtime.read(records.find_vm, vm.name) is None:
        raise NotFound(
            f"VM {vm.name!r} was made by an interrupted `vm run`, which is undone now",
            hint=f"run it again: hvtx vm run {vm.name}, with all that it was given",
        )


def _first(name: str, state: VmState) -> str:
    """What comes before the start of a VM that is not down."""
    if state is VmState.RUNNING:
        return f"hvtx vm restart {name} stops it first"
    if state is VmState.UNKNOWN:
        return f"hvtx vm show {name} tells more; hvtx vm stop {name} releases what is there"
    return f"hvtx vm show {name} tells when that has ended"


def _interrupted(rows: Sequence[Resource]) -> bool:
    return any(row.state == State.INTENDED for row in rows)


def _networks(runtime: Runtime, vm: Vm) -> dict[str, Network]:
    """The VM's networks, rebuilt where this life of the host has not seen them.

    Raises NotPermitted, HostRefused before anything is made where the VM could not start.
    """
    known = runtime.read(records.networks_by_id, {i.network for i in vm.interfaces})
    own = {interface.network: known[interface.network] for interface in vm.interfaces}
    for network in own.values():
        runtime.lock("network", network.name, shared=True)
    privileges.need_to_start(own.values())
    ensure_networks(runtime, own.values())
    return own


def _intend(
    operation: Operation,
    sql: Any,
    vm: Vm,
    networks: Mapping[str, Network],
    user: User | None,
) -> list[Resource]:
    runtime = operation.runtime
    bridges = {}
    for network in networks.values():
        row = bridge_row(runtime, network)
        if row is None:
            raise Conflict(f"network {network.name!r} is being changed", hint="try again")
        bridges[network.id] = row.spec["ifindex"]
    runs = vm.hypervisor != "external"
    pairs = provision.want_vm(
        vm,
        networks,
        bridges=bridges,
        devices=[
            (
                provision.device_name(os.urandom(8)),
                provision.device_index(os.urandom(4)),
                provision.host_mac(os.urandom(5)),
            )
            for _ in vm.interfaces
        ],
        directory=run_directory(runtime, vm) if runs else None,
        process=runs,
        flows=flow_limit(),
        user=user,
    )
    return operation.intend(
        sql, [want for want, _ in pairs], vm=vm.id, networks=[network for _, network in pairs]
    )


def restart_vm(
    runtime: Runtime,
    name: str,
    *,
    timeout: float = 30.0,
    force: bool = False,
    tell: stop.Tell | None = None,
) -> Vm:
    """Stop a VM, if it is not stopped, and start it: two operations under one lock.

    What would keep it from starting (a file or a program that is gone) is found before it is
    stopped. Raises what stopping and starting raise; a start that fails leaves it stopped.
    """
    runtime.enter()
    runtime.lock("vm", name)
    vm = runtime.read(records.get_vm, name)
    _probe(runtime, vm)
    own = {interface.network for interface in vm.interfaces}
    privileges.need_to_start(runtime.read(records.networks_by_id, own).values())
    try:
        stop_vm(runtime, name, timeout=timeout, force=force, tell=tell)
    except PartialFailure:
        rows = runtime.read(records.resources_of_vm, vm.id)
        if not all(row.kind == Kind.LEASE or only_flows_remain(row) for row in rows):
            raise
    return start_vm(runtime, name)
