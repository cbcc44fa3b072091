"""``hvtx/explain/1``: `explain --json`."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.explained import Explanation, OnRecord, Other
    from hvtx.model.history import Line


def document(told: Explanation) -> dict[str, Any]:
    """Whose a thing is, since when, and what gc would do with it."""
    return {
        "schema": "hvtx/explain/1",
        "object": told.object,
        "kind": told.kind,
        "key": told.key,
        "owner": told.owner,
        "vm": told.vm,
        "network": told.network,
        "since": told.since,
        "record": None if told.record is None else _record(told.record),
        "evidence": list(told.evidence),
        "gc": {"action": told.action, "reason": told.reason},
        "why": told.why,
        "message": told.message,
        "history": [_line(line) for line in told.history],
        "also": [_other(other) for other in told.also],
    }


def _record(record: OnRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state,
        "mark": record.mark,
        "operation": record.operation,
        "verb": record.verb,
        "since": record.since,
        "result": record.result,
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "time": line.time,
        "operation": line.operation,
        "verb": line.verb,
        "event": line.event,
        "reason": line.reason,
        "message": line.message,
    }


def _other(other: Other) -> dict[str, Any]:
    return {
        "kind": other.kind,
        "key": other.key,
        "owner": other.owner,
        "vm": other.vm,
        "message": other.message,
    }
