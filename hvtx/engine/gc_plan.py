"""Making gc's plan, with the snapshot that it was made from.

`gc --plan` sees a runtime that was opened for reading; nothing in its reach can write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hvtx.drivers.base import Host
from hvtx.engine.runtime import Runtime
from hvtx.engine.snapshot import look, take_snapshot
from hvtx.errors import HvtxError, Refused
from hvtx.host import procfs
from hvtx.model.plan import Item, Plan, Result, Snapshot
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple, TypeVar
from hvtx.planner.gc import plan_gc
from hvtx.store import history

if TYPE_CHECKING:
    from hvtx.model.block import BlockStep
    from hvtx.model.diagram import Diagram
    from hvtx.model.foreign_rule import ForeignRule

T = TypeVar("T")


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
    heuristic: bool = False  # a plan of the emergency mode: of guesses
    blocks: tuple[BlockStep, ...] = ()  # of a cluster: what is to be done about them, too

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be inspected, and what a saved plan does not have, in words."""
        notes = tuple(self.snapshot.failures.values()) if self.snapshot else ()
        if self.newer:
            notes += (f"{self.newer} more to do since the plan was saved: hvtx gc --plan",)
        return notes


def make_plan(runtime: Runtime, *, everything: bool = False, whole: bool = False) -> Report:
    """What gc would do now; ``whole``: the report's snapshot is to have all rows one by one."""
    if runtime.refused is not None:
        return refused_report(runtime.refused, runtime.boot_id, runtime.netns)
    try:
        made = history.now()
        with _uncollected():
            snapshot = take_snapshot(runtime, settle=not everything and not whole)
            rules: tuple[ForeignRule, ...] | None = None
            if everything:
                rules, problem = _foreign_rules(runtime.host)
                snapshot = snapshot._replace(failures={**snapshot.failures, **problem})
            plan = plan_gc(snapshot, everything=everything, rules=rules)
    except Refused as refusal:
        return refused_report(refusal, runtime.boot_id, runtime.netns)
    report = Report(plan, False, None, runtime.boot_id, runtime.netns, made, snapshot)
    return report if runtime.settings.cluster is None else with_blocks(report, runtime)


def plan_beside(runtime: Runtime, ask: Callable[[Any], T]) -> tuple[Plan, Snapshot, T]:
    """Gc's plan, what it was made from, and what ``ask`` read from the store at that moment.

    VMs that need no judging are settled. Raises Refused where nothing may be concluded.
    """
    if runtime.refused is not None:
        raise runtime.refused
    with _uncollected():
        snapshot, answer = look(runtime, ask, settle=True)
        return plan_gc(snapshot), snapshot, answer


def with_blocks(report: Report, runtime: Runtime) -> Report:
    """The plan with what is to be done about blocks of a cluster."""
    from hvtx.engine import block_plan

    ending = [item.key for item in report.plan.acting() if item.kind == Kind.LEASE]
    return report._replace(blocks=block_plan.planned(runtime, ending))


def _foreign_rules(host: Host) -> tuple[tuple[ForeignRule, ...], dict[str, str]]:
    """All rules of the host; if they cannot be read, none, and why."""
    from hvtx.drivers.foreign_rules import ForeignRules

    try:
        return ForeignRules(host).rules(), {}
    except HvtxError as problem:
        return (), {"strangers": f"foreign rules are not shown: {problem.message}"}


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


def refused_report(refusal: Refused, boot_id: str, netns: int) -> Report:
    """The plan of a host or store of which nothing may be concluded."""
    return Report(Plan(()), False, refusal, boot_id, netns, history.now())


def refused_here(refusal: Refused, *, heuristic: bool = False) -> Report:
    """The plan where the store refuses to be opened: of it nothing is known."""
    report = refused_report(refusal, procfs.boot_id(), procfs.netns_cookie())
    return report._replace(heuristic=heuristic)


def failed_items(plan: Plan, *, guessed: bool = False) -> list[Item]:
    """What a plan that was carried out should have seen to, and could not: done with, but for it.

    What could not be inspected counts: nobody knows whether there was something to do. In a plan
    that is ``guessed`` it does not: there it is one more thing of others that is left alone.
    """
    return [
        item
        for item in plan.judged()
        if item.outcome is Result.FAILED or (item.reason is Reason.OBSERVE_FAILED and not guessed)
    ]


def diagram(report: Report) -> Diagram:
    """What the plan was made from, as a diagram shows it; of a plan that was not refused."""
    from hvtx.planner.diagram import draw

    assert report.snapshot is not None
    return draw(report.snapshot, report.plan)
