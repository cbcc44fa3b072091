"""``hvtx/apply/1``: plans of `vm apply`, printed and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.model.described import Action
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.vm_apply import Done, Report

SCHEMA = "hvtx/apply/1"


def document(report: Report, files: Sequence[str]) -> dict[str, Any]:
    """A plan, made or carried out, of what these ``files`` describe."""
    counts = {action.value: 0 for action in Action}
    for item in report.items:
        counts[item.step.action.value] += 1
    return {
        "schema": SCHEMA,
        "plan_id": report.plan_id,
        "files": list(files),
        "applied": report.applied,
        "refused": report.refused.code if report.refused else None,
        "items": [_item(item) for item in report.items],
        "summary": counts,
    }


def saved(
    report: Report,
    files: Sequence[str],
    described: Sequence[Mapping[str, Any]],
    options: Mapping[str, bool],
) -> dict[str, Any]:
    """The same with what it takes to plan again: what was described, and what was allowed."""
    return {
        **document(report, files),
        "options": dict(options),
        "described": list(described),
        "reviewed": report.identities,
    }


def _item(item: Done) -> dict[str, Any]:
    step, problem = item.step, item.problem
    return {
        "action": step.action.value,
        "reason": step.reason.value,
        "kind": step.kind,
        "name": step.name,
        "changes": {each.option: {"from": each.old, "to": each.new} for each in step.differences},
        "message": step.message,
        "hint": step.hint,
        "outcome": item.outcome,
        "error": problem
        and {"code": problem.code, "message": problem.message, "hint": problem.hint},
    }
