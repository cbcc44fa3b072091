"""Rows by their VMs, and a look at the processes that they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Liveness
from hvtx.planner.states import identity_of, judge_process
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime


def rows_by_vm(rows: Sequence[Resource]) -> dict[str, list[Resource]]:
    """The rows of each VM (by id), in their order; those of no VM are left out (pure)."""
    found: dict[str, list[Resource]] = {}
    for row in rows:
        if row.vm:
            found.setdefault(row.vm, []).append(row)
    return found


def process_facts(rows: list[Resource]) -> dict[int, Any]:
    """Look at every process that the rows name, by row."""
    facts = {}
    for row in rows:
        if row.kind == Kind.PROCESS:
            identity = identity_of(row)
            if identity is not None:
                facts[row.id] = procfs.look_again(identity)
    return facts


def alive_again(runtime: Runtime, vms: Iterable[str]) -> frozenset[str]:
    """VMs whose recorded process is not (or no longer) proven dead, looked at just now."""
    alive = set()
    for vm in vms:
        for row in runtime.read(records.processes_of_vm, vm):
            identity = identity_of(row)
            if identity is None:
                continue
            seen = procfs.look_again(identity)
            verdict, _ = judge_process(row, identity, runtime.life, seen)
            if verdict is not Liveness.DEAD:
                alive.add(vm)
    return frozenset(alive)
