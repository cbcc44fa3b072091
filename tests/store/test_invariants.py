"""Each invariant of the store is told where it is broken, with the rows that break it."""

from __future__ import annotations

from typing import Any

import pytest

from hvtx.model.resource import Kind
from hvtx.store import intents, invariants
from hvtx.store.database import Store

from .shelf import NOW, add_network, claim, enter, intend, network

BREAKS = {
    "an operation that was done left nothing intended of its own": (
        "UPDATE operation SET ended = began, result = 'done' WHERE id = 2",
    ),
    "a committed row of a VM belongs to a VM on record": (
        "UPDATE resource SET state = 'committed', vm = 'id-gone' WHERE id = 1",
    ),
    "a committed row of a network belongs to a network on record": (
        "UPDATE resource SET state = 'committed', vm = NULL, network = 'net-gone' WHERE id = 1",
    ),
    "a network that is whole, and that nobody makes or removes, is on record for good": (
        "UPDATE resource SET state = 'committed', vm = NULL, network = (SELECT id FROM network)",
        "UPDATE operation SET ended = began, result = 'done' WHERE id = 2",
        "UPDATE network SET operation = 2",
    ),
    "a lease's row has its lease": ("UPDATE resource SET kind = 'lease' WHERE id = 1",),
    "a VM, or a network, has at most one process that counts": (
        "UPDATE resource SET state = 'committed', kind = 'process'",
    ),
    "an operation that was done left nothing releasing of its own": (
        "UPDATE resource SET state = 'releasing'",
        "UPDATE operation SET ended = began, result = 'done' WHERE id = 2",
    ),
}


@pytest.fixture
def rows(store: Store) -> list[Any]:
    """A VM on record that is being started."""
    lan = network()
    add_network(store, lan)
    claim(store, "web", lan)
    return intend(store, enter(store), (Kind.TAP, "hv1"), (Kind.FILTER, "hv1"))


def test_a_store_on_its_way_breaks_none(store: Store, rows: list[Any]) -> None:
    """Neither while rows are intended, nor when they are committed, releasing or gone."""
    assert [row.id for row in rows] == [1, 2]
    assert invariants.violations(store.connection) == []
    with store.transaction() as sql:
        assert intents.commit(sql, rows, {}, 2) == 2
        intents.end(sql, 2, "done", NOW)
    assert invariants.violations(store.connection) == []
    stop = enter(store)
    with store.transaction() as sql:
        committed = [row._replace(state="committed") for row in rows]
        releasing = intents.release(sql, committed, stop)
        assert len(releasing) == 2
        assert invariants.violations(sql) == []
        intents.forget(sql, releasing)
        intents.end(sql, stop, "done", NOW)
    assert invariants.violations(store.connection) == []


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_broken_is_told_with_its_rows(store: Store, rows: list[Any], broken: str) -> None:
    """That one, and no other."""
    with store.transaction() as sql:
        for statement in BREAKS[broken]:
            sql.execute(statement)
        told = invariants.violations(sql)
    assert [line.partition(": rows ")[0] for line in told] == [broken]
    assert "1" in told[0].partition(": rows ")[2].split(", ")


def test_every_invariant_is_broken_here() -> None:
    assert list(BREAKS) == [sentence for sentence, _ in invariants.INVARIANTS]
