"""`gc --heuristic`: options and output."""

from __future__ import annotations

from functools import partial

import click

from hvtx import documents
from hvtx.cli import render, verbs
from hvtx.cli.common import host_of, telling_refusal
from hvtx.cli.failures import raise_for_plan
from hvtx.errors import EXIT_PLAN_NOT_EMPTY, UsageError
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx import GcReport

_WARNING = (
    "guessed by name and subnet: no owner is proven. Read each line; `{}` removes what is marked"
    " with -"
)


def plan(
    ctx: click.Context, *, out: str | None, mode: int, detailed_exitcode: bool, json_: bool
) -> int:
    """`gc --heuristic --plan`."""
    plans = host_of(ctx).gc
    with telling_refusal(json_, partial(documents.plan.refused, heuristic=True)):
        report = plans.plan_heuristic()
    if out and report.refused is None:
        plans.save(report, out, mode=mode)
    with render.beside(out if report.refused is None else None):
        _show(report, json_=json_, saved=out)
    return EXIT_PLAN_NOT_EMPTY if detailed_exitcode and report.plan.acting() else 0


def apply(ctx: click.Context, file: str | None, *, yes: bool, json_: bool) -> int:
    """`gc --heuristic --apply --yes`."""
    if not yes:
        raise UsageError(
            "--heuristic removes on a guess, so --apply needs --yes",
            hint="read hvtx gc --heuristic --plan first",
        )
    with telling_refusal(json_, partial(documents.plan.refused, heuristic=True)):
        report = host_of(ctx).gc.apply_heuristic(file)
    _show(report, json_=json_)
    raise_for_plan(report, "hvtx gc --heuristic --plan shows what is left, and why")
    return 0


def _show(report: GcReport, *, json_: bool, saved: str | None = None) -> None:
    if json_:
        render.emit_json(documents.plan.document(report))
    if report.refused is not None:
        raise report.refused
    if not json_:
        _show_items(report, f"hvtx gc --heuristic --apply --yes{verbs.saved_as(saved)}")


def _show_items(report: GcReport, by: str) -> None:
    if not report.applied:
        render.say(render.wrapped(_WARNING.format(by), ""), "bold red")
        render.say("")
    for item in report.plan.items:
        if not report.applied or item.outcome is not None:
            _show_item(item)
    acting = report.plan.acting()
    left = len(report.plan.items) - len(acting)
    if report.applied:
        outcomes = [str(item.outcome) for item in acting]
        words = ", ".join(f"{outcomes.count(o)} {o}" for o in ("done", "failed", "skipped"))
    else:
        words = f"{len(acting)} to delete"
    render.say(f"{words}; {left} left alone", "bold")
    if not acting:
        render.say("nothing to do")


def _show_item(item: Any) -> None:
    outcome = f"  [{item.outcome}]" if item.outcome else ""
    mark = "-" if item.action.value == "delete" else " "
    action, reason = item.action.value, item.reason.value
    render.say(
        f"  {mark} {action:<6} {item.kind} {render.plain(item.key)}  ({reason}){outcome}",
        render.STYLES[action],
    )
    for words in (item.message, "evidence: " + "; ".join(item.evidence)):
        render.say(
            render.wrapped(render.plain(words), " " * 11), "" if words is item.message else "dim"
        )
    if item.restore:
        render.say(render.wrapped("to put it back: " + render.plain(item.restore), " " * 11), "dim")
