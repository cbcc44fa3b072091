"""The tables of gc as tables: whole, without a rule that never decides, and quick ways that agree.

What they decide is compared cell by cell in tests/planner/test_table.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from typing import Any, get_type_hints

import pytest

from hvtx.model.plan import DELETING, Action
from hvtx.model.reason import Reason
from hvtx.model.resource import Kind, State
from hvtx.model.vm import Liveness
from hvtx.planner.gc import plan_gc
from hvtx.planner.gc.cases import (
    Alive,
    EntryCase,
    Flows,
    Held,
    Likeness,
    LinkCase,
    Owner,
    Record,
    RowCase,
    RowEpoch,
    Seen,
    Whose,
    Work,
)
from hvtx.planner.gc.facts import Facts
from hvtx.planner.gc.rows import row_item, row_items
from hvtx.planner.gc.rules import (
    ENTRY_RULES,
    LINK_RULES,
    ROW_RULES,
    decide_entry,
    decide_link,
    decide_row,
)
from hvtx.planner.gc.table import Rule, decider, rule
from hvtx.planner.gc.wording import Words
from tests.planner.scene import Scene

TABLES = [
    (ROW_RULES, decide_row, RowCase),
    (LINK_RULES, decide_link, LinkCase),
    (ENTRY_RULES, decide_entry, EntryCase),
]
STATES = [state for state in State if state is not State.RELEASED]
PROBLEMS = [None, Reason.MARK_MISMATCH, Reason.MARK_STRIPPED, Reason.EDITED_COPY]
NEEDS = [None, Reason.OPERATION_RUNNING, Reason.VM_ALIVE, Reason.LIVENESS_UNKNOWN, Reason.RESERVED]


@cache
def values_of(kind: type, field: str) -> list[Any]:
    special = {"kind": list(Kind), "state": STATES, "problem": PROBLEMS, "serves": NEEDS}
    if field in special:
        return special[field]
    hint = get_type_hints(kind)[field]
    return [True, False] if hint is bool else list(hint)


def at_random(kind: Any, count: int, **fixed: Any) -> list[Any]:
    """So many cases with any value in each field that is not named."""
    chance = random.Random(7)
    values = [[fixed[f]] if f in fixed else values_of(kind, f) for f in kind._fields]
    return [kind._make(map(chance.choice, values)) for _ in range(count)]


# a case of which nothing stands in the way of collecting it
PLAIN = {
    RowCase: RowCase._make(
        [Owner.VM, "tap", "committed", RowEpoch.NOW, Seen.PRESENT, None, Work.NONE, Alive.DEAD, Held.NO,
         Flows.NONE, False, False]
    ),
    LinkCase: LinkCase(Whose.OURS, Record.REMOVED, Likeness.SAME, held=False, others=False),
    EntryCase: EntryCase(
        Whose.OURS, Record.REMOVED, Likeness.SAME, RowEpoch.NOW, working=False, serves=None
    ),
}  # fmt: skip


def near(kind: Any, pattern: Iterable[tuple[str, tuple[Any, ...]]]) -> Iterator[Any]:
    """The plain case bent as a pattern wants it, and once more in each other field."""
    names = [field for field, _ in pattern]
    for chosen in product(*(values for _, values in pattern)):
        bent = PLAIN[kind]._replace(**dict(zip(names, chosen, strict=True)))
        yield bent
        for field in set(kind._fields) - set(names):
            yield from (bent._replace(**{field: value}) for value in values_of(kind, field))


@pytest.mark.parametrize(("rules", "decide", "kind"), TABLES)
def test_no_case_is_without_a_rule(rules: Any, decide: Any, kind: Any) -> None:
    for case in at_random(kind, 3000):
        assert decide(case) in rules


@pytest.mark.parametrize(("rules", "decide", "kind"), TABLES)
def test_no_rule_is_hidden_by_those_before_it(rules: Any, decide: Any, kind: Any) -> None:
    for each in rules:
        assert any(decide(case) is each for case in near(kind, each.pattern)), each


@pytest.mark.parametrize(("rules", "decide", "kind"), TABLES)
def test_a_pattern_names_fields_and_values_that_there_are(
    rules: tuple[Rule, ...], decide: Any, kind: Any
) -> None:
    """A name that no case has would raise; a value that none takes would never fit."""
    for each in rules:
        for field, values in each.pattern:
            assert set(values) <= set(values_of(kind, field)), (each, field)


@pytest.mark.parametrize(("rules", "decide", "kind"), TABLES)
def test_only_reasons_to_delete_delete(rules: tuple[Rule, ...], decide: Any, kind: Any) -> None:
    for each in rules:
        assert (each.action is Action.DELETE) == (each.reason in DELETING), each


@pytest.mark.parametrize("vm", list(Alive))
def test_no_vm_that_is_not_dead_loses_its_objects(vm: Alive) -> None:
    """Over cases at random: whoever is alive, unknown or not on record keeps all but old traces."""
    for case in at_random(RowCase, 10000, owner=Owner.VM, vm=vm):
        decided = decide_row(case)
        if decided.action is Action.DELETE and decided.reason not in (
            Reason.FLOWS_REMAIN,
            Reason.STALE_RESTORED,
        ):
            assert case.vm == "dead", case
            assert case.held in ("no", "itself"), case
            assert case.seen == "present", case
            assert case.work == "none", case
            assert case.problem is None, case


def test_a_case_that_no_rule_fits_is_an_error() -> None:
    decide = decider([rule(Action.SKIP, Reason.RESERVED, Words("held"), held=True)])
    assert decide(LinkCase._make([None, None, None, True, False])).words.text == "held"
    with pytest.raises(LookupError, match="no rule for"):
        decide(LinkCase._make([None, None, None, False, False]))


@pytest.mark.parametrize("liveness", list(Liveness))
@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("state", STATES)
def test_the_short_way_for_live_vms_says_what_the_table_says(
    liveness: Liveness, shown: bool, state: State
) -> None:
    scene = Scene()
    vm, network = scene.vm(liveness=liveness), scene.network()
    for kind in (Kind.TAP, Kind.FILTER, Kind.PUBLISH, Kind.PROCESS, Kind.LEASE):
        row = scene.row(kind, vm=vm, network=network if kind is Kind.TAP else None, state=state)
        if shown:
            scene.show(row)
    snapshot = scene.snapshot()
    facts = Facts(snapshot)
    assert row_items(facts) == [row_item(facts, row) for row in snapshot.rows]
    assert len(plan_gc(snapshot).items) >= len(snapshot.rows)
