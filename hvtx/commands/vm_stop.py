"""`vm stop` and `vm rm`: the process ends, then what the VM has on the host is released."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.drivers.vm_process import stop
from hvtx.drivers.vm_process.gate import TERM_SECONDS
from hvtx.engine import privileges
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import after, vm_scope
from hvtx.engine.survivors import end_survivors
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.undo import take_down
from hvtx.engine.vm_paths import remove_log, run_directory
from hvtx.engine.vm_record import forget_vm
from hvtx.errors import Conflict, PartialFailure
from hvtx.host import failpoint, procfs, signals
from hvtx.hypervisors import base as hypervisors
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Outcome, Resource, is_changing
from hvtx.model.typed import Any
from hvtx.model.vm import Epoch, Identity, Liveness, Vm
from hvtx.planner.scope import VmScope, refuse_attachment
from hvtx.planner.states import VmState, identity_of
from hvtx.store import history, intents, records


def stop_vm(
    runtime: Runtime,
    name: str,
    *,
    timeout: float = 30.0,
    force: bool = False,
    tell: stop.Tell | None = None,
) -> VmScope:
    """End the hypervisor, then release the VM's host resources; the leases stay.

    Returns the VM as it is left.

    ``tell`` hears what is waited for, once that takes more than a moment.

    Raises NotFound, Conflict, PartialFailure (something is kept, and named), Busy.
    """
    runtime.enter()
    runtime.lock("vm", name)
    scope = vm_scope(runtime, name)
    refuse_attachment(scope.vm)
    return stop_scope(runtime, scope, timeout=timeout, force=force, tell=tell)


def stop_scope(
    runtime: Runtime,
    scope: VmScope,
    *,
    timeout: float,
    force: bool,
    tell: stop.Tell | None = None,
) -> VmScope:
    """The same of a VM whose lock is held."""
    vm, rows = scope.vm, scope.rows
    if scope.state is VmState.DEFINED:
        return scope
    refuse_external(vm, scope.liveness, rows, force=force)
    privileges.need_for(rows)
    privileges.need_to_end(rows, runtime.boot_id)
    with begin(runtime, "stop", vm=vm.name) as (_, operation):
        pass
    devices = [row.key for row in rows if row.kind == Kind.TAP]
    directory = run_directory(runtime.store.run_directory, vm)
    try:
        operation.raise_pending_interrupt()
        for row in rows:
            identity = identity_of(row) if row.kind == Kind.PROCESS else None
            if identity is not None and may_run(scope.life, row, identity):
                end_process(vm, identity, directory, timeout=timeout, force=force, tell=tell)
                end_survivors(operation, row, identity, devices, tell, force=force)
    except Exception:
        # It stays open, as after Ctrl-C: if the VM has ended all the same, `recover` carries the
        # stop through; if it has not, `recover` leaves it running.
        operation.unlock()
        raise
    failpoint.reach("ended:process")
    _release_all(runtime, operation, vm)
    if is_changing(rows):
        from hvtx.engine.interrupted import close_interrupted  # which hardly any stop needs

        close_interrupted(runtime)  # the operation of the change has no rows any more
    return after(scope, vm, scope.leases)


def refuse_external(vm: Vm, liveness: Liveness, rows: Sequence[Resource], *, force: bool) -> None:
    """Refuse to end a process that hvtx did not start, or of which it is not known if it runs."""
    attached = any(row.kind == Kind.PROCESS for row in rows)
    if vm.hypervisor == "external" and attached and liveness is Liveness.ALIVE and not force:
        raise Conflict(
            f"the process of VM {vm.name!r} runs, and hvtx did not start it",
            hint="end it yourself first, or let it be ended (TERM, then KILL):"
            f" hvtx vm stop {vm.name} --force",
        )
    if liveness is Liveness.UNKNOWN and attached and not force:
        raise Conflict(
            f"cannot tell whether the process of VM {vm.name!r} is running",
            hint=f"run hvtx as root; hvtx vm stop {vm.name} --force tries to end it",
        )


def may_run(life: Epoch, row: Resource, identity: Identity) -> bool:
    """Whether there can be such a process: not of another boot, nor of a container that ended."""
    here = identity.pidns in (0, procfs.pid_namespace())
    return identity.boot_id == life.boot_id and (here or row.life == life.id)


def end_process(
    vm: Vm,
    identity: Identity,
    directory: str,
    *,
    timeout: float,
    force: bool,
    tell: stop.Tell | None,
) -> None:
    """End a VM's process, as its hypervisor is ended. Raises NotPermitted, HostRefused."""
    if vm.hypervisor == "external":
        if procfs.signal(identity, signals.SIGTERM) and not procfs.wait_gone(
            identity, TERM_SECONDS
        ):
            stop.stop(identity, directory="", power_down="none", force=True)
        return
    stop.stop(
        identity,
        directory=directory,
        power_down=hypervisors.TRAITS[vm.hypervisor].power_down,
        timeout=timeout,
        force=force,
        name=vm.name,
        tell=tell,
    )


