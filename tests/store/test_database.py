"""One door for writes: all or nothing, durable, fair, and honest about what it does not know."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hvtx.errors import Busy, CommitUnknown, Conflict, StoreError
from hvtx.store import records
from hvtx.store.database import Store
from hvtx.store.opening import open_store

from .shelf import NOW, Shelf, add_network, enter, high_water, network, seq

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


# -- all or nothing ------------------------------------------------------------------------------------


def test_an_exception_inside_leaves_nothing(store: Store) -> None:
    """The body's own error comes out, its writes do not go in, and the next transaction works."""
    before = seq(store)
    with pytest.raises(KeyError), store.transaction() as sql:
        records.set_life(sql, "boot-a", 7, NOW)
        raise KeyError("mine")
    assert records.current_life(store.connection) is None
    assert seq(store) == before
    assert enter(store) == 1


def test_a_constraint_is_a_conflict(store: Store) -> None:
    """And takes back what the transaction had written before it."""
    add_network(store, network())
    with pytest.raises(Conflict), store.transaction() as sql:
        records.add_network(sql, network("other", "10.78.0.0/24"), 1)
        records.add_network(sql, network("lan", "10.79.0.0/24"), 1)
    assert [n.name for n in records.networks(store.connection)] == ["lan"]


def test_each_commit_counts_once_and_raises_the_mark(store: Store) -> None:
    """seq grows by one for each commit, and the mark in the run directory is raised to it."""
    for expected in (1, 2, 3):
        enter(store)
        assert seq(store) == high_water(store) == expected
    with contextlib.suppress(KeyError), store.transaction():
        raise KeyError
    assert high_water(store) == 3


# -- commits that do not say ----------------------------------------------------------------------------


class Failing:
    """A connection whose COMMIT fails as a disk makes it fail."""

    def __init__(self, inner: sqlite3.Connection, word: str, name: str, *, first: bool) -> None:
        self.inner, self.word, self.name, self.first = inner, word, name, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith(self.word):
            if self.first:
                self.inner.execute(statement, *values)
            problem = sqlite3.OperationalError("disk I/O error")
            problem.sqlite_errorname = self.name
            raise problem
        return self.inner.execute(statement, *values)


@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_that_fails_with_eio_is_unknown(shelf: Shelf, kept: bool) -> None:
    """It may have landed or not: CommitUnknown either way, and a new connection knows."""
    with shelf.opened() as store:
        inner = store.connection
        store.connection = Failing(inner, "COMMIT", "SQLITE_IOERR_FSYNC", first=kept)  # type: ignore[assignment]
        with pytest.raises(CommitUnknown) as caught:
            enter(store)
        assert (caught.value.exit_code, caught.value.code) == (7, "commit-unknown")
        assert "recover" in (caught.value.hint or "")
        inner.close()
        store.connection = sqlite3.connect(":memory:")
    with shelf.opened() as store:
        assert len(records.operations(store.connection)) == int(kept)
        enter(store)


