"""GC of the container network interface: of what a runtime does not list, what is proven dead goes.

A list is no proof: it may be missing, empty, or another runtime's. What is listed stays to its DEL.
What could not be looked at, or not be released, is told apart from what stays because it may live.
"""

from __future__ import annotations

from collections.abc import Collection

from hvtx.engine.attachments import key_of
from hvtx.engine.gc_apply import apply_plan
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import take_snapshot
from hvtx.model.attachment import AttachmentKey, Collected, Kept
from hvtx.model.plan import Action, Item, Plan, Result, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind
from hvtx.model.typed import Any
from hvtx.model.vm import Liveness, Vm
from hvtx.planner.gc import plan_gc
from hvtx.planner.gc.wording import RUNS
from hvtx.store import records

_LIVES = "its network namespace lives"
Valid = Collection[tuple[str, str]]  # container and interface of each


def collect(runtime: Runtime, network: str, valid: Valid) -> Collected:
    """Release the attachments of a configuration (by its name) that are unlisted and dead.

    Raises Busy while another gc or recover runs, Refused.
    """
    if runtime.store.missing:
        return Collected((), ())
    runtime.enter()
    runtime.lock("all", "gc")
    unlisted = runtime.read(
        _unlisted, network, {(container, ifname) for container, ifname in valid}
    )
    if not unlisted:
        return Collected((), ())
    snapshot = take_snapshot(runtime, settle=True)  # no attachment is settled: it has no process
    living = {name for name, vm in unlisted.items() if not _is_dead(snapshot, vm)}
    plan = plan_gc(snapshot)
    own = [item for item in plan.judged() if item.vm in unlisted and item.entry is None]
    chosen = Plan(tuple(item for item in own if item.vm not in living))
    done = apply_plan(runtime, chosen, verb="cni-gc")
    left = runtime.read(records.vm_names)
    removed = [key_of(vm) for vm in unlisted.values() if vm.id not in left]
    why = {**_reasons(own), **_reasons(done.items)}
    failed = {item.vm for item in (*own, *done.items) if _is_failed(item)}
    failed |= {name for name, vm in unlisted.items() if _is_unseen(snapshot, vm)}
    kept = [
        _kept(vm, why.get(name), failed=name in failed)
        for name, vm in sorted(unlisted.items())
        if vm.id in left
    ]
    return Collected(tuple(removed), tuple(kept))


def _unlisted(sql: Any, network: str, valid: Valid) -> dict[str, Vm]:
    """The VMs of a configuration's attachments that are not listed, by name."""
    own = [vm for vm in records.vms(sql) if vm.attachment and vm.attachment.network == network]
    return {vm.name: vm for vm in own if (key_of(vm).container, key_of(vm).ifname) not in valid}


def _is_dead(snapshot: Snapshot, vm: Vm) -> bool:
    facts = snapshot.vms.get(vm.id)
    return facts is not None and facts.liveness is Liveness.DEAD


def _is_failed(item: Item) -> bool:
    """Whether it was tried in vain, or nobody knows whether there was something to do."""
    return item.outcome not in (None, Result.DONE) or item.reason is Reason.OBSERVE_FAILED


def _is_unseen(snapshot: Snapshot, vm: Vm) -> bool:
    """Whether it could not be looked for its namespace: the next look may tell."""
    seen = [
        snapshot.processes.get(row.id)
        for row in snapshot.rows
        if row.vm == vm.id and row.kind == Kind.NETNS and row.life == snapshot.life.id
    ]
    return any(facts is not None and facts.error and not facts.elsewhere for facts in seen)


def _reasons(items: Collection[Item]) -> dict[str, Item]:
    """Of each VM the item that tells best why it stays: one that was not done, or is skipped."""
    found: dict[str, Item] = {}
    for item in items:
        if item.vm and (item.action is Action.SKIP or item.outcome not in (None, Result.DONE)):
            found.setdefault(item.vm, item)
    return found


def _kept(vm: Vm, item: Item | None, *, failed: bool) -> Kept:
    key = AttachmentKey(*key_of(vm))
    if item is None:
        return Kept(key, vm.name, "operation-running", "another operation works on it")
    words = _LIVES if item.message == RUNS.text else item.message
    return Kept(key, vm.name, item.reason.value, words, failed)
