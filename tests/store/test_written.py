"""What found no room at its commit is written once more, the same to the letter."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hvtx.errors import StoreError
from hvtx.model.resource import Kind
from hvtx.store import history, intents, records, trust
from hvtx.store.database import Store
from hvtx.store.history import Event

from .shelf import NOW, Shelf, enter, high_water, intend, seq


class FullAtFirst:
    """A connection whose first commits find no room; SQLite rolls back what they were to keep."""

    def __init__(self, inner: sqlite3.Connection, times: int) -> None:
        self.inner, self.times = inner, times
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "COMMIT":
            self.commits += 1
            if self.commits <= self.times:
                self.inner.execute("ROLLBACK")
                problem = sqlite3.OperationalError("database or disk is full")
                problem.sqlite_errorname = "SQLITE_FULL"
                raise problem
        return self.inner.execute(statement, *values)


def contents(store: Store) -> list[str]:
    """All that the store has, as text, but for names that are drawn at random."""
    return [line for line in store.connection.iterdump() if 'INTO "meta"' not in line]


def free_all(store: Store) -> int:
    """A transaction with statements of every kind; how often its body ran."""
    bodies = 0
    with store.transaction() as sql:
        bodies += 1
        rows = records.resources(sql)
        moved = intents.release(sql, rows[:2], rows[0].operation)
        values = [moved[0].id]
        sql.execute("UPDATE resource SET spec = '{}' WHERE id = ?", values)
        values[0] = moved[1].id  # what is written again is what was written
        intents.forget(sql, moved)
        words = (Event("removed", f"{row.key} is gone") for row in moved)
        history.add(sql, [*words], operation=rows[0].operation, verb="rm")
        intents.end(sql, rows[0].operation, "partial", NOW)
    return bodies


def test_what_frees_is_written_once_more_on_a_full_disk(tmp_path: Path) -> None:
    """From the reserve, the same to the letter; the body that wrote it runs once."""
    found = []
    for name, times in (("roomy", 0), ("full", 1)):
        shelf = Shelf(tmp_path / name)
        with shelf.opened() as store:
            intend(store, enter(store), *((Kind.FILE, f"/{n}") for n in range(3)))
        with shelf.opened() as store:
            assert (shelf.state / "reserve").exists()
            inner, before = store.connection, seq(store)
            store.spend_reserve()
            full = FullAtFirst(inner, times)
            store.connection = full  # type: ignore[assignment]
            assert free_all(store) == 1
            store.connection = inner
            assert full.commits == times + 1
            assert (shelf.state / "reserve").exists() is not bool(times)
            assert seq(store) == high_water(store) == before + 1
            trust.check_pages(store)
            found.append(re.sub("hvtx:[^']*|20[0-9]{2}-[^']*", "", "\n".join(contents(store))))
    assert found[0] == found[1]
    assert "removed" in found[0]


@pytest.mark.parametrize(("spends", "times"), [(True, 2), (False, 1)])
def test_a_disk_that_stays_full_has_kept_nothing(shelf: Shelf, spends: bool, times: int) -> None:
    """Nor is anything written once more that makes something new."""
    with shelf.opened() as store:
        intend(store, enter(store), *((Kind.FILE, f"/{n}") for n in range(3)))
        inner, before = store.connection, contents(store)
        if spends:
            store.spend_reserve()
        full = FullAtFirst(inner, times)
        store.connection = full  # type: ignore[assignment]
        with pytest.raises(StoreError) as caught:
            free_all(store)
        store.connection = inner
        assert caught.value.code == "store-full"
        assert full.commits == times
        assert contents(store) == before
        assert free_all(store) == 1


def test_what_another_program_wrote_meanwhile_is_not_written_over(shelf: Shelf) -> None:
    """One that knows nothing of the queue: then the disk was full, and nothing was kept."""
    with shelf.opened() as store:
        intend(store, enter(store), *((Kind.FILE, f"/{n}") for n in range(3)))
        inner = store.connection
        store.spend_reserve()

        class Between(FullAtFirst):
            def execute(self, statement: str, *values: Any) -> Any:
                if statement.startswith("PRAGMA wal_checkpoint"):
                    self.inner.execute("UPDATE meta SET seq = seq + 1")
                return super().execute(statement, *values)

        store.connection = Between(inner, 1)  # type: ignore[assignment]
        with pytest.raises(StoreError) as caught:
            free_all(store)
        store.connection = inner
        assert caught.value.code == "store-full"
        assert len(records.resources(store.connection)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
def test_a_change_larger_than_the_room_that_is_left(tmp_path: Path) -> None:
    """A real tmpfs with more room than counts as low, and a change that needs more than that."""
    words = textwrap.dedent("""
        import os, sys
        from hvtx.store import reserve
        from tests.store.shelf import *
        state, run = sys.argv[1:]
        store = open_store(state, run, writable=True)
        rows = [(Kind.FILE, "x" * 3000 + str(n)) for n in range(400)]
        intend(store, enter(store), *rows)
        store.close()
        store = open_store(state, run, writable=True)  # whose close makes the reserve greater
        enter(store)
        store.close()
        with open(os.path.join(state, "filler"), "wb", buffering=0) as file:
            while reserve.room(state) > reserve.LOW + 65536:
                file.write(bytes(4096))
        store = open_store(state, run, writable=True, spends=True)
        print(reserve.is_there(state))
        bodies = 0
        with store.transaction() as sql:
            bodies += 1
            sql.execute("UPDATE resource SET key = key || 'y'")
        print(reserve.is_there(state), bodies)
        print(sum(row.key.endswith("y") for row in records.resources(store.connection)))
        store.close()
    """)
    state = tmp_path / "small"
    state.mkdir(mode=0o700)
    mount = 'mount -t tmpfs -o size=16m,mode=700 tmpfs "$0" && exec "$@"'
    ran = subprocess.run(
        [
            "unshare", "-m", "sh", "-c", mount, str(state), sys.executable, "-c", words,
            str(state), str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )  # fmt: skip
    assert ran.stdout.split("\n")[:3] == ["True", "False 1", "400"], ran.stdout + ran.stderr