def test_a_full_disk_at_commit_is_known_to_have_kept_nothing(shelf: Shelf) -> None:
    """SQLITE_FULL with the transaction still open: rolled back, store-full, exit 7."""
    with shelf.opened() as store:
        inner = store.connection
        store.connection = Failing(inner, "COMMIT", "SQLITE_FULL", first=False)  # type: ignore[assignment]
        with pytest.raises(StoreError) as caught:
            enter(store)
        assert (caught.value.exit_code, caught.value.code) == (7, "store-full")
        store.connection = inner
        assert records.operations(store.connection) == []
        enter(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
def test_a_full_disk_refuses_the_intent(tmp_path: Path) -> None:
    """A real tmpfs without room, in a mount namespace of its own: exit 7, and nothing on record.

    When there is room again, the same store goes on.
    """
    state = tmp_path / "small"
    state.mkdir(mode=0o700)
    words = textwrap.dedent("""
        import os, sys
        from hvtx.errors import StoreError
        from tests.store.shelf import *
        store = open_store(sys.argv[1], sys.argv[2], writable=True)
        operation = enter(store)
        filler = os.path.join(sys.argv[1], "filler")
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        try:
            intend(store, operation, *[(Kind.FILE, "x" * 3000 + str(n)) for n in range(400)])
        except StoreError as problem:
            print(problem.exit_code, problem.code)
        print(len(records.resources(store.connection)))
        os.unlink(filler)
        intend(store, operation, (Kind.FILE, "small"))
        print(len(records.resources(store.connection)))
        trust.check_pages(store)
        store.close()
    """)
    mount = 'mount -t tmpfs -o size=2m,mode=700 tmpfs "$0" && exec "$@"'
    ran = subprocess.run(
        [*ALONE, mount, str(state), sys.executable, "-c", words, str(state), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ran.stdout.split("\n")[:3] == ["7 store-full", "0", "1"], ran.stdout + ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
def test_a_read_only_disk_is_a_store_error(tmp_path: Path) -> None:
    """Remounted read-only under a store: exit 7 at the write, and at the making of a new one."""
    state = tmp_path / "small"
    state.mkdir(mode=0o700)
    words = textwrap.dedent("""
        import subprocess, sys
        from hvtx.errors import HvtxError
        from tests.store.shelf import *
        open_store(sys.argv[1], sys.argv[2], writable=True).close()
        subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
        for where in (sys.argv[1], sys.argv[1] + "/new"):
            try:
                enter(open_store(where, sys.argv[2], writable=True))
            except HvtxError as problem:
                print(problem.exit_code)
    """)
    mount = 'mount -t tmpfs -o size=2m,mode=700 tmpfs "$0" && exec "$@"'
    ran = subprocess.run(
        [*ALONE, mount, str(state), sys.executable, "-c", words, str(state), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ran.stdout.split() == ["7", "7"], ran.stdout + ran.stderr


# -- several processes ----------------------------------------------------------------------------------


def _add(state: str, run: str, count: int) -> None:
    store = open_store(state, run, writable=True, lock_timeout=60)
    for _ in range(count):
        enter(store)
    store.close()


def test_several_processes_make_the_store_at_once(shelf: Shelf) -> None:
    """One makes it, the others find it: one installation, no commit lost."""
    workers = [
        _FORK.Process(target=_add, args=(str(shelf.state), str(shelf.run), 10)) for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with shelf.opened() as store:
        assert seq(store) == 60 == high_water(store)
        assert len(records.operations(store.connection)) == 60
    assert len(list(shelf.run.iterdir())) == 1
    assert not list(shelf.state.glob("*.new*"))


def test_a_busy_queue_is_told_as_busy(shelf: Shelf) -> None:
    """Another process holds the write queue longer than the lock timeout: exit 75."""
    with shelf.opened() as first:
        enter(first)
        second = shelf.open(lock_timeout=0.01)
        try:
            with first.transaction(), pytest.raises(Busy) as caught:
                enter(second)
            assert caught.value.exit_code == 75
            enter(second)
        finally:
            second.close()


def test_a_killed_writer_holds_up_nobody(shelf: Shelf) -> None:
    """SIGKILL in the middle of a transaction: its lock falls, its writes are gone."""
    with shelf.opened() as store:
        enter(store)
    words = textwrap.dedent("""
        import os, signal, sys
        from tests.store.shelf import *
        store = open_store(sys.argv[1], sys.argv[2], writable=True)
        with store.transaction() as sql:
            records.set_life(sql, "boot-b", 9, NOW)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    ran = subprocess.run(
        [sys.executable, "-c", words, str(shelf.state), str(shelf.run)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ran.returncode == -signal.SIGKILL
    with shelf.opened() as store:
        assert [life.boot_id for life in records.lives(store.connection).values()] == ["boot-a"]
        enter(store)


def blocked() -> set[int]:
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_a_terminal_stops_nobody_inside_a_change(shelf: Shelf) -> None:
    """Every other writer would wait for him to come back; outside, Ctrl-Z is as ever."""
    before = blocked()
    with shelf.opened() as store:
        with store.transaction():
            assert {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU} <= blocked()
        assert blocked() == before
        with pytest.raises(KeyboardInterrupt), store.transaction():
            raise KeyboardInterrupt
        assert blocked() == before


class _Interrupting:
    """A connection whose next statement of this text is done, and then Ctrl-C is told."""

    def __init__(self, inner: sqlite3.Connection, text: str) -> None:
        self._inner, self._text = inner, text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        cursor = self._inner.execute(sql, *more)
        if sql == self._text:
            self._text = ""
            raise KeyboardInterrupt
        return cursor


@pytest.mark.parametrize("text", ["BEGIN", "BEGIN IMMEDIATE"])
def test_ctrl_c_as_a_transaction_begins_leaves_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Whoever undoes what was interrupted writes next."""
    with Shelf(tmp_path).opened() as store:
        monkeypatch.setattr(store, "connection", _Interrupting(store.connection, text))
        begun = store.reading() if text == "BEGIN" else store.transaction()
        with pytest.raises(KeyboardInterrupt), begun:
            pass
        assert not store.connection.in_transaction
        with store.transaction() as sql:
            assert sql.execute("SELECT 1").fetchone()[0] == 1
