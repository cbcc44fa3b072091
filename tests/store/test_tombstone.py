"""What was released long ago: the same row, in few words."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from hvtx.model.mark import make_mark
from hvtx.model.resource import Kind, Resource
from hvtx.store import intents, records, tombstone
from hvtx.store.database import Store
from tests.store.shelf import Shelf, enter, intend

VM = "0123456789abcdef0123456789abcdef"
DEVICE = "hvaaaaaaaaaaaaa"
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "tap": (
        DEVICE,
        {
            "device": DEVICE,
            "ifindex": 287117917,
            "bridge": "hvbr",
            "mac": "fe:52:58:0b:bb:6c",
            "guard": {"mac": "02:85:a5:6e:05:1a", "ipv4": "10.77.0.2", "apart": None},
        },
    ),
    "bridge": ("hvbr", {"device": "hvbr", "ifindex": 7, "mac": "fe:00:00:00:00:01", "mtu": 1500}),
    "filter": (DEVICE, {"backend": "nftables", "what": "port", "device": DEVICE, "mac": "02:1a"}),
    "masquerade": ("10.77.0.2", {"backend": "nftables", "address": "10.77.0.2", "queue": ["own"]}),
    "publish": ("8080/tcp", {"backend": "iptables", "host_port": 8080, "ipv6": None, "key": "k"}),
}


def _released(store: Store, *kinds: str, vm: str | None = VM) -> list[Resource]:
    """Rows of these kinds that are released, as they are read whole."""
    operation = enter(store)
    with store.transaction() as sql:
        drafts = [intents.NewRow(k, SPECS[k][0], SPECS[k][1], vm, None) for k in kinds]
        rows = intents.intend(
            sql,
            drafts,
            operation=operation,
            life=1,
            mark=lambda row: make_mark(store.installation, row, row.to_bytes(10, "little")),
        )
        intents.forget(sql, rows)
        intents.end(sql, operation, "done", "2026-01-01T00:00:00.000000Z")
        found = records.resources_by_id(sql, [row.id for row in rows])
    return [found[row.id] for row in rows]


def _bury(store: Store, *, keep: int = 0, most: int = 100) -> int:
    with store.transaction() as sql:
        return tombstone.bury(sql, keep=keep, most=most)


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("vm", [VM, "of another form", None])
def test_a_buried_row_is_the_same_row(shelf: Shelf, kind: str, vm: str | None) -> None:
    """By its number and by its mark: all that a plan or a removal takes from it."""
    with shelf.opened() as store:
        (before,) = _released(store, kind, vm=vm)
        assert _bury(store) == 1
        assert store.connection.execute("SELECT count(*) FROM resource").fetchone() == (0,)
        with store.reading() as sql:
            assert records.resources_by_id(sql, [before.id]) == {before.id: before}
            assert records.tombstones(sql, [before.mark]) == {before.mark: before}
            assert records.tombstone_count(sql) == 1
            whereabouts = {before.id: (before.state, before.operation, before.observed)}
            assert records.whereabouts(sql, [before.id]) == whereabouts, "it has not moved"


def test_what_rows_have_in_common_is_sought_once(shelf: Shelf) -> None:
    """Of each form of rows, not of each row; what differs is each row's own."""
    with shelf.opened() as store:
        before = [row for _ in range(20) for row in _released(store, *SPECS)]
        statements: list[str] = []
        store.connection.set_trace_callback(statements.append)
        assert _bury(store) == 100
        store.connection.set_trace_callback(None)
        sought = [words for words in statements if words.startswith("SELECT id FROM shape")]
        assert len(sought) == len(SPECS)
        with store.reading() as sql:
            assert records.resources_by_id(sql, [row.id for row in before]) == {
                row.id: row for row in before
            }


def test_a_mark_of_another_nonce_is_not_its_mark(shelf: Shelf) -> None:
    """The number of a row alone proves nothing: a fork of the store gives the same numbers."""
    with shelf.opened() as store:
        (row,) = _released(store, "publish")
        _bury(store)
        forged = make_mark(store.installation, row.id, b"another ten")
        other = make_mark("b" * 10, row.id, row.id.to_bytes(10, "little"))
        huge = make_mark(store.installation, 10**18 * 9 + 8 * 10**17, b"another ten")
        with store.reading() as sql:
            assert records.tombstones(sql, [forged, other, huge, "hvtx:1:none:1.x", ""]) == {}


def test_of_which_life_a_buried_row_is(shelf: Shelf) -> None:
    """A restored ruleset of an earlier life is told by tombstones too."""
    with shelf.opened() as store:
        (row,) = _released(store, "publish")
        _bury(store)
        with store.reading() as sql:
            assert records.are_of_earlier_lives(sql, [row.mark], 2)
            assert not records.are_of_earlier_lives(sql, [row.mark], 1)


def test_what_is_alive_or_new_is_not_buried(shelf: Shelf) -> None:
    """Live rows never, of the released ones not the newest."""
    with shelf.opened() as store:
        old = _released(store, "publish", "masquerade")
        live = intend(store, enter(store), (Kind.PUBLISH, "9/tcp"))
        new = _released(store, "publish")
        assert _bury(store, keep=2) == 2
        with store.reading() as sql:
            assert [row.id for row in records.resources(sql)] == [row.id for row in live]
            assert records.tombstone_count(sql) == 3
        left = {row[0] for row in store.connection.execute("SELECT id FROM resource")}
        assert left == {live[0].id, new[0].id}
        assert {row.id for row in old}.isdisjoint(left)


def test_starts_of_one_vm_have_one_shape(shelf: Shelf) -> None:
    """What differs from start to start is a few values, and a tombstone is small."""
    with shelf.opened() as store:
        for _ in range(40):
            _released(store, "tap", "filter", "masquerade", "publish")
        assert _bury(store, most=1000) == 160
        sql = store.connection
        assert sql.execute("SELECT count(*) FROM shape").fetchone() == (4,)
        size = sql.execute(
            "SELECT sum(length(nonce) + length(vm) + coalesce(length(own), 0)) FROM tombstone"
        ).fetchone()[0]
        assert size / 40 < 300


def test_a_number_is_never_given_again(shelf: Shelf) -> None:
    """Whatever was buried and forgotten, a new row has a new number."""
    with shelf.opened() as store:
        rows = _released(store, "tap", "publish")
        _bury(store)
        with store.transaction() as sql:
            tombstone.forget_oldest(sql, keep=0)
            tombstone.forget_shapes(sql)
        assert store.connection.execute("SELECT count(*) FROM shape").fetchone() == (0,)
        (row,) = _released(store, "tap")
        assert row.id > rows[-1].id


def test_a_reader_of_an_older_store(shelf: Shelf) -> None:
    """It has no tombstones; what it has is read."""
    with shelf.opened() as store:
        (row,) = _released(store, "publish")
    with closing(sqlite3.connect(shelf.file)) as sql:
        sql.executescript(
            "DROP TABLE tombstone; DROP TABLE shape; DROP INDEX resource_released;"
            " ALTER TABLE history DROP COLUMN packed; PRAGMA user_version = 4;"
        )
    with shelf.opened(writable=False) as store, store.reading() as sql:
        assert records.tombstones(sql, [row.mark, "hvtx:1:none:1.x"]) == {row.mark: row}
        assert records.resources_by_id(sql, [row.id, 77]) == {row.id: row}
        assert json.dumps(row.spec)
