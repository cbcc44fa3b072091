"""A plan is carried out as one operation, each item proven once more: all deletions by plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hvtx.engine import flows, privileges
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import device_now
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.unrecorded import remove_sighted
from hvtx.engine.vm_record import forget_vm
from hvtx.errors import Busy, HvtxError
from hvtx.host import failpoint, procfs
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.plan import Action, Item, Plan, Reason
from hvtx.model.resource import FIREWALL_KINDS, Kind, Outcome, Resource, State
from hvtx.model.vm import Liveness
from hvtx.planner.states import identity_of, judge_process
from hvtx.store import history, intents, records
from hvtx.store.history import Event

_CHUNK = 640  # items, of some 128 VMs: 64 devices wait for the kernel at a time
_SIGHTED = 64  # items that are removed by their own marks between two looks at the firewall


Progress = Callable[[int, int, str], None]


def apply_plan(
    runtime: Runtime,
    plan: Plan,
    *,
    verb: str,
    vm: str | None = None,
    networks_locked: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Plan:
    """Carry out the acting items of a plan as one operation; the plan with its outcomes.

    ``networks_locked``: the caller holds the lock of all networks.
    """
    acting = plan.acting()
    if not acting:
        _tidy(runtime)
        return plan
    failpoint.reach("planned")
    _need_privileges(runtime, acting)
    with _networks_locked(runtime, acting, held=networks_locked) as locked:
        with begin(runtime, verb, vm=vm) as (_, operation):
            pass
        worker = _Worker(runtime, operation, acting, progress, networks=locked)
        outcomes = worker.run()
        failed = any(outcome != "done" for outcome in outcomes.values())
        operation.end("partial" if failed else "done")
        _tidy(runtime)
    index = {id(item): outcomes[n] for n, item in enumerate(acting)}
    return Plan(
        tuple(
            item if id(item) not in index else item._replace(
                outcome=index[id(item)].partition(":")[0],
                message=item.message + _remark(index[id(item)]),
            )
            for item in plan.items
        )
    )  # fmt: skip


@contextmanager
def _networks_locked(runtime: Runtime, acting: Sequence[Item], *, held: bool) -> Iterator[bool]:
    """Keep commands on networks away while rows of networks go, until their record is gone too.

    Gives False where others keep the lock; then these rows must be left to them. Nobody who holds
    it waits for a collector's own locks.
    """
    if held or all(item.vm is not None for item in acting):
        yield True
        return
    try:
        runtime.lock("all", "networks")
    except Busy:
        yield False
        return
    try:
        yield True
    finally:
        runtime.unlock("all", "networks")


def _need_privileges(runtime: Runtime, items: Sequence[Item]) -> None:
    """Refuse before anything is written if the host would refuse half-way."""
    privileges.need(devices=any(item.kind in (Kind.TAP, Kind.BRIDGE) for item in items))
    for item in items:
        if item.kind == Kind.FILE and item.action is Action.DELETE:
            privileges.need_to_empty(item.key)
    rules = [item for item in items if item.kind in FIREWALL_KINDS or item.entry is not None]
    problem = privileges.legacy_problem() if rules else None
    if problem is None:
        return
    backends: set[Any] = {item.entry.backend for item in rules if item.entry is not None}
    rows = runtime.read(records.resources_by_id, [item.row for item in rules if item.row])
    backends |= {row.spec.get("backend") for row in rows.values()}
    if "iptables" in backends:
        raise problem


def _remark(outcome: str) -> str:
    _, _, words = outcome.partition(":")
    return f"; {words}" if words else ""


class _Worker:
    """Carries out items in chunks; an outcome is ``done``, ``failed:why`` or ``skipped:why``."""

    def __init__(
        self,
        runtime: Runtime,
        operation: Operation,
        items: Sequence[Item],
        progress: Progress,
        *,
        networks: bool,
    ) -> None:
        self.runtime = runtime
        self.operation = operation
        self.items = items
        self.progress = progress
        self.networks = networks  # whether what belongs to no VM may be touched
        self.outcomes: dict[int, str] = {}
        self._sights: dict[str, Counter[tuple[str, str, str | None]]] = {}
        self._asked = 0
        self.rows = runtime.read(records.resources_by_id, [item.row for item in items if item.row])

    def run(self) -> dict[int, str]:
        by_row = [n for n, item in enumerate(self.items) if self._through_row(item)]
        loose = sorted(set(range(len(self.items))).difference(by_row))
        loose.sort(key=lambda n: _base_last(self.items[n]))
        total, done = len(self.items), 0
        # What a saved ruleset brought back stands in tables and chains that rows speak of.
        restored = [n for n in loose if self.items[n].reason is Reason.STALE_RESTORED]
        early = [n for n in restored if not self._is_base(self.items[n])]
        for number in early:
            self.outcomes[number] = self._loose(self.items[number])
        done += len(early)
        for chunk in self._chunks(by_row):
            self._chunk(chunk)
            done += len(chunk)
            self.progress(done, total, self.items[chunk[-1]].key)
        for number in loose:
            if number in self.outcomes:
                continue
            self.outcomes[number] = self._loose(self.items[number])
            done += 1
            self.progress(done, total, self.items[number].key)
        return self.outcomes

    def _is_base(self, item: Item) -> bool:
        row = self.rows.get(item.row)
        return row is not None and row.spec.get("what") == "base"

    def _through_row(self, item: Item) -> bool:
        """Whether the item is its row's own object (not a copy, a leftover, an unrecorded one)."""
        return item.row != 0 and item.entry is None and item.state != State.RELEASED

    def _chunks(self, numbers: Sequence[int]) -> Iterable[list[int]]:
        """Chunks that never part the items of one VM."""
        chunk: list[int] = []
        last: str | None = None
        for number in numbers:
            vm = self.items[number].vm
            if len(chunk) >= _CHUNK and vm != last:
                yield chunk
                chunk = []
            chunk.append(number)
            last = vm
        if chunk:
            yield chunk

    def _chunk(self, numbers: Sequence[int]) -> None:
        locked, busy = self._lock_vms(
            {self.items[n].vm for n in numbers} - {None, self.operation.vm}
        )
        try:
            release: list[tuple[int, Resource]] = []
            forget: list[tuple[int, Resource]] = []
            complete: list[tuple[int, Resource]] = []
            past: list[tuple[int, Resource]] = []
            reasons: dict[int, str] = {}
            for number in numbers:
                item = self.items[number]
                row = self.rows.get(item.row)
                if row is None or row.state != item.state:
                    self.outcomes[number] = "skipped:it changed in the meantime"
                elif item.vm in busy:
                    self.outcomes[number] = "skipped:another operation works on its VM"
                elif row.vm is None and not self.networks:
                    self.outcomes[number] = "skipped:another operation works on networks"
                else:
                    reasons[row.id] = item.reason.value
                    ending = past if row.state == State.COMMITTED else release
                    {
                        Reason.FLOWS_REMAIN: ending,
                        Reason.IN_USE_BEFORE_COMMIT: complete,
                        Reason.REBOOTED: forget,
                    }.get(item.reason, release).append((number, row))
            if complete:
                self._complete(complete)
            if past:
                outcome = _word(flows.end_past(self.operation, [row for _, row in past]))
                self.outcomes.update((number, outcome) for number, _ in past)
            if forget:
                self.operation.forget([row for _, row in forget], reasons)
                self.outcomes.update((number, "done") for number, _ in forget)
            if release:
                self._release(release, reasons)
        finally:
            for name in locked:
                self.runtime.unlock("vm", name)

    def _lock_vms(self, names: set[Any]) -> tuple[list[str], set[str]]:
        locked = [name for name in sorted(names) if self.runtime.try_lock("vm", name)]
        return locked, names - set(locked)

    def _complete(self, pairs: Sequence[tuple[int, Resource]]) -> None:
        moved = self.operation.complete([row for _, row in pairs])
        verdict = "done" if moved == len(pairs) else "failed:the record changed in the meantime"
        self.outcomes.update((number, verdict) for number, _ in pairs)

    def _release(self, pairs: Sequence[tuple[int, Resource]], reasons: dict[int, str]) -> None:
        alive = self._alive_again({row.vm for _, row in pairs if row.vm})
        for number, row in pairs:
            if row.vm in alive:
                self.outcomes[number] = "skipped:its VM runs now"
        rows = [row for _, row in pairs if row.vm not in alive]
        outcomes = self.operation.release(rows, reasons=reasons)
        for number, row in pairs:
            if row.vm not in alive:
                self.outcomes[number] = _word(outcomes[row.id])

    def _alive_again(self, vms: set[str]) -> set[str]:
        """VMs whose recorded process is not (or no longer) proven dead, looked at just now."""
        moving = set()
        for vm in vms:
            for row in self.runtime.read(records.processes_of_vm, vm):
                identity = identity_of(row)
                if identity is None:
                    continue
                seen = procfs.look_again(identity)
                verdict, _ = judge_process(row, identity, self.runtime.life, seen)
                if verdict is not Liveness.DEAD:
                    moving.add(vm)
        return moving

    def _loose(self, item: Item) -> str:
        """A copy, a leftover, a restored rule, or an unrecorded object: removed by its own mark."""
        locked, busy = self._lock_vms({item.vm} - {None, self.operation.vm})
        try:
            if busy:
                return "skipped:another operation works on its VM"
            if item.vm is None and not self.networks:
                return "skipped:another operation works on networks"
            if self._needed_now(item):
                return "skipped:it stands in the place of what its VM, which runs now, needs"
            if self._gone_already(item):
                return "skipped:it is gone by now"  # whoever removed it has told so
            outcome = remove_sighted(self.runtime, item)
        finally:
            for name in locked:
                self.runtime.unlock("vm", name)
        event = "removed" if outcome.gone else "kept"
        with self.runtime.store.transaction() as sql:
            self.operation.history(
                sql,
                [
                    Event(
                        event,
                        outcome.message or item.key,
                        item.kind,
                        item.key,
                        item.reason.value,
                        item.vm,
                    )
                ],
            )
        return _word(outcome)

    def _gone_already(self, item: Item) -> bool:
        """Whether somebody else has removed it since; what cannot be looked at is not gone."""
        try:
            if item.entry is not None:
                surplus = item.reason is Reason.DUPLICATE_COPY
                seen = self._entries(item.entry.backend)
                return all(seen[entry[1:4]] <= surplus for entry in (item.entry, *item.more))
            assert item.link is not None
            return device_now(item.link.ifindex) is None
        except (HvtxError, OSError, DumpInterrupted):
            return False

    def _entries(self, backend: str) -> Counter[tuple[str, str, str | None]]:
        """How many entries of each place, text and mark a firewall holds; read now and then."""
        self._asked += 1
        if backend not in self._sights or self._asked > _SIGHTED:
            seen = self.runtime.firewall(backend).observe()
            self._sights[backend] = Counter(entry[1:4] for entry in seen)
            self._asked = 1
        return self._sights[backend]

    def _needed_now(self, item: Item) -> bool:
        """Whether a restored entry of an earlier start serves its VM, which runs by now.

        The plan knows only the VM that it saw; one started meanwhile would lose its packets.
        """
        row = self.runtime.read(records.resources_by_id, [item.row]).get(item.row)
        if item.entry is None or row is None or row.state != State.RELEASED or row.vm is None:
            return False
        if not self._alive_again({row.vm}):
            return False
        driver = self.runtime.firewall(item.entry.backend)
        seen: dict[str | None, set[tuple[str, str]]] = {}
        for entry in driver.observe():
            seen.setdefault(entry.mark, set()).add((entry.place, entry.text))
        missing = {
            (entry.place, entry.text)
            for other in self.runtime.read(records.resources_of_vm, row.vm)
            if other.kind in FIREWALL_KINDS and other.spec["backend"] == item.entry.backend
            for entry in driver.expected(other)
            if (entry.place, entry.text) not in seen.get(other.mark, ())
        }
        if item.alone:
            return any(entry[1:3] in missing for entry in (item.entry, *item.more))
        # all that carries the mark would go together
        return not missing.isdisjoint(seen.get(row.mark, ()))


