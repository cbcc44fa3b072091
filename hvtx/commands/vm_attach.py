"""`vm attach`: a process that hvtx did not start becomes that of an `external` VM."""

from __future__ import annotations

import os
from collections.abc import Iterable

from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import after
from hvtx.engine.transaction import begin
from hvtx.engine.vm_change import settled_scope
from hvtx.errors import Conflict, NotFound
from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource, State, only_flows_remain
from hvtx.model.vm import Identity, Liveness, Vm
from hvtx.planner import provision
from hvtx.planner.scope import VmScope, refuse_attachment
from hvtx.planner.states import VmState, identity_of
from hvtx.store import intents, records
from hvtx.store.history import Event


def attach(runtime: Runtime, name: str, pid: int) -> VmScope:
    """Record a process that hvtx did not start as the process of an `external` VM.

    Returns the VM with it. Raises NotFound (the VM, the process), Conflict (what hvtx starts
    itself, what is not started, or not whole; a process that is a VM's, or that cannot be one),
    HostRefused (a change of it was interrupted, and cannot be carried through), Busy.
    """
    runtime.enter()
    runtime.lock("vm", name)
    scope = settled_scope(runtime, name)
    vm, rows = scope.vm, scope.rows
    refuse_attachment(vm)
    if vm.hypervisor != "external":
        raise Conflict(
            f"hvtx starts the process of VM {name!r} itself",
            hint=f"hvtx vm start {name}; only VMs created with --hypervisor external need `vm "
            "attach`",
        )
    _refuse_incomplete(scope)
    if scope.liveness is Liveness.ALIVE:
        raise Conflict(
            f"VM {name!r} has a process already", hint=f"hvtx vm show {name} tells its pid"
        )
    identity = _identified(pid)
    if pid in (1, os.getpid()):
        raise Conflict(f"process {pid} cannot be a VM", hint="give the pid of the hypervisor")
    old = [row for row in rows if row.kind == Kind.PROCESS]
    spec = {"hypervisor": "external", "directory": None}
    want = provision.ResourceSpec(Kind.PROCESS, name, spec)
    with begin(runtime, "attach", vm=name) as (sql, operation):
        # in here: two that attach it to two VMs hold no lock in common
        _refuse_shared(vm, identity, records.resources_of_kind(sql, Kind.PROCESS))
        intents.forget(sql, old)
        row = operation.intend(sql, [want], vm=vm.id, committed=True)[0]
        intents.record_observed(sql, row.id, identity._asdict())
    operation.end("done", events=[Event("attached", f"process {pid}", Kind.PROCESS, name)])
    operation.raise_pending_interrupt()  # too late: the whole was on record with the operation
    rest = [known for known in rows if known not in old]
    return after(scope, vm, [*rest, row._replace(observed=identity._asdict())])


def _refuse_shared(vm: Vm, identity: Identity, processes: Iterable[Resource]) -> None:
    """Raise Conflict if one of these rows has the process for another VM's (pure)."""
    for row in processes:
        if row.vm != vm.id and identity_of(row) == identity:
            raise Conflict(
                f"process {identity.pid} is that of VM {row.key!r}",
                hint="a process runs one VM: give its pid",
            )


def _refuse_incomplete(scope: VmScope) -> None:
    """Raise Conflict for a VM that is not started, or of which something is half made or half gone.

    Nothing would ever complete it: once it has a process it counts as running.
    """
    name, here = scope.vm.name, scope.life.id
    own = [row for row in scope.rows if row.kind not in (Kind.LEASE, Kind.PROCESS)]
    own = [row for row in own if not only_flows_remain(row)]
    if not any(row.life == here for row in own):  # what a reboot left is only on record
        raise Conflict(f"VM {name!r} is not started", hint=f"hvtx vm start {name}")
    if all((row.state, row.life) == (State.COMMITTED, here) for row in own):
        return
    first = f"hvtx vm stop {name}, then: " if scope.state is VmState.UNKNOWN else ""
    raise Conflict(
        f"VM {name!r} is incomplete: a command was interrupted",
        hint=f"{first}hvtx vm start {name}",
    )


def _identified(pid: int) -> Identity:
    try:
        return procfs.identify(pid)
    except ProcessLookupError as problem:
        raise NotFound(
            f"there is no process {pid}",
            hint="give the pid of the running hypervisor: pgrep or ps shows it, as seen from here",
        ) from problem
    except OSError as problem:
        raise Conflict(
            f"cannot determine the identity of process {pid}: {problem}",
            hint="mount /proc of this pid namespace without hidepid, and run hvtx as root",
        ) from problem
