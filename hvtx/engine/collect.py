"""gc: make the plan, save it, check it, carry it out. The only caller of deletions by plan.

`gc --plan` sees a runtime that was opened for reading; nothing in its reach can write.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from hvtx.drivers.base import FirewallDriver
from hvtx.engine import flows, privileges
from hvtx.engine.files import PRIVATE, read_plan, unwritten, write_out
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import device_now, take_snapshot
from hvtx.engine.transaction import Operation, begin, forget_vm
from hvtx.errors import Busy, HvtxError, NotFound, Refused, StalePlan, UsageError
from hvtx.host import failpoint, procfs
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.plan import Action, Item, Plan, Reason, Snapshot
from hvtx.model.resource import FIREWALL_KINDS, GONE, Entry, Kind, Outcome, Resource, State
from hvtx.model.vm import Liveness
from hvtx.planner.gc import plan_gc
from hvtx.planner.states import identity_of, judge_process
from hvtx.store import history, intents, records, trust
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.model.picture import Picture
    from hvtx.model.stranger import StrangeRule

SCHEMA = "hvtx/gc/1"
_CHUNK = 640  # items, of some 128 VMs: 64 devices wait for the kernel at a time
_SIGHTED = 64  # items that are removed by their own marks between two looks at the firewall


class Report(NamedTuple):
    """A plan, made or carried out; ``refused`` if nothing may be concluded."""

    plan: Plan
    applied: bool
    refused: Refused | None
    boot_id: str
    netns: int
    made: str  # RFC 3339 in UTC: when the host was looked at
    snapshot: Snapshot | None = None  # what the plan was made from
    newer: int = 0  # acting items that a saved plan does not have

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be looked at, and what a saved plan does not have, in words."""
        notes = tuple(self.snapshot.failures.values()) if self.snapshot else ()
        if self.newer:
            notes += (f"{self.newer} more to do since the plan was saved: hvtx gc --plan",)
        return notes

    @property
    def failed(self) -> bool:
        """Whether an item that was to be done is not."""
        return any(item.outcome in ("failed", "skipped") for item in self.plan.acting())


def make_plan(runtime: Runtime, *, everything: bool = False) -> Report:
    """What gc would do now."""
    if runtime.refused is not None:
        return _refused(runtime.refused, runtime.boot_id, runtime.netns)
    try:
        made = history.now()
        with _uncollected():
            snapshot = take_snapshot(runtime)
            rules: tuple[StrangeRule, ...] | None = None
            if everything:
                rules, problem = _strange_rules(runtime)
                snapshot = snapshot._replace(failures={**snapshot.failures, **problem})
            plan = plan_gc(snapshot, everything=everything, rules=rules)
    except Refused as refusal:
        return _refused(refusal, runtime.boot_id, runtime.netns)
    return Report(plan, False, None, runtime.boot_id, runtime.netns, made, snapshot)


def _strange_rules(runtime: Runtime) -> tuple[tuple[StrangeRule, ...], dict[str, str]]:
    """All rules of the host; if they cannot be read, none, and why."""
    from hvtx.drivers.strangers import Strangers

    try:
        return Strangers(runtime.host).rules(), {}
    except HvtxError as problem:
        return (), {"strangers": f"strangers' rules are not shown: {problem.message}"}


@contextmanager
def _uncollected() -> Iterator[None]:
    """Put off the search for cyclic garbage: all that a plan makes lives until it is made.

    With thousands of VMs the search would go through all of it again and again.
    """
    import gc

    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _refused(refusal: Refused, boot_id: str, netns: int) -> Report:
    return Report(Plan(()), False, refusal, boot_id, netns, history.now())


# -- carrying out ------------------------------------------------------------------------------


Progress = Callable[[int, int, str], None]


