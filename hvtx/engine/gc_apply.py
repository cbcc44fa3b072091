"""A plan of gc's rules is applied: privileges and locks first, what it leaves idle last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hvtx.engine import living_limits, privileges
from hvtx.engine.executor import Progress, execute
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import begin
from hvtx.engine.unrecorded import MarkedRemover
from hvtx.engine.vm_record import forget_vm
from hvtx.errors import Busy
from hvtx.host import failpoint
from hvtx.model.plan import Action, Item, Plan
from hvtx.model.resource import DEVICES, FIREWALL_KINDS, Kind, State
from hvtx.model.typed import Any
from hvtx.store import history, intents, records, retention
from hvtx.store.database import Store

_PROVING = (Kind.PROCESS, Kind.NETNS)  # committed, they show that a start went through
_SLICES = 12  # of the past, for one run: a store of many years takes several


def apply_plan(
    runtime: Runtime,
    plan: Plan,
    *,
    verb: str,
    vm: str | None = None,
    networks_locked: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Plan:
    """Carry out the acting items of a plan as one operation; the plan with its outcomes.

    ``networks_locked``: the caller holds the lock of all networks.
    """
    acting = plan.acting()
    if not acting:
        _tidy(runtime)
        return plan
    failpoint.reach("planned")
    _need_privileges(runtime.read, acting)
    with _networks_locked(runtime, acting, held=networks_locked) as locked:
        with begin(runtime, verb, vm=vm) as (_, operation):
            pass
        done = execute(
            operation,
            plan,
            MarkedRemover(runtime),
            recorded=True,
            networks=locked,
            progress=progress,
        )
        _tidy(runtime)
    return done


@contextmanager
def _networks_locked(runtime: Runtime, acting: Sequence[Item], *, held: bool) -> Iterator[bool]:
    """Keep commands on networks away while rows of networks go, until their record is gone too.

    Gives False where others keep the lock; then these rows must be left to them. Nobody who holds
    it waits for a collector's own locks.
    """
    if held or all(item.vm is not None for item in acting):
        yield True
        return
    try:
        runtime.lock("all", "networks")
    except Busy:
        yield False
        return
    try:
        yield True
    finally:
        runtime.unlock("all", "networks")


def _need_privileges(read: Callable[..., Any], items: Sequence[Item]) -> None:
    """Refuse before anything is written if the host would refuse half-way."""
    privileges.need(devices=any(item.kind in DEVICES for item in items))
    for item in items:
        if item.kind == Kind.FILE and item.action is Action.DELETE:
            privileges.need_to_empty(item.key)
    rules = [item for item in items if item.kind in FIREWALL_KINDS or item.entry is not None]
    problem = privileges.legacy_problem() if rules else None
    if problem is None:
        return
    backends: set[Any] = {item.entry.backend for item in rules if item.entry is not None}
    rows = read(records.resources_by_id, [item.row for item in rules if item.row])
    backends |= {row.backend for row in rows.values()}
    if "iptables" in backends:
        raise problem


def _let_go(store: Store) -> None:
    """Let go of what is long past and was not let go of as operations ended; a part at a time."""
    with store.reading() as sql:
        if not retention.is_due(sql):
            return
    for _ in range(_SLICES):
        with store.transaction() as sql:
            more = retention.prune_slice(sql)
        if not more:
            return


def _tidy(runtime: Runtime) -> None:
    """Close interrupted operations without rows, and forget what only they had made."""
    _let_go(runtime.store)
    with runtime.reading() as sql:
        operations, provisional = records.operations(sql), records.has_provisional(sql)
        bare = records.bare_attachments(sql)
    running = runtime.running(operations)
    interrupted = [operation for operation in operations if not running[operation.id]]
    if not interrupted and not provisional and not bare:
        return

    def settle(name: str) -> bool:
        if not runtime.try_lock("vm", name):
            return False
        try:
            devices = runtime.read(living_limits.standing, name, runtime.life.id)
            return not devices or living_limits.settled(runtime.devices(), devices)
        finally:
            runtime.unlock("vm", name)

    unsettled = living_limits.unsettled(interrupted, settle)
    idle = [operation.id for operation in interrupted if operation.id not in unsettled]
    with runtime.store.transaction() as sql:
        for vm, operation in records.provisional_vms(sql).items():
            if runtime.is_running(operation):
                continue
            rows = records.resources_of_vm(sql, vm)
            if any(row.kind in _PROVING and row.state == State.COMMITTED for row in rows):
                # the start went through: the VM is on record for good
                records.set_vm_confirmed(sql, vm)
            elif not [row for row in rows if row.kind != Kind.LEASE]:
                history.add(sql, [forget_vm(sql, vm)], operation=operation, verb="run")
        for vm in records.bare_attachments(sql):
            history.add(sql, [forget_vm(sql, vm)], operation=None, verb="gc")
        for network, operation in records.provisional_networks(sql).items():
            left = records.resources_of_network(sql, network)
            if not runtime.is_running(operation) and not left:
                records.remove_network(sql, network)
        intents.close_idle(sql, idle, history.now())  # last: with a VM its leases go
