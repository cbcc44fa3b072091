"""A described set is planned, shown, asked about and made. Imported when `vm apply` is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import click

from hvtx import documents
from hvtx.cli import described, render
from hvtx.cli.common import opened, telling_refusal
from hvtx.commands import (
    network_create,
    network_rm,
    network_set,
    vm_apply,
    vm_create,
    vm_set,
    vm_start,
    vm_stop,
)
from hvtx.commands.vm_apply import Done, Report
from hvtx.engine import described as sets
from hvtx.engine import saved_set
from hvtx.engine.files import unwritten, write_out
from hvtx.engine.guest_options import check_user_data
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.vm_user import check_user
from hvtx.errors import EXIT_PLAN_NOT_EMPTY, HvtxError, UsageError, placed
from hvtx.model.described import VM, Allowed, Described, Step

ALLOWANCES = ("restart", "replace")
Make = Callable[[Described, Allowed], Report]


class Wish(NamedTuple):
    """What is to be made, of which files, and what may be done for it."""

    sources: Sequence[described.Source]
    request: sets.Request
    options: dict[str, bool]  # by the names of saved_set.OPTIONS
    reviewed: list[Any] | None = None  # the steps of a saved plan

    @property
    def files(self) -> list[str]:
        """Their names."""
        return [source.file for source in self.sources]


def apply(ctx: click.Context, /, *, only_plan: bool, yes: bool, json_: bool, **given: Any) -> int:
    """Plan, and carry out what was agreed to; the exit code."""
    _refuse_combinations(given, only_plan=only_plan, yes=yes, json_=json_)
    wish = _wish(given)

    def told() -> AbstractContextManager[None]:
        return telling_refusal(json_, lambda refusal: _document(vm_apply.refused(refusal), wish))

    if only_plan:
        with told():
            report = _planned(ctx, wish)
        return _show_plan(report, wish, given, json_=json_)
    if not yes and wish.reviewed is None:
        with told():
            report = _planned(ctx, wish)
        if report.steps and not report.refusals and not _agreed(report):
            raise HvtxError("the plan was declined", hint="nothing was changed", code="declined")
        if not report.steps and not report.refusals:
            return _show_nothing(report)
        wish = wish._replace(reviewed=report.identities)
    with told():
        return _carried_out(ctx, wish, json_=json_)


def _refuse_combinations(given: dict[str, Any], *, only_plan: bool, yes: bool, json_: bool) -> None:
    files, saved = given["files"], given["saved"]
    if bool(files) == (saved is not None):
        raise UsageError(
            "give either -f FILE or a saved PLAN",
            hint="hvtx vm apply -f vms.toml; - is standard input",
        )
    if saved is not None and (only_plan or any(given[o] for o in (*ALLOWANCES, "no_start"))):
        raise UsageError(
            "a saved plan takes no --plan, --restart, --replace and --no-start",
            hint="it holds what was given when it was made",
        )
    if not only_plan and (given["out"] or given["detailed_exitcode"]):
        raise UsageError("--out and --detailed-exitcode need --plan", hint="they only plan")
    if only_plan and yes:
        raise UsageError("--plan and --yes cannot be combined", hint="give one of them")
    asks = not (only_plan or yes or saved is not None)
    if asks and (json_ or described.STDIN in files or not sys.stdin.isatty()):
        raise UsageError(
            "nobody can be asked here whether to go on",
            hint="--plan shows what would be done, --yes does it",
        )


def _wish(given: dict[str, Any]) -> Wish:
    if given["saved"] is not None:
        saved = saved_set.load(given["saved"], documents.apply.SCHEMA)
        sources = [
            described.Source(*(s[k] for k in described.Source._fields)) for s in saved.described
        ]
        return Wish(sources, described.request(sources), dict(saved.options), saved.reviewed)
    sources = described.read(given["files"])
    options = {name: given[name] for name in ALLOWANCES} | {"start": not given["no_start"]}
    return Wish(sources, described.request(sources), options)


# -- the plan --------------------------------------------------------------------------------------


def _planned(ctx: click.Context, wish: Wish) -> Report:
    with opened(ctx, writable=False) as runtime:
        make = partial(vm_apply.make_plan, runtime)
        return _plan(make, wish, runtime.settings, runtime.installation)


def _plan(make: Make, wish: Wish, settings: Settings, installation: str) -> Report:
    """What would be done now, once what can be seen beforehand is seen. Raises as its parts do."""
    wanted = wish.request.described(settings.egress)
    if not wish.options["start"]:
        wanted = wanted._replace(vms=[vm._replace(start=False) for vm in wanted.vms])
    report = make(wanted, Allowed(*(wish.options[name] for name in ALLOWANCES)))
    for step in report.steps:
        if step.kind == VM and step.action.value in ("create", "change"):
            _check_files(installation, settings.state_directory, wish.request.vms[step.name])
    return report


def _check_files(installation: str, state: str, asked: sets.Asked) -> None:
    """Refuse a VM whose files or whose user are not there, before anything is done."""
    request = asked.request
    with placed(asked.where):
        vm_create.check_files(request.kernel, request.initrd, request.disks)
        check_user_data(request.guest.user_data)
        check_user(request.guest.user, request.hypervisor, installation, state)


def _show_plan(report: Report, wish: Wish, given: dict[str, Any], *, json_: bool) -> int:
    if given["out"]:
        _save(report, wish, given["out"])
    if json_:
        render.emit_json(_document(report, wish))
    else:
        show(report)
        words = "nothing was changed"
        if report.steps and not report.refusals:
            by = given["out"] or " ".join(f"-f {file}" for file in given["files"])
            words += f"; run `hvtx vm apply {render.plain(by)}` to apply"
        render.say(render.wrapped(words, ""))
    left = bool(report.steps or report.refusals)
    return EXIT_PLAN_NOT_EMPTY if given["detailed_exitcode"] and left else 0


def _save(report: Report, wish: Wish, path: str) -> None:
    sources = [source._asdict() for source in wish.sources]
    document = documents.apply.saved(report, wish.files, sources, wish.options)
    try:
        write_out(path, render.to_json(document, indent=2) + "\n")
    except OSError as problem:
        words, hint = unwritten("plan", path, problem, option="--out")
        raise UsageError(words, hint=hint) from problem


def _document(report: Report, wish: Wish) -> dict[str, Any]:
    return documents.apply.document(report, wish.files)


_SIGNS = {"create": "+", "change": "~", "stop": "-", "remove": "-", "start": ">", "refuse": "!"}
_STYLES = {"create": "green", "change": "yellow", "stop": "red", "remove": "bold red",
           "refuse": "bold red"}  # fmt: skip


def show(report: Report) -> None:
    """The steps of a plan in their order, and how many there are."""
    for item in report.items:
        show_item(item)
    actions = [item.step.action.value for item in report.items]
    some = [f"{actions.count(action)} to {action}" for action in _SIGNS if action in actions]
    calm = f"{actions.count('skip')} as described"
    render.say(", ".join(some) + f"; {calm}" if some else f"nothing to do; {calm}", "bold")


def show_item(item: Done) -> None:
    """A step in a line, with what became of it."""
    action = item.step.action.value
    if action == "skip":
        return
    outcome = f"  [{item.outcome}]" if item.outcome else ""
    words = f"{_SIGNS[action]} {render.plain(item.step.message)}{outcome}"
    style = "red" if item.outcome in ("failed", "skipped") else _STYLES.get(action, "")
    render.say(render.wrapped(words, ""), style)
    hint = item.step.hint if item.problem is None else item.problem.message
    if hint:
        render.say(render.wrapped(render.plain(hint), "    "), "dim")


def _show_nothing(report: Report) -> int:
    show(report)
    return 0


def _agreed(report: Report) -> bool:
    """Whether a person, who is shown the plan, wants it."""
    show(report)
    sys.stdout.flush()
    return click.confirm("Apply these steps?", err=True)


# -- doing it --------------------------------------------------------------------------------------


def _carried_out(ctx: click.Context, wish: Wish, *, json_: bool) -> int:
    names = list(wish.request.vms)
    with opened(ctx, writable=True) as runtime:
        vm_apply.begin(runtime, names)
        make = partial(vm_apply.make_plan, runtime)
        report = _plan(make, wish, runtime.settings, runtime.installation)
        if wish.reviewed is not None:
            vm_apply.refuse_stale(report, wish.reviewed)
        if report.refusals:
            if json_:
                render.emit_json(_document(report, wish))
            else:
                show(report)
            vm_apply.refuse_refused(report)
        tell = (lambda done: None) if json_ else show_item
        report = vm_apply.carry_out(report, lambda step: _do(ctx, wish.request, step), tell)
    if json_:
        render.emit_json(_document(report, wish))
    elif not report.steps:
        show(report)
    problem = vm_apply.problem_of(report)
    if problem is not None:
        raise problem
    return 0


def _do(ctx: click.Context, request: sets.Request, step: Step) -> None:
    """One step as its own command does it, with a runtime of its own: no lock stays behind."""
    spends = step.action.value in ("stop", "remove")
    with opened(ctx, writable=True, spends=spends) as runtime:
        _DEEDS[step.kind, step.action.value](runtime, request, step)


_DEEDS: dict[tuple[str, str], Callable[[Runtime, sets.Request, Step], object]] = {
    ("network", "create"): lambda runtime, request, step: (
        network_create.create_network(runtime, request.networks[step.name].request)
        if step.name in request.networks
        else network_create.create_default(runtime)
    ),
    ("network", "change"): lambda runtime, _, step: network_set.set_network(
        runtime, step.name, network_set.Changes(**sets.network_changes(step))
    ),
    ("network", "remove"): lambda runtime, _, step: network_rm.remove_network(runtime, step.name),
    ("vm", "create"): lambda runtime, request, step: vm_create.create_vm(
        runtime, request.vms[step.name].request
    ),
    ("vm", "change"): lambda runtime, _, step: vm_set.set_vm(
        runtime, step.name, vm_set.Changes(**sets.vm_changes(step))
    ),
    ("vm", "stop"): lambda runtime, _, step: vm_stop.stop_vm(runtime, step.name),
    ("vm", "remove"): lambda runtime, _, step: vm_stop.remove_vm(runtime, step.name),
    ("vm", "start"): lambda runtime, _, step: vm_start.start_vm(runtime, step.name),
}
