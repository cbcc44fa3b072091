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

from hvtx.errors import Busy, CommitUnknown, Conflict, HvtxError, Refused, StoreError
from hvtx.model.resource import Kind, State
from hvtx.store import intents, records, trust
from hvtx.store.database import FILE, Store
from hvtx.store.opening import open_store

from .shelf import NOW, Shelf, add_network, claim, enter, intend, network

ALONE = ("unshare", "-m", "sh", "-c")
_FORK = multiprocessing.get_context("fork")


def seq(store: Store) -> int:
    return int(store.connection.execute("SELECT seq FROM meta").fetchone()[0])


def high_water(store: Store) -> int:
    return int.from_bytes(Path(store.run_directory, "hwm").read_bytes(), "little")


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


def test_the_mark_is_raised_after_the_commit(store: Store) -> None:
    """Before it, a crash in between would look like a lost commit."""
    enter(store)
    with store.transaction():
        assert high_water(store) == 1
    assert high_water(store) == 2


def test_a_mark_never_falls(store: Store) -> None:
    """As a maximum: a store that was put back does not take the evidence away by writing."""
    enter(store)
    Path(store.run_directory, "hwm").write_bytes((99).to_bytes(8, "little"))
    enter(store)
    assert high_water(store) == 99


def test_a_mark_that_cannot_rise_fails_no_commit(store: Store) -> None:
    """The commit cannot be taken back: saying that it failed would be untrue."""
    enter(store)
    path = Path(store.run_directory, "hwm")
    os.close(store.mark._descriptor)  # type: ignore[arg-type]
    store.mark._descriptor = os.open(path, os.O_RDONLY)
    assert enter(store) == 2
    assert seq(store) == 2
    assert high_water(store) == 1


# -- lost commits, copies, moves ------------------------------------------------------------------------


def put_back(shelf: Shelf, data: bytes) -> None:
    for suffix in ("-wal", "-shm"):
        Path(str(shelf.file) + suffix).unlink(missing_ok=True)
    shelf.file.write_bytes(data)


def rolled_back(shelf: Shelf) -> None:
    """An earlier copy of the store is put back over it."""
    with shelf.opened() as store:
        enter(store)
    old = shelf.file.read_bytes()
    with shelf.opened() as store:
        enter(store)
    put_back(shelf, old)


def trusted(shelf: Shelf, *, writable: bool = True) -> str:
    with shelf.opened(writable=writable) as store:
        try:
            trust.check_trust(store)
        except Refused as refusal:
            assert refusal.exit_code == 7
            assert refusal.hint
            return refusal.code
        return "trusted"


@pytest.mark.parametrize("writable", [True, False])
def test_a_store_behind_its_mark_has_lost_commits(shelf: Shelf, writable: bool) -> None:
    """store-rolled-back, for readers and writers."""
    rolled_back(shelf)
    assert trusted(shelf, writable=writable) == "store-rolled-back"


@pytest.mark.parametrize("evidence", [None, b"", b"\xff" * 7, b"\xff" * 9])
def test_without_a_whole_mark_there_is_no_evidence(shelf: Shelf, evidence: bytes | None) -> None:
    """Missing or of another length (a reboot empties the run directory): trusted."""
    rolled_back(shelf)
    with shelf.opened(writable=False) as store:
        path = Path(store.run_directory, "hwm")
    path.unlink()
    if evidence is not None:
        path.write_bytes(evidence)
    assert trusted(shelf) == "trusted"


def test_a_person_may_accept_the_rollback(shelf: Shelf) -> None:
    """From then on the store as it is counts, and later losses are found again."""
    rolled_back(shelf)
    with shelf.opened() as store:
        trust.accept_rollback(store)
        trust.check_trust(store)
        assert high_water(store) == seq(store)
    assert trusted(shelf) == "trusted"
    rolled_back(shelf)
    assert trusted(shelf) == "store-rolled-back"


def test_a_copy_beside_its_original_is_a_clone(shelf: Shelf, tmp_path: Path) -> None:
    """store-cloned: two stores would give out the same marks."""
    with shelf.opened() as store:
        enter(store)
    copy = Shelf(tmp_path / "copy")
    copy.state.mkdir(parents=True, mode=0o700)
    copy.file.write_bytes(shelf.file.read_bytes())
    assert trusted(copy) == "store-cloned"
    assert trusted(shelf) == "trusted"
    shelf.file.unlink()
    assert trusted(copy) == "trusted", "without the original it was moved"
    with copy.opened() as store:
        trust.accept_rollback(store)


