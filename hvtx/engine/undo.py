"""What rows stand for is taken down, in one operation: an undo, a stop, a removal.

Always from the rows, never from memory; `recover` and gc find by the rows what was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvtx.engine.transaction import Operation
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.model.resource import Kind, Outcome, Resource
from hvtx.model.typed import Any, NamedTuple


class Undone(NamedTuple):
    """What an undo came to, in words; both are empty if all was taken back."""

    left: str = ""  # what could not be taken back, and why
    failed: str = ""  # what ended the undo before it was through

    def tell(self, problem: BaseException) -> None:
        """Note it on the error that was undone for, which is what people read."""
        if self.left:
            problem.add_note(f"rollback incomplete: {self.left}")
        if self.failed:
            problem.add_note(f"rollback incomplete: {self.failed}; `hvtx recover` goes on")


def undo(
    operation: Operation,
    rows: Sequence[Resource],
    *,
    before: Callable[[], object] = lambda: None,
    gone: Callable[[Any], None] = lambda sql: None,
) -> Undone:
    """Take back what a failed operation had made, and end the operation.

    ``before`` is done first (the VM process ends), ``gone`` in the last transaction if nothing was
    left. Raises nothing but KeyboardInterrupt and its like.
    """

    def work() -> str:
        before()
        operation.runtime.store.spend_reserve()
        failpoint.reach("undoing")
        kept = take_down(operation, rows, reason="undone", result="undone", gone=gone)
        return "; ".join(outcome.message for _, outcome in kept)

    return attempt(work)


def attempt(work: Callable[[], str]) -> Undone:
    """Do part of an undo, which says what it left; its own error is no reason to hide the first."""
    try:
        return Undone(left=work())
    except Exception as second:  # noqa: BLE001 - whatever it is, the first error is still the cause
        return Undone(failed=second.message if isinstance(second, HvtxError) else str(second))


def take_down(
    operation: Operation,
    rows: Sequence[Resource],
    *,
    reason: str,
    result: str = "done",
    gone: Callable[[Any], None] = lambda sql: None,
) -> list[tuple[Resource, Outcome]]:
    """Forget rows of earlier lives of the host, release those of this one, end the operation.

    What is kept, and why; then the operation ends as ``partial`` and not with ``result``. ``gone``
    is done in the last transaction if nothing is kept.
    """
    operation.raise_pending_interrupt()
    life = operation.runtime.life.id
    # a run directory on a disk outlives the boot: it is removed, not only forgotten
    here = [row for row in rows if row.life == life or row.kind == Kind.FILE]
    old = [row for row in rows if row not in here]
    if old:
        operation.forget(old, {row.id: "rebooted" for row in old})
    kept: list[tuple[Resource, Outcome]] = []
    if here:
        outcomes = operation.release(here, reasons={row.id: reason for row in here})
        kept = [(row, outcomes[row.id]) for row in here if not outcomes[row.id].gone]
    if kept:
        operation.end("partial", then=lambda sql: None)
    else:
        operation.end(result, then=gone)
    return kept
