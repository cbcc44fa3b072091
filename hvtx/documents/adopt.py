"""``hvtx/adopt/1``: `adopt --json`."""

from __future__ import annotations

from hvtx.documents.parts import taken
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.imported import Adopted


def document(done: Adopted) -> dict[str, Any]:
    """The thing that was taken over, and its VM."""
    return {
        "schema": "hvtx/adopt/1",
        "object": done.object,
        "applied": done.applied,
        "vm": done.vm,
        "liveness": done.liveness,
        "process": done.process,
        "item": taken(done.item),
    }
