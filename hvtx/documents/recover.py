"""``hvtx/recover/1``: `recover --json`."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.recover import Recovery
    from hvtx.errors import Refused

_SCHEMA = "hvtx/recover/1"


def document(recovery: Recovery) -> dict[str, Any]:
    """What a run did."""
    return {
        "schema": _SCHEMA,
        "refused": None,
        "resolved": [
            {
                "action": item.action.value,
                "reason": item.reason.value,
                "kind": str(item.kind),
                "key": item.key,
                "vm": item.vm,
                "message": item.message,
                "outcome": item.outcome,
            }
            for item in recovery.items
        ],
        "networks": list(recovery.networks),
        "started": list(recovery.started),
        "failed": [{"what": what, "why": why} for what, why in recovery.failed],
    }


def refused(refusal: Refused) -> dict[str, Any]:
    """A run that may not conclude anything."""
    nothing: dict[str, Any] = {"resolved": [], "networks": [], "started": [], "failed": []}
    return {"schema": _SCHEMA, "refused": refusal.code, **nothing}
