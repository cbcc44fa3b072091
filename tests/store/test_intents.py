"""Rows and operations move by compare-and-swap, along the arrows only."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
from typing import Any

import pytest

from hvtx.model.resource import Kind, State
from hvtx.store import intents, records
from hvtx.store.database import Store

from .shelf import NOW, enter, intend

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


def states(store: Store) -> list[str]:
    rows = store.connection.execute("SELECT state FROM resource ORDER BY id").fetchall()
    return [row[0] for row in rows]


@pytest.fixture
def rows(store: Store) -> list[Any]:
    return intend(store, enter(store), (Kind.TAP, "hv1"), (Kind.FILTER, "hv1"), (Kind.FILE, "/x"))


def test_intended_rows_carry_fresh_marks(store: Store, rows: list[Any]) -> None:
    """The store's own installation, the row's own number, and a nonce each."""
    assert [row.id for row in rows] == [1, 2, 3]
    assert all(f"hvtx:1:{store.installation}:{row.id}." in row.mark for row in rows)
    assert len({row.mark.rpartition(".")[2] for row in rows}) == 3
    assert records.resources(store.connection) == rows


def test_row_numbers_are_never_used_again(store: Store, rows: list[Any]) -> None:
    """Not even those of rows that left no tombstone."""
    with store.transaction() as sql:
        intents.forget(sql, rows)
    assert intend(store, 1, (Kind.FILE, "/y"))[0].id == 4


def test_only_the_own_operation_commits(store: Store, rows: list[Any]) -> None:
    """And only from intended; observed facts are kept."""
    with store.transaction() as sql:
        assert intents.commit(sql, rows, {}, 99) == 0
        assert intents.commit(sql, rows, {1: {"ifindex": 5}}, 1) == 3
        assert intents.commit(sql, rows, {}, 1) == 0
    found = records.resources(store.connection)
    assert [row.state for row in found] == [State.COMMITTED] * 3
    assert found[0].observed == {"ifindex": 5}


def test_a_release_takes_only_what_is_as_it_was_seen(store: Store, rows: list[Any]) -> None:
    """Rows that somebody moved meanwhile stay with them."""
    with store.transaction() as sql:
        intents.commit(sql, rows[:1], {}, 1)
    with store.transaction() as sql:
        moved = intents.release(sql, rows, 1)
    assert [row.id for row in moved] == [2, 3]
    assert all(row.state == State.RELEASING for row in moved)
    assert states(store) == ["committed", "releasing", "releasing"]


def test_a_release_gives_back_what_is_on_record_now(store: Store, rows: list[Any]) -> None:
    """Who serves a network may be another since the caller read the row, whose state stays."""
    with store.transaction() as sql:
        intents.record_observed(sql, rows[0].id, {"pid": 42})
    with store.transaction() as sql:
        moved = intents.release(sql, rows, 1)
    assert [row.observed for row in moved] == [{"pid": 42}, {}, {}]


def test_a_successor_is_noted_of_what_is_as_it_was_seen(store: Store, rows: list[Any]) -> None:
    """Neither of a row that is being removed nor of one that is gone."""
    row, later = rows[2], enter(store)
    with store.transaction() as sql:
        assert intents.record_successor(sql, row, {"pid": 42})
        intents.release(sql, [row], later)
        assert not intents.record_successor(sql, row, {"pid": 43})
    assert records.resources(store.connection)[2].observed == {"pid": 42}
    with store.transaction() as sql:
        intents.forget(sql, [row])
        assert not intents.record_successor(sql, row, {"pid": 43})


def test_a_release_of_many_takes_each_row_once(store: Store) -> None:
    """By one statement; one that is given twice is taken once, one that was moved is not."""
    many = intend(store, enter(store), *((Kind.FILE, f"/{n}") for n in range(1100)))
    later = enter(store)
    with store.transaction() as sql:
        intents.commit(sql, many[7:8], {}, 1)
        statements: list[str] = []
        sql.set_trace_callback(statements.append)
        moved = intents.release(sql, [*many, many[3]], later)
        sql.set_trace_callback(None)
    assert [row.id for row in moved] == [row.id for n, row in enumerate(many) if n != 7]
    assert {row.operation for row in moved} == {later}
    assert states(store).count("releasing") == 1099
    assert len(set(statements)) == 1  # told again for each row: of its trigger


def test_what_can_come_back_leaves_a_tombstone(store: Store, rows: list[Any]) -> None:
    """Devices and rules keep their mark; what only is written down goes."""
    with store.transaction() as sql:
        assert intents.forget(sql, rows) == 3
        assert intents.forget(sql, rows) == 0
    assert states(store) == ["released", "released"]
    assert records.resources(store.connection) == []
    found = records.tombstones(store.connection, [row.mark for row in rows])
    assert {row.key for row in found.values()} == {"hv1"}
    assert records.tombstones(store.connection, ["hvtx:1:none:1.x"]) == {}


ARROWS = {
    ("intended", "committed"),
    ("intended", "releasing"),
    ("intended", "released"),
    ("committed", "releasing"),
    ("committed", "released"),
    ("releasing", "released"),
}


@pytest.mark.parametrize("old", [str(s) for s in State])
@pytest.mark.parametrize("new", [*(str(s) for s in State), "other"])
def test_nothing_moves_a_row_against_the_arrows(store: Store, old: str, new: str) -> None:
    """Not even a hand with sqlite3: a trigger of the schema sees to it."""
    operation = enter(store)
    intend(store, operation, (Kind.TAP, "hv1"), state=State(old))
    allowed = (old, new) in ARROWS or old == new
    with contextlib.ExitStack() as stack:
        if not allowed:
            stack.enter_context(pytest.raises(sqlite3.IntegrityError))
        store.connection.execute("UPDATE resource SET state = ?", (new,))
    assert states(store) == [new if allowed else old]


def test_operations_end_once(store: Store) -> None:
    """The first result counts."""
    operation = enter(store)
    with store.transaction() as sql:
        intents.end(sql, operation, "undone", NOW)
        intents.end(sql, operation, "done", NOW)
    assert records.operations(store.connection) == []
    found = store.connection.execute("SELECT result FROM operation").fetchall()
    assert found == [("undone",)]


def test_idle_operations_close_only_without_rows(store: Store) -> None:
    """An operation that still has something intended or releasing stays open."""
    busy, idle = enter(store), enter(store)
    rows = intend(store, busy, (Kind.TAP, "hv1"))
    with store.transaction() as sql:
        intents.close_idle(sql, [busy, idle], NOW)
    assert [o.id for o in records.operations(store.connection)] == [busy]
    with store.transaction() as sql:
        intents.commit(sql, rows, {}, busy)
        intents.close_idle(sql, [busy], NOW)
    assert records.operations(store.connection) == []


def test_a_commit_leaves_rows_as_they_are_told_without_asking(
    store: Store, rows: list[Any]
) -> None:
    """What was seen replaces what a row said; a row of which nothing was seen keeps it."""
    with store.transaction() as sql:
        intents.record_observed(sql, rows[1].id, {"netns": 3})
    before = records.resources(store.connection)
    seen = {before[0].id: {"ifindex": 7}}
    with store.transaction() as sql:
        assert intents.commit(sql, before, seen, before[0].operation) == len(before)
    told = intents.committed(before, seen)
    assert told == records.resources(store.connection)
    assert [row.observed for row in told[:2]] == [{"ifindex": 7}, {"netns": 3}]
    assert told[0].observed is not seen[before[0].id]
