"""``hvtx/cluster-register/1``: `cluster register --json`."""

from __future__ import annotations

from hvtx.documents.parts import own_block
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.cluster_register import Registered


def document(done: Registered) -> dict[str, Any]:
    """What is this host's from here on, and what is not any more."""
    return {
        "schema": "hvtx/cluster-register/1",
        "installation": done.installation,
        "another_machine": done.moved,
        "another_etcd": done.another,
        "blocks": [own_block(one) for one in done.blocks],
        "lost": [own_block(one) for one in done.lost],
    }
