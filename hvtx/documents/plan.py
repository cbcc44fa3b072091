"""``hvtx/gc/1``: plans of `gc`, printed and saved; `plan_schema` is their JSON Schema."""

from __future__ import annotations

from hvtx.engine.gc_plan import refused_here
from hvtx.engine.saved_plan import SCHEMA, plan_id
from hvtx.model.plan import Action
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.gc_plan import Report
    from hvtx.errors import Refused
    from hvtx.model.block import BlockStep
    from hvtx.model.plan import Item


def document(report: Report, installation: str | None = None) -> dict[str, Any]:
    """A plan, made or carried out; ``installation`` is that whose remains it is of.

    That of the emergency mode says so, and its items have ``restore`` besides.
    """
    found = head(report, installation)
    found["items"] = [item_of(item, report) for item in report.plan.items]
    return found


def head(report: Report, installation: str | None = None) -> dict[str, Any]:
    """The same without its items."""
    counts = {action.value: 0 for action in Action}
    for (action, _), number in report.plan.counts().items():
        counts[action] += number
    return {
        "schema": SCHEMA,
        **({"heuristic": True} if report.heuristic else {}),
        "plan_id": plan_id(report.plan, report.blocks),
        "made": report.made,
        "applied": report.applied,
        "refused": report.refused.code if report.refused else None,
        "epoch": {"boot_id": report.boot_id, "netns": report.netns},
        "items": [],
        "summary": counts,
        **({"blocks": list(map(_block, report.blocks))} if report.blocks else {}),
        **({"installation": installation} if installation else {}),
    }


def refused(
    refusal: Refused, *, heuristic: bool = False, installation: str | None = None
) -> dict[str, Any]:
    """The plan of a store that refuses to be opened, or is refused; as :func:`document`."""
    return document(refused_here(refusal, heuristic=heuristic), installation)


def _block(step: BlockStep) -> dict[str, Any]:
    """What a plan says of a block of a cluster."""
    return {
        "action": step.action,
        "reason": step.reason,
        "network": step.network,
        "cidr": step.cidr,
        "claim": step.claim,
        "message": step.message,
        "outcome": step.outcome,
    }


def item_of(item: Item, report: Report) -> dict[str, Any]:
    """What a plan says of one thing."""
    left_alone = "skipped" if report.applied else None
    return {
        "action": item.action.value,
        "reason": item.reason.value,
        "kind": str(item.kind),
        "key": item.key,
        "vm": item.vm,
        "record": {"id": item.row, "state": str(item.state)} if item.row else None,
        "evidence": list(item.evidence),
        "message": item.message,
        "outcome": str(item.outcome) if item.outcome else left_alone,
        "mark": item.mark,
        **({"restore": item.restore or None} if report.heuristic else {}),
    }
