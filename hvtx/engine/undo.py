"""What a failed operation had made is taken back: from its rows, never from memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hvtx.engine.transaction import Operation
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.model.resource import Resource
from hvtx.store import records


def undo(
    operation: Operation,
    rows: Sequence[Resource],
    problem: BaseException,
    *,
    forget_network: str | None = None,
) -> None:
    """Take back, from the rows, what a failed operation had made; ends the operation.

    What cannot be taken back, and why, is added to ``problem``, which is what people are told;
    `recover` and gc find the rest by the rows.
    """
    with taking_back(problem):
        operation.runtime.store.spend_reserve()
        _undo(operation, rows, problem, forget_network)


@contextmanager
def taking_back(problem: BaseException) -> Iterator[None]:
    """Let an error of the undo be told beside the ``problem`` that is undone, not instead of it."""
    try:
        yield
    except Exception as second:  # noqa: BLE001 - whatever it is, the first error is still the cause
        words = second.message if isinstance(second, HvtxError) else str(second)
        _remark(problem, f"not all of it could be taken back: {words}; `hvtx recover` goes on")


def _remark(problem: BaseException, note: str) -> None:
    if isinstance(problem, HvtxError):
        problem.hint = f"{problem.hint}; {note}" if problem.hint else note
    else:
        problem.add_note(note)


def _undo(
    operation: Operation,
    rows: Sequence[Resource],
    problem: BaseException,
    forget_network: str | None,
) -> None:
    failpoint.reach("undoing")
    outcomes = operation.release(rows, reasons={row.id: "undone" for row in rows})
    whole = all(outcome.gone for outcome in outcomes.values())

    def forget(sql: Any) -> None:
        if whole and forget_network is not None:
            records.remove_network(sql, forget_network)

    operation.end("undone" if whole else "partial", then=forget)
    if not whole:
        left = "; ".join(outcome.message for outcome in outcomes.values() if not outcome.gone)
        _remark(problem, f"not all of it could be taken back: {left}")
