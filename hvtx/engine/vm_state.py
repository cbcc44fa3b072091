"""The state of a VM now: its record at one moment, and whether its process lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hvtx.engine.processes import process_facts, rows_by_vm
from hvtx.engine.runtime import Runtime
from hvtx.model.resource import Resource
from hvtx.model.vm import Life, Liveness, Vm
from hvtx.model.vm import Operation as OpenOperation
from hvtx.planner.states import VmState, judge_vm, vm_state
from hvtx.store import records

_LOOKS = 5  # at the record of a VM whose process is dead, while it changes


class Moment(NamedTuple):
    """What is on record of VMs at one moment, as their states are judged from it."""

    rows: Mapping[str, list[Resource]]  # live ones, by VM id
    operations: Mapping[str, list[OpenOperation]]  # that have not ended, by the VM's name
    lives: Mapping[int, Life]


def read_moment(sql: Any, vm: str | None = None) -> Moment:
    """The moment of one VM (by id), or of all; inside ``reading()``, with the VMs themselves."""
    rows = records.resources(sql) if vm is None else records.resources_of_vm(sql, vm)
    operations: dict[str, list[OpenOperation]] = {}
    for operation in records.operations(sql):
        if operation.vm:
            operations.setdefault(operation.vm, []).append(operation)
    return Moment(rows_by_vm(rows), operations, records.lives(sql))


def state_of(
    runtime: Runtime, vm: Vm, moment: Moment | None = None
) -> tuple[VmState, Liveness, list[Resource]]:
    """A VM's state now, with its live rows; ``moment``: what was read together with the VM.

    Its process is looked at after the record was read. One that is dead may be so because a stop
    began in between, so the record is read again, until it says the same as before.
    """
    seen = moment or runtime.read(read_moment, vm.id)
    for _ in range(_LOOKS):
        found = _judge(runtime, vm, seen)
        if found[0] is not VmState.CRASHED:
            break
        now = runtime.read(read_moment, vm.id)
        if _of(now, vm) == _of(seen, vm):
            break
        seen = now
    return found


def _of(moment: Moment, vm: Vm) -> tuple[list[Resource], list[OpenOperation]]:
    return moment.rows.get(vm.id, []), moment.operations.get(vm.name, [])


def _judge(runtime: Runtime, vm: Vm, moment: Moment) -> tuple[VmState, Liveness, list[Resource]]:
    rows, operations = _of(moment, vm)
    liveness, _ = judge_vm(
        vm.hypervisor,
        rows,
        life=runtime.life,
        lives=moment.lives,
        facts=process_facts(rows),
    )
    running = runtime.running(operations)
    verb = next((known.verb for known in operations if running[known.id]), None)
    return vm_state(rows, verb, liveness), liveness, rows
