"""``hvtx/cluster/1``: `cluster status --json`."""

from __future__ import annotations

from hvtx.documents.parts import held_block, own_block
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.cluster_status import ClusterStatus


def document(shown: ClusterStatus) -> dict[str, Any]:
    """How a host stands to its cluster; ``holders`` and what follows are null if unknown."""
    known = shown.problem is None
    return {
        "schema": "hvtx/cluster/1",
        "source": shown.source,
        "installation": shown.installation,
        "endpoints": [
            {"endpoint": endpoint, "reached": why is None, "problem": why}
            for endpoint, why in shown.endpoints.items()
        ],
        "problem": shown.problem,
        "doubted": shown.doubted,
        "blocks": [own_block(block) for block in shown.blocks],
        "holders": [held_block(one) for one in shown.holders] if known else None,
        "unrecorded": [held_block(one) for one in shown.unrecorded] if known else None,
        "hosts": [
            {
                "installation": one.installation,
                "host": one.host,
                "address": one.address,
                "forgotten": one.forgotten,
            }
            for one in shown.hosts
        ]
        if known
        else None,
    }