def test_a_moved_store_is_the_same_store(shelf: Shelf) -> None:
    """By rename, by copy and removal; and it remembers its new place."""
    with shelf.opened() as store:
        enter(store)
        name = store.installation
    shelf.state.rename(shelf.base / "moved")
    shelf.state = shelf.base / "moved"
    shelf.file = shelf.state / FILE
    assert trusted(shelf) == "trusted"
    with shelf.opened() as store:
        trust.note_place(store)
        assert store.installation == name
        known = store.connection.execute("SELECT path, inode FROM meta").fetchone()
        assert known == (str(shelf.file), shelf.file.stat().st_ino)
        before = seq(store)
        trust.note_place(store)
        assert seq(store) == before, "nothing to remember, nothing to write"


def test_a_newest_copy_put_back_in_place_is_trusted(shelf: Shelf) -> None:
    """Another inode under the same path, no commit lost: restored, not cloned."""
    with shelf.opened() as store:
        enter(store)
    data = shelf.file.read_bytes()
    shelf.file.unlink()
    put_back(shelf, data)
    shelf.file.chmod(0o600)
    assert trusted(shelf) == "trusted"


def test_an_accepted_clone_is_a_store_of_its_own_place(shelf: Shelf, tmp_path: Path) -> None:
    """What a person decided is not asked again."""
    with shelf.opened() as store:
        enter(store)
    copy = Shelf(tmp_path / "copy")
    copy.state.mkdir(parents=True, mode=0o700)
    copy.file.write_bytes(shelf.file.read_bytes())
    with copy.opened() as store:
        trust.accept_rollback(store)
    assert trusted(copy) == "trusted"


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


# -- rows move by compare-and-swap ---------------------------------------------------------------------


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


# -- lives ----------------------------------------------------------------------------------------------


def test_the_first_life_needs_no_recovery(store: Store) -> None:
    """Later ones do, until it is done; a life that is entered again is the same life."""
    with store.transaction() as sql:
        first = records.set_life(sql, "boot-a", 7, NOW)
        assert (first.id, first.recovered) == (1, True)
        second = records.set_life(sql, "boot-b", 7, NOW)
        assert (second.id, second.recovered) == (2, False)
        records.set_attempted(sql, 2, "id-web")
        records.set_attempted(sql, 2, "id-web")
        records.set_recovered(sql, 2, NOW)
        assert records.set_life(sql, "boot-b", 7, NOW) == second._replace(recovered=True)
    assert records.current_life(store.connection) == second._replace(recovered=True)
    assert records.attempted(store.connection, 2) == {"id-web"}
    assert records.attempted(store.connection, 1) == set()


# -- what is on record comes back as it went in ---------------------------------------------------------


def test_vms_and_networks_are_read_as_they_were_written(store: Store) -> None:
    """Every field, in a store that was closed and opened in between."""
    lan, dmz = network("lan", "10.77.0.0/24", "fd00:7::/64"), network("dmz", "10.78.0.0/24")
    add_network(store, lan, dmz)
    interfaces = claim(store, "web", lan, dmz)
    found = records.get_vm(store.connection, "web")
    assert found.interfaces == interfaces
    assert (found.disks, found.command, found.autostart) == (("/a", "/b"), ("sleep", "1"), True)
    assert records.networks(store.connection) == [dmz, lan]
    assert records.users_of_network(store.connection, lan.id) == ["web"]
    assert records.networks_by_id(store.connection, [lan.id]) == {lan.id: lan}


def test_what_is_not_there_is_named(store: Store) -> None:
    """NotFound, exit 3, with the name in the message."""
    for get in (records.get_vm, records.get_network):
        with pytest.raises(HvtxError) as caught:
            get(store.connection, "nobody")
        assert caught.value.exit_code == 3
        assert "nobody" in caught.value.message


def test_a_vm_is_forgotten_with_its_leases_and_ports(store: Store) -> None:
    """All of it, and its address is free again."""
    lan = network()
    add_network(store, lan)
    claim(store, "web", lan, ip="10.77.0.9")
    with store.transaction() as sql:
        records.remove_vm(sql, "id-web")
    for table in ("vm", "interface", "lease", "port"):
        assert store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    claim(store, "db", lan, ip="10.77.0.9")


def test_a_network_in_use_cannot_be_forgotten(store: Store) -> None:
    """A foreign key sees to it, whatever the caller thinks."""
    lan = network()
    add_network(store, lan)
    claim(store, "web", lan)
    with pytest.raises(Conflict), store.transaction() as sql:
        records.remove_network(sql, lan.id)
    assert records.find_network(store.connection, "lan") is not None


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
