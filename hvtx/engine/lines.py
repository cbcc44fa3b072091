"""The history's lines of what became of rows (pure)."""

from __future__ import annotations

from hvtx.model.resource import Outcome, Resource
from hvtx.store.history import Event


def made(row: Resource) -> Event:
    """A row was committed by the operation that intended it."""
    return Event("made", f"{row.kind} {row.key}", row.kind, row.key)


def completed(row: Resource, vm: str | None) -> Event:
    """A row was committed for the operation that had been interrupted."""
    words = f"{row.kind} {row.key}: made by an interrupted start, and its VM runs"
    return Event("completed", words, row.kind, row.key, "in-use-before-commit", vm)


def carried(row: Resource, vm: str | None) -> Event:
    """A row was committed by who carried an interrupted change through."""
    from hvtx.model.reason import Reason

    words = f"{row.kind} {row.key}: a change that was interrupted is carried through"
    return Event("completed", words, row.kind, row.key, Reason.CHANGE_INTERRUPTED.value, vm)


def removal(row: Resource, outcome: Outcome, reason: str | None, vm: str | None) -> Event:
    """What a release came to; with what a row was, to tell, or to have it again."""
    if outcome.gone:
        what = {"mark": row.mark, "spec": row.spec, "observed": row.observed}
        return Event("removed", f"{row.kind} {row.key}", row.kind, row.key, reason, vm, what)
    return Event("kept", outcome.message, row.kind, row.key, outcome.reason, vm)


def forgotten(row: Resource, reason: str | None, vm: str | None) -> Event:
    """A row was closed whose object is proven absent."""
    words = f"{row.kind} {row.key}: only the record was left"
    return Event("forgotten", words, row.kind, row.key, reason, vm)


def ended(row: Resource, vm: str | None) -> Event:
    """Nothing flows past a row's rules any more."""
    from hvtx.model.reason import Reason

    words = f"{row.kind} {row.key}: no flow bypasses it any more"
    return Event("completed", words, row.kind, row.key, Reason.FLOWS_REMAIN.value, vm)
