"""The state of a VM now: its record at one moment, and whether its process lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.engine.processes import process_facts, rows_by_vm
from hvtx.engine.runtime import Runtime
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Epoch, Liveness, ProcessFacts, Vm
from hvtx.model.vm import Operation as OpenOperation
from hvtx.planner.states import VmState, judge_vm, state_of_verb, vm_state
from hvtx.store import records

_FEW = 100  # VMs of which each is asked for by itself
_LOOKS = 5  # at the record of a VM whose process is dead, while it changes


class Moment(NamedTuple):
    """What is on record of VMs at one moment, as their states are judged from it."""

    rows: Mapping[str, list[Resource]]  # live ones, by VM id
    operations: Mapping[str, list[OpenOperation]]  # that have not ended, by the VM's name
    lives: Mapping[int, Epoch]


def read_moment(sql: Any, *vms: str) -> Moment:
    """The moment of these VMs (by id), or of all; inside ``reading()``, with the VMs themselves.

    Rows of all are in brief: enough to judge and to list them.
    """
    rows = [] if vms else records.resources_in_brief(sql)
    for vm in vms:
        rows += records.resources_of_vm(sql, vm)
    operations: dict[str, list[OpenOperation]] = {}
    for operation in records.operations(sql):
        if operation.vm:
            operations.setdefault(operation.vm, []).append(operation)
    return Moment(rows_by_vm(rows), operations, records.lives(sql))


def state_of(
    runtime: Runtime, vm: Vm, moment: Moment | None = None
) -> tuple[VmState, Liveness, list[Resource]]:
    """A VM's state now, with its live rows; ``moment``: what was read together with the VM."""
    return states_of(runtime, [vm], moment or runtime.read(read_moment, vm.id))[0]


def states_of(
    runtime: Runtime, vms: Sequence[Vm], moment: Moment
) -> list[tuple[VmState, Liveness, list[Resource]]]:
    """The same of several VMs, in their order, that were read in one ``moment``.

    Their processes are looked at after the record was read. One that is dead may be so because a
    stop began in between, so the record of those is read again, until it says the same as before.
    """
    facts = process_facts([row for vm in vms for row in moment.rows.get(vm.id, ())])
    found = [judge(runtime, vm, moment, facts) for vm in vms]
    doubtful, seen = list(range(len(vms))), moment
    for _ in range(_LOOKS):
        doubtful = [n for n in doubtful if found[n][0] is VmState.CRASHED]
        if not doubtful:
            break
        few = [vms[n].id for n in doubtful] if len(doubtful) < _FEW else []
        now = runtime.read(read_moment, *few)  # of all, where most are doubtful
        doubtful = [n for n in doubtful if _says(now, vms[n]) != _says(seen, vms[n])]
        for n in doubtful:
            found[n] = judge(runtime, vms[n], now)
        seen = now
    return found


def _of(moment: Moment, vm: Vm) -> tuple[list[Resource], list[OpenOperation]]:
    return moment.rows.get(vm.id, []), moment.operations.get(vm.name, [])


def _says(moment: Moment, vm: Vm) -> tuple[list[Any], list[OpenOperation]]:
    """What a moment says of a VM, in brief or not."""
    rows, operations = _of(moment, vm)
    return [
        row._replace(spec={}, observed=row.observed if row.kind == Kind.PROCESS else {})
        for row in rows
    ], operations


def judge(
    runtime: Runtime, vm: Vm, moment: Moment, facts: Mapping[int, ProcessFacts] | None = None
) -> tuple[VmState, Liveness, list[Resource]]:
    """A VM's state at this moment, with its live rows; ``facts``: of its process, else looked at.

    Enough where the VM's lock is held: nobody stops it in between.
    """
    rows, operations = _of(moment, vm)
    liveness, _ = judge_vm(
        vm.hypervisor,
        rows,
        life=runtime.life,
        lives=moment.lives,
        facts=process_facts(rows) if facts is None else facts,
    )
    verb = _verb(operations, runtime.running(operations)) if operations else None
    return vm_state(rows, verb, liveness), liveness, rows


def _verb(operations: Sequence[OpenOperation], running: Mapping[int, bool]) -> str | None:
    """That of the operation that is running on a VM, of those that have not ended (pure)."""
    return next((known.verb for known in operations if running[known.id]), None)


def is_starting(runtime: Runtime, name: str) -> bool:
    """Whether a command is starting a VM that is on record; whose lock is not held."""
    with runtime.reading() as sql:
        operations = [known for known in records.operations(sql) if known.vm == name]
        known = records.find_vm(sql, name) is not None
    verb = _verb(operations, runtime.running(operations))
    return known and state_of_verb(verb) is VmState.STARTING
