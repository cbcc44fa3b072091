"""A VM whose leftovers a plan released is free, or it is told why it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hvtx.engine import clearing
from hvtx.errors import Conflict, NotFound
from hvtx.model.plan import Action, Item, Plan
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, Resource
from hvtx.planner.scope import VmScope
from hvtx.planner.start import Leftovers
from hvtx.planner.states import VmState
from hvtx.store import records
from tests.planner.test_scope import row
from tests.planner.test_start import vm_scope

CRASHED = vm_scope(VmState.CRASHED)
NOTHING = Plan(())


class Runtime:
    """What is on record once the plan is carried out."""

    def __init__(self, rows: Sequence[Resource] = (), *, there: bool = True) -> None:
        self.rows = rows
        self.there = there
        self.asked: list[str] = []

    def read(self, ask: Any, *values: str) -> Any:
        self.asked.append(ask.__name__)
        known = {records.resources_of_vm: self.rows, records.find_vm: self.there or None}
        return known[ask]


def freed(runtime: Any, left: Leftovers, plan: Plan = NOTHING) -> VmScope:
    return clearing.freed(runtime, left, plan)


def test_what_is_free_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are others than those that were read before the plan was carried out."""
    now = vm_scope(VmState.DEFINED)
    monkeypatch.setattr(clearing, "vm_scope", lambda runtime, name: now)
    assert freed(Runtime([row(1, Kind.LEASE)]), Leftovers(CRASHED)) is now


def test_what_stays_is_told_with_the_plan_s_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = row(7, Kind.TAP)
    item = Item.for_row(
        kept, Action.SKIP, Reason.IN_USE, vm="web", evidence=(), message="somebody has it"
    )
    monkeypatch.setattr(clearing.leftovers, "hint", lambda runtime, left, again: again)
    with pytest.raises(Conflict, match="cannot be released: somebody has it") as told:
        freed(Runtime([kept]), Leftovers(CRASHED), Plan((item,)))
    assert told.value.hint == "hvtx vm start web"


@pytest.mark.parametrize(("verb", "again"), [("run", "hvtx vm run web"), ("create", "vm create")])
def test_one_that_had_only_begun_is_gone(verb: str, again: str) -> None:
    left = Leftovers(vm_scope(VmState.DEFINED, provisional=True)._replace(unended=(verb,)))
    with pytest.raises(NotFound, match="which is undone now") as told:
        freed(Runtime(there=False), left)
    assert again in told.value.hint


def test_one_that_runs_is_refused_whatever_is_on_record() -> None:
    """Its start was killed late: the plan said in the record that it runs."""
    runtime = Runtime()
    with pytest.raises(Conflict, match="it runs"):
        freed(runtime, Leftovers(vm_scope(VmState.RUNNING), Conflict("it runs")))
    assert runtime.asked == []
