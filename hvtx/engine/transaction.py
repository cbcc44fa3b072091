"""The protocol: intend, act, commit; and its mirror, release. Every change of the host is in here.

Invariants
1. Before the host is touched, a row says what is about to be made or removed, with its mark; the
   rows of an operation are written in one transaction, under the lock of that operation.
2. The lock of an operation is held from before its first row to after its last. It falls with the
   process: an operation that has not ended and whose lock nobody holds was interrupted.
3. A row becomes committed only by its own operation, only from intended, only when its object is
   made, marked and read back.
4. Removing: the row becomes ``releasing`` first, the object goes second, the row becomes a
   tombstone last. What could not be removed stays ``releasing`` and on record. So does a rule that
   is gone while what flowed by it is not proven to have ended: its VM keeps address and port.
5. No kernel call inside a store transaction; no store lock while the kernel waits. What is done to
   the host is in :mod:`hvtx.engine.effects`.
6. A commit that failed is unknown, not undone: the store is opened again and asked. Undo is
   computed from rows, never from what this process remembers.
7. The VM process starts behind a gate, and the gate opens only after its identity is on record.

::

    begin --> [intended] --act--> made --commit--> [committed] --> ended (done)
                  |                 |                  |
                  |     error/crash |                  | stop, rm, gc
                  v                 v                  v
              [releasing] <---------+------------------+
                  |  drivers remove what carries the mark
                  v
              [released]: tombstone          --> ended (undone | done | partial)

=====================  ===============================================================
transition             function
=====================  ===============================================================
(none) -> intended     :meth:`Operation.intend` inside :func:`begin`
intended -> committed  :meth:`Operation.commit`; by the plan: :meth:`Operation.complete`
-> releasing -> gone   :meth:`Operation.release`
-> released            :meth:`Operation.forget` (proven absent, or of an earlier life)
=====================  ===============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hvtx.engine import effects, lines
from hvtx.engine.operation import RunningOperation
from hvtx.engine.runtime import Runtime
from hvtx.errors import CommitUnknown, HvtxError
from hvtx.host import descriptors, failpoint
from hvtx.model.resource import FLOWS, Kind, Outcome, Resource, State
from hvtx.model.typed import Any
from hvtx.planner.provision import ResourceSpec
from hvtx.store import intents, records
from hvtx.store.history import Event


class Operation(RunningOperation):
    """A group of intents that stand or fall together; :func:`begin` makes one."""

    committed = False  # once it is so, nothing of it may be taken back

    def intend(
        self,
        sql: Any,
        wants: Sequence[ResourceSpec],
        *,
        vm: str | None = None,
        network: str | None = None,
        networks: Sequence[str | None] | None = None,
        observed: Sequence[Mapping[str, Any]] = (),
        committed: bool = False,
    ) -> list[Resource]:
        """Write the rows (inside :func:`begin`): of a VM, of a network, or of the installation.

        ``observed``, of each or of none: what is known of it before it is made.
        HostRefused if they could not be taken back: every device is held open then.
        """
        descriptors.need(descriptors.TO_UNDO + sum(want.kind == Kind.TAP for want in wants))
        owners = networks if networks is not None else [network] * len(wants)
        drafts = [
            intents.NewRow(want.kind, want.key, want.spec, vm, owner, seen)
            for want, owner, seen in zip(wants, owners, observed or [{}] * len(wants), strict=True)
        ]
        return intents.intend(
            sql,
            drafts,
            operation=self.id,
            life=self.runtime.life.id,
            mark=self.new_mark,
            state=State.COMMITTED if committed else State.INTENDED,
        )

    def observe(
        self, rows: Sequence[Resource], observed: Mapping[int, Mapping[str, Any]]
    ) -> list[Resource]:
        """Keep what was learnt of intended rows (the gate's identity, who holds a port).

        The rows as they are now, in their order.
        """
        with self.runtime.store.transaction() as sql:
            for row in rows:
                if row.id in observed:
                    intents.record_observed(sql, row.id, observed[row.id])
        return [row._replace(observed=dict(observed.get(row.id, row.observed))) for row in rows]

    def commit(
        self,
        rows: Sequence[Resource],
        observed: Mapping[int, Mapping[str, Any]],
        *,
        events: Sequence[Event] = (),
        then: Callable[[Any], None] = lambda sql: None,
        result: str = "done",
    ) -> None:
        """Close the operation as ``result``. HvtxError if a row was no longer ours to commit.

        Ctrl-C that comes while the disk writes is too late: what was committed stands, as
        ``committed`` tells who would undo.
        """
        commit_each([(self, rows, observed)], events=events, then=then, result=result)

    def release(
        self, rows: Sequence[Resource], *, reasons: Mapping[int, str]
    ) -> dict[int, Outcome]:
        """Remove what the rows stand for, in order, and close those that are gone.

        ``reasons`` are for the history, by row. Rows that somebody else moved meanwhile are left
        to them (``contended``).
        """
        from hvtx.model.reason import Reason

        self.raise_pending_interrupt()
        with self.runtime.store.transaction() as sql:
            moved = intents.release(sql, rows, self.id)
        failpoint.reach("releasing")
        outcomes = effects.remove(self, moved)
        taken = {row.id for row in moved}
        for row in rows:
            if row.id not in taken:
                outcomes[row.id] = Outcome(False, "contended", f"{row.key} changed in the meantime")
        gone = [row for row in moved if outcomes[row.id].gone]
        failpoint.reach("removed")
        with self.runtime.store.transaction() as sql:
            intents.forget(sql, gone)
            for row in moved:
                if outcomes[row.id].reason == Reason.FLOWS_REMAIN:
                    intents.amend_observed(sql, row.id, {FLOWS: True})
            names = self.vm_names(sql, moved)
            told = [(row, outcomes[row.id], reasons.get(row.id), names[row.vm]) for row in moved]
            self.history(sql, [lines.removal(*each) for each in told])
        failpoint.reach("forgotten")
        return outcomes

    def forget(self, rows: Sequence[Resource], reasons: Mapping[int, str]) -> None:
        """Close records whose object is proven absent."""
        effects.end_absent(self, rows)
        with self.runtime.store.transaction() as sql:
            intents.forget(sql, rows)
            names = self.vm_names(sql, rows)
            told = [lines.forgotten(row, reasons.get(row.id), names[row.vm]) for row in rows]
            self.history(sql, told)

    def complete(self, rows: Sequence[Resource]) -> int:
        """Commit what another, interrupted operation intended and made; how many rows moved."""
        with self.runtime.store.transaction() as sql:
            moved = sum(intents.commit(sql, [row], {}, row.operation) for row in rows)
            # A VM that `run` had only begun to record is on record for good with its rows.
            for vm, operation in {(row.vm, row.operation) for row in rows if row.vm}:
                records.set_vm_confirmed(sql, vm, operation)
            names = self.vm_names(sql, rows)
            self.history(sql, [lines.completed(row, names[row.vm]) for row in rows])
        return moved

    def end(
        self,
        result: str,
        *,
        events: Sequence[Event] = (),
        then: Callable[[Any], None] = lambda sql: None,
    ) -> None:
        """Close the operation: ``done``, ``undone`` or ``partial``."""
        with self.runtime.store.transaction() as sql:
            then(sql)
            self.history(sql, events)
            self.close(sql, result)
        self.verify()
        failpoint.reach("ended")
        self.unlock()


@contextmanager
def begin(
    runtime: Runtime, verb: str, *, vm: str | None = None, network: str | None = None
) -> Iterator[tuple[Any, Operation]]:
    """Open an operation in one transaction with the rows that the body intends."""
    operation = Operation(runtime, verb, vm, network)
    try:
        with runtime.store.transaction() as sql:
            operation.register(sql)
            yield sql, operation
    except KeyboardInterrupt:
        if operation.id not in {known.id for known in runtime.read(records.operations)}:
            if operation.id:
                operation.unlock()
            raise
        operation.interrupted = True  # its rows are on record: whoever acts on them can undo
    except BaseException:
        if operation.id:
            operation.unlock()
        raise
    failpoint.reach("intended")


def commit_each(
    made: Sequence[tuple[Operation, Sequence[Resource], Mapping[int, Mapping[str, Any]]]],
    *,
    events: Sequence[Event] = (),
    then: Callable[[Any], None] = lambda sql: None,
    result: str = "done",
) -> KeyboardInterrupt | None:
    """Commit what operations made, each with its rows and what was read back: all, or nothing.

    Returns a Ctrl-C that came too late, for who has more to begin. Raises as `Operation.commit`.
    """
    late: BaseException | None = None
    first, some, _ = made[0]
    try:
        with first.runtime.store.transaction() as sql:
            for operation, rows, observed in made:
                if lost := len(rows) - intents.commit(sql, rows, observed, operation.id):
                    raise HvtxError(
                        f"operation {operation.id} lost {lost} of its rows to another",
                        hint="rolled back; `hvtx intents` shows running operations",
                    )
            then(sql)
            for operation, rows, _ in made:
                operation.history(sql, [*map(lines.made, rows), *events])
                operation.close(sql, result)
    except (CommitUnknown, KeyboardInterrupt) as problem:
        if not first.was_committed(some):
            raise
        late = problem
    for operation, _, _ in made:  # before all else: from here on nothing may be taken back
        operation.committed = True
    first.verify()
    failpoint.reach("committed")
    for operation, _, _ in made:
        operation.unlock()
    return late if isinstance(late, KeyboardInterrupt) else None
