"""Parts that several objects share."""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.mark import owner_mark
from hvtx.model.policy import Egress, written
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.commands.published_view import AsOf
    from hvtx.engine.imported import ImportedThing
    from hvtx.model.block import Block, Held
    from hvtx.model.resource import Resource


def resources(rows: Iterable[Resource]) -> list[dict[str, Any]]:
    """The rows of a VM, a network or an operation."""
    return [
        {"kind": row.kind, "key": row.key, "state": row.state, "mark": owner_mark(row) or None}
        for row in rows
    ]


def egress(shown: Egress) -> dict[str, Any]:
    """What guests may reach: the mode, who says it, and the rules in the order they are asked."""
    rules = [f"{rule.action} {written(rule)}" for rule in shown.rules]
    return {"mode": shown.mode, "from": shown.source, "rules": rules}


def seen_in(view: AsOf | None) -> dict[str, Any]:
    """The key ``view`` of what was read from the published view; nothing for the store's own."""
    return {} if view is None else {"view": {"as_of": view.as_of, "stale": view.stale}}


def taken(item: ImportedThing) -> dict[str, Any]:
    """A thing that `import` or `adopt` looked at, with what became of it."""
    return {
        "kind": item.kind,
        "key": item.key,
        "outcome": item.outcome,
        "reason": item.reason,
        "message": item.message,
        "evidence": list(item.evidence),
    }


def own_block(block: Block) -> dict[str, Any]:
    """A block of the store."""
    return {
        "network": block.pool.network,
        "cidr": block.cidr,
        "state": str(block.state),
        "since": block.since,
        "kept": block.kept,
        "used": block.used,
        "addresses": block.addresses,
    }


def held_block(one: Held) -> dict[str, Any]:
    """A block of a cluster, and whose it is."""
    return {
        "network": one.network,
        "cidr": one.cidr,
        "installation": one.installation,
        "host": one.host,
        "address": one.address,
    }
