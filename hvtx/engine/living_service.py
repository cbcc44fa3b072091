"""A network's service under guests that run: its part of a change (:mod:`hvtx.engine.exchange`).

What belongs to a service cannot be exchanged in one batch: what goes is ended, then what comes is
made and started. A guest that asks in between asks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvtx.engine import effects, network_service
from hvtx.engine.shut_in import starts_vms
from hvtx.errors import HostRefused
from hvtx.host import failpoint
from hvtx.model.resource import Resource
from hvtx.model.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtx.engine.transaction import Operation


def exchange(
    operation: Operation, gone: Sequence[Resource], made: Sequence[Resource], *, again: bool
) -> dict[int, Mapping[str, Any]]:
    """End what goes, start what comes; what was read back, by row of ``made``.

    ``again``: part of what comes may be there, from one who was interrupted, and is made anew.
    Raises HostRefused.
    """
    if any(row.is_service for row in made) and starts_vms():
        raise HostRefused(
            "a dnsmasq that is started here would stay in the sandbox of this unit",
            hint="hvtx recover, from a shell, carries the change through",
        )
    leaving = [*gone, *(made if again else ())]
    if leaving:
        _end(operation, leaving)
    if not made:
        return {}
    failpoint.reach("ended:service")
    seen = effects.create(operation, made)
    # with what is on record of each row, so that whoever finds it carries the change on
    kept = {row.id: {**row.observed, **seen[row.id]} for row in made}
    network_service.go_on(operation, list(made), kept)
    network_service.settle(operation.runtime, made, seen)
    return seen


def _end(operation: Operation, rows: Sequence[Resource]) -> None:
    outcomes = effects.remove(operation, rows)
    left = [outcome.message for outcome in outcomes.values() if not outcome.gone]
    if left:
        raise HostRefused("; ".join(left), hint="hvtx doctor names what is in the way")
