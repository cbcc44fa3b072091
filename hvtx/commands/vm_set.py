"""`vm set`: a VM is changed, whole or not at all.

Memory, processors, disks, kernel and command are what a VM is started with: for one that does not
run only the record changes. Ports are changed while it runs, too (:mod:`hvtx.engine.vm_change`),
and limits (:mod:`hvtx.engine.living_limits`); whether it starts at boot is on record only.
Addresses and networks are leased when a VM is created, and stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from hvtx.commands import vm_create
from hvtx.engine import guest_options, living_limits, vm_change, vm_options
from hvtx.engine.peer_ports import Peers, refuse_ports
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import begin
from hvtx.engine.vm_user import check_user
from hvtx.errors import Conflict, UsageError
from hvtx.model import limiting
from hvtx.model.address import with_port
from hvtx.model.policy import Limits, policy_words
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple
from hvtx.model.vm import Publish, Vm
from hvtx.planner import given_once, ports
from hvtx.planner.scope import VmScope, refuse_attachment
from hvtx.planner.start import families_of
from hvtx.planner.states import VmState
from hvtx.store import leases, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.planner.egress_rules import PolicyChange

_CLEARED = ("kernel", "initrd", "append", "user_data", "user")  # by an empty value
_GUEST = guest_options.GuestOptions._fields
_FIELDS = (
    *("memory", "cpus", "kernel", "initrd", "append", "disks", "command", "autostart", "limits"),
    *_GUEST,
    "directory",
)
_LIVING = frozenset({"limits", "autostart"})  # of these; the others are what a VM is started with


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
    queues: int | None = None
    user_data: str | None = None
    ssh_keys: tuple[str, ...] | None = None
    user: str | None = None
    directory: str | None = None  # of the command; None: with another command, this one
    publish: tuple[ports.Asked, ...] = ()
    unpublish: tuple[ports.Unpublished, ...] = ()
    policy: PolicyChange | None = None
    kept: bool = False  # append and command are as they are on record: checked before
    once: given_once.OfVm = given_once.OfVm()  # refused where it is to be otherwise

    def frees(self) -> bool:
        """Whether it only gives up what the VM has: ports, limits, rules, the start at boot."""
        limits, policy = self.limits, self.policy
        given_up = Changes(
            autostart=False if self.autostart is False else None,
            limits=limits if limits is not None and not any(limits) else None,
            policy=policy if policy is not None and policy.only_clears() else None,
            unpublish=self.unpublish,
        )
        return self == given_up

    def at_start(self) -> list[str]:
        """The fields of which a VM that runs cannot hear."""
        return [name for name in self.fields() if name not in _LIVING]

    def fields(self) -> list[str]:
        """All that is wanted, but for ports and policy."""
        return [name for name in _FIELDS if getattr(self, name) is not None]


def parse_changes(**wanted: Any) -> Changes:
    """Check what can be checked without the VM; relative paths are those of this directory.

    Raises UsageError: nothing wanted, or what could be of no VM.
    """
    limit = wanted.pop("limit", None)
    of_creation = {field: wanted.pop(field, None) or () for field in given_once.OfVm._fields}
    changes = Changes(
        **{
            **wanted,
            "once": given_once.parse_vm(given_once.OfVm(**of_creation)),
            "limits": None if limit is None else limiting.parse_limit(limit),
            "publish": ports.parse_published(wanted.get("publish", ())),
            "unpublish": ports.parse_unpublished(wanted.get("unpublish", ())),
        }
    )
    if changes == Changes():
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
    """Change a VM, whole or not at all; the VM as it is then.

    Raises NotFound (VM, file, a port that is not published), Conflict (it runs, or may, and hears
    of that only at its start; a port that is taken), UsageError (what does not go together),
    HostRefused, NotPermitted (undone), PartialFailure (changed; flows by what was taken may go on).
    """
    runtime.enter()
    runtime.lock("vm", name)
    scope = vm_change.settled_scope(runtime, name)
    _refuse_other(runtime.read, scope, changes.once)
    running = _runs(scope)
    if running and changes.at_start():
        raise _at_start(scope, changes)
    vm = scope.vm
    wanted = ports.changed(
        _changed(vm, changes), scope.networks, changes.publish, changes.unpublish
    )
    if changes.user:
        where = runtime.installation, runtime.settings.state_directory
        check_user(changes.user, vm.hypervisor, *where)
    wanted = wanted._replace(policy=vm_options.changed_policy(vm.policy, changes.policy))
    if wanted.policy != vm.policy:
        for network in scope.networks.values():  # which may lose the DNS that looks up names
            runtime.lock("network", network.name, shared=True)
        networks = runtime.read(records.networks_by_id, scope.networks)  # now that they are locked
        vm_options.refuse_names(wanted.policy, networks.values())
        vm_options.warn_of_useless(wanted.policy, list(networks.values()))
    different = _differences(vm, wanted)
    if not different:
        return scope
    new = [port for port in wanted.ports if port not in set(vm.ports)]
    runtime.read(_refuse_taken, name, new)
    events = [Event("changed", f"VM {name}: {_words(different)}", detail=different)]
    if running and not different.keys() <= _LIVING:
        return vm_change.change_running(runtime, scope, wanted, events)
    vm_create.warn_of_disks(wanted.kernel, () if running else wanted.disks)
    refuse_ports(Peers(runtime), new, families_of(wanted))
    old = living_limits.devices_of(scope.rows, runtime.life.id) if running else []
    limited = {row.id: living_limits.with_limits(row, wanted.limits) for row in old}
    with begin(runtime, living_limits.VERB, vm=name) as (sql, operation):
        if running and "limits" in different:
            living_limits.record(sql, wanted, list(limited.values()))
            operation.history(sql, events)
    if running and "limits" in different:
        living_limits.change(operation, vm, old, wanted.limits)
        return scope._replace(vm=wanted, rows=[limited.get(row.id, row) for row in scope.rows])
    operation.end_if_interrupted()
    operation.end("done", events=events, then=vm_change.record_of(wanted, vm))
    return scope._replace(vm=wanted)


def _refuse_other(read: Callable[..., Any], scope: VmScope, once: given_once.OfVm) -> None:
    """Refuse a container's interface; other networks and addresses. Raises NotFound, Conflict."""
    refuse_attachment(scope.vm)
    for name in once.networks:
        read(records.get_network, name)
    given_once.refuse_vm(scope.vm, once, scope.networks)


