"""``hvtx/intents/1``: `intents --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.documents import parts
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.show_history import ShownOperation


def document(operations: Iterable[ShownOperation]) -> dict[str, Any]:
    """Operations that have not ended, or left rows behind."""
    return {
        "schema": "hvtx/intents/1",
        "operations": [
            {
                "id": one.id,
                "verb": one.verb,
                "vm": one.vm,
                "network": one.network,
                "state": one.state,
                "since": one.since,
                "resources": parts.resources(one.resources),
            }
            for one in operations
        ],
    }
