"""The store among others: newer programs, forks, hands with sqlite3, files that go from under it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hvtx import migrations
from hvtx.errors import Busy, CommitUnknown, HvtxError, Refused, StoreError
from hvtx.model.mark import parse_mark
from hvtx.model.resource import Kind
from hvtx.store import connection as files
from hvtx.store import creating, intents, records, trust
from hvtx.store.database import Store
from hvtx.store.opening import open_store

from .shelf import Shelf, add_network, claim, enter, intend, network


def in_child(work: Callable[[], None]) -> int:
    """Do it in a forked child; 0 if it went well, 1 if it raised, the signal (negative) if killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- other versions of the program ------------------------------------------------------------------


def test_a_store_that_was_migrated_meanwhile_is_written_no_more(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older program has it open, a newer one migrates it: store-newer at the next transaction."""
    with shelf.opened() as old:
        enter(old)
        newer = (*migrations.MIGRATIONS, ("9999_next", ("CREATE TABLE tomorrow (x INT) STRICT",)))

        def migrate() -> None:
            creating.MIGRATIONS, files.SCHEMA = newer, len(newer)
            open_store(str(shelf.state), str(shelf.run), writable=True).close()

        assert in_child(migrate) == 0
        before = old.connection.execute("SELECT seq FROM meta").fetchone()
        with pytest.raises(Refused) as caught:
            enter(old)
        assert (caught.value.code, caught.value.exit_code) == ("store-newer", 7)
        assert old.connection.execute("SELECT seq FROM meta").fetchone() == before


LAST = [0]


class Deadly(tuple[str, ...]):
    """Statements of which the nth is the last that is executed."""

    __slots__ = ()

    def __iter__(self):  # type: ignore[no-untyped-def]
        for number, statement in enumerate(tuple.__iter__(self), start=1):
            yield statement
            if number == LAST[0]:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("fresh", [True, False], ids=["a new store", "an old store"])
def test_a_migration_killed_after_any_statement_is_none(shelf: Shelf, fresh: bool) -> None:
    """Each statement of each migration there is, for a new store and for one of the first schema."""
    steps = migrations.MIGRATIONS if fresh else migrations.MIGRATIONS[1:]
    steps = steps or (
        ("9999_next", ("CREATE TABLE a (x INT) STRICT", "CREATE TABLE b (x INT) STRICT")),
    )
    known = len(migrations.MIGRATIONS) if fresh else 1

    def opened(count: int, deadly: tuple[str, int] | None = None) -> None:
        every = []
        for name, statements in (*migrations.MIGRATIONS[: 0 if fresh else 1], *steps):
            every.append((name, statements))
            if deadly and name == deadly[0]:
                LAST[0] = deadly[1]
                every[-1] = (name, Deadly(statements))
        creating.MIGRATIONS = tuple(every[:count])
        files.SCHEMA = count
        open_store(str(shelf.state), str(shelf.run), writable=True).close()

    total = len(steps) + (0 if fresh else 1)
    if not fresh:
        assert in_child(lambda: opened(known)) == 0
    kills = 0
    for index, (name, statements) in enumerate(steps):
        for nth in range(1, len(statements) + 1, 1 if len(statements) < 8 else 3):
            count = (0 if fresh else 1) + index + 1
            killed = in_child(lambda name=name, nth=nth, count=count: opened(count, (name, nth)))  # type: ignore[misc]
            assert killed == -signal.SIGKILL
            kills += 1
            if fresh:
                assert not shelf.file.exists()
            else:
                with contextlib.closing(sqlite3.connect(shelf.file)) as sql:
                    assert sql.execute("PRAGMA user_version").fetchone()[0] == count - 1
                    assert sql.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        if not fresh:
            assert in_child(lambda count=count: opened(count)) == 0  # type: ignore[misc]
    assert kills
    assert in_child(lambda: opened(total)) == 0
    with contextlib.closing(sqlite3.connect(shelf.file)) as sql:
        assert sql.execute("PRAGMA user_version").fetchone()[0] == total


# -- forks -------------------------------------------------------------------------------------------


def test_a_connection_is_not_carried_over_a_fork(shelf: Shelf) -> None:
    """The child is told, before SQLite would mix up the two; the parent goes on."""
    with shelf.opened() as store:
        enter(store)

        def child() -> None:
            with pytest.raises(StoreError) as caught:
                enter(store)
            assert "fork" in caught.value.message

        assert in_child(child) == 0
        enter(store)
        assert len(records.operations(store.connection)) == 2


# -- files that go from under it -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_files_that_go_from_under_a_writer(shelf: Shelf, suffix: str, how: str) -> None:
    """store-untrusted before anything is written into a file that has no name any more."""
    with shelf.opened() as store:
        enter(store)
        path = Path(f"{shelf.file}{suffix}")
        data = path.read_bytes() if suffix != "" else shelf.bytes()["hvtx.db"]
        path.unlink()
        if how == "replaced":
            path.write_bytes(data)
        with pytest.raises(Refused) as caught:
            enter(store)
        assert (caught.value.code, caught.value.exit_code) == ("store-untrusted", 7)
        assert caught.value.hint


def test_a_log_that_goes_inside_a_transaction(shelf: Shelf) -> None:
    """Before the commit it is refused, after it nobody knows: never a success."""
    with shelf.opened() as store:
        enter(store)
        with pytest.raises(Refused), store.transaction():
            Path(f"{shelf.file}-wal").unlink()
    with shelf.opened() as store:
        enter(store)
        wal = Path(f"{shelf.file}-wal")

        class Late:
            def __getattr__(self, name: str) -> object:
                return getattr(inner, name)

            def execute(self, statement: str, *values: object) -> object:
                done = inner.execute(statement, *values)
                if statement == "COMMIT":
                    wal.unlink()
                return done

        inner = store.connection
        store.connection = Late()  # type: ignore[assignment]
        with pytest.raises(CommitUnknown) as caught:
            enter(store)
        assert caught.value.exit_code == 7
        store.connection = inner


def test_commits_that_went_with_a_removed_log_are_missed(shelf: Shelf) -> None:
    """A program without the check wrote on into the nameless log: the next one sees what is lost."""
    with shelf.opened() as store:
        enter(store)
    with shelf.opened() as store:
        store._refuse_replaced = lambda: None  # type: ignore[method-assign]
        enter(store)
        Path(f"{shelf.file}-wal").unlink()
        enter(store)
        words = (
            "import sys; from hvtx.errors import Refused; from hvtx.store.opening import open_store\n"
            "from hvtx.store.trust import check_trust\n"
            "try: check_trust(open_store(*sys.argv[1:], writable=False))\n"
            "except Refused as problem: print(problem.code)"
        )
        command = [sys.executable, "-c", words, str(shelf.state), str(shelf.run)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() in ("store-rolled-back", "store-untrusted"), ran


def test_nobody_opens_the_file_beside_sqlite(shelf: Shelf) -> None:
    """Closing a second descriptor of it would drop SQLite's locks: no code of ours has one."""
    seen: list[str] = []

    def child() -> None:
        def hook(event: str, values: tuple[object, ...]) -> None:
            if event == "open" and isinstance(values[0], str | bytes):
                seen.append(os.fsdecode(values[0]))

        sys.addaudithook(hook)
        with shelf.opened() as store:
            add_network(store, network())
            claim(store, "web", network())
            trust.note_place(store)
            trust.check_trust(store)
            trust.check_pages(store)
        with shelf.opened(writable=False) as store:
            trust.check_trust(store)
        with shelf.opened() as store:
            trust.accept_rollback(store)
        beside = [
            path for path in seen if Path(path).name in ("hvtx.db", "hvtx.db-wal", "hvtx.db-shm")
        ]
        assert seen, "the hook works"
        assert beside == []

    assert in_child(child) == 0


# -- others who write --------------------------------------------------------------------------------------


def test_a_strangers_transaction_is_waited_for_as_long_as_asked(shelf: Shelf) -> None:
    """sqlite3 in another window has begun one: Busy, exit 75, nothing written; then it goes on."""
    with shelf.opened() as store:
        enter(store)
    foreign_object = sqlite3.connect(shelf.file, isolation_level=None)
    foreign_object.execute("BEGIN IMMEDIATE")
    store = shelf.open(lock_timeout=0.05)
    try:
        assert store.connection.execute("PRAGMA busy_timeout").fetchone() == (50,)
        with pytest.raises(Busy) as caught:
            enter(store)
        assert caught.value.exit_code == 75
        assert len(records.operations(store.connection)) == 1
        foreign_object.execute("ROLLBACK")
        enter(store)
    finally:
        store.close()
        foreign_object.close()


@pytest.mark.slow
def test_a_lock_of_the_logs_index_that_is_kept_is_busy(shelf: Shelf) -> None:
    """A command was stopped while it recovers the log: 75 for others, not a fault of the disk.

    All locks of the index (wal.c, `WAL_LOCK`) are taken; SQLite itself tries for ten seconds.
    """
    shelf.open().close()
    words = (
        "import fcntl, os, sys\n"
        "index = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)\n"
        "fcntl.lockf(index, fcntl.LOCK_EX, 8, 120)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", words, f"{shelf.file}-shm"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(Busy) as caught:
            shelf.open(lock_timeout=0.05)
        other.communicate(b"")
    assert caught.value.exit_code == 75
    assert getattr(caught.value.__cause__, "sqlite_errorname", "") == "SQLITE_PROTOCOL"
    with shelf.opened() as store:
        enter(store)


@pytest.mark.parametrize(("seconds", "opens"), [(60.0, True), (0.0, False)])
def test_opening_tries_again_as_long_as_asked(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, seconds: float, opens: bool
) -> None:
    """SQLite gives up a kept lock of the log's index after ten seconds, whatever it was told."""
    shelf.open().close()
    kept = [sqlite3.OperationalError("locking protocol")] * 2
    check = files.check_header

    def checked(connection: sqlite3.Connection, path: str) -> None:
        if kept:
            raise kept.pop()
        check(connection, path)

    monkeypatch.setattr(files, "check_header", checked)
    if opens:
        shelf.open(lock_timeout=seconds).close()
        assert kept == []
    else:
        with pytest.raises(Busy):
            shelf.open(lock_timeout=seconds)
        assert len(kept) == 1


def test_every_write_begins_as_one() -> None:
    """A read that turns into a write can deadlock: the store begins each as a write, in one place.

    The other place is that of what only reads (`Store.reading`).
    """
    top = Path(__file__).parents[2] / "hvtx/store"
    found = [
        (path.name, words)
        for path in top.rglob("*.py")
        for words in re.findall(r'execute\(\s*f?"(BEGIN[^"]*)"', path.read_text())
    ]
    assert sorted(set(found)) == [("database.py", "BEGIN"), ("database.py", "BEGIN IMMEDIATE")]
    assert found.count(("database.py", "BEGIN")) == 1


def test_what_only_reads_keeps_nothing(shelf: Shelf) -> None:
    """Should something write in there, it is not kept: a write must begin as one."""
    with shelf.opened() as store:
        enter(store)
        with store.reading() as sql:
            sql.execute("UPDATE operation SET verb = 'stop'")
        assert {verb for (verb,) in store.connection.execute("SELECT verb FROM operation")} == {
            "start"
        }


def test_row_numbers_that_come_again_are_told_apart_by_their_nonce(shelf: Shelf) -> None:
    """A hand deleted sqlite_sequence: a number is given twice, a mark never is."""
    with shelf.opened() as store:
        first = intend(store, enter(store), (Kind.FILE, "/x"))[0]
        with store.transaction() as sql:
            intents.forget(sql, [first])
            sql.execute("DELETE FROM sqlite_sequence")
        second = intend(store, enter(store), (Kind.FILE, "/x"))[0]
        assert second.id == first.id
        assert second.mark != first.mark
        assert parse_mark(second.mark) != parse_mark(first.mark)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE resource SET state = 'gone'",
        "UPDATE resource SET kind = 'cable'",
        "UPDATE resource SET operation = 99",
        "UPDATE resource SET life = 'first'",
        "UPDATE resource SET mark = NULL",
        "UPDATE operation SET result = 'perhaps'",
        "UPDATE meta SET seq = -1",
        "UPDATE meta SET installation = 'x'",
        "INSERT INTO meta SELECT 2, installation, seq, life, path, device, inode FROM meta",
        "DELETE FROM network",
        "DELETE FROM operation",
        "INSERT INTO lease SELECT '10.77.0.9', interface, network, family, offset, 0 FROM lease",
        "INSERT INTO port SELECT NULL, interface, protocol, host_ip, 0, guest_port FROM port",
    ],
)
def test_a_hand_with_sqlite3_cannot_write_nonsense(shelf: Shelf, statement: str) -> None:
    """Checks, strict types, keys and triggers refuse it, whoever asks."""
    with shelf.opened() as store:
        lan = network()
        add_network(store, lan)
        intend(store, enter(store), (Kind.TAP, "hv1"))
        claim(store, "web", lan)
        store.connection.execute(
            "INSERT INTO port (interface, protocol, host_port, guest_port)"
            " SELECT id, 'tcp', 8080, 80 FROM interface"
        )
        with pytest.raises(sqlite3.IntegrityError):
            store.connection.execute(statement)


