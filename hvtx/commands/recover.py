"""`recover`: resolve what was interrupted; in a new life of the host rebuild and start again.

Every step is a step of its own in the store, and the life is marked as recovered last, so that a
killed `recover` goes on where it was. One without a network that should be there is not recovered:
the next run tries again, or tells of it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from hvtx.commands.vm_start_many import is_heavy, start_slice
from hvtx.engine import autostart, service_upkeep
from hvtx.engine.executor import Progress
from hvtx.engine.gc_apply import apply_plan
from hvtx.engine.gc_plan import failed_items
from hvtx.engine.network_needs import ready
from hvtx.engine.network_upkeep import settle_accepts
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import all_networks, shown_scope
from hvtx.engine.shut_in import starts_vms
from hvtx.engine.snapshot import take_snapshot
from hvtx.engine.together import Several, Tally, slices
from hvtx.engine.vm_state import read_moment, states_of
from hvtx.errors import Busy, HostRefused, HvtxError
from hvtx.host import failpoint
from hvtx.model.plan import Action, Item, Plan, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, State
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Vm
from hvtx.planner.gc import plan_gc
from hvtx.planner.scope import NetworkScope
from hvtx.planner.states import VmState
from hvtx.store import history, records, trust


class Recovery(NamedTuple):
    """What a run did."""

    items: tuple[Item, ...] = ()
    networks: tuple[str, ...] = ()  # rebuilt
    started: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()  # what, why


class _Autostart(NamedTuple):
    """What came of the VMs that want to be started."""

    started: list[str]
    failed: list[tuple[str, str]]  # what, why
    untried: list[str]  # of these, who was another command's all along: the next run tries them


Tell = Callable[[Recovery], None]


def recover(
    runtime: Runtime,
    *,
    accept_rollback: bool = False,
    new_namespace: bool = False,
    progress: Progress = lambda done, total, what: None,
    tell: Tell = lambda part: None,
) -> Recovery:
    """Bring host and record together; safe at any time, any number of times.

    ``tell`` hears each part of what is returned as soon as it is done, ``progress`` of the VMs
    that are started. Raises Refused, Busy, StoreError.
    """
    if runtime.store.missing:
        return Recovery()
    runtime.enter(accept_rollback=accept_rollback, new_namespace=new_namespace)
    trust.check_pages(runtime.store)
    runtime.lock("all", "gc")
    done = _resolve(runtime)
    failpoint.reach("resolved")
    failed = [(f"{i.kind} {i.key}", i.message) for i in failed_items(done)]
    tell(Recovery(tuple(done.items), failed=tuple(failed)))
    rebuilt: list[str] = []
    started: list[str] = []
    settle = partial(_blocks, runtime, accept_rollback=accept_rollback)
    clustered = runtime.settings.cluster is not None
    doubted = accept_rollback or (clustered and _is_doubted(runtime.read))
    late = settle() if doubted else []  # first: till then no VM with an address of a block starts
    scope = all_networks(runtime)  # now that the plan is carried out
    if not runtime.life.recovered:
        rebuilt, refused = _rebuild(runtime, scope)
        failed += refused.values()
        tell(Recovery(networks=tuple(rebuilt), failed=tuple(refused.values())))
        came = _autostart(runtime, frozenset(refused), progress, tell)
        started += came.started
        failed += came.failed
        scope = all_networks(runtime)  # read again: networks were rebuilt, by starts too
        missing = {network.id for network in scope.missing()}
        if not came.untried and refused.keys().isdisjoint(missing):
            with runtime.store.transaction() as sql:
                records.set_recovered(sql, runtime.life.id, history.now())
            runtime.life = runtime.life._replace(recovered=True)
    late += [] if doubted else settle()
    late += _serve(runtime, scope)
    failed += late
    tell(Recovery(failed=tuple(late)))
    settle_accepts(runtime, scope)
    return Recovery(tuple(done.items), tuple(rebuilt), tuple(started), tuple(failed))


def _is_doubted(read: Callable[..., Any]) -> bool:
    """Whether the store's blocks, which a cluster gives, may be others' by now."""
    from hvtx.store import blocks

    return bool(read(blocks.is_doubted))


def _blocks(runtime: Runtime, *, accept_rollback: bool) -> list[tuple[str, str]]:
    """Bring claims of blocks to their end; what could not be."""
    if runtime.settings.cluster is None:
        return []
    from hvtx.engine import blocks, notice

    found = blocks.settle(runtime, accept_rollback=accept_rollback)
    for words in found.done:
        notice.note(words)
    if found.unasked:
        notice.warning(f"cluster: {found.unasked}")
    return list(found.failed)


def _serve(runtime: Runtime, scope: NetworkScope) -> list[tuple[str, str]]:
    """Have the services of networks started that do not run.

    One may have ended with who started it again in its place, before that one served.
    """
    try:
        service_upkeep.serve_outside(runtime.settings, scope)
        service_upkeep.ensure(runtime, scope)
    except HvtxError as problem:
        return [("DHCP and DNS", problem.message)]
    return []


def _resolve(runtime: Runtime) -> Plan:
    """Carry out what gc would do about what was interrupted, from one look at the host."""
    snapshot = take_snapshot(runtime, settle=True)
    plan = plan_gc(snapshot)
    return apply_plan(runtime, Plan(_interrupted(snapshot, plan)), verb="recover")


def _interrupted(snapshot: Snapshot, plan: Plan) -> tuple[Item, ...]:
    """The items of what an interruption or an earlier life of the host left (pure).

    Nothing of VMs that a plan leaves alone as a whole: their rows are committed in this life.

    A stop that was interrupted after it had ended the VM process is carried through; one that was
    interrupted before left the VM running, and everything as it was.
    """
    rows = {row.id: row for row in snapshot.rows}
    stopping = {
        operation.vm
        for operation in snapshot.operations.values()
        if operation.verb in ("stop", "rm") and not operation.running
    }

    def interrupted(item: Item) -> bool:
        row = rows.get(item.row)
        if row is None or item.entry is not None:
            return item.reason is Reason.STALE_RESTORED
        if item.reason is Reason.RESERVED or (
            row.kind == Kind.LEASE and row.state == State.COMMITTED and item.action is Action.SKIP
        ):
            return False  # leases outlive every life of the host
        if item.reason is Reason.FLOWS_REMAIN:
            return True
        if item.vm in stopping and item.vm is not None and item.action is not Action.SKIP:
            return True
        return row.state != State.COMMITTED or row.life != snapshot.life.id

    return tuple(filter(interrupted, plan.judged()))


def _rebuild(runtime: Runtime, scope: NetworkScope) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Make each network that is missing; the names of those made, and by id why others were not.

    What interruptions and restored rulesets left of them is released by now, unless a lock of
    somebody else's or a passing error kept it: that is tried again under the networks' lock.
    """
    rebuilt: list[str] = []
    refused: dict[str, tuple[str, str]] = {}
    for network in scope.missing():
        try:
            ready(runtime, scope.of(network), {}, "recover")
            rebuilt.append(network.name)
        except HvtxError as problem:
            words = f"{problem.message}; `hvtx recover` tries again"
            refused[network.id] = f"network {network.name}", words
        failpoint.reach("rebuilt")
    return rebuilt, refused


