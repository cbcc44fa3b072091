"""The executor of plans: one operation, in which each item is verified again.

gc, `recover`, the resolving before a command, the emergency mode and the remains of a lost store
differ in how a thing goes that no row stands for: each brings its ``remove``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from hvtx.engine import flows
from hvtx.engine.processes import alive_again
from hvtx.engine.transaction import Operation
from hvtx.model.plan import DONE, Item, ItemResult, Plan, Result
from hvtx.model.resource import Resource
from hvtx.model.vm import Liveness
from hvtx.planner.execution import Schedule, Step, in_order, result_of, schedule, step_of
from hvtx.store import records

Progress = Callable[[int, int, str], None]
Remove = Callable[[Operation, Item], ItemResult]  # puts into the history what came of it
Results = dict[int, ItemResult]  # by position of the item

_CHANGED = ItemResult(Result.SKIPPED, "it changed in the meantime")
_VM_BUSY = ItemResult(Result.SKIPPED, "another operation works on its VM")
_NETWORKS_BUSY = ItemResult(Result.SKIPPED, "another operation works on networks")
_RUNS = ItemResult(Result.SKIPPED, "its VM runs now")
_UNSEEN = ItemResult(Result.FAILED, "it could not be seen again that its VM is dead")
_MOVED = ItemResult(Result.FAILED, "the record changed in the meantime")


def execute(
    operation: Operation,
    plan: Plan,
    remove: Remove,
    *,
    recorded: bool = False,
    networks: bool = True,
    progress: Progress = lambda done, total, what: None,
) -> Plan:
    """Carry out the acting items of a plan, and end the operation; the plan with what came of each.

    ``recorded``: items may be of rows, and their order is gc's and not the plan's. ``networks``:
    what belongs to no VM may be touched. Raises the KeyboardInterrupt that came while the operation
    was put on record; then nothing is begun.
    """
    operation.end_if_interrupted()
    acting = plan.acting()
    own = [item.row for item in acting if item.row] if recorded else []
    rows = operation.runtime.read(records.resources_by_id, own) if own else {}
    order = schedule(acting, rows) if recorded else in_order(acting)
    worker = _Executor(operation, acting, rows, remove, networks=networks)
    results: Results = {}
    for done in worker.run(order):
        results |= done
        if done:
            progress(len(results), len(acting), acting[max(done)].key)
    found = [results[n] for n in range(len(acting))]
    operation.end("done" if all(each == DONE for each in found) else "partial")
    return plan.with_results(found)


class _Executor:
    """Carries out items in the order of a schedule."""

    def __init__(
        self,
        operation: Operation,
        items: Sequence[Item],
        rows: Mapping[int, Resource],
        remove: Remove,
        *,
        networks: bool,
    ) -> None:
        self.runtime = operation.runtime
        self.operation = operation
        self.items = items
        self.rows = rows
        self.remove = remove
        self.networks = networks

    def run(self, order: Schedule) -> Iterator[Results]:
        """What became of items, some at a time."""
        for n in order.early:
            yield {n: self._remove(self.items[n])}
        for chunk in order.chunks:
            yield self._move(chunk)
        for n in order.late:
            yield {n: self._remove(self.items[n])}

    def _remove(self, item: Item) -> ItemResult:
        with self._locked({item.vm}) as busy:
            return self._refused(item, busy) or self.remove(self.operation, item)

    def _move(self, chunk: Sequence[int]) -> Results:
        """Items whose rows move: each step for all of them at once."""
        with self._locked({self.items[n].vm for n in chunk}) as busy:
            refused = {n: self._refused(self.items[n], busy) for n in chunk}
            results = {n: why for n, why in refused.items() if why is not None}
            steps: dict[Step, dict[int, Resource]] = {}
            for n in chunk:
                if n not in results:
                    own = steps.setdefault(step_of(self.items[n]), {})
                    own[n] = self.rows[self.items[n].row]
            ways = (
                (Step.COMMIT, self._commit),
                (Step.CARRY_ON, self._carry_on),
                (Step.END_FLOWS, self._end_flows),
                (Step.FORGET, self._forget),
                (Step.RELEASE, self._release),
            )
            for step, way in ways:
                if step in steps:
                    results |= way(steps[step])
            return results

    def _refused(self, item: Item, busy: frozenset[str]) -> ItemResult | None:
        """Why an item may not be touched any more, if so."""
        owner = item.vm
        if step_of(item) is not Step.REMOVE:
            row = self.rows.get(item.row)
            if row is None or row.state != item.state:
                return _CHANGED
            owner = row.vm
        if item.vm in busy:
            return _VM_BUSY
        return _NETWORKS_BUSY if owner is None and not self.networks else None

    @contextmanager
    def _locked(self, vms: set[str | None]) -> Iterator[frozenset[str]]:
        """Hold the locks of VMs, of which those are given that others hold."""
        names = sorted(name for name in vms if name is not None and name != self.operation.vm)
        locked = [name for name in names if self.runtime.try_lock("vm", name)]
        try:
            yield frozenset(names).difference(locked)
        finally:
            for name in locked:
                self.runtime.unlock("vm", name)

    def _commit(self, own: Mapping[int, Resource]) -> Results:
        moved = self.operation.complete(list(own.values()))
        return dict.fromkeys(own, DONE if moved == len(own) else _MOVED)

    def _carry_on(self, own: Mapping[int, Resource]) -> Results:
        from hvtx.engine import exchange  # hardly ever needed

        by_operation: dict[int, list[int]] = {}
        for n, row in own.items():
            by_operation.setdefault(row.operation, []).append(n)
        results: Results = {}
        for interrupted, numbers in by_operation.items():
            with self._whole_locked(interrupted) as free:
                if free:
                    outcome = exchange.carry_on(self.operation, [own[n] for n in numbers])
                    results |= dict.fromkeys(numbers, result_of(outcome))
                else:
                    results |= dict.fromkeys(numbers, _VM_BUSY)
        return results

    @contextmanager
    def _whole_locked(self, interrupted: int) -> Iterator[bool]:
        """Hold all that an interrupted change is of; False where others hold some of it."""
        with self.runtime.reading() as sql:
            rows = [r for r in records.half_done_resources(sql) if r.operation == interrupted]
            vms = {records.vm_name(sql, row.vm) for row in rows if row.vm}
        of_networks = any(row.vm is None for row in rows)
        if of_networks and not self.runtime.try_lock("all", "networks"):
            yield False
            return
        try:
            with self._locked(vms) as busy:
                yield not busy
        finally:
            if of_networks:
                self.runtime.unlock("all", "networks")

    def _end_flows(self, own: Mapping[int, Resource]) -> Results:
        return dict.fromkeys(own, result_of(flows.end_past(self.operation, list(own.values()))))

    def _forget(self, own: Mapping[int, Resource]) -> Results:
        self.operation.forget(list(own.values()), self._reasons(own))
        return dict.fromkeys(own, DONE)

    def _release(self, own: Mapping[int, Resource]) -> Results:
        alive = alive_again(self.runtime, {row.vm for row in own.values() if row.vm})
        rows = [row for row in own.values() if row.vm not in alive]
        outcomes = self.operation.release(rows, reasons=self._reasons(own))
        again = {vm: _RUNS if found is Liveness.ALIVE else _UNSEEN for vm, found in alive.items()}
        return {
            n: again[row.vm] if row.vm in again else result_of(outcomes[row.id])
            for n, row in own.items()
        }

    def _reasons(self, own: Mapping[int, Resource]) -> dict[int, str]:
        return {row.id: self.items[n].reason.value for n, row in own.items()}
