"""The hint about resources that could not be released."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine import ownrules
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.plan import Action, Item, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Outcome, Resource, State
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Liveness
from hvtx.planner import leftovers
from hvtx.planner.leftovers import AGAIN


def hint(runtime: Runtime, kept: Sequence[tuple[Resource, Outcome]], *, again: str = AGAIN) -> str:
    """The commands that let what was ``kept`` go; the host is looked at for them."""
    from hvtx.engine.snapshot import take_snapshot

    try:
        shared = [row for row, outcome in kept if outcome.reason == Reason.FOREIGN_DEPENDENTS]
        first = ownrules.removals(runtime, shared)
        snapshot = take_snapshot(runtime, settle=True)  # of a VM that is settled nothing is kept
        return "; ".join([*first, leftovers.hint(snapshot, kept, again=again)])
    except (HvtxError, OSError, DumpInterrupted):
        return f"end or move the named resources, then: {again}"


def kept_by(items: Sequence[Item], rows: Sequence[Resource]) -> list[tuple[Resource, Outcome]]:
    """The same ``rows`` with what a plan says of each."""
    told = {item.row: item for item in reversed(items)}
    return [
        (row, Outcome(False, item.reason, f"{item.message} ({'; '.join(item.evidence)})"))
        for row in rows
        if (item := told.get(row.id)) is not None
    ]


class Stuck(NamedTuple):
    """A VM or network that is down, what keeps its things from going, and what lets them go."""

    whose: str  # "VM 'web'"
    words: tuple[str, ...]
    hint: str


_STANDS = frozenset({
    Reason.MARK_MISMATCH, Reason.MARK_STRIPPED, Reason.EDITED_COPY, Reason.IN_USE,
    Reason.FOREIGN_DEPENDENTS,
})  # fmt: skip


def stuck(snapshot: Snapshot) -> list[Stuck]:
    """What stops and crashes left behind and gc may not take, so that it stands for good."""
    left = [row for row in snapshot.rows if row.kind != Kind.LEASE and _is_left(row, snapshot)]
    if not left:
        return []
    from hvtx.planner.gc import plan_gc

    plan = plan_gc(snapshot)
    standing = {
        item.row: item for item in reversed(plan.items)
        if item.action is Action.SKIP and item.reason in _STANDS and item.entry is None
    }  # fmt: skip
    by_owner: dict[str, list[Resource]] = {}
    for row in left:
        if row.id in standing:
            by_owner.setdefault(_whose(row, snapshot), []).append(row)
    return [
        Stuck(
            whose,
            tuple(f"{row.kind} {row.key}: {standing[row.id].message}" for row in rows),
            leftovers.hint(snapshot, kept_by(plan.items, rows)),
        )
        for whose, rows in by_owner.items()
    ]


def _is_left(row: Resource, snapshot: Snapshot) -> bool:
    facts = snapshot.vms.get(row.vm) if row.vm else None
    return row.state == State.RELEASING or (facts is not None and facts.liveness is Liveness.DEAD)


def _whose(row: Resource, snapshot: Snapshot) -> str:
    facts = snapshot.vms.get(row.vm) if row.vm else None
    if facts is not None:
        return f"VM {facts.name!r}"
    network = snapshot.networks.get(row.network) if row.network else None
    return f"network {network.name!r}" if network is not None else "this installation"