def collect(
    runtime: Runtime,
    *,
    saved: Sequence[tuple[Any, ...]] | None = None,
    unrecorded: bool = False,
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Plan, check against ``saved`` (a plan's acting identities), and do it; goes on past errors.

    Raises Busy while another gc or recover runs, StalePlan, Refused.
    """
    if runtime.store.missing:
        report = make_plan(runtime)
        _as_saved(report.plan, saved or ())
        return report._replace(applied=True)
    runtime.enter()
    trust.check_pages(runtime.store)
    runtime.lock("all", "gc")
    report = make_plan(runtime)
    if report.refused is not None:
        return report
    plan = report.plan
    if unrecorded:
        plan = Plan(tuple(_vouch(item) for item in plan.items))
    newer = 0
    if saved is not None:
        reviewed = _as_saved(plan, saved)
        newer = len(plan.items) - len(reviewed.items)
        plan = reviewed
    done = apply_plan(runtime, plan, verb="gc", progress=progress)
    _tell_skipped(runtime, done)
    return report._replace(plan=done, applied=True, newer=newer)


_WORTH_TELLING = frozenset(Reason) - {
    Reason.VM_ALIVE,
    Reason.RESERVED,
    Reason.OPERATION_RUNNING,
    Reason.FOREIGN,
    Reason.OTHER_INSTALLATION,
}


def _tell_skipped(runtime: Runtime, plan: Plan) -> None:
    """Put into the history what a person may ask after, once while it stays so."""
    skipped = [
        item for item in plan.items if item.action is Action.SKIP and item.reason in _WORTH_TELLING
    ]
    if not skipped:
        return
    known = runtime.read(history.last_of_each)
    events = [
        Event(
            "skipped",
            f"{item.kind} {item.key}: {item.message}",
            str(item.kind),
            item.key,
            item.reason.value,
            item.vm,
        )
        for item in skipped
        if known.get((str(item.kind), item.key)) != ("skipped", item.reason.value)
    ]
    if events:
        with runtime.store.transaction() as sql:
            history.add(sql, events, operation=None, verb="gc")


def failed_items(plan: Plan) -> list[Item]:
    """What a plan that was carried out should have seen to, and could not: done with, but for it.

    What could not be looked at counts: nobody knows whether there was something to do.
    """
    return [
        item
        for item in plan.items
        if item.outcome == "failed" or item.reason is Reason.OBSERVE_FAILED
    ]


def _vouch(item: Item) -> Item:
    if item.reason is Reason.UNRECORDED:
        return item._replace(
            action=Action.DELETE,
            message="marked by this installation and not on record; asked for by hand",
        )
    return item


def _as_saved(plan: Plan, saved: Sequence[tuple[Any, ...]]) -> Plan:
    """Only what was reviewed; raises StalePlan naming the first item that changed, and how."""
    now_planned = {item.identity() for item in plan.items}
    changed = [identity for identity in saved if identity not in now_planned]
    if changed:
        _, _, kind, key = changed[0][:4]
        more = f" (and {len(changed) - 1} more items changed)" if len(changed) > 1 else ""
        raise StalePlan(
            f"the plan is stale: {kind} {key} {_how(plan, changed[0])}{more}",
            hint="make a new plan: hvtx gc --plan --out FILE; nothing was changed",
        )
    wanted = set(saved)
    return Plan(
        tuple(
            item for item in plan.items if item.action is Action.SKIP or item.identity() in wanted
        )
    )


def _how(plan: Plan, identity: tuple[Any, ...]) -> str:
    """How what a saved plan says of an item differs from what would be planned now."""
    action, reason, kind, key, row, mark = identity
    was = f"was {action} ({reason})"
    same = [item for item in plan.items if (item.kind, item.key) == (kind, key)]
    found = next((item for item in same if item.row == row and row), None)
    found = found or next((item for item in same if item.mark == mark), None)
    if found is not None and (found.action, found.reason) != (action, reason):
        return f"{was}, it is now {found.action.value} ({found.reason.value}): {found.message}"
    if same:
        other = f"row {same[0].row}, {same[0].mark}" if same[0].row else f"{same[0].mark}"
        told = f"{same[0].action.value}, {same[0].reason.value}"
        return f"{was} with the mark {mark}, and another one ({other}: {told}) is there now"
    return f"{was}, it is no longer planned: neither host nor record has it any more"


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


def _inside_out(entries: Iterable[Entry]) -> list[Entry]:
    """Elements and rules before the tables that they stand in."""
    return sorted(entries, key=lambda entry: -len(entry.place.split(" ")))


def _base_last(item: Item) -> int:
    """What stands in a table before the table, whose place is shorter."""
    places = [entry.place for entry in (item.entry, *item.more) if entry is not None]
    return -min((len(place.split(" ")) for place in places), default=9)


def _remove_each(firewall: FirewallDriver, item: Item) -> Outcome:
    """Remove the entries that were seen, each if it is still exactly that."""
    assert item.entry is not None
    outcomes = [firewall.remove(entry) for entry in _inside_out((item.entry, *item.more))]
    return next((outcome for outcome in outcomes if not outcome.gone), GONE)


def remove_sighted(runtime: Runtime, item: Item) -> Outcome:
    """Remove an object that no live row accounts for, by the mark that was seen on it."""
    assert item.mark is not None
    if item.entry is not None:
        firewall = runtime.firewall(item.entry.backend)
        if item.alone or item.reason is Reason.UNRECORDED:
            return _remove_each(firewall, item)
        row = runtime.read(records.resources_by_id, [item.row])[item.row]
        if item.reason is Reason.DUPLICATE_COPY:
            return firewall.remove_copies(row)
        outcome = firewall.release([row])[row.id]
        if not outcome.gone and row.spec.get("what") == "base":
            # it was restored into the tables and chains of the base that is there now, which stay
            return _remove_each(firewall, item)
        return outcome
    assert item.link is not None
    sighted = Resource(
        id=item.row,
        kind=item.kind,
        key=item.link.name,
        state=State.RELEASING,
        mark=item.mark,
        spec={"ifindex": item.link.ifindex, "device": item.link.name, "mac": item.link.mac},
        observed={"ifindex": item.link.ifindex},
        operation=0,
        life=0,
        vm=None,
        network=None,
    )
    return runtime.driver(item.kind).release([sighted])[sighted.id]


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


# -- saved plans and views -----------------------------------------------------------------------


def plan_document(report: Report) -> dict[str, Any]:
    """The JSON of `gc --plan` and `gc --apply`, and of saved plans."""
    items = [_item_document(item, applied=report.applied) for item in report.plan.items]
    counts = {action.value: 0 for action in Action}
    for item in report.plan.items:
        counts[item.action.value] += 1
    return {
        "schema": SCHEMA,
        "plan_id": plan_id(report.plan),
        "made": report.made,
        "applied": report.applied,
        "refused": report.refused.code if report.refused else None,
        "epoch": {"boot_id": report.boot_id, "netns": report.netns},
        "items": items,
        "summary": counts,
    }


def refused_document(refusal: Refused) -> dict[str, Any]:
    """The JSON of a store that refuses to be opened: of it nothing is known."""
    return plan_document(_refused(refusal, procfs.boot_id(), procfs.netns_cookie()))


def plan_id(plan: Plan) -> str:
    """A short name of what a plan would do: equal plans have equal ids."""
    from hashlib import blake2b

    text = json.dumps([item.identity() for item in plan.acting()])
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _item_document(item: Item, *, applied: bool) -> dict[str, Any]:
    left_alone = "skipped" if applied else None
    return {
        "action": item.action.value,
        "reason": item.reason.value,
        "kind": str(item.kind),
        "key": item.key,
        "vm": item.vm,
        "record": {"id": item.row, "state": str(item.state)} if item.row else None,
        "evidence": list(item.evidence),
        "message": item.message,
        "outcome": item.outcome or left_alone,
        "mark": item.mark,
    }


def picture(report: Report) -> Picture:
    """What the plan was made from, as a picture shows it; of a plan that was not refused."""
    from hvtx.planner.picture import draw

    assert report.snapshot is not None
    return draw(report.snapshot, report.plan)


def save_plan(report: Report, path: str, mode: int = PRIVATE) -> None:
    """Write a plan where a person said; raises UsageError if that cannot be."""
    try:
        write_out(path, json.dumps(plan_document(report), indent=2) + "\n", mode=mode)
    except OSError as problem:
        words, hint = unwritten("plan", path, problem, option="--out")
        raise UsageError(words, hint=hint) from problem


def load_plan(path: str) -> list[tuple[Any, ...]]:
    """The acting identities of a saved plan; raises NotFound, UsageError."""
    try:
        document = json.loads(read_plan(path))
    except FileNotFoundError as problem:
        raise NotFound(
            f"there is no plan file {path}", hint="hvtx gc --plan --out FILE makes one"
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(
            f"{path} is not a plan: {why}", hint="hvtx gc --plan --out FILE makes one"
        ) from problem
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise UsageError(
            f"{path} is not a plan of hvtx gc", hint="hvtx gc --plan --out FILE makes one"
        )
    if document.get("heuristic"):
        raise UsageError(
            f"{path} is a plan of the emergency mode", hint="hvtx gc --heuristic --apply --yes FILE"
        )
    try:
        found = [_identity(item) for item in document["items"]]
    except KeyError as problem:
        raise UsageError(f"{path} is not a whole plan: {problem} is missing") from problem
    except TypeError as problem:
        raise UsageError(f"{path} is not a whole plan: {problem}") from problem
    return [identity for identity in found if identity[0] != Action.SKIP.value]


def _identity(item: Any) -> tuple[Any, ...]:
    """What :meth:`Item.identity` says, of a saved item; raises KeyError, TypeError."""
    record = item["record"]
    words = (item["action"], item["reason"], item["kind"], item["key"])
    row, mark = (record["id"] if record else 0), item["mark"]
    if not all(isinstance(word, str) for word in words) or not isinstance(row, int):
        raise TypeError("an item's words are not text")
    if mark is not None and not isinstance(mark, str):
        raise TypeError("an item's mark is not text")
    return (*words, row, mark)


def resolve(runtime: Runtime, *, vm: str | None = None, networks: bool = False) -> Plan:
    """Release what is left of a crashed or interrupted VM, or of interrupted network operations.

    With ``networks`` also what a saved ruleset brought back from an earlier life. By gc's own
    rules; what may not be touched stays, and is skipped in the plan returned.
    """
    snapshot = take_snapshot(runtime)
    plan = plan_gc(snapshot)
    rows = {row.id: row for row in snapshot.rows}

    def concerns(item: Item) -> bool:
        row = rows.get(item.row)
        if item.reason is Reason.STALE_RESTORED:
            return networks  # or it stands in the way of what is to be built
        if row is None or item.entry is not None:
            return False
        if networks:
            return row.vm is None and row.state != State.COMMITTED
        return row.vm is not None and snapshot.vms.get(row.vm, None) is not None and item.vm == vm

    chosen = Plan(tuple(item for item in plan.items if concerns(item)))
    return apply_plan(runtime, chosen, verb="resolve", vm=vm, networks_locked=networks)
