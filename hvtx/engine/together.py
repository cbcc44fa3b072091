"""Operations of several VMs that go side by side: one each on record, their steps in common.

Each VM keeps its own operation: its rows, its lock, its lines in the history, its end. In common
are the transactions of the store (one write of the disk for all of them) and what drivers are given
(a batch for all of them). So a kill in the middle leaves what the same number of commands would
leave, each killed at that point, and `recover` decides about each VM by its own rows.

What goes wrong in a step that is common is tried again for each VM alone: a failure of one is no
failure of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from hvtx.engine import effects, lines
from hvtx.engine.executor import Progress
from hvtx.engine.operation import RunningOperation
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation
from hvtx.engine.undo import take_down
from hvtx.errors import HostRefused, HvtxError
from hvtx.host import failpoint
from hvtx.model.resource import Outcome, Resource
from hvtx.model.typed import Any, NamedTuple
from hvtx.planner.scope import VmScope
from hvtx.store import intents, records

SLICE = 64  # VMs: as many removals of devices wait for the kernel at a time

Kept = Sequence[tuple[Resource, Outcome]]  # what could not be released, and why


class Common(RunningOperation):
    """What drivers' steps are told of when they are of several operations at once.

    What it adds to the history is no single VM's, and stands in the first of the operations.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        """Of at least one operation."""
        first = operations[0]
        super().__init__(first.runtime, first.verb, None, None)
        self.id = first.id
        self.operations = operations

    def raise_pending_interrupt(self) -> None:
        """The Ctrl-C that came while the rows of any of them were being written."""
        for operation in self.operations:
            operation.raise_pending_interrupt()


class Taking(NamedTuple):
    """A VM's rows that are to be taken down, by its own operation."""

    operation: Operation
    rows: Sequence[Resource]


@contextmanager
def held(runtime: Runtime, names: Iterable[str]) -> Iterator[frozenset[str]]:
    """Hold the locks of those of these VMs that nobody else holds; given back at the end.

    Nobody is waited for while others are held: whoever is not among them is for later, alone.
    """
    taken: list[str] = []
    try:
        taken.extend(name for name in names if runtime.try_lock("vm", name))
        yield frozenset(taken)
    finally:
        for name in taken:
            runtime.unlock("vm", name)


@contextmanager
def begin_each(
    runtime: Runtime, verb: str, vms: Sequence[str]
) -> Iterator[tuple[Any, list[Operation]]]:
    """Open an operation for each VM (by name), in one transaction with what the body intends."""
    operations = [Operation(runtime, verb, vm, None) for vm in vms]
    try:
        with runtime.store.transaction() as sql:
            for operation in operations:
                operation.register(sql)
            yield sql, operations
    except KeyboardInterrupt:
        known = {one.id for one in runtime.read(records.operations)}
        if not known.issuperset(operation.id for operation in operations):
            unlock(operations)
            raise
        operations[0].interrupted = True  # rows are on record: whoever acts on them can undo
    except BaseException:
        unlock(operations)
        raise
    try:
        failpoint.reach("intended")
    except BaseException:
        unlock(operations)
        raise


def unlock(operations: Iterable[Operation]) -> None:
    """Let go of the locks of operations that stay open: from here on they were interrupted."""
    for operation in operations:
        if operation.id in operation.runtime.mine:
            operation.unlock()


def end_each(
    operations: Sequence[Operation],
    result: str = "done",
    *,
    then: Callable[[Any], None] = lambda sql: None,
) -> None:
    """Close operations that have nothing more to do, in one transaction; ``then`` is done in it."""
    if not operations:
        return
    with operations[0].runtime.store.transaction() as sql:
        then(sql)
        for operation in operations:
            operation.close(sql, result)
    _ended(operations)


def _ended(operations: Sequence[Operation]) -> None:
    operations[0].verify()
    failpoint.reach("ended")
    unlock(operations)


