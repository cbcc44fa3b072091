"""An operation of this process: its id, its lock, and its lines in the history.

What becomes of its rows is the protocol's: :mod:`hvtx.engine.transaction`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from hvtx.engine.runtime import Runtime, wrong_namespace
from hvtx.errors import CommitUnknown
from hvtx.host.locks import LockFile
from hvtx.model.mark import make_mark
from hvtx.model.resource import Resource, State
from hvtx.model.typed import Any
from hvtx.store import history, intents, records, retention
from hvtx.store.history import Event


class RunningOperation:
    """One that this process began and has not ended."""

    def __init__(self, runtime: Runtime, verb: str, vm: str | None, network: str | None) -> None:
        """Open nothing yet; ``vm`` and ``network`` are names, for the history."""
        self.runtime = runtime
        self.verb = verb
        self.vm = vm
        self.network = network
        self.id = 0
        self._heard = 0  # the last line of the history before the operation's own
        self.interrupted = False  # by Ctrl-C, while its rows were being written
        self._lock: LockFile = runtime.operations

    def register(self, sql: Any) -> None:
        """Put it on record, and take its lock, inside a transaction. Raises Refused."""
        if not records.is_current(sql, self.runtime.life.id):
            raise wrong_namespace()  # an empty store has gone to another namespace meanwhile
        self.id = intents.begin(
            sql,
            verb=self.verb,
            vm=self.vm,
            network=self.network,
            life=self.runtime.life.id,
            writer=self.runtime.writer(),
            now=history.now(),
        )
        held = self._lock.try_lock(self.id)
        assert held, "the id of a new operation is nobody else's"
        self.runtime.mine.add(self.id)
        if self.runtime.listener is not None:
            self._heard = history.newest(sql)

    def raise_pending_interrupt(self) -> None:
        """Raise the KeyboardInterrupt that came while the disk wrote the operation's rows.

        Its caller can undo now, which it could not while the rows were being written.
        """
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt

    def end_if_interrupted(self, *, then: Callable[[Any], None] = lambda sql: None) -> None:
        """End it as ``undone`` and raise, if Ctrl-C came while it was put on record.

        For who has done nothing yet. ``then`` takes back what was put on record with it.
        """
        if not self.interrupted:
            return
        try:
            with self.runtime.store.transaction() as sql:
                then(sql)
                self.close(sql, "undone")
            self.verify()
        finally:
            self.unlock()
        self.raise_pending_interrupt()

    def new_mark(self, row: int) -> str:
        """A fresh mark for a row."""
        return make_mark(self.runtime.installation, row, os.urandom(10))

    def close(self, sql: Any, result: str) -> None:
        """Put on record that it has ended (``done``, ``undone``, ``partial``), in a transaction."""
        intents.end(sql, self.id, result, history.now())
        retention.prune(sql, operation=self.id, lines=self.runtime.settings.history_lines)

    def unlock(self) -> None:
        """Let go of the operation's lock; from here on it counts as ended or interrupted."""
        self.runtime.mine.discard(self.id)
        self._lock.unlock(self.id)
        self._notify()

    def _notify(self) -> None:
        """Tell who listens what is on record now; a listener's failure is nobody's."""
        if self.runtime.listener is None:
            return
        with suppress(Exception):
            own = self.runtime.read(history.of_operation, self.id, after=self._heard)
            self.runtime.listener(own)

    def was_committed(self, rows: Sequence[Resource]) -> bool:
        """Ask the store again, after a commit that did not say, of rows that it was to commit.

        Raises CommitUnknown if it cannot be asked: any other error would be taken for a failure,
        and undone, though the rows may be committed.
        """
        try:
            self.runtime.reopen_store()
            if not rows:
                open_ones = self.runtime.read(records.operations)
                return self.id not in {known.id for known in open_ones}
            found = self.runtime.read(records.resources_by_id, [row.id for row in rows])
        except Exception as problem:
            raise CommitUnknown(
                f"commit outcome unknown: the state store cannot be re-read: {problem}",
                hint="run `hvtx recover` when the disk works again",
            ) from problem
        return all(row.id in found and found[row.id].state == State.COMMITTED for row in rows)

    def verify(self) -> None:
        """Restate the invariants that the store can show (``HVTX_VERIFY=1``, as all tests do)."""
        if os.environ.get("HVTX_VERIFY"):
            from hvtx.store import invariants

            broken = self.runtime.read(invariants.violations)
            assert not broken, broken

    def history(self, sql: Any, events: Sequence[Event]) -> None:
        """Append lines of this operation to the history."""
        history.add(sql, events, operation=self.id, verb=self.verb, vm=self.vm)

    def vm_name(self, sql: Any, row: Resource) -> str | None:
        """The name of the VM that the history tells of when it tells of a row."""
        return self.vm_names(sql, (row,))[row.vm]

    def vm_names(self, sql: Any, rows: Iterable[Resource]) -> dict[str | None, str | None]:
        """The same of several rows, by the VM (its id) that each is of: each is asked for once."""
        return {
            vm: self.vm if self.vm is not None or vm is None else records.vm_name(sql, vm)
            for vm in {row.vm for row in rows}
        }