def _autostart(
    runtime: Runtime, refused: frozenset[str], progress: Progress, tell: Tell
) -> _Autostart:
    """Start each VM that wants it and was not yet tried in this life, some at a time.

    One that failed and is of a network that could not be rebuilt, as ``refused`` has it by id, was
    not tried: it is started once its network is there. Nor was one that another command has.
    """
    with runtime.reading() as sql:
        tried = records.attempted(sql, runtime.life.id)
        wanted = {vm.name: vm for vm in records.vms(sql) if vm.autostart and vm.id not in tried}
    found = _Autostart([], [], [])
    count = 0
    for part in slices(wanted, lambda name: is_heavy(wanted[name].hypervisor)):
        vms = [wanted[name] for name in part]
        came = _start_beside_others(runtime, vms)
        problems = [(f"VM {name}", why.message) for name, why in came.failed.items()]
        untried = [name for name, why in came.failed.items() if isinstance(why, Busy)]
        # Last, so that a start that dies with us is tried again by the next run.
        with runtime.store.transaction() as sql:
            for vm in vms:
                if vm.name in untried:
                    continue
                if vm.name not in came.failed or refused.isdisjoint(_networks_of(vm)):
                    records.set_attempted(sql, runtime.life.id, vm.id)
        failpoint.reach("attempted")
        found.started.extend(came.done)
        found.failed.extend(problems)
        found.untried.extend(untried)
        tell(Recovery(started=tuple(came.done), failed=tuple(problems)))
        count += len(part)
        progress(count, len(wanted), part[-1])
    return found


