"""``hvtx/cluster-forget/1``: `cluster forget --json`."""

from __future__ import annotations

from hvtx.documents.parts import held_block
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.cluster_forget import Forgotten


def document(done: Forgotten) -> dict[str, Any]:
    """Whose blocks were freed, and which."""
    return {
        "schema": "hvtx/cluster-forget/1",
        "installation": done.installation,
        "host": done.host,
        "blocks": [held_block(one) for one in done.blocks],
    }