def take_down_each(takings: Sequence[Taking], *, reason: str) -> dict[int, Kept | HvtxError]:
    """Release what each operation's rows stand for, and end it; what is kept, by operation.

    What of a VM does not go with the others is tried once more alone, and its operation ends as
    ``partial`` if it stays. One that an error came in the way of stays open.
    """
    life = takings[0].operation.runtime.life.id
    simple = [t for t in takings if t.rows and all(row.life == life for row in t.rows)]
    if len(simple) > 1:
        with suppress(HvtxError, OSError):  # each alone comes upon it again, if it is its own
            _together(simple, reason=reason)
    kept: dict[int, Kept | HvtxError] = {}
    for operation, rows in takings:
        kept[operation.id] = ()
        if operation.id in operation.runtime.mine:
            try:
                now = operation.runtime.read(records.resources_by_id, [row.id for row in rows])
                there = [now.get(row.id, row) for row in rows]
                kept[operation.id] = take_down(operation, there, reason=reason)
            except (HvtxError, OSError) as problem:
                kept[operation.id] = as_error(problem)
    return kept


def _together(takings: Sequence[Taking], *, reason: str) -> None:
    """The same in common: operations of which nothing is left have ended then."""
    common = Common([taking.operation for taking in takings])
    common.raise_pending_interrupt()
    store = common.runtime.store
    with store.transaction() as sql:
        moved = {t.operation.id: intents.release(sql, t.rows, t.operation.id) for t in takings}
    failpoint.reach("releasing")
    outcomes = effects.remove(common, [row for rows in moved.values() for row in rows])
    failpoint.reach("removed")
    whole: list[Operation] = []
    with store.transaction() as sql:
        for operation, rows in takings:
            own = moved[operation.id]
            if _went(own, len(rows), outcomes):
                intents.forget(sql, own)
                told = [lines.removal(row, outcomes[row.id], reason, operation.vm) for row in own]
                operation.history(sql, told)
                operation.close(sql, "done")
                whole.append(operation)
    failpoint.reach("forgotten")
    if whole:
        _ended(whole)


def _went(rows: Sequence[Resource], wanted: int, outcomes: Mapping[int, Outcome]) -> bool:
    return len(rows) == wanted and all(row.id in outcomes and outcomes[row.id].gone for row in rows)


class Several(NamedTuple):
    """What came of a verb for several VMs: each is in one of the two, by name."""

    done: Mapping[str, VmScope]  # as the verb left it; of `rm`, as it was
    failed: Mapping[str, HvtxError]


class Tally:
    """What has come of each VM so far, told to who wants to know."""

    def __init__(self, names: Iterable[str], progress: Progress) -> None:
        """A name that is given twice counts once."""
        self.names = list(dict.fromkeys(names))
        self.done: dict[str, VmScope] = {}
        self.failed: dict[str, HvtxError] = {}
        self._progress = progress
        self._told = 0

    def attempt(self, name: str, work: Callable[[], VmScope]) -> None:
        """Do the verb for one VM; an error is its own and ends nothing."""
        try:
            self.done[name] = work()
        except (HvtxError, OSError) as problem:
            self.fail(name, problem)
        self.tell()

    def fail(self, name: str, problem: BaseException) -> None:
        """Note why it was not done for a VM."""
        self.failed[name] = as_error(problem)

    def left(self, names: Iterable[str]) -> list[str]:
        """Those of these names of which nothing is known yet."""
        return [name for name in names if name not in self.done and name not in self.failed]

    def tell(self) -> None:
        """Tell how far it is."""
        count = len(self.done) + len(self.failed)
        if count > self._told:
            self._told = count
            self._progress(count, len(self.names), next(reversed([*self.done, *self.failed])))

    def several(self) -> Several:
        """All of it, in the order of the names."""
        return Several(
            {name: self.done[name] for name in self.names if name in self.done},
            {name: self.failed[name] for name in self.names if name in self.failed},
        )


def as_error(problem: BaseException) -> HvtxError:
    """An error as ours, with what was noted on it."""
    if isinstance(problem, HvtxError):
        return problem
    told = HostRefused(f"the system refused: {problem}", hint="`hvtx doctor` checks this host")
    for note in getattr(problem, "__notes__", ()):
        told.add_note(note)
    return told


def slices(
    names: Iterable[str], heavy: Callable[[str], bool] = lambda name: False
) -> Iterator[list[str]]:
    """The names in slices: of :data:`SLICE`, or of as many ``heavy`` ones as there are processors.

    A hypervisor that boots a guest keeps a processor busy, and its time to come up is limited.
    """
    share = SLICE // max(1, min(SLICE, os.cpu_count() or 1))
    part: list[str] = []
    weight = 0
    for name in names:
        part.append(name)
        weight += share if heavy(name) else 1
        if weight >= SLICE:
            yield part
            part, weight = [], 0
    if part:
        yield part
