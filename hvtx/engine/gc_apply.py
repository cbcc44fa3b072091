"""A plan of gc's rules is applied: privileges and locks first, interrupted operations last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from hvtx.engine import privileges
from hvtx.engine.executor import Progress, execute
from hvtx.engine.interrupted import close_interrupted
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import begin
from hvtx.engine.unrecorded import MarkedRemover
from hvtx.errors import Busy
from hvtx.host import failpoint
from hvtx.model.plan import Action, Item, Plan
from hvtx.model.resource import FIREWALL_KINDS, Kind
from hvtx.model.typed import Any
from hvtx.store import records


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
        close_interrupted(runtime)
        return plan
    failpoint.reach("planned")
    _need_privileges(runtime.read, acting)
    with _networks_locked(runtime, acting, held=networks_locked) as locked:
        with begin(runtime, verb, vm=vm) as (_, operation):
            pass
        done = execute(
            operation,
            plan,
            MarkedRemover(runtime),
            recorded=True,
            networks=locked,
            progress=progress,
        )
        close_interrupted(runtime)
    return done


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


def _need_privileges(read: Callable[..., Any], items: Sequence[Item]) -> None:
    """Refuse before anything is written if the host would refuse half-way."""
    privileges.need(devices=any(item.kind == Kind.TAP for item in items))
    for item in items:
        if item.kind == Kind.FILE and item.action is Action.DELETE:
            privileges.need_to_empty(item.key)
    rules = [item for item in items if item.kind in FIREWALL_KINDS or item.entry is not None]
    problem = privileges.legacy_problem() if rules else None
    if problem is None:
        return
    backends: set[Any] = {item.entry.backend for item in rules if item.entry is not None}
    rows = read(records.resources_by_id, [item.row for item in rules if item.row])
    backends |= {row.backend for row in rows.values()}
    if "iptables" in backends:
        raise problem