def _refuse_taken(sql: Any, name: str, new: Iterable[Publish]) -> None:
    """Name the VM that has a port, where a socket would tell of a program only. Raises Conflict."""
    for port in new:
        holder = leases.port_holder(sql, port)
        if holder is not None and holder != name:
            raise leases.port_conflict(sql, port, holder)


def _runs(scope: VmScope) -> bool:
    """Whether a VM is up, or may be; raises Conflict for one that is half recorded."""
    if scope.provisional:
        raise Conflict(
            f"VM {scope.vm.name!r} is incomplete: the command that makes it was interrupted",
            hint="run `hvtx recover`, then: hvtx vm ls",
        )
    if scope.state in (VmState.STARTING, VmState.STOPPING):
        raise Conflict(f"VM {scope.vm.name!r} is {scope.state.value}", hint="try again later")
    return scope.state not in (VmState.DEFINED, VmState.CRASHED)


def _at_start(scope: VmScope, changes: Changes) -> Conflict:
    name = scope.vm.name
    fields = ", ".join(changes.at_start()).replace("_", " ")
    verb = "are" if "," in fields or fields.endswith("s") else "is"
    return Conflict(
        f"VM {name!r} is {scope.state.value}, and {fields} {verb} what it is started with",
        hint=f"stop it first: hvtx vm stop {name}; --publish, --egress, --limit and --autostart"
        " work while it runs",
    )


def _changed(vm: Vm, changes: Changes) -> Vm:
    """The VM as it would be. Raises UsageError, NotFound."""
    given = {name: getattr(changes, name) for name in changes.fields()}
    given |= {name: given[name] or None for name in _CLEARED if name in given}
    interfaces = max(len(vm.interfaces), 1)
    if given.get("append") and not changes.kept:
        given["append"] = vm_options.checked_append(given["append"], interfaces)
    if "command" in given and not changes.kept:
        given["command"] = vm_options.checked_command(given["command"], interfaces)
        given.setdefault("directory", vm_options.here())
    wanted = vm._replace(**given)
    vm_options.check_combination(
        wanted.hypervisor,
        command=wanted.command,
        kernel=wanted.kernel,
        initrd=wanted.initrd,
        append=wanted.append,
        disks=wanted.disks,
    )
    guest = guest_options.GuestOptions(*(getattr(wanted, name) for name in _GUEST))
    guest_options.check_guest(wanted.hypervisor, wanted.cpus, guest)
    guest_options.check_user_data(wanted.user_data if "user_data" in given else None)
    vm_create.check_files(
        wanted.kernel if "kernel" in given else None,
        wanted.initrd if "initrd" in given else None,
        wanted.disks if "disks" in given else (),
    )
    if "disks" in given:
        vm_create.check_formats(wanted.hypervisor, wanted.kernel, wanted.disks)
    return wanted


def _differences(vm: Vm, wanted: Vm) -> dict[str, dict[str, Any]]:
    """``{field: {"from", "to"}}`` of what is another value now (pure)."""
    found = {
        name: {"from": _told(getattr(vm, name)), "to": _told(getattr(wanted, name))}
        for name in _FIELDS
        if getattr(vm, name) != getattr(wanted, name)
    }
    had, has = (dict.fromkeys(_published(each)) for each in (vm, wanted))
    if vm.policy != wanted.policy:
        found["egress"] = {"from": policy_words(vm.policy), "to": policy_words(wanted.policy)}
    gone, made = [p for p in had if p not in has], [p for p in has if p not in had]
    if gone or made:
        found["publish"] = {"from": gone, "to": made}
    return found


def _published(vm: Vm) -> list[str]:
    """As ``--publish`` has it, with the network where it is not the VM's first."""
    return [
        f"{f'{i.network_name}/' if i.position else ''}{with_port(p.host_ip, p.host_port)}"
        f":{p.guest_port}/{p.protocol}"
        for i in vm.interfaces
        for p in i.publish
    ]


_MANY = 8  # ports that a line of the history names; its detail has them all


def _told(value: Any) -> Any:
    return limiting.told(value) if isinstance(value, Limits) else value


def _words(different: Mapping[str, Mapping[str, Any]]) -> str:
    """What the history says; without paths and words of commands, which may be secret (pure)."""
    found = [
        f"{name} {change['to']}" if isinstance(change["to"], int) or name == "egress" else name
        for name, change in different.items()
        if name != "publish"
    ]
    ways = different.get("publish", {})
    for side, verb in (("from", "unpublished"), ("to", "published")):
        if some := list(ways.get(side, ())):
            more = f" and {len(some) - _MANY} more" if len(some) > _MANY else ""
            found.append(f"{verb} {' '.join(some[:_MANY])}{more}")
    return ", ".join(found)
