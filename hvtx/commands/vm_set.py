"""`vm set`: another memory, other processors, disks, kernel or command for a VM that does not run.

Its limits change while it runs, too (:mod:`hvtx.engine.living_limits`). Of all else only the record
changes, in one operation: no object of the kernel speaks of it. Addresses, ports and networks are
leased when a VM is created, and stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from hvtx.commands import vm_create
from hvtx.engine import living_limits, vm_options
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import vm_scope
from hvtx.engine.transaction import begin
from hvtx.errors import Conflict, UsageError
from hvtx.model import limiting
from hvtx.model.policy import Limits
from hvtx.model.vm import Vm
from hvtx.planner.scope import VmScope
from hvtx.planner.states import VmState
from hvtx.store import records
from hvtx.store.history import Event


class Changes(NamedTuple):
    """What a person wants otherwise; None leaves a field as it is, an empty value clears it."""

    memory: int | None = None
    cpus: int | None = None
    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    disks: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    autostart: bool | None = None
    limits: Limits | None = None


LIVING = frozenset({"limits"})  # what changes under a VM that runs
_UP = (VmState.RUNNING, VmState.UNKNOWN)


def parse_changes(*, limit: str | None = None, **wanted: Any) -> Changes:
    """Check what can be checked without the VM; relative paths are those of this directory.

    Raises UsageError: nothing wanted, or what could be of no VM.
    """
    changes = Changes(**wanted, limits=None if limit is None else limiting.parse_limit(limit))
    if all(value is None for value in changes):
        raise UsageError(
            "there is nothing to set", hint="for instance: hvtx vm set web --memory 512"
        )
    vm_options.check_size(
        1 if changes.memory is None else changes.memory, 1 if changes.cpus is None else changes.cpus
    )
    vm_options.check_lines((changes.append, changes.kernel, changes.initrd, *(changes.disks or ())))
    disks = None if changes.disks is None else tuple(os.path.abspath(d) for d in changes.disks)
    return changes._replace(
        kernel=_absolute(changes.kernel), initrd=_absolute(changes.initrd), disks=disks
    )


def _absolute(path: str | None) -> str | None:
    return os.path.abspath(path) if path else path


def set_vm(runtime: Runtime, name: str, changes: Changes) -> VmScope:
    """Change the record of a VM, whole or not at all; the VM as it is then.

    Its limits change while it runs; for all else it is not to run. Raises NotFound (VM, file),
    Conflict (it runs, or may), UsageError (what does not go together), HostRefused, NotPermitted
    (its limits stay as they were).
    """
    runtime.enter()
    runtime.lock("vm", name)
    scope = vm_scope(runtime, name)
    given = {name for name, value in changes._asdict().items() if value is not None}
    if scope.provisional or given - LIVING or scope.state not in _UP:
        _refuse_running(scope)
    vm = scope.vm
    wanted = _changed(vm, changes)
    different = _differences(vm, wanted)
    if not different:
        return scope
    event = Event("changed", f"VM {name}: {_words(different)}", detail=different)
    living = scope.state in _UP
    old = living_limits.devices_of(scope.rows, runtime.life.id) if living else []
    new = {row.id: living_limits.with_limits(row, wanted.limits) for row in old}
    vm_create.warn_of_disks(wanted.kernel, () if living else wanted.disks)
    with begin(runtime, living_limits.VERB, vm=name) as (sql, operation):
        if living:
            living_limits.record(sql, wanted, list(new.values()))
            operation.history(sql, [event])
    if living:
        living_limits.change(operation, vm, old, wanted.limits)
        return scope._replace(vm=wanted, rows=[new.get(row.id, row) for row in scope.rows])
    operation.end("done", events=[event], then=lambda sql: records.set_vm(sql, wanted))
    return scope._replace(vm=wanted)


def _refuse_running(scope: VmScope) -> None:
    vm, state = scope.vm, scope.state
    if scope.provisional:
        raise Conflict(
            f"VM {vm.name!r} is incomplete: `vm run` was interrupted",
            hint="run `hvtx recover`, then: hvtx vm ls",
        )
    if state not in (VmState.DEFINED, VmState.CRASHED):
        raise Conflict(
            f"VM {vm.name!r} is {state.value}",
            hint=f"stop it first: hvtx vm stop {vm.name}",
        )


def _changed(vm: Vm, changes: Changes) -> Vm:
    """The VM as it would be. Raises UsageError, NotFound."""
    given = {name: value for name, value in changes._asdict().items() if value is not None}
    given |= {name: given[name] or None for name in ("kernel", "initrd", "append") if name in given}
    interfaces = max(len(vm.interfaces), 1)
    if given.get("append"):
        given["append"] = vm_options.checked_append(given["append"], interfaces)
    if "command" in given:
        given["command"] = vm_options.checked_command(given["command"], interfaces)
        given["directory"] = os.getcwd()
    wanted = vm._replace(**given)
    vm_options.check_combination(
        wanted.hypervisor,
        command=wanted.command,
        kernel=wanted.kernel,
        initrd=wanted.initrd,
        append=wanted.append,
        disks=wanted.disks,
    )
    vm_create.check_files(
        wanted.kernel if "kernel" in given else None,
        wanted.initrd if "initrd" in given else None,
        wanted.disks if "disks" in given else (),
    )
    return wanted


_FIELDS = (
    "memory", "cpus", "kernel", "initrd", "append", "disks", "command", "autostart", "limits",
)  # fmt: skip


def _differences(vm: Vm, wanted: Vm) -> dict[str, dict[str, Any]]:
    """``{field: {"from", "to"}}`` of what is another value now (pure)."""
    return {
        name: {"from": _told(getattr(vm, name)), "to": _told(getattr(wanted, name))}
        for name in _FIELDS
        if getattr(vm, name) != getattr(wanted, name)
    }


def _told(value: Any) -> Any:
    return limiting.told(value) if isinstance(value, Limits) else value


def _words(different: Mapping[str, Mapping[str, Any]]) -> str:
    """What the history says; without paths and words of commands, which may be secret (pure)."""
    return ", ".join(
        f"{name} {change['to']}" if isinstance(change["to"], int) else name
        for name, change in different.items()
    )
