"""``hvtx/networks/1``: `network ls --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.documents import network, parts
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.published_view import AsOf
    from hvtx.commands.show_networks import ShownNetwork


def document(shown: Iterable[ShownNetwork], view: AsOf | None = None) -> dict[str, Any]:
    """The objects of all networks."""
    return {
        "schema": "hvtx/networks/1",
        "networks": [network.document(one) for one in shown],
        **parts.seen_in(view),
    }
