"""Resources that are made by an operation of their own."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine import effects
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import begin
from hvtx.model.resource import Resource
from hvtx.planner import provision
from hvtx.store import intents


def make(
    runtime: Runtime,
    verb: str,
    wants: Sequence[provision.ResourceSpec],
    network: str | None = None,
) -> list[Resource]:
    """Make what is wanted as an operation of its own, or undo it; the rows as they were committed.

    ``network``: whose the rows are, by id; the installation's without one. Raises what the making
    raises.
    """
    from hvtx.engine.undo import undo

    with begin(runtime, verb) as (sql, operation):
        rows = operation.intend(sql, wants, network=network)
    try:
        observed = effects.create(operation, rows)
        operation.commit(rows, observed)
    except (Exception, KeyboardInterrupt) as problem:
        if not operation.committed:
            undo(operation, rows).tell(problem)
        raise
    return intents.committed(rows, observed)
