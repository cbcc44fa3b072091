"""``hvtx/repair/1``: `repair --json`."""

from __future__ import annotations

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.repaired import Failed, Repair
    from hvtx.errors import Refused


def document(done: Repair) -> dict[str, Any]:
    """What was put back, and what was not."""
    return _object(
        None,
        [{"kind": str(o.kind), "key": o.key, "missing": o.missing} for o in done.repaired],
        [_failed(one) for one in done.failed],
    )


def refused(refusal: Refused) -> dict[str, Any]:
    """A run that may not conclude anything."""
    return _object(refusal.code, [], [])


def _object(
    code: str | None, repaired: list[dict[str, Any]], failed: list[dict[str, Any]]
) -> dict[str, Any]:
    return {"schema": "hvtx/repair/1", "refused": code, "repaired": repaired, "failed": failed}


def _failed(one: Failed) -> dict[str, Any]:
    """A thing with the reason; ``missing`` only where it is known what was wrong."""
    missing = {} if one.missing is None else {"missing": one.missing}
    return {"kind": str(one.kind), "key": one.key, **missing, "why": one.why}