def _word(outcome: Outcome) -> str:
    if outcome.gone:
        return "done"
    if outcome.reason in (
        "in-use",
        "foreign-dependents",
        "contended",
        "mark-mismatch",
        "mark-stripped",
    ):
        return f"skipped:{outcome.message}"
    return f"failed:{outcome.message}"


def _base_last(item: Item) -> int:
    """What stands in a table before the table, whose place is shorter."""
    places = [entry.place for entry in (item.entry, *item.more) if entry is not None]
    return -min((len(place.split(" ")) for place in places), default=9)


def _tidy(runtime: Runtime) -> None:
    """Close interrupted operations without rows, and forget what only they had made."""
    with runtime.reading() as sql:
        operations, provisional = records.operations(sql), records.has_provisional(sql)
    running = runtime.running(operations)
    idle = [operation.id for operation in operations if not running[operation.id]]
    if not idle and not provisional:
        return
    with runtime.store.transaction() as sql:
        for vm, operation in records.provisional_vms(sql).items():
            if runtime.is_running(operation):
                continue
            rows = records.resources_of_vm(sql, vm)
            if any(row.kind == Kind.PROCESS and row.state == State.COMMITTED for row in rows):
                # the start went through: the VM is on record for good
                records.set_vm_confirmed(sql, vm)
            elif not [row for row in rows if row.kind != Kind.LEASE]:
                history.add(sql, [forget_vm(sql, vm)], operation=operation, verb="run")
        for network, operation in records.provisional_networks(sql).items():
            left = records.resources_of_network(sql, network)
            if not runtime.is_running(operation) and not left:
                records.remove_network(sql, network)
        intents.close_idle(sql, idle, history.now())  # last: with a VM its leases go
