"""`vm apply`: a described set of VMs and networks is planned, and its steps are carried out.

Each step is an operation of its own, as if its command had been typed: whoever calls says how it is
done. So a run that is killed leaves nothing half made but what `recover` and the next run know, and
the next run plans what is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b

from hvtx.engine import described as sets
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, HvtxError, PartialFailure, Refused, StalePlan, StoreError
from hvtx.model.described import (
    NETWORK,
    VM,
    Action,
    Allowed,
    Described,
    Step,
    WantedVm,
)
from hvtx.model.typed import Any, NamedTuple
from hvtx.planner.described import plan
from hvtx.planner.described_order import acting
from hvtx.store import records

LOCK = "apply"  # held by whoever carries one out: the second plans when the first is done


class Done(NamedTuple):
    """A step and what became of it; None: it is not carried out."""

    step: Step
    outcome: str | None = None  # "done", "failed", or "skipped": what it needs has failed
    problem: HvtxError | None = None


class Report(NamedTuple):
    """A plan, made or carried out."""

    items: Sequence[Done]
    applied: bool = False
    refused: Refused | None = None

    @property
    def steps(self) -> list[Step]:
        """The steps that do something."""
        return acting(item.step for item in self.items)

    @property
    def refusals(self) -> list[Step]:
        """What is refused: then nothing of the plan is done."""
        return [item.step for item in self.items if item.step.action is Action.REFUSE]

    @property
    def identities(self) -> list[Any]:
        """What was reviewed, as JSON has it."""
        return [step.identity() for step in (*self.steps, *self.refusals)]

    @property
    def plan_id(self) -> str:
        """A short name: equal plans have equal ids."""
        return blake2b(json.dumps(self.identities).encode(), digest_size=8).hexdigest()


def refused(refusal: Refused) -> Report:
    """The plan where nothing may be concluded."""
    return Report((), refused=refusal)


def make_plan(runtime: Runtime, described: Described, allowed: Allowed) -> Report:
    """What would be done now.

    Raises Refused, UsageError (what could never be), NotFound, Conflict.
    """
    if runtime.refused is not None:
        raise runtime.refused
    steps = plan(described, sets.known(runtime, described), allowed)
    sets.refuse_names(steps)
    return Report([Done(step) for step in steps])


def begin(runtime: Runtime, names: Sequence[str]) -> None:
    """Before the plan is made that is carried out: nobody else applies one until this run ends.

    What an interrupted run left half made of these VMs is taken away. Raises Busy, Refused.
    """
    runtime.enter()
    runtime.lock("all", LOCK)
    sets.settle(runtime, names)


def refuse_stale(report: Report, reviewed: Sequence[Any]) -> None:
    """Raise StalePlan if these are not the steps that were reviewed, naming one that is not."""
    now = report.identities
    if now == list(reviewed):
        return
    gone = [each for each in reviewed if each not in now]
    come = [each for each in now if each not in reviewed]
    action, reason, kind, name = (*(gone or come or now), ["plan", "order", "the", "steps"])[0][:4]
    was = "is no longer planned so" if gone else "was not planned"
    raise StalePlan(
        f"the plan is stale: {action} {kind} {name} ({reason}) {was}",
        hint="make a new plan: hvtx vm apply -f FILE --plan --out PLAN; nothing was changed",
    )


def refuse_refused(report: Report) -> None:
    """Raise Conflict if something was refused: then nothing is done."""
    refusals = report.refusals
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise Conflict(
            f"{refusals[0].message}{more}", hint=f"{refusals[0].hint}; nothing was changed"
        )


def carry_out(report: Report, do: Callable[[Step], None], tell: Callable[[Done], None]) -> Report:
    """Do the steps in their order; what needs one that failed is skipped, the others are done.

    A VM that was stopped is started again, if it is still there: as it is on record by then.
    ``tell`` hears of each step when it is done. What concerns the store ends the run.
    """
    items = []
    failed: set[tuple[str, str]] = set()
    down: set[str] = set()  # VMs that this run has stopped
    steps = {id(step) for step in report.steps}
    for item in report.items:
        step = item.step
        if id(step) not in steps:
            items.append(item)
            continue
        again = step.action is Action.START and step.name in down
        done = Done(step, "skipped") if _needs(step) & failed and not again else _do(step, do)
        if done.outcome != "done":
            failed.add((step.kind, step.name))
        elif step.action is Action.STOP:
            down.add(step.name)
        elif step.action is Action.REMOVE and step.kind == VM:
            down.discard(step.name)
        items.append(done)
        tell(done)
    return report._replace(items=items, applied=True)


def refuse_another(step: Step, lock: Callable[[str, str], None], read: Callable[..., Any]) -> None:
    """Raise Conflict where somebody has removed what was planned of, and made it anew meanwhile.

    A VM's lock is held from here on, as the step itself holds it. Raises Busy.
    """
    if step.known is None:
        return
    if step.kind == VM:
        lock("vm", step.name)
    found = read(records.find_network if step.kind == NETWORK else records.find_vm, step.name)
    if found is not None and found.id != step.known.id:
        raise Conflict(
            f"{step.kind} {step.name} is another by now than the plan was made of",
            hint="hvtx vm apply -f FILE --plan shows what it would take now",
        )


def _do(step: Step, do: Callable[[Step], None]) -> Done:
    try:
        do(step)
    except (Refused, StoreError):
        raise
    except HvtxError as problem:
        return Done(step, "failed", problem)
    return Done(step, "done")


def _needs(step: Step) -> set[tuple[str, str]]:
    """The things, by kind and name, without whose steps this one cannot be."""
    networks = step.wanted.networks if isinstance(step.wanted, WantedVm) else ()
    return {(step.kind, step.name), *((NETWORK, name) for name in networks)}


def problem_of(report: Report) -> PartialFailure | None:
    """What is told of steps that failed."""
    failed = [item for item in report.items if item.problem is not None]
    if not failed:
        return None
    first = failed[0]
    assert first.problem is not None
    left = sum(item.outcome in ("failed", "skipped") for item in report.items)
    words = f"{left} of {len(report.steps)} steps were not done: {first.step.kind}"
    again = "then apply the set again: what is done is not done twice"
    back = "; ".join(f"as it was: hvtx vm create {name} --from-log" for name in _lost(report))
    return PartialFailure(
        f"{words} {first.step.name}: {first.problem.message}",
        hint="; ".join(filter(None, (first.problem.hint, again, back))),
    )


def _lost(report: Report) -> list[str]:
    """VMs that were removed, and not made anew."""
    vms = [item for item in report.items if item.step.kind == VM]
    gone = [i.step.name for i in vms if i.step.action is Action.REMOVE and i.outcome == "done"]
    made = {i.step.name for i in vms if i.step.action is Action.CREATE and i.outcome == "done"}
    return [name for name in gone if name not in made]
