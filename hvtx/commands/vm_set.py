"""`vm set`: another memory, other processors, disks, kernel or command for a VM that does not run.

Only the record changes, in one operation: no object of the kernel speaks of these. Addresses, ports
and networks are leased when a VM is created, and stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from hvtx.commands import vm_create
from hvtx.engine import guest_options, vm_options
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import vm_scope
from hvtx.engine.transaction import begin
from hvtx.engine.vm_user import check_user
from hvtx.errors import Conflict, UsageError
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
    queues: int | None = None
    user_data: str | None = None
    ssh_keys: tuple[str, ...] | None = None
    user: str | None = None


def parse_changes(**wanted: Any) -> Changes:
    """Check what can be checked without the VM; relative paths are those of this directory.

    Raises UsageError: nothing wanted, or what could be of no VM.
    """
    changes = Changes(**wanted)
    if all(value is None for value in changes):
        raise UsageError(
            "there is nothing to set", hint="for instance: hvtx vm set web --memory 512"
        )
    vm_options.check_size(
        1 if changes.memory is None else changes.memory, 1 if changes.cpus is None else changes.cpus
    )
    vm_options.check_lines((changes.append, changes.kernel, changes.initrd, *(changes.disks or ())))
    disks = None if changes.disks is None else tuple(os.path.abspath(d) for d in changes.disks)
    guest_options.check_queues(1 if changes.queues is None else changes.queues)
    return changes._replace(
        kernel=_absolute(changes.kernel),
        initrd=_absolute(changes.initrd),
        disks=disks,
        user_data=_absolute(changes.user_data),
        ssh_keys=None if changes.ssh_keys is None else guest_options.read_keys(changes.ssh_keys),
        user=guest_options.checked_user(changes.user) if changes.user else changes.user,
    )


def _absolute(path: str | None) -> str | None:
    return os.path.abspath(path) if path else path


def set_vm(runtime: Runtime, name: str, changes: Changes) -> VmScope:
    """Change the record of a VM that is not running, whole or not at all; the VM as it is then.

    Raises NotFound (VM, file), Conflict (it runs, or may), UsageError (what does not go together).
    """
    runtime.enter()
    runtime.lock("vm", name)
    scope = vm_scope(runtime, name)
    _refuse_running(scope)
    vm = scope.vm
    wanted = _changed(vm, changes)
    if changes.user:
        where = runtime.installation, runtime.settings.state_directory
        check_user(changes.user, vm.hypervisor, *where)
    different = _differences(vm, wanted)
    if not different:
        return scope
    vm_create.warn_of_disks(wanted.kernel, wanted.disks)
    with begin(runtime, "set", vm=name) as (_, operation):
        pass
    operation.end(
        "done",
        events=[Event("changed", f"VM {name}: {_words(different)}", detail=different)],
        then=lambda sql: records.set_vm(sql, wanted),
    )
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
    given |= {name: given[name] or None for name in _CLEARED if name in given}
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
    guest = guest_options.GuestOptions(*(getattr(wanted, name) for name in _OF_GUEST))
    guest_options.check_guest(wanted.hypervisor, wanted.cpus, guest)
    guest_options.check_user_data(wanted.user_data if "user_data" in given else None)
    vm_create.check_files(
        wanted.kernel if "kernel" in given else None,
        wanted.initrd if "initrd" in given else None,
        wanted.disks if "disks" in given else (),
    )
    return wanted


_CLEARED = ("kernel", "initrd", "append", "user_data", "user")  # by an empty value
_OF_GUEST = guest_options.GuestOptions._fields
_FIELDS = (
    *("memory", "cpus", "kernel", "initrd", "append", "disks", "command", "autostart"),
    *_OF_GUEST,
)


def _differences(vm: Vm, wanted: Vm) -> dict[str, dict[str, Any]]:
    """``{field: {"from", "to"}}`` of what is another value now (pure)."""
    return {
        name: {"from": getattr(vm, name), "to": getattr(wanted, name)}
        for name in _FIELDS
        if getattr(vm, name) != getattr(wanted, name)
    }


def _words(different: Mapping[str, Mapping[str, Any]]) -> str:
    """What the history says; without paths and words of commands, which may be secret (pure)."""
    return ", ".join(
        f"{name} {change['to']}" if isinstance(change["to"], int) else name
        for name, change in different.items()
    )
