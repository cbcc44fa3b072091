"""Release of what an interrupted or crashed command left, by gc's own rules."""

from __future__ import annotations

from hvtx.engine.gc_apply import apply_plan
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import take_snapshot
from hvtx.model.plan import Action, Item, Plan
from hvtx.model.reason import Reason
from hvtx.model.resource import State
from hvtx.planner.gc import plan_gc


def resolve(runtime: Runtime, *vms: str, networks: bool = False, completing: bool = False) -> Plan:
    """Release what is left of crashed or interrupted VMs, or of interrupted network operations.

    ``vms`` are names, whose locks are held: one look at the host for all of them. With ``networks``
    also what a saved ruleset brought back from an earlier life. ``completing``: nothing is
    released, the record of VMs that run is completed. By gc's own rules; what may not be touched
    stays, and is skipped in the plan returned.
    """
    snapshot = take_snapshot(runtime, settle=True)  # of a VM that is settled nothing is to be done
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
        return row.vm is not None and row.vm in snapshot.vms and item.vm in vms

    chosen = Plan(
        tuple(
            item
            for item in plan.judged()
            if concerns(item) and (item.action is Action.COMMIT or not completing)
        )
    )
    alone = vms[0] if len(vms) == 1 else None
    return apply_plan(runtime, chosen, verb="resolve", vm=alone, networks_locked=networks)