def _networks_of(vm: Vm) -> list[str]:
    return [interface.network for interface in vm.interfaces]


def _start_beside_others(runtime: Runtime, vms: Sequence[Vm]) -> Several:
    """Start those of these VMs that do not run; one that another command starts is waited for.

    It is no failure that somebody was quicker. Who is still starting one after as long as a lock is
    waited for is told as Busy.
    """
    came = _start_slice(runtime, _down(vms, _states(runtime, vms)))
    mine = [vm for vm in vms if vm.name in came.failed]
    if not mine:
        return came
    failed, again = dict(came.failed), []
    states = _states(runtime, mine)
    for vm in mine:
        if states[vm.name] is VmState.STARTING:
            try:
                runtime.lock("vm", vm.name)
                runtime.unlock("vm", vm.name)
                again.append(vm)
            except Busy as problem:
                failed[vm.name] = problem
    if again:
        states |= _states(runtime, again)
        second = _start_slice(runtime, _down(again, states))
        failed |= second.failed
        states |= _states(runtime, again)
        came = Several({**came.done, **second.done}, failed)
    return came._replace(
        failed={n: why for n, why in failed.items() if states[n] is not VmState.RUNNING}
    )


def _states(runtime: Runtime, vms: Sequence[Vm]) -> dict[str, VmState]:
    """The states of VMs, by name, looked at anew: starts before may have taken long."""
    moment = runtime.read(read_moment, *(vm.id for vm in vms))
    found = zip(vms, states_of(runtime, vms, moment), strict=True)
    return {vm.name: state for vm, (state, *_) in found}


def _down(vms: Sequence[Vm], states: Mapping[str, VmState]) -> list[Vm]:
    """Those that do not run (pure)."""
    return [vm for vm in vms if states[vm.name] not in (VmState.RUNNING, VmState.UNKNOWN)]


def _start_slice(runtime: Runtime, vms: Sequence[Vm]) -> Several:
    """Start VMs: this process, or systemd if this process is in the unit's sandbox."""
    names = [vm.name for vm in vms]
    tally = Tally(names, lambda done, total, what: None)
    if not names:
        return tally.several()
    if not starts_vms():
        start_slice(runtime, names, tally)
        return tally.several()
    try:
        autostart.start_vms(runtime.settings, names)
    except HvtxError as problem:
        where = autostart.journal_of(names)
        for vm in _down(vms, _states(runtime, vms)):
            words = f"VM {vm.name!r} did not start ({where})"
            alone = HostRefused(words, hint=f"hvtx vm start {vm.name} tries again")
            tally.fail(vm.name, problem if len(names) == 1 else alone)
    for name in tally.left(names):
        tally.attempt(name, partial(shown_scope, runtime, name))  # it may have been removed by now
    return tally.several()