# -- a store with a long past --------------------------------------------------------------------------------


def _steps(store: Store, work: Callable[[], object]) -> int:
    """How many instructions of SQLite's machine ``work`` takes, in hundreds."""
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    store.connection.set_progress_handler(tick, 100)
    work()
    store.connection.set_progress_handler(None, 0)
    return ticks


def test_a_long_past_costs_nothing(shelf: Shelf) -> None:
    """Twenty thousand tombstones and lines of history: what a start and a plan ask takes no longer."""
    with shelf.opened() as store:
        lan = network()
        add_network(store, lan)
        claim(store, "web", lan)
        rows = intend(store, enter(store), (Kind.TAP, "hv1"))

        def ask() -> None:
            records.resources(store.connection)
            records.resources_of_vm(store.connection, "id-web")
            records.resources_of_network(store.connection, lan.id)
            records.committed_resources(store.connection, Kind.PUBLISH, Kind.FILTER)
            records.half_done_resources(store.connection)
            records.resources_of_kind(store.connection, Kind.BRIDGE)
            records.resources_of_life(store.connection, 1)
            records.published_in(store.connection, lan.id)
            records.processes_of_vm(store.connection, "id-web")
            records.tombstones(store.connection, [f"hvtx:1:none:{n}.x" for n in range(50)])
            records.operations(store.connection)
            records.vms(store.connection)
            with store.transaction() as sql:
                intents.record_observed(sql, rows[0].id, {"ifindex": 7})

        young = _steps(store, ask)
        with store.transaction() as sql:
            sql.execute(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)"
                " INSERT INTO resource (kind, key, state, mark, spec, operation, life, vm)"
                " SELECT 'tap', 'hv' || n, 'released', 'hvtx:1:old:' || n || '.y', '{}', 1, 1, 'id-web' FROM n"
            )
            sql.execute(
                "INSERT INTO operation (verb, vm, life, writer_boot, writer_pid, writer_start, began, ended, result)"
                " SELECT 'start', 'web', 1, 'b', 1, 1, 't', 't', 'done' FROM resource"
            )
        old = _steps(store, ask)
    assert old <= young * 2 + 10, (young, old)


def test_every_error_of_the_store_is_an_error_of_the_interface(shelf: Shelf) -> None:
    """What is raised here carries an exit code and says the fix."""
    with shelf.opened() as store:
        enter(store)
        Path(f"{shelf.file}-wal").unlink()
        with pytest.raises(HvtxError) as caught:
            enter(store)
        assert caught.value.exit_code == 7
        assert caught.value.hint
