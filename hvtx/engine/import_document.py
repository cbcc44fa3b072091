"""The JSON of `import` and `adopt`."""

from __future__ import annotations

from typing import Any

from hvtx.engine.state_files import Unread
from hvtx.engine.take_over import Outcomes
from hvtx.planner.adoption import Finding, Verdict, Why

SCHEMA = "hvtx/import/1"


def vm_document(verdict: Verdict, outcomes: Outcomes) -> dict[str, Any]:
    """One VM of `import`, with what became of its things."""
    items = [item_document(item, outcomes.get(n)) for n, item in enumerate(verdict.findings)]
    words = {item["outcome"] for item in items}
    outcome, reason = "skipped", verdict.reason or Why.GONE.value
    for candidate in ("imported", "already", "failed"):
        if candidate in words:
            outcome, reason = candidate, ""
            break
    taken = outcome in ("imported", "already")
    return {
        "path": verdict.claim.path,
        "id": verdict.claim.id,
        "name": verdict.claim.name,
        "status": verdict.claim.status,
        "vm": verdict.vm_name if taken else None,
        "liveness": verdict.liveness.value if taken else None,
        "outcome": outcome,
        "reason": reason or None,
        "message": verdict.message or verdict.process,
        "spelling": dict(verdict.claim.spelling),
        "items": items,
    }


def item_document(item: Finding, outcome: tuple[str, str] | None) -> dict[str, Any]:
    """One thing, with what became of it."""
    word, words = outcome or ("skipped", "")
    return {
        "kind": str(item.kind),
        "key": item.key,
        "outcome": word,
        "reason": item.reason or None,
        "message": words or item.message,
        "evidence": list(item.evidence),
    }


def unread_document(item: Unread) -> dict[str, Any]:
    """A file that was not believed, in the place of its VM."""
    return {
        "path": item.path,
        "id": None,
        "name": None,
        "status": None,
        "vm": None,
        "liveness": None,
        "outcome": "skipped",
        "reason": item.reason.value,
        "message": item.message,
        "spelling": {},
        "items": [],
    }
