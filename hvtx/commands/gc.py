"""`gc --apply`: plan, compare with a saved plan, carry out, report what was kept."""

from __future__ import annotations

from collections.abc import Sequence

from hvtx.engine.collect_outside import collect_outside
from hvtx.engine.executor import Progress
from hvtx.engine.gc_apply import apply_plan
from hvtx.engine.gc_plan import Report, make_plan
from hvtx.engine.runtime import Runtime
from hvtx.engine.saved_plan import Identity, as_saved, of_blocks, of_items
from hvtx.model.plan import Action, Item, Plan, Result
from hvtx.model.reason import Reason
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.store import history, records, trust
from hvtx.store.history import Event

if TYPE_CHECKING:
    from hvtx.model.block import BlockStep


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
        as_saved(report.plan, saved or ())
        return report._replace(applied=True)
    runtime.enter()
    trust.check_pages(runtime.store)
    runtime.lock("all", "gc")
    report = make_plan(runtime)
    if report.refused is not None:
        return report
    plan = report.plan
    if unrecorded:
        plan = plan.with_judged([_on_operators_word(item) for item in plan.judged()])
    newer = 0
    if saved is not None:
        reviewed = as_saved(plan, of_items(saved))
        blocks = _reviewed(report.blocks, saved)
        newer = len(plan.items) - len(reviewed.items) + len(report.blocks) - len(blocks)
        report, plan = report._replace(blocks=blocks), reviewed
    done = apply_plan(runtime, plan, verb="gc", progress=progress)
    _tell_skipped(runtime, done)
    if saved is None and runtime.off_record is not None and _is_on_record(done.judged()):
        runtime.off_record.believe()
    report = _blocks(runtime, report, saved=saved is not None)
    runtime.unlock("all", "gc")
    done = collect_outside(
        done, runtime.settings, lambda ids: runtime.read(records.resources_by_id, ids)
    )
    return report._replace(plan=done, applied=True, newer=newer)


_OFF_RECORD = (Reason.UNRECORDED, Reason.OBSERVE_FAILED)  # the latter: perhaps


def _is_on_record(items: Sequence[Item]) -> bool:
    """Whether nothing is off the record, now that a plan of all there is was carried out (pure)."""
    return all(item.reason not in _OFF_RECORD or item.outcome is Result.DONE for item in items)


def _reviewed(planned: Sequence[BlockStep], saved: Sequence[Identity]) -> tuple[BlockStep, ...]:
    """What a saved plan says of blocks; raises StalePlan."""
    wanted = of_blocks(saved)
    if not wanted:
        return ()
    from hvtx.planner.block_steps import reviewed

    return reviewed(planned, wanted)


def _blocks(runtime: Runtime, report: Report, *, saved: bool) -> Report:
    """Carry out what is planned about blocks of a cluster."""
    if runtime.settings.cluster is None:
        return report
    from hvtx.engine import block_plan

    return report._replace(blocks=block_plan.carry_out(runtime, report.blocks, saved=saved))


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
        item
        for item in plan.judged()
        if item.action is Action.SKIP and item.reason in _WORTH_TELLING
    ]
    if not skipped:
        return
    known = runtime.read(history.last_of_each, {item.key for item in skipped})
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


def _on_operators_word(item: Item) -> Item:
    if item.reason is Reason.UNRECORDED:
        return item._replace(
            action=Action.DELETE,
            message="marked by this installation and not on record; asked for by hand",
        )
    return item
