"""``hvtx/view/1``: what is published for a group (hvtx/commands/published_view.py)."""

from __future__ import annotations

from hvtx.commands.published_view import SCHEMA
from hvtx.documents import log, network
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.publish_view import Published
    from hvtx.commands.show_networks import ShownNetwork


def document(told: Published) -> dict[str, Any]:
    """One moment of the store, without what only root should know."""
    return {
        "schema": SCHEMA,
        "state_directory": told.state_directory,
        "as_of": told.as_of,
        "seq": told.seq,
        "life": told.life,
        "lives": list(told.lives),
        "vms": [
            {"vm": vm.vm, "rows": list(vm.rows), "verb": vm.verb, "writer": vm.writer}
            for vm in told.vms
        ],
        "networks": [_network(one) for one in told.networks],
        "history": [log.entry(line) for line in told.history],
    }


def _network(shown: ShownNetwork) -> dict[str, Any]:
    """Its object, and what each of its resources stands for, which is told in text alone."""
    return {**network.document(shown), "roles": [row.role for row in shown.resources]}
