"""A described set is planned, shown, asked about and made. Imported when `vm apply` is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

import click

from hvtx import documents
from hvtx.api import sets
from hvtx.api.sets import Done, Report
from hvtx.cli import described, render
from hvtx.cli.common import host_of, telling_refusal
from hvtx.cli.interrupts import interrupted
from hvtx.documents.encoding import to_json
from hvtx.errors import EXIT_PLAN_NOT_EMPTY, HvtxError, UsageError
from hvtx.model.typed import Any, NamedTuple

ALLOWANCES = ("restart", "replace")


class Wish(NamedTuple):
    """What is to be made, of which files, and what may be done for it."""

    sources: Sequence[described.Source]
    request: sets.Request
    options: dict[str, bool]  # restart, replace, start
    reviewed: list[Any] | None = None  # the steps of a saved plan

    @property
    def files(self) -> list[str]:
        """Their names."""
        return [source.file for source in self.sources]


def apply(ctx: click.Context, /, *, only_plan: bool, yes: bool, json_: bool, **given: Any) -> int:
    """Plan, and carry out what was agreed to; the exit code."""
    _refuse_combinations(given, only_plan=only_plan, yes=yes)
    asks = not (only_plan or yes or given["saved"] is not None)
    if asks and described.STDIN in given["files"]:
        raise _unasked(ctx)  # before it is read: it might be a terminal
    wish = _wish(given)  # what is wrong with the files comes before who can be asked about them
    if asks and (json_ or not sys.stdin.isatty()):
        raise _unasked(ctx)

    def told() -> AbstractContextManager[None]:
        return telling_refusal(json_, lambda refusal: _document(sets.refused(refusal), wish))

    if only_plan:
        with told():
            report = host_of(ctx).sets.plan(wish.request, **wish.options)
        return _show_plan(report, wish, given, json_=json_)
    if not yes and wish.reviewed is None:
        with told():
            report = host_of(ctx).sets.plan(wish.request, **wish.options)
        if report.steps and not report.refusals and not _agreed(report):
            raise HvtxError("the plan was declined", hint="nothing was changed", code="declined")
        if not report.steps and not report.refusals:
            return _show_nothing(report)
        wish = wish._replace(reviewed=report.identities)
    with told():
        return _carried_out(ctx, wish, json_=json_)


def _refuse_combinations(given: dict[str, Any], *, only_plan: bool, yes: bool) -> None:
    files, saved = given["files"], given["saved"]
    if files and saved is not None:
        each = " ".join(f"-f {one}" for one in (*files, saved))
        raise UsageError(
            f"give either -f FILE or a saved PLAN; {saved} has no -f before it",
            hint=f"each file has one: hvtx vm apply {each}",
        )
    if not files and saved is None:
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


def _unasked(ctx: click.Context) -> UsageError:
    from shlex import join  # for a refusal only

    given = f"hvtx {join(ctx.find_root().obj['arguments'])}"
    return UsageError(
        "nobody can be asked here whether to go on",
        hint=f"{given} --plan shows what would be done, {given} --yes does it",
    )


def _wish(given: dict[str, Any]) -> Wish:
    if given["saved"] is not None:
        saved = sets.load(given["saved"], documents.apply.SCHEMA)
        sources = [
            described.Source(*(s[k] for k in described.Source._fields)) for s in saved.described
        ]
        return Wish(sources, described.request(sources), dict(saved.options), saved.reviewed)
    sources = described.read(given["files"])
    options = {name: given[name] for name in ALLOWANCES} | {"start": not given["no_start"]}
    return Wish(sources, described.request(sources), options)


# -- the plan --------------------------------------------------------------------------------------


def _show_plan(report: Report, wish: Wish, given: dict[str, Any], *, json_: bool) -> int:
    if given["out"]:
        _save(report, wish, given["out"])
    with render.beside(given["out"]):
        if json_:
            render.emit_json(_document(report, wish))
        else:
            show(report)
            words = "nothing was changed"
            if report.steps and not report.refusals:
                words += f"; run `{render.plain(_same_plan(given))}` to apply"
            render.say(render.wrapped(words, ""))
    left = bool(report.steps or report.refusals)
    return EXIT_PLAN_NOT_EMPTY if given["detailed_exitcode"] and left else 0


def _same_plan(given: dict[str, Any]) -> str:
    """The command that carries out the plan that was shown: the saved one, or as it was asked."""
    from shlex import join

    if given["out"]:
        return join(("hvtx", "vm", "apply", given["out"]))
    chosen = [f"--{name.replace('_', '-')}" for name in (*ALLOWANCES, "no_start") if given[name]]
    if described.STDIN in given["files"]:  # then nobody can be asked
        chosen.append("--yes")
    files = [word for file in given["files"] for word in ("-f", file)]
    return join(("hvtx", "vm", "apply", *chosen, *files))


def _save(report: Report, wish: Wish, path: str) -> None:
    sources = [source._asdict() for source in wish.sources]
    document = documents.apply.saved(report, wish.files, sources, wish.options)
    sets.save(to_json(document, indent=2) + "\n", path)


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
    """Whether a person, who is shown the plan, wants it; the end of the input is a no.

    Raises HvtxError where the answer is Ctrl-C.
    """
    show(report)
    sys.stdout.flush()
    try:
        return click.confirm("Apply these steps?", err=True)
    except click.Abort as problem:  # click's error for both, raised while it handles either
        click.echo(err=True)
        if isinstance(problem.__context__, KeyboardInterrupt):
            raise interrupted("nothing was changed") from problem
        return False


# -- doing it --------------------------------------------------------------------------------------


def _carried_out(ctx: click.Context, wish: Wish, *, json_: bool) -> int:
    tell = None if json_ else show_item
    host = host_of(ctx).sets
    report = host.apply(wish.request, **wish.options, reviewed=wish.reviewed, tell=tell)
    if json_:
        render.emit_json(_document(report, wish))
    elif report.refusals or not report.steps:
        show(report)
    sets.raise_problem(report)
    return 0
