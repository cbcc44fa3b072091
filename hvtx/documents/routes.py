"""``hvtx/routes/1``: `network routes --json`."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.cluster_status import ShownRoute


def document(shown: Iterable[ShownRoute]) -> dict[str, Any]:
    """A route for each block."""
    return {"schema": "hvtx/routes/1", "routes": [one._asdict() for one in shown]}