def _release_all(runtime: Runtime, operation: Operation, vm: Vm) -> None:
    # Read again: a guest may take long to power down, and a program of an earlier version that runs
    # on makes rules anew without the VM's lock (hvtx.engine.outdated).
    rows = [row for row in runtime.read(records.resources_of_vm, vm.id) if row.kind != Kind.LEASE]
    kept = take_down(operation, rows, reason=operation.verb)
    if kept:
        raise unreleased(runtime, vm, kept)


def unreleased(
    runtime: Runtime, vm: Vm, kept: Sequence[tuple[Resource, Outcome]]
) -> PartialFailure:
    """What is told of a VM that is stopped and of which something is kept."""
    from hvtx.engine import leftovers

    left = "; ".join(dict.fromkeys(outcome.message for _, outcome in kept))
    flows = all(outcome.reason == Reason.FLOWS_REMAIN for _, outcome in kept)
    return PartialFailure(
        f"VM {vm.name!r} is stopped, but not all of it could be released: {left}",
        hint="hvtx gc --apply tries again; until then nobody else gets its addresses and ports"
        if flows
        else leftovers.hint(runtime, kept),
    )


def remove_vm(runtime: Runtime, name: str, *, force: bool = False) -> None:
    """Forget a VM and free its leases and ports; ``force`` stops it first."""
    runtime.enter()
    runtime.lock("vm", name)
    remove_held(runtime, name, force=force)


def remove_held(runtime: Runtime, name: str, *, force: bool) -> VmScope:
    """The same of a VM whose lock is held; the VM as it was."""
    scope = vm_scope(runtime, name)
    vm = scope.vm
    if scope.state is not VmState.DEFINED:
        refuse_running(scope, force=force)
        stop_scope(runtime, scope, timeout=5.0, force=True)
    with begin(runtime, "rm", vm=name) as (_, operation):
        pass
    operation.end_if_interrupted()
    try:
        remove_log(runtime.settings.state_directory, vm)
        operation.end("done", then=lambda sql: forget(sql, [operation], [vm]))
    except BaseException:
        operation.unlock()  # it was interrupted: the VM is on record, and down
        raise
    return scope


def forget(sql: Any, operations: Sequence[Operation], vms: Sequence[Vm]) -> None:
    """Forget VMs in the transaction that ends their operations: if that fails, all is still there.

    What others had begun with them and was cut off is closed too: it has no rows any more.
    """
    for operation, vm in zip(operations, vms, strict=True):
        operation.history(sql, [forget_vm(sql, vm.id)])
    own, names = {operation.id for operation in operations}, {vm.name for vm in vms}
    others = [one for one in records.operations(sql) if one.vm in names and one.id not in own]
    is_running = operations[0].runtime.is_running
    cut_off = [one.id for one in others if not is_running(one.id)]
    intents.close_idle(sql, cut_off, history.now())


def refuse_running(scope: VmScope, *, force: bool) -> None:
    """Refuse to forget a VM that has anything on the host, unless it may be stopped first."""
    name = scope.vm.name
    if not force:
        raise Conflict(f"VM {name!r} is {scope.state.value}", hint=f"hvtx vm rm {name} --force")
