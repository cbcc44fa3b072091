"""Operations that were interrupted and left no rows are closed; what they began is forgotten.

What left rows is for gc's plan, which decides whether they are released or committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress

from hvtx.engine import living_limits
from hvtx.engine.runtime import Runtime
from hvtx.engine.vm_paths import remove_log
from hvtx.engine.vm_record import forget_vm
from hvtx.model.resource import Kind, State
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Vm
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
    begun = runtime.read(_only_begun) if provisional else {}
    names = {**bare, **{vm: each.vm.name for vm, each in begun.items()}}
    with _held(names, runtime.try_lock, runtime.unlock) as mine:
        # read again: under its lock nobody makes a VM of that name, or takes one back
        begun = runtime.read(_only_begun) if begun else {}
        gone = {vm for vm in mine & begun.keys() if not runtime.is_running(begun[vm].operation)}
        for vm in gone:  # first: of a VM that is forgotten nothing tells that it has a log
            with suppress(OSError):
                remove_log(runtime.settings.state_directory, begun[vm].vm)
        with runtime.store.transaction() as sql:
            _close_vms(sql, runtime.is_running, gone)
            for vm in mine & records.bare_attachments(sql).keys():
                history.add(sql, [forget_vm(sql, vm)], operation=None, verb="gc")
            _close_networks(sql, runtime.is_running)
            intents.close_idle(sql, idle, history.now())  # last: with a VM its leases go


class _Begun(NamedTuple):
    """A VM that an operation has begun to make."""

    vm: Vm
    operation: int


def _only_begun(sql: Any) -> dict[str, _Begun]:
    """The provisional VMs (by id) that have only leases: no more was begun, or is left."""
    found = {}
    for id_, operation in records.provisional_vms(sql).items():
        vm = records.find_vm(sql, records.vm_name(sql, id_) or "")
        rows = records.resources_of_vm(sql, id_)
        if vm is not None and all(row.kind == Kind.LEASE for row in rows):
            found[id_] = _Begun(vm, operation)
    return found


def _close_vms(sql: Any, is_running: Callable[[int], bool], gone: Collection[str]) -> None:
    """Put on record for good the VMs whose start went through; forget those (by id) in ``gone``."""
    for vm, operation in records.provisional_vms(sql).items():
        if vm in gone:
            history.add(sql, [forget_vm(sql, vm)], operation=operation, verb="run")
        elif not is_running(operation):
            rows = records.resources_of_vm(sql, vm)
            if any(row.kind in _PROVING and row.state == State.COMMITTED for row in rows):
                records.set_vm_confirmed(sql, vm)


def _close_networks(sql: Any, is_running: Callable[[int], bool]) -> None:
    """Forget networks that nothing is left of; what nobody has begun to remove stays for good."""
    for network, operation in records.provisional_networks(sql).items():
        if is_running(operation):
            continue
        rows = records.resources_of_network(sql, network)
        if not rows:
            records.remove_network(sql, network)
        elif all(row.state == State.COMMITTED for row in rows):
            records.set_network_confirmed(sql, network)


@contextmanager
def _held(
    names: Mapping[str, str],
    try_lock: Callable[[str, str], bool],
    unlock: Callable[[str, str], None],
) -> Iterator[set[str]]:
    """Hold the locks of those of these VMs (names by id) that nobody else holds; their ids."""
    mine: set[str] = set()
    try:
        mine.update(vm for vm, name in names.items() if try_lock("vm", name))
        yield mine
    finally:
        for vm in mine:
            unlock("vm", names[vm])


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
