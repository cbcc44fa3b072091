"""Operations that were interrupted and left no rows are closed; what they began is forgotten.

What left rows is for gc's plan, which decides whether they are released or committed.
"""

from __future__ import annotations

from hvtx.engine import living_limits
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_record import forget_vm
from hvtx.model.resource import Kind, State
from hvtx.store import history, intents, records, retention
from hvtx.store.database import Store

_PROVING = (Kind.PROCESS, Kind.NETNS)  # committed, they show that a start went through
_SLICES = 12  # of the past, for one run: a store of many years takes several


def close_interrupted(runtime: Runtime) -> None:
    """Close interrupted operations that left no rows, and forget what only they had begun.

    History that is due to go, and did not as operations ended, goes first.
    """
    _prune(runtime.store)
    with runtime.reading() as sql:
        operations, provisional = records.operations(sql), records.has_provisional(sql)
        bare = records.bare_attachments(sql)
    running = runtime.running(operations)
    interrupted = [operation for operation in operations if not running[operation.id]]
    if not interrupted and not provisional and not bare:
        return

    def hold_vm(name: str) -> bool:
        if not runtime.try_lock("vm", name):
            return False
        try:
            devices = runtime.read(living_limits.devices_by_name, name, runtime.life.id)
            if devices:
                living_limits.hold(runtime.devices(), devices)
            return True
        finally:
            runtime.unlock("vm", name)

    left = living_limits.carry_through(interrupted, hold_vm)
    idle = [operation.id for operation in interrupted if operation.id not in left]
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
            rows = records.resources_of_network(sql, network)
            if not runtime.is_running(operation) and not rows:
                records.remove_network(sql, network)
        intents.close_idle(sql, idle, history.now())  # last: with a VM its leases go


def _prune(store: Store) -> None:
    """Let go of what is long past and was not let go of as operations ended; a part at a time."""
    with store.reading() as sql:
        if not retention.is_due(sql):
            return
    for _ in range(_SLICES):
        with store.transaction() as sql:
            more = retention.prune_slice(sql)
        if not more:
            return
