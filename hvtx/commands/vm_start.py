"""`vm start`, `vm run`, `vm restart`: what has to be so before a VM starts, and its intent.

Each reads what is on record once, under the VM's lock, and its networks once more under theirs.
What follows is decided in :mod:`hvtx.planner.start`, and :mod:`hvtx.engine.launching` does it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence

from hvtx.engine import network_needs, own_addresses, port_holders, privileges
from hvtx.engine.guest_routes import look_by
from hvtx.engine.launching import bring_up
from hvtx.engine.peer_ports import Peers, holding_ports, refuse_ports
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import after, networks_now, vm_scope
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.vm_launch import Launch, Means, refuse_diverted_vms
from hvtx.engine.vm_paths import log_path, run_directory
from hvtx.engine.vm_state import is_starting
from hvtx.engine.vm_user import need_user_of, user_of
from hvtx.errors import Conflict, PartialFailure
from hvtx.host import once
from hvtx.host.flows import flow_limit
from hvtx.model.resource import Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.user import User
from hvtx.model.vm import BRIDGE_PORTS, Liveness, Network, Vm
from hvtx.planner import provision
from hvtx.planner import start as decide
from hvtx.planner.network_needs import policies_of
from hvtx.planner.scope import NetworkScope, VmScope, refuse_attachment
from hvtx.planner.start import Leftovers
from hvtx.planner.states import VmState
from hvtx.store import intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.drivers.portholder import Held, Holder
    from hvtx.drivers.vm_process import stop
    from hvtx.engine.vm_options import VmRequest
    from hvtx.hypervisors import base as hypervisors
    from hvtx.planner.attaching import Container


def start_vm(runtime: Runtime, name: str) -> VmScope:
    """Start a VM: its whole network and the hypervisor, or nothing. Returns it as it runs.

    Raises NotFound, Conflict (state, a taken host port), HostRefused (undone), Busy.
    """
    runtime.enter()
    lock_for_start(runtime, name)
    return start_held(runtime, name)


@once.kept()
def start_held(runtime: Runtime, name: str) -> VmScope:
    """The same of a VM whose lock is held."""
    scope = free_for_start(runtime, vm_scope(runtime, name))
    if isinstance(scope, Leftovers):
        from hvtx.engine import clearing, resolve  # the planner of gc, which hardly any start needs

        scope = clearing.freed(runtime, scope, resolve.resolve(runtime, name))
    return _start_free(runtime, scope)


def _start_free(runtime: Runtime, scope: VmScope) -> VmScope:
    """The same of one that is down, with nothing of an earlier start in its way."""
    vm = scope.vm
    probes = probe_of(runtime, vm)
    with contextlib.suppress(OSError):  # its ports are held for flows that may go on: it is back
        port_holders.end_all(scope.waiting)
    with holding_ports(Peers(runtime), vm.ports, decide.families_of(vm)) as held:
        networks = networks_for_start(runtime, scope.networks.values())
        networks = network_needs.ready(runtime, networks, policies_of([vm]))
        scope = scope._replace(networks=networks.networks)
        look = look_by(runtime.devices().links)  # one for both, of now
        own_addresses.refuse_start(vm, networks.networks.values(), look.local)
        if runtime.off_record is not None:
            runtime.off_record.refuse_vm(vm, networks.networks.values())
        refuse_diverted_vms([vm], networks, look)
        with port_holders.spawned_before_rows(held, vm) as holder:
            with begin(runtime, "start", vm=vm.name) as (sql, operation):
                vm, user = with_user(operation, sql, vm, probes)
                means = means_of(operation, vm, networks, probes, user, held, holder)
                rows = intend(operation, sql, vm, scope.rows, means)
                launch = Launch(operation, vm, rows, means)
            bring_up([launch], operation)  # no call comes in between: see there
            rows = launch.committed()
    return after(scope, vm, [*scope.leases, *rows])


def lock_for_start(runtime: Runtime, name: str) -> None:
    """Hold the VM; one that another command is starting is refused at once: it will be up."""
    if runtime.try_lock("vm", name):
        return
    if is_starting(runtime, name):
        raise Conflict(f"VM {name!r} is starting", hint=f"hvtx vm show {name} tells when it is up")
    runtime.lock("vm", name)


def free_for_start(runtime: Runtime, scope: VmScope) -> VmScope | Leftovers:
    """The VM, which is down; what is in its way, where a crash or an interruption left something.

    What its networks are may change until they are locked (:func:`networks_for_start`). Raises
    Conflict for one that runs, and what :func:`need_own_blocks` raises.
    """
    refusal = decide.refusal(scope)
    if refusal is not None and decide.is_half_recorded(scope):
        return Leftovers(scope, refusal)
    if refusal is not None:
        raise refusal
    need_own_blocks(runtime, scope)
    return Leftovers(scope) if decide.has_leftovers(scope) else scope


def need_own_blocks(runtime: Runtime, scope: VmScope) -> None:
    """Refuse a VM whose addresses of a cluster's blocks may be others'. Refused, Busy, Conflict."""
    if all(network.block_size is None for network in scope.networks.values()):
        return
    from hvtx.engine import block_guests

    block_guests.need_own(runtime, scope.vm, scope.networks)


def need_program(vm: Vm) -> None:
    """Raise NotFound where what would run a VM is not on this host."""
    from hvtx.drivers.vm_process import probe

    probe.need_program(vm)


def probe_of(runtime: Runtime, vm: Vm) -> hypervisors.Probes:
    """What is there for a start, with a user that processes of this VM can become."""
    from hvtx.drivers.vm_process import probe

    user = None
    if vm.hypervisor != "external":
        settings = runtime.settings
        installation, state = runtime.installation, settings.state_directory
        user = need_user_of(vm, settings.vm_user, installation, state)
    return probe.probe(vm, runtime.store.run_directory, user)


def networks_for_start(runtime: Runtime, networks: Iterable[Network]) -> NetworkScope:
    """These networks, locked and as they are now; what they need then is yet to be done.

    Raises NotPermitted, HostRefused before anything is made where the VM could not start.
    """
    ids = []
    for network in networks:
        runtime.lock("network", network.name, shared=True)
        ids.append(network.id)
    there = networks_now(runtime, ids)  # `network set` may have been quicker: no VM was up in them
    privileges.need_to_start(there.networks.values())
    return there


def with_user(
    operation: Operation, sql: Any, vm: Vm, probes: hypervisors.Probes
) -> tuple[Vm, User | None]:
    """The VM with the number of its user id, and its user; None: hvtx's own.

    The number is that of the operation that made it, or first started it where it was imported or
    made by an earlier hvtx: no other VM's, now or later.
    """
    runtime = operation.runtime
    if not vm.number and vm.hypervisor != "external":
        vm = vm._replace(number=operation.id)
        records.set_vm(sql, vm)
    setting = runtime.settings.vm_user
    return vm, user_of(vm, setting, runtime.installation, kvm=probes.kvm)


def means_of(
    operation: Operation,
    vm: Vm,
    networks: NetworkScope,
    probes: hypervisors.Probes | None = None,
    user: User | None = None,
    held: Held | None = None,
    holder: Holder | None = None,
) -> Means:
    """What a VM is started with, beside its rows."""
    runtime = operation.runtime
    directory = run_directory(runtime.store.run_directory, vm)
    log = log_path(runtime.settings.state_directory, vm)
    return Means(networks, Peers(runtime), probes, user, held, holder, directory, log)


def intend(
    operation: Operation,
    sql: Any,
    vm: Vm,
    before: Sequence[Resource],
    means: Means,
    *,
    container: Container | None = None,
) -> list[Resource]:
    """Write what the start makes, and close what its plan closes of the rows from ``before``.

    ``container``: where the peer of an attachment is to be.
    """
    networks = means.networks
    large = decide.unbounded(networks.networks.values())
    taps = records.taps_in_networks(sql, large, operation.runtime.life.id, BRIDGE_PORTS)
    refusal = decide.full(vm, networks.networks, taps)
    if refusal is not None:
        raise refusal
    devices = [
        (
            provision.device_name(os.urandom(8)),
            provision.device_index(os.urandom(4)),
            provision.host_mac(os.urandom(5)),
        )
        for _ in vm.interfaces
    ]
    runs = operation.runtime.store.run_directory
    given = decide.Given(devices, means.directory, flow_limit(), means.user, runs, container)
    plan = decide.plan_start(vm, before, networks, given)
    if isinstance(plan, Conflict):
        raise plan
    wants = [want for want, _ in plan.create]
    rows = operation.intend(
        sql,
        wants,
        vm=vm.id,
        networks=[network for _, network in plan.create],
        observed=port_holders.observed_before_rows(wants, means.held, means.holder),
    )
    if plan.release:
        # They were the VM's own, and are again: the new rows speak of the same addresses, and
        # whoever releases these ends the flows.
        intents.forget(sql, plan.release)
        words = "what flowed to it and could not be ended is its own again"
        operation.history(sql, [Event("forgotten", words, reason="flows-remain")])
    return rows


@once.kept()
def run_vm(runtime: Runtime, request: VmRequest) -> VmScope:
    """`create` and `start` as one operation: if it fails, nothing of the VM remains."""
    from hvtx.commands import vm_create

    runtime.enter()
    runtime.lock("vm", request.name)
    if runtime.read(records.is_half_made, request.name):
        from hvtx.engine import resolve

        resolve.resolve(runtime, request.name)  # an interrupted `run` or `create` is undone whole
    families = vm_create.check_request(runtime, request, starts=True)
    vm_create.warn_of_disks(request.kernel, request.disks)
    probes = probe_of(runtime, _draft(request))
    with holding_ports(Peers(runtime), request.publish, families) as held:
        taken = vm_create.take_networks(runtime, request)
        privileges.need_to_start(taken)
        networks = networks_now(runtime, [network.id for network in taken])
        policies = {key: [request.policy] for key in networks.networks}
        networks = network_needs.ready(runtime, networks, policies)
        own = vm_create.taken_addresses(taken, runtime.off_record)
        with (
            vm_create.with_room(runtime, taken, own),
            begin(runtime, "run", vm=request.name) as (sql, operation),
        ):
            vm, leases = vm_create.record_vm(
                operation, sql, request, taken, committed=False, taken=own
            )
            vm, user = with_user(operation, sql, vm, probes)
            means = means_of(operation, vm, networks, probes, user, held)
            rows = leases + intend(operation, sql, vm, (), means)
            launch = Launch(operation, vm, rows, means, new=True)
        bring_up([launch], operation)
        rows = launch.committed()
    scope = VmScope(
        runtime.life, vm, rows, networks.networks, True, VmState.STARTING, Liveness.UNKNOWN
    )
    return after(scope, vm, rows)


def _draft(request: VmRequest) -> Vm:
    return Vm(
        "", request.name, request.hypervisor, request.memory, request.cpus, request.kernel,
        request.initrd, request.append, request.disks, request.command, request.directory,
        request.autostart, (), **request.guest._asdict(),
    )  # fmt: skip


def restart_vm(
    runtime: Runtime,
    name: str,
    *,
    timeout: float = 30.0,
    force: bool = False,
    tell: stop.Tell | None = None,
) -> VmScope:
    """Stop a VM, if it is not stopped, and start it: two operations under one lock.

    What would keep it from starting (a file or a program that is gone, a port that another has by
    now) is found before it is stopped. Raises what stopping and starting raise; a start that fails
    leaves it stopped.
    """
    from hvtx.commands.vm_stop import stop_scope

    runtime.enter()
    runtime.lock("vm", name)
    scope = vm_scope(runtime, name)
    refuse_attachment(scope.vm)
    probe_of(runtime, scope.vm)
    privileges.need_to_start(scope.networks.values())
    need_own_blocks(runtime, scope)
    ports, families = scope.vm.ports, decide.families_of(scope.vm)
    refuse_ports(Peers(runtime), ports, families, own=port_holders.held_ports(scope.rows))
    try:
        stop_scope(runtime, scope, timeout=timeout, force=force, tell=tell)
    except PartialFailure:
        # what keeps it from starting, after the stop released what it could
        if decide.kept(runtime.read(records.resources_of_vm, scope.vm.id)):
            raise
    return start_held(runtime, name)
