"""``host.sets``: sets of VMs and networks that files describe, planned and made (`vm apply`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hvtx import commands
from hvtx.api import given as check
from hvtx.api.calls import Calls, flags
from hvtx.api.networks import asked_network
from hvtx.api.set_checks import Checks
from hvtx.api.vms import requested
from hvtx.commands.vm_apply import Done, Report, refused
from hvtx.engine import described
from hvtx.engine.described import Asked, Request
from hvtx.engine.files import SET_MOST, is_no_file, read_set, unwritten_option, write_out
from hvtx.engine.saved_set import load
from hvtx.errors import PartialFailure, UsageError
from hvtx.model.described import Allowed, Described, Step
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.planner.start import kept
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime

    Make = Callable[[Described, Allowed], Report]

__all__ = (
    "SET_MOST", "Asked", "Done", "Report", "Request", "Sets", "asked_network", "asked_vm",
    "is_no_file", "load", "raise_problem", "read_set", "refused", "save",
)  # fmt: skip


def asked_vm(name: str, options: Any) -> Any:
    """What was asked for, checked by itself. Raises UsageError, NotFound, NotPermitted."""
    return requested(name, options)


class Sets:
    """Verbs of described sets. Each returns a report: the steps, and what became of each."""

    def __init__(self, calls: Calls) -> None:
        """Made by :attr:`hvtx.Host.sets`."""
        self._calls = calls

    @staticmethod
    def described(
        *,
        networks: Mapping[str, Mapping[str, Any]] | None = None,
        vms: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Request:
        """A set of networks and VMs by name, each with its options as `create` takes them.

        A VM with ``start=False`` is created only. Raises UsageError, NotFound, NotPermitted.
        """
        asked = {}
        for name, options in _by_name("vms", vms, check.VM | {"start"}):
            given = dict(options)
            start = given.pop("start", True)
            if not isinstance(start, bool):
                raise UsageError(f"start is {start!r}", hint="start=True or start=False")
            asked[name] = Asked(asked_vm(name, given), f"VM {name}", start=start)
        made = {
            name: Asked(asked_network(name, options), f"network {name}")
            for name, options in _by_name("networks", networks, check.NETWORK | {"subnets"})
        }
        return Request(made, asked)

    def plan(
        self, request: Request, *, restart: bool = False, replace: bool = False, start: bool = True
    ) -> Report:
        """What would be done, and why; changes nothing.

        ``restart`` and ``replace`` let VMs be stopped, and things be made anew, where what is
        described asks for it. Raises Refused, UsageError (what could never be), NotFound, Conflict,
        and what starting a VM raises that would be stopped for it: NotPermitted, HostRefused.
        """
        _refuse_no_set(request)
        flags(restart=restart, replace=replace, start=start)
        with self._calls.opened(writable=False) as runtime:
            return _plan(runtime, request, Allowed(restart, replace), start=start)

    def apply(
        self,
        request: Request,
        *,
        restart: bool = False,
        replace: bool = False,
        start: bool = True,
        reviewed: Sequence[Any] | None = None,
        tell: Callable[[Done], None] | None = None,
    ) -> Report:
        """Plan, and carry out each step as an operation of its own; nothing if one is refused.

        ``reviewed``: nothing but these steps (a report's ``identities``), and nothing at all if
        they would be others now (StalePlan). ``tell`` hears of each step when it is done. Raises as
        :meth:`plan`, and Busy.
        """
        _refuse_no_set(request)
        flags(restart=restart, replace=replace, start=start)
        allowed = Allowed(restart, replace)
        plan = partial(_plan, request=request, allowed=allowed, start=start, reviewed=reviewed)
        first = self._calls.without_store(plan)
        if first is not None and (first.refusals or not first.steps):
            return first
        with self._calls.opened(writable=True) as runtime:
            commands.vm_apply.begin(runtime, list(request.vms))
            report = plan(runtime)
            if report.refusals:
                return report
            do = partial(self._do, request)
            return commands.vm_apply.carry_out(report, do, tell or (lambda done: None))

    def _do(self, request: Request, step: Step) -> None:
        """One step as its own command does it, with a runtime of its own: no lock stays behind."""
        spends = step.action.value in ("stop", "remove")
        with self._calls.opened(writable=True, spends=spends) as runtime:
            runtime.enter()
            commands.vm_apply.refuse_another(step, runtime.lock, runtime.read)
            _DEEDS[step.kind, step.action.value](runtime, request, step)


def _by_name(
    field: str, given: object, known: frozenset[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Each name of a set, and its options. Raises UsageError."""
    every = {} if given is None else given
    if not isinstance(every, Mapping) or not all(isinstance(o, Mapping) for o in every.values()):
        hint = f'give options by name: {field}={{"one": {{…}}}}'
        raise UsageError(f"{field} is {given!r}", hint=hint)
    for name, options in every.items():
        if wrong := check.unknown(options, known):
            raise UsageError(f"{field} has {name!r}, and {wrong[0]}", hint=wrong[1])
    return list(every.items())


def _refuse_no_set(request: object) -> None:
    if not isinstance(request, Request):
        raise UsageError(f"the set is {request!r}", hint="give what sets.described() returned")


def raise_problem(report: Report) -> None:
    """Raise Conflict if something was refused, PartialFailure if a step failed."""
    commands.vm_apply.refuse_refused(report)
    problem = commands.vm_apply.problem_of(report)
    if problem is not None:
        raise problem


def save(text: str, path: str) -> None:
    """Write a plan where a person said. Raises as ``files.unwritten`` says."""
    try:
        write_out(path, text)
    except OSError as problem:
        raise unwritten_option(
            "plan", path, problem, "hvtx vm apply -f vms.toml --plan --out"
        ) from problem


def _plan(
    runtime: Runtime,
    request: Request,
    allowed: Allowed,
    *,
    start: bool,
    reviewed: Sequence[Any] | None = None,
) -> Report:
    """What would be done now, once what can be seen beforehand is seen. Raises as its parts do.

    StalePlan, where that is not what was ``reviewed``.
    """
    wanted = request.described(runtime.settings.egress)
    if not start:
        wanted = wanted._replace(vms=[vm._replace(start=False) for vm in wanted.vms])
    report = commands.vm_apply.make_plan(runtime, wanted, allowed)
    Checks(runtime, request).check(report.steps)
    if reviewed is not None:
        commands.vm_apply.refuse_stale(report, reviewed)
    return report


def _stop(runtime: Runtime, name: str) -> None:
    """Stop a VM; flows to it that may go on keep nothing from being done that is to follow.

    Raises what stopping raises.
    """
    try:
        commands.vm_stop.stop_vm(runtime, name)
    except PartialFailure:
        vm = runtime.read(records.get_vm, name)
        if kept(runtime.read(records.resources_of_vm, vm.id)):
            raise


_DEEDS: dict[tuple[str, str], Callable[[Runtime, Request, Step], object]] = {
    ("network", "create"): lambda runtime, request, step: (
        commands.network_create.create_network(runtime, request.networks[step.name].request)
        if step.name in request.networks
        else commands.network_create.create_default(runtime)
    ),
    ("network", "change"): lambda runtime, _, step: commands.network_set.set_network(
        runtime, step.name, commands.network_set.Changes(**described.network_changes(step))
    ),
    ("network", "remove"): lambda runtime, _, step: commands.network_rm.remove_network(
        runtime, step.name
    ),
    ("vm", "create"): lambda runtime, request, step: commands.vm_create.create_vm(
        runtime, request.vms[step.name].request
    ),
    ("vm", "change"): lambda runtime, _, step: commands.vm_set.set_vm(
        runtime, step.name, commands.vm_set.Changes(**described.vm_changes(step))
    ),
    ("vm", "stop"): lambda runtime, _, step: _stop(runtime, step.name),
    ("vm", "remove"): lambda runtime, _, step: commands.vm_stop.remove_vm(runtime, step.name),
    ("vm", "start"): lambda runtime, _, step: commands.vm_start.start_vm(runtime, step.name),
}
