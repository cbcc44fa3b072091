"""A change of a VM or a network that is up: rows are exchanged, and their objects at once.

One operation, of which the record tells at any moment what it is to come to:

1. In one transaction the record becomes what it is to be, the new rows are intended, and the old
   ones releasing; both carry ``EXCHANGE``.
2. Each driver puts the new in the place of the old, in one batch: a guest has what it had before or
   what it has after, and never more than either.
3. What flowed by the old ends; ports are held anew.
4. In one transaction the new rows are committed and the old ones closed.

Who is killed after the first step leaves an operation that is carried on (:func:`carry_on`, by
`recover`, gc and the next change), not back: what is given again comes to the same end. If the host
refuses, the same is done the other way round: the record becomes what it was, and the rows of the
old are intended once more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from hvtx.engine import (
    effects,
    egress_flows,
    flows,
    lines,
    living_limits,
    living_service,
    loopback,
    port_holders,
)
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.undo import attempt
from hvtx.errors import Conflict, HvtxError, PartialFailure
from hvtx.host import descriptors, failpoint
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.reason import Reason
from hvtx.model.resource import (
    EXCHANGE,
    FIREWALL_KINDS,
    FLOWS,
    GONE,
    HOLDER,
    Kind,
    Outcome,
    Resource,
    State,
    holder_observed,
)
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple
from hvtx.planner.changes import Difference, WantedRow
from hvtx.planner.provision import ResourceSpec
from hvtx.planner.states import identity_of
from hvtx.store import history, intents, records
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.drivers.base import DeviceDriver
    from hvtx.drivers.portholder import Held

Record = Callable[[Any], None]  # puts into the store what a VM or network is, in a transaction


class Change(NamedTuple):
    """A change of one VM or network, as :mod:`hvtx.planner.changes` found it."""

    difference: Difference
    record: Record
    before: Record  # the record as it was
    events: Sequence[Event] = ()
    held: Held | None = None  # sockets on ports that are published anew
    devices: Sequence[Resource] = ()  # of a VM whose limits are changed, as they were
    limited: Sequence[Resource] = ()  # the same, as they are to be


def exchange(
    runtime: Runtime, change: Change, *, vm: str | None = None, network: str | None = None
) -> list[Resource]:
    """Change what is up; the rows that were made, committed. ``vm``, ``network``: whose, by name.

    The caller holds its lock. Raises Conflict (what carries another mark is in the way, the record
    moved), HostRefused, NotPermitted (all is as it was), PartialFailure (it is changed, and what
    flowed by what is gone, or past what is new, is not proven to have ended).
    """
    gone, wanted = change.difference
    with begin(runtime, "set", vm=vm, network=network) as (sql, operation):
        leaving = _release(sql, operation, gone)
        change.record(sql)
        _record_devices(sql, change.limited)
        made = _inheriting(sql, leaving, _intend(operation, sql, wanted))
    try:
        operation.raise_pending_interrupt()
        _limit(runtime.devices, change.limited)
        made = _hold(operation, made, change.held)
        return _carry_through(operation, leaving, made, change.events, "done")
    except (Exception, KeyboardInterrupt) as problem:
        unknown = isinstance(problem, HvtxError) and problem.code == "commit-unknown"
        if not operation.committed and not unknown:
            attempt(lambda: _take_back(operation, change, leaving, made)).tell(problem)
        raise


def _release(sql: Any, operation: Operation, gone: Sequence[Resource]) -> list[Resource]:
    moved = intents.release(sql, gone, operation.id)
    if len(moved) != len(gone):
        raise Conflict("another operation changed it in the meantime", hint="try again")
    return _flagged(sql, moved)


def _flagged(sql: Any, rows: Sequence[Resource]) -> list[Resource]:
    flagged = [row._replace(observed={**row.observed, EXCHANGE: True}) for row in rows]
    for row in flagged:
        intents.record_observed(sql, row.id, row.observed)
    return flagged


def _intend(operation: Operation, sql: Any, wanted: Sequence[WantedRow]) -> list[Resource]:
    descriptors.need(descriptors.TO_UNDO)
    rows = intents.intend(
        sql,
        [intents.NewRow(w.want.kind, w.want.key, w.want.spec, w.vm, w.network) for w in wanted],
        operation=operation.id,
        life=operation.runtime.life.id,
        mark=operation.new_mark,
    )
    return _flagged(sql, rows)


def _inheriting(sql: Any, gone: Sequence[Resource], made: Sequence[Resource]) -> list[Resource]:
    """The new rows, with the holder of the same port that goes for them."""
    holders = {
        port_holders.bound(row): holder_observed(row)
        for row in gone
        if row.kind == Kind.PUBLISH and HOLDER in row.observed
    }
    rows = []
    for row in made:
        holder = holders.get(port_holders.bound(row)) if row.kind == Kind.PUBLISH else None
        if holder is not None:
            row = row._replace(observed={**row.observed, HOLDER: holder})  # noqa: PLW2901
            intents.record_observed(sql, row.id, row.observed)
        rows.append(row)
    return rows


def _hold(operation: Operation, made: Sequence[Resource], held: Held | None) -> list[Resource]:
    """Give the sockets on new ports to a process, which is on record before it holds for good."""
    if not held:
        return list(made)
    runtime = operation.runtime
    owner = next((row.vm for row in made if row.vm), "")
    processes = runtime.read(records.processes_of_vm, owner)
    followed = next((found for row in processes if (found := identity_of(row))), None)
    fresh = [row for row in made if row.kind == Kind.PUBLISH]
    own = set(held.ports)
    fresh = [row for row in fresh if port_holders.port_of(row) in own]
    holder = port_holders.spawn_for_rows(held, followed, fresh)
    assert holder is not None, "something is held"
    try:
        port_holders.enter_own_scope(operation.vm or "", holder.identity.pid)
        rows = operation.observe(made, port_holders.noted(fresh, holder.identity))
        failpoint.reach("registered")
        holder.open()
    except BaseException:
        holder.cancel()
        raise
    return rows


def _carry_through(
    operation: Operation,
    gone: Sequence[Resource],
    made: Sequence[Resource],
    events: Sequence[Event],
    result: str,
) -> list[Resource]:
    observed = _act(operation, gone, made)
    left = egress_flows.end_refused(operation.runtime, [*gone, *made]) or _end(operation, gone)
    # what could be bound only now that the old is let go is refused as what is bound beforehand
    needed = port_holders.on_new_ports(gone, made) if left is None and result == "done" else ()
    observed |= _holders(operation, made, observed, needed)
    committed = [_committed(row, observed) for row in made]
    owed = left.message if left is not None else flows.owed(committed)
    why = {row.id: left for row in gone} if left is not None else {}

    def close(sql: Any) -> None:
        intents.forget(sql, [row for row in gone if row.id not in why])
        for row in gone:
            if row.id in why:
                intents.amend_observed(sql, row.id, {FLOWS: True})

    operation.commit(
        made,
        {row.id: row.observed for row in committed},
        events=[*events, *_removals(operation, gone, why)],
        then=close,
        result=result if owed is None else "partial",
    )
    if owed is not None and result == "done":
        raise PartialFailure(
            f"it is changed, but not all of it has ended: {owed}",
            hint="hvtx gc --apply tries again; until then what has not ended stays on record",
        )
    return committed


def _act(
    operation: Operation,
    gone: Sequence[Resource],
    made: Sequence[Resource],
    *,
    again: bool = False,
) -> dict[int, Mapping[str, Any]]:
    """Exchange the objects; what is to be known of each row of ``made``, without ``EXCHANGE``.

    ``again``: somebody was interrupted at it.
    """
    rules = [[row for row in rows if row.kind in FIREWALL_KINDS] for rows in (gone, made)]
    parts = [[row for row in rows if row.kind not in FIREWALL_KINDS] for rows in (gone, made)]
    read = effects.exchange(operation, *rules)
    if any(parts):
        read |= living_service.exchange(operation, *parts, again=again)
    observed: dict[int, Mapping[str, Any]] = {
        row.id: {**_without(row.observed), **read.get(row.id, {})} for row in made
    }
    observed |= flows.end_past_new(operation, made, observed)
    if any(row.kind == Kind.PUBLISH for row in (*gone, *made)):
        loopback.settle(operation.runtime, [*made, *gone], {row.id for row in gone})
    return observed


def _end(operation: Operation, gone: Sequence[Resource]) -> Outcome | None:
    """End what came by what is gone, and let go of its ports; None, or what may still flow."""
    ports = [row for row in gone if row.kind == Kind.PUBLISH]
    left = flows.end_taken(ports, _staying(operation, ports))
    if left is not None:
        return left
    vms = {row.vm for row in ports if row.vm}
    for vm in sorted(vms):
        own = [row for row in gone if row.vm == vm]
        name = operation.runtime.read(records.vm_name, vm) or ""
        port_holders.let_go(operation.runtime.store, own, _staying(operation, own), name)
    failpoint.reach("let-go")
    return None


def _staying(operation: Operation, gone: Sequence[Resource]) -> list[Resource]:
    """The other rows, of the VMs that these are of, that are made or are to be."""
    leaving = {row.id for row in gone}
    return [
        row
        for vm in sorted({row.vm for row in gone if row.vm})
        for row in operation.runtime.read(records.resources_of_vm, vm)
        if row.id not in leaving and row.state != State.RELEASING
    ]


def _committed(row: Resource, observed: Mapping[int, Mapping[str, Any]]) -> Resource:
    return row._replace(state=State.COMMITTED, observed=dict(observed[row.id]))


def _without(observed: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in observed.items() if name != EXCHANGE}


def _removals(
    operation: Operation, gone: Sequence[Resource], left: Mapping[int, Outcome]
) -> list[Event]:
    return [
        lines.removal(row, left.get(row.id, GONE), Reason.REPLACED.value, operation.vm)
        for row in gone
    ]


def _take_back(
    operation: Operation, change: Change, gone: Sequence[Resource], made: Sequence[Resource]
) -> str:
    """Do the same the other way round: the record as it was, what is gone intended once more."""
    runtime = operation.runtime
    runtime.store.spend_reserve()
    failpoint.reach("undoing")
    with runtime.store.transaction() as sql:
        change.before(sql)
        _record_devices(sql, change.devices)
        taken = intents.release(sql, _as_on_record(sql, made), operation.id)
        back = _intend(operation, sql, [_again(row) for row in gone])
        back = _inheriting(sql, gone, back)
    _limit(runtime.devices, change.devices)
    _carry_through(operation, [*gone, *taken], back, (), "undone")
    return ""


def _record_devices(sql: Any, devices: Sequence[Resource]) -> None:
    for row in devices:
        intents.record_spec(sql, row.id, row.spec)


def _limit(driver: Callable[[], DeviceDriver], devices: Sequence[Resource]) -> None:
    """Hold devices to their rows, each to the old limit or to the new one all along."""
    if devices:
        living_limits.hold(driver(), devices)
        failpoint.reach("acted:limit")


def _as_on_record(sql: Any, rows: Sequence[Resource]) -> list[Resource]:
    known = records.resources_by_id(sql, [row.id for row in rows])
    return [known[row.id] for row in rows]


def _again(row: Resource) -> WantedRow:
    return WantedRow(ResourceSpec(row.kind, row.key, row.spec), row.vm, row.network)


# -- what was interrupted --------------------------------------------------------------------------


def carry_on(operation: Operation, rows: Sequence[Resource]) -> Outcome:
    """Carry an interrupted change through, of which these are some rows; what came of it.

    The locks of what it changes are held. Never raises for what the host refuses.
    """
    runtime = operation.runtime
    first = rows[0]
    half_done = runtime.read(records.half_done_resources)
    own = [r for r in half_done if r.operation == first.operation and EXCHANGE in r.observed]
    gone = [row for row in own if row.state == State.RELEASING]
    made = [row for row in own if row.state == State.INTENDED]
    try:
        port_holders.end_passing(made)
        _limit(runtime.devices, _limited(runtime.read, own, runtime.life.id))
        observed = _act(operation, gone, made, again=True)
        left = egress_flows.end_refused(runtime, [*gone, *made]) or _end(operation, gone)
        observed |= _holders(operation, made, observed)
    except (HvtxError, OSError, DumpInterrupted) as problem:
        return Outcome(False, Reason.OBSERVE_FAILED, f"{first.key}: {problem}")
    failpoint.reach("carried")
    with runtime.store.transaction() as sql:
        for row in made:
            intents.commit(sql, [row], {row.id: observed[row.id]}, row.operation)
        closed = gone if left is None else []
        intents.forget(sql, closed)
        completed = [lines.carried(row, operation.vm_name(sql, row)) for row in made]
        removed = [
            lines.removal(row, GONE, Reason.REPLACED.value, operation.vm_name(sql, row))
            for row in closed
        ]
        operation.history(sql, [*completed, *removed])
        if left is None:
            intents.end(sql, first.operation, "done", history.now())
    return GONE if left is None else left


def _limited(read: Callable[..., Any], own: Sequence[Resource], life: int) -> list[Resource]:
    """The devices of the VM that an interrupted change is of: its limits may have changed, too.

    Those of a network's change are of a network as well, or of several VMs, whose limits stay.
    """
    vms = {row.vm for row in own}
    vm = vms.pop()
    if vms or vm is None:
        return []
    return living_limits.devices_of(read(records.resources_of_vm, vm), life)


def _holders(
    operation: Operation,
    made: Sequence[Resource],
    observed: Mapping[int, Mapping[str, Any]],
    needed: Collection[int] = (),
) -> dict[int, Mapping[str, Any]]:
    """``observed`` of these rows with who holds their ports now: what is not held is held anew.

    Raises Conflict where somebody has the port of one that is ``needed`` (ids).
    """
    known = operation.runtime.read(records.resources_by_id, [row.id for row in made])
    ports = [known[row.id] for row in made if row.kind == Kind.PUBLISH]  # some have others by now
    held = {row.id: row for row in ports} | {
        row.id: row
        for row in _hold_anew(operation, [r for r in ports if not port_holders.is_held(r)], needed)
    }
    return {
        row.id: {**observed[row.id], HOLDER: dict(holder_observed(row))}
        for row in held.values()
        if holder_observed(row)
    }


def _hold_anew(
    operation: Operation, ports: Sequence[Resource], needed: Collection[int]
) -> list[Resource]:
    """Those of these rows whose ports could be had."""
    runtime, found = operation.runtime, []
    for vm in sorted({row.vm for row in ports if row.vm}):
        own = {row.id: row for row in ports if row.vm == vm}
        processes = runtime.read(records.processes_of_vm, vm)
        name = runtime.read(records.vm_name, vm) or ""
        held = port_holders.hold_anew(runtime.store, list(own.values()), processes, name, needed)
        found += [own[row]._replace(observed=observed) for row, observed in held.items()]
    return found
