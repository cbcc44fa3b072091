"""`recover`: resolve what was interrupted; in a new life of the host rebuild and start again.

Every step is a step of its own in the store, and the life is marked as recovered last, so that a
killed `recover` goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable

from hvtx.commands.vm_start import start_vm
from hvtx.engine import autostart
from hvtx.engine.apply import apply_plan
from hvtx.engine.gc_plan import failed_items
from hvtx.engine.network_build import ensure_networks, settle_accepts
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.scope import all_networks
from hvtx.engine.shut_in import starts_vms
from hvtx.engine.snapshot import take_snapshot
from hvtx.engine.vm_state import state_of
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.model.plan import Action, Item, Plan, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, State
from hvtx.model.typed import NamedTuple
from hvtx.planner.gc import plan_gc
from hvtx.planner.scope import NetworkScope
from hvtx.planner.service import unserved
from hvtx.planner.states import VmState
from hvtx.store import history, records, trust


class Recovery(NamedTuple):
    """What a run did."""

    items: tuple[Item, ...] = ()
    networks: tuple[str, ...] = ()  # rebuilt
    started: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()  # what, why


def recover(
    runtime: Runtime, *, accept_rollback: bool = False, new_namespace: bool = False
) -> Recovery:
    """Bring host and record together; safe at any time, any number of times.

    Raises Refused, Busy, StoreError.
    """
    if runtime.store.missing:
        return Recovery((), (), (), ())
    runtime.enter(accept_rollback=accept_rollback, new_namespace=new_namespace)
    trust.check_pages(runtime.store)
    runtime.lock("all", "gc")
    done = _resolve(runtime)
    failpoint.reach("resolved")
    failed = [(f"{i.kind} {i.key}", i.message) for i in failed_items(done)]
    rebuilt: list[str] = []
    started: list[str] = []
    scope = all_networks(runtime)  # now that the plan is carried out
    if not runtime.life.recovered:
        rebuilt, problems = _rebuild(runtime, scope)
        failed += problems
        started, problems = _autostart(runtime)
        failed += problems
        with runtime.store.transaction() as sql:
            records.set_recovered(sql, runtime.life.id, history.now())
        runtime.life = runtime.life._replace(recovered=True)
        scope = all_networks(runtime)  # read again: networks were rebuilt
        failed += _serve(runtime.settings, scope)
    settle_accepts(runtime, scope)
    return Recovery(tuple(done.items), tuple(rebuilt), tuple(started), tuple(failed))


def _serve(settings: Settings, scope: NetworkScope) -> list[tuple[str, str]]:
    """Have the services of networks started that no start of a VM has started, from outside."""
    if not starts_vms() or not unserved(scope):
        return []
    try:
        autostart.serve(settings)
    except HvtxError as problem:
        return [("DHCP and DNS", problem.message)]
    return []


def _resolve(runtime: Runtime) -> Plan:
    """Carry out what gc would do about what was interrupted, from one look at the host."""
    snapshot = take_snapshot(runtime)
    plan = plan_gc(snapshot)
    return apply_plan(runtime, Plan(_interrupted(snapshot, plan)), verb="recover")


def _interrupted(snapshot: Snapshot, plan: Plan) -> tuple[Item, ...]:
    """The items of what an interruption or an earlier life of the host left (pure).

    A stop that was interrupted after it had ended the VM process is carried through; one that was
    interrupted before left the VM running, and everything as it was.
    """
    rows = {row.id: row for row in snapshot.rows}
    stopping = {
        operation.vm
        for operation in snapshot.operations.values()
        if operation.verb in ("stop", "rm") and not operation.running
    }

    def interrupted(item: Item) -> bool:
        row = rows.get(item.row)
        if row is None or item.entry is not None:
            return item.reason is Reason.STALE_RESTORED
        if item.reason is Reason.RESERVED or (
            row.kind == Kind.LEASE and row.state == State.COMMITTED and item.action is Action.SKIP
        ):
            return False  # leases outlive every life of the host
        if item.reason is Reason.FLOWS_REMAIN:
            return True
        if item.vm in stopping and item.vm is not None and item.action is not Action.SKIP:
            return True
        return row.state != State.COMMITTED or row.life != snapshot.life.id

    return tuple(filter(interrupted, plan.items))


def _rebuild(runtime: Runtime, scope: NetworkScope) -> tuple[list[str], list[tuple[str, str]]]:
    """Make each network that is missing.

    What interruptions and restored rulesets left of them is released by now, unless a lock of
    somebody else's or a passing error kept it: that is tried again under the networks' lock.
    """
    rebuilt, failed = [], []
    for network in scope.missing():
        try:
            ensure_networks(runtime, scope.of(network), "recover")
            rebuilt.append(network.name)
        except HvtxError as problem:
            failed.append((f"network {network.name}", problem.message))
        failpoint.reach("rebuilt")
    return rebuilt, failed


def _autostart(runtime: Runtime) -> tuple[list[str], list[tuple[str, str]]]:
    """Start each VM that wants it and was not yet tried in this life."""
    start = _starter(runtime)
    tried = runtime.read(records.attempted, runtime.life.id)
    started, failed = [], []
    for vm in runtime.read(records.vms):
        if not vm.autostart or vm.id in tried:
            continue
        # looked at anew: the starts of those before it may have taken long
        state, _, _ = state_of(runtime, vm)
        if state not in (VmState.RUNNING, VmState.UNKNOWN):
            try:
                start(vm.name)
                started.append(vm.name)
            except HvtxError as problem:
                failed.append((f"VM {vm.name}", problem.message))
        # Last, so that a start that dies with us is tried again by the next run.
        with runtime.store.transaction() as sql:
            records.set_attempted(sql, runtime.life.id, vm.id)
        failpoint.reach("attempted")
    return started, failed


def _starter(runtime: Runtime) -> Callable[[str], object]:
    """What starts a VM: this process, or systemd if this process is in the unit's sandbox."""
    if starts_vms():
        return lambda name: autostart.start_vm(runtime.settings, name)
    return lambda name: start_vm(runtime, name)
