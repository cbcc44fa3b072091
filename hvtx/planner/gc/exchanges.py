"""Rows of a change of something living that was interrupted: it is carried on, not back.

What is on record says how the VM or the network is to be, and each row which side of the change it
is on (:mod:`hvtx.engine.exchange`). Once the VM is dead they are like all of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.plan import Action
from hvtx.model.reason import Reason
from hvtx.model.resource import Resource, State
from hvtx.planner.gc.cases import Alive, RowEpoch
from hvtx.planner.gc.facts import Facts

CARRIED_ON: Mapping[Reason, tuple[Action, str]] = {
    Reason.CHANGE_INTERRUPTED: (
        Action.COMMIT,
        "a change that was interrupted brings it: the change is carried through",
    ),
    Reason.REPLACED: (
        Action.DELETE,
        "a change that was interrupted takes it away: the change is carried through",
    ),
}
_REASONS = {
    State.INTENDED.value: Reason.CHANGE_INTERRUPTED,
    State.RELEASING.value: Reason.REPLACED,
}


def interrupted(facts: Facts, row: Resource) -> Reason | None:
    """Why a row with ``EXCHANGE`` is acted on, whose VM lives, or may; None: the table decides."""
    if facts.life(row) is not RowEpoch.NOW or facts.working(row):
        return None
    if row.backend in facts.snapshot.failures:
        return None
    if row.vm is None:
        known = facts.snapshot.networks.get(row.network or "")
        return None if known is None else _REASONS.get(row.state)
    if facts.alive(row.vm) not in (Alive.ALIVE, Alive.UNKNOWN):
        return None
    return _REASONS.get(row.state)
