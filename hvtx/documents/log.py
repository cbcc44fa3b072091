"""``hvtx/log/1``: `log --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.documents import parts
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.published_view import AsOf
    from hvtx.model.history import Line


def document(
    lines: Iterable[Line], *, detail: bool = False, view: AsOf | None = None
) -> dict[str, Any]:
    """Lines of the history; with ``detail`` each has what it speaks of: an object, or None."""
    entries = [{**entry(line), **({"detail": line.detail} if detail else {})} for line in lines]
    return {"schema": "hvtx/log/1", "entries": entries, **parts.seen_in(view)}


def entry(line: Line) -> dict[str, Any]:
    """A line without what it speaks of."""
    return {
        "time": line.time,
        "operation": line.operation,
        "verb": line.verb,
        "vm": line.vm,
        "kind": line.kind,
        "key": line.key,
        "event": line.event,
        "reason": line.reason,
        "message": line.message,
    }
