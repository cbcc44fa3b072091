"""How much of the past is kept: enough, and not more."""

from __future__ import annotations

import sqlite3

import pytest

from hvtx.model.mark import make_mark
from hvtx.model.resource import Kind
from hvtx.store import history, intents, records, retention
from hvtx.store.database import Store
from hvtx.store.packing import pack, unpack
from tests.store.shelf import NOW, Shelf, add_network, claim, enter, intend, network

LINES = 50


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A past that is soon long."""
    monkeypatch.setattr(retention, "WHOLE", 8)
    monkeypatch.setattr(retention, "TOMBSTONES", 120)
    monkeypatch.setattr(retention, "OPERATIONS", 10)


def cycle(store: Store) -> list[str]:
    """A start and a stop, as far as the store is concerned; the marks that were on the host."""
    spec = {"backend": "nftables", "address": "10.77.0.2"}
    with store.transaction() as sql:
        records.set_life(sql, "boot-a", 7, NOW)
    start = enter(store)
    with store.transaction() as sql:
        rows = intents.intend(
            sql,
            [intents.NewRow(Kind.MASQUERADE, "10.77.0.2", spec, "id-web", None)],
            operation=start,
            life=1,
            mark=lambda row: make_mark(store.installation, row, row.to_bytes(10, "little")),
        )
    with store.transaction() as sql:
        intents.commit(sql, rows, {}, start)
        end(sql, start)
    stop = enter(store)
    with store.transaction() as sql:
        moved = intents.release(sql, [row._replace(state="committed") for row in rows], stop)
        intents.forget(sql, moved)
        told = [history.Event("removed", "x", "masquerade", "10.77.0.2", detail={"spec": spec})]
        history.add(sql, told, operation=stop, verb="stop")
        end(sql, stop)
    return [row.mark for row in rows]


def end(sql: object, operation: int) -> None:
    """As an operation ends."""
    intents.end(sql, operation, "done", NOW)  # type: ignore[arg-type]
    retention.prune(sql, operation=operation, lines=LINES)  # type: ignore[arg-type]


def counts(store: Store) -> dict[str, int]:
    """How many rows each table of the past has."""
    tables = ("resource", "tombstone", "shape", "operation", "history")
    ask = store.connection.execute
    return {t: ask(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}


def test_the_past_is_bounded(shelf: Shelf) -> None:
    """However many starts and stops: once it is as long as may be, it stays so."""
    with shelf.opened() as store:
        marks = [mark for _ in range(300) for mark in cycle(store)]
        full = counts(store)
        marks += [mark for _ in range(300) for mark in cycle(store)]
        later = counts(store)
        assert full["tombstone"] > retention.TOMBSTONES * 0.9
        assert all(later[name] < full[name] + retention.EVERY for name in full), (full, later)
        assert later["resource"] + later["operation"] < 4 * retention.EVERY
        with store.reading() as sql:
            known = records.tombstones(sql, marks)
        assert set(marks[-100:]) <= known.keys()
        assert set(marks[:100]).isdisjoint(known)


def test_what_a_look_that_goes_on_needs_is_whole(shelf: Shelf) -> None:
    """The newest rows keep their operation, and the newest operations are there."""
    with shelf.opened() as store:
        for _ in range(200):
            cycle(store)
        with store.reading() as sql:
            newest = records.newest_operation(sql)
            begun = records.operations_since(sql, newest - retention.OPERATIONS)
        assert len(begun) == retention.OPERATIONS


def test_what_is_on_record_keeps_its_operation(shelf: Shelf) -> None:
    """Of a live row, of a VM or a network that is half made; and what has not ended."""
    with shelf.opened() as store:
        add_network(store, network())
        claim(store, "web", network())
        with store.reading() as sql:
            held = records.newest_operation(sql)
        live = intend(store, enter(store), (Kind.TAP, "hv1"))[0]
        open_one = enter(store)
        with store.transaction() as sql:
            intents.end(sql, held, "done", NOW)
            intents.end(sql, live.operation, "partial", NOW)
        for _ in range(600):
            cycle(store)
        with store.transaction() as sql:
            while retention.prune_slice(sql):
                pass
            left = {found.id for found in records.operations_by_id(sql, range(1, open_one + 1))}
        assert left == {held, live.operation, open_one}


def test_a_long_past_is_let_go_in_slices(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of an earlier version has thousands of released rows: not all in one transaction."""
    monkeypatch.setattr(retention, "SLICE", 30)
    monkeypatch.setattr(retention, "EVERY", 1 << 40)
    with shelf.opened() as store:
        for _ in range(100):
            cycle(store)
        monkeypatch.setattr(retention, "_A_TIME", 20)
        assert store.connection.execute("SELECT count(*) FROM tombstone").fetchone() == (0,)
        with store.reading() as sql:
            assert retention.is_due(sql)
        slices = 1
        while True:
            with store.transaction() as sql:
                if not retention.prune_slice(sql):
                    break
            slices += 1
        assert slices == 4
        with store.reading() as sql:
            assert not retention.is_due(sql)


def test_a_line_of_the_history_is_read_as_it_was_written(shelf: Shelf) -> None:
    """What a thing was is kept small, and told whole."""
    detail = {"mark": "hvtx:1:a:1.b", "spec": {"mac": "ä", "ipv6": None}, "observed": {"n": [1, 2]}}
    assert unpack(pack(detail)) == detail
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        unpack(b"\xff\xff")
    with shelf.opened() as store:
        with store.transaction() as sql:
            told = [
                history.Event("removed", "one", "tap", "hv1", detail=detail),
                history.Event("removed", "VM web", vm="web", detail={"name": "web"}),
                history.Event("made", "two", "tap", "hv2"),
            ]
            history.add(sql, told, operation=1, verb="stop")
        with store.reading() as sql:
            lines = history.entries(sql, history.Filter(), limit=10)
            assert history.forgotten_vm(sql, "web") == {"name": "web"}
        assert [line.detail for line in lines] == [detail, {"name": "web"}, None]
