"""The state store as a file: opened with care, written through one door, never trusted blindly.

Invariants
1. The file is 0600 in a 0700 directory and is never followed through a symlink.
2. It appears whole (built under another name, then renamed) or not at all; WAL, synchronous=FULL.
3. Every write is one ``BEGIN IMMEDIATE`` transaction that raises ``meta.seq``; after the commit the
   high-water mark in the run directory is raised to it. A store behind its mark has lost commits,
   and nothing is written to it, nor to one that a backup was restored to since it was opened.
4. Readers open ``mode=ro``; a missing store reads as an empty one, one on a read-only or full file
   system by a copy.
5. On a full disk whoever ends, frees or reads still works: writers of that kind give up a reserve
   (:mod:`hvtx.store.reserve`), and what found no room even so is written once more
   (:mod:`hvtx.store.written`); readers read a copy.
6. The database file is never opened beside SQLite while a connection lives: closing a second
   descriptor drops SQLite's POSIX locks.
7. Whoever decides something reads all that it decides from in one :meth:`Store.reading` (or in the
   transaction that writes it down): statements outside of one each see a moment of their own.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hvtx.errors import LIFT_FILE_SIZE, CommitUnknown, HvtxError, Refused, StoreError
from hvtx.host import queued_lock
from hvtx.host.job_control import going_on
from hvtx.host.locks import LockFile
from hvtx.model.typed import Any
from hvtx.store import reserve
from hvtx.store.connection import refuse_newer, version_of
from hvtx.store.errors import (
    FULL,
    full,
    is_full,
    restored_meanwhile,
    rolled_back,
    too_large,
    translated,
    untrusted,
    unwritable,
)
from hvtx.store.high_water_mark import HighWaterMark
from hvtx.store.written import Written

FILE = "hvtx.db"
QUEUE = "queue.lock"
QUEUE_BYTE = 0
PAGE = 4096  # bytes, SQLite's own choice; it takes a torn last page for zeros


class Store:
    """A connection to the state store.

    ``installation`` is empty for a store that does not exist (reading only). ``seq`` of
    the high-water mark lives in ``<run-dir>/<installation>/hwm``.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        state_directory: str,
        run_directory: str,
        writable: bool,
        lock_timeout: float,
        missing: bool = False,
    ) -> None:
        """Use :func:`open_store`; ``missing``: it stands for a store that is not there."""
        self.connection = connection
        self.writable = writable
        self.missing = missing
        self.state_directory = state_directory
        self.path = os.path.join(state_directory, FILE)  # of the database
        self._lock_timeout = lock_timeout
        self._spends = False
        self._queue: LockFile | None = None
        self._process = os.getpid()
        # called with the number of a change right before its commit; what it raises is passed over
        self.watch: Callable[[int], None] | None = None
        self.was_open: tuple[str, ...] = ()  # to others, until it was opened here; in words
        row = connection.execute("SELECT installation FROM meta").fetchone()
        if row is None and not missing:
            raise untrusted(self.path, "it has no installation")
        self.installation: str = row[0] if row else ""
        self.run_directory = os.path.join(run_directory, self.installation)
        self.mark = HighWaterMark(self.run_directory)
        self._opened = _files(self.path) if writable else ()  # the read above opened the log

    def close(self) -> None:
        """Close the connection (the last user's close checkpoints)."""
        self.connection.close()
        if self.writable:
            with suppress(OSError):
                reserve.make(self.state_directory, os.stat(self.path).st_size)
        if self._queue is not None:
            self._queue.close()
            self._queue = None
        self.mark.close()

    def spend_reserve(self) -> None:
        """From here on what is written ends or frees something: a full disk must not stop it."""
        self._spends = True
        # all is written at the commit, so that it alone can meet a full disk
        self.connection.execute("PRAGMA cache_spill=OFF")
        if reserve.is_low(self.state_directory):
            self._relieve()

    def _relieve(self) -> None:
        """Give up the reserve, and let SQLite's log stay small from here on."""
        reserve.give_up(self.state_directory)
        self.connection.execute("PRAGMA wal_autocheckpoint=50")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One moment of the store: all that is read inside belongs together.

        Nests, also in :meth:`transaction`. SQLite takes the moment with the first statement. It
        keeps nobody from writing; only a checkpoint waits, so the host is looked at outside.
        """
        if self.connection.in_transaction:
            yield self.connection
            return
        try:
            self.connection.execute("BEGIN")
            yield self.connection
        finally:
            self._roll_back()

    @contextmanager
    def transaction(self, *, older: bool = False) -> Iterator[sqlite3.Connection]:
        """One durable write; all or nothing. Ctrl-Z waits, since all other writers do.

        A body runs once: where the commit of what ends or frees something has no room, the reserve
        is given up and the same is written again. ``older``: also where commits are lost, which a
        person accepts. Raises Busy, Conflict (a unique constraint), StoreError (full, read-only),
        Refused (another content than was read), CommitUnknown.
        """
        with going_on(), self._writing(older=older) as sql:
            yield sql

    @contextmanager
    def _writing(self, *, older: bool) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._process:
            raise StoreError(
                "a connection to the state store was carried over a fork",
                hint="open the store in the process that uses it",
            )
        queue = self._open_queue()
        queued_lock.take(queue, QUEUE_BYTE, self._lock_timeout, "the state store")
        try:
            if self._spends and reserve.is_low(self.state_directory):
                self._relieve()
            self.mark.open()  # with its room taken: what comes after the commit must not fail
            written = Written(self.connection) if self._spends else None
            sql: Any = written or self.connection
            with self._begun():
                with translated():
                    refuse_newer(version_of(self.connection), self.path)
                    if not self.mark.look():
                        raise restored_meanwhile(self.path)
                    yield sql
                    self._refuse_replaced()
                    seq = sql.execute("UPDATE meta SET seq = seq + 1 RETURNING seq").fetchone()[0]
                    if seq <= self.mark.newest and not older:
                        raise rolled_back(self.path)
                if self.watch is not None:
                    with suppress(OSError, HvtxError):
                        self.watch(seq)
            try:
                self._commit()
            except StoreError as problem:
                if written is None or problem.code != FULL:
                    raise
                self._write_again(written, seq, problem)
            self.mark.raise_to(seq)
            try:
                self._refuse_replaced()
            except Refused as problem:
                raise CommitUnknown(problem.message, hint=problem.hint) from problem
        finally:
            queue.unlock(QUEUE_BYTE)

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """An open transaction, which goes where the body fails."""
        try:
            with translated():  # Ctrl-C may be told once it has begun
                self.connection.execute("BEGIN IMMEDIATE")
            self._refuse_replaced()
            yield
        except BaseException:
            self._roll_back()
            raise

    def _commit(self) -> None:
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as problem:
            if is_full(problem):
                # a frame of the log had no room, so the commit's own, which is the last, is
                # not there either (sqlite.org/wal.html, walformat.html); EIO has no such proof
                self._roll_back()
                raise full(problem) from problem
            limited = too_large(problem, self.path)
            hint = "run `hvtx recover` when the disk works again"
            if limited is not None:
                hint = f"{LIFT_FILE_SIZE}; then run `hvtx recover`"
            raise CommitUnknown(
                f"commit outcome unknown: {limited.message if limited else problem}", hint=hint
            ) from problem
        except BaseException:  # Ctrl-C; after the commit there is nothing to roll back
            self._roll_back()
            raise

    def _write_again(self, written: Written, seq: int, problem: StoreError) -> None:
        """Commit change ``seq`` with the reserve's room; ``problem``: it had none.

        Raises as :meth:`_commit` does, and ``problem`` where another program wrote meanwhile.
        """
        self._relieve()
        with suppress(sqlite3.Error):  # what is in the log already may leave it
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with self._begun(), translated():
            written.write_again()
            if self.connection.execute("SELECT seq FROM meta").fetchone()[0] != seq:
                raise problem
            self._refuse_replaced()
        self._commit()

    def tell_watch(self) -> None:
        """Tell ``watch`` the number of the last change, while nobody writes. Raises Busy."""
        queue = self._open_queue()
        with going_on():
            queued_lock.take(queue, QUEUE_BYTE, self._lock_timeout, "the state store")
            try:
                if self.watch is not None:
                    with self.reading() as sql:
                        seq = sql.execute("SELECT seq FROM meta").fetchone()[0]
                    self.watch(seq)
            finally:
                queue.unlock(QUEUE_BYTE)

    def _refuse_replaced(self) -> None:
        if _files(self.path) != self._opened:
            raise untrusted(self.path, "it or its log was replaced or removed while it was open")

    def _open_queue(self) -> LockFile:
        if self._queue is None:
            try:
                self._queue = LockFile(os.path.join(self.state_directory, QUEUE))
            except OSError as problem:
                raise unwritable(problem) from problem
        return self._queue

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            # SQLite may have rolled back by itself; the first error is the one to tell
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")


def _files(path: str) -> tuple[tuple[int, int] | None, ...]:
    """Which files the database, its log and the log's index are; None for one that is not there.

    SQLite goes on with files that were taken away, and what it commits into them is lost.
    """
    try:
        base, log, index = os.lstat(path), os.lstat(path + "-wal"), os.lstat(path + "-shm")
    except OSError:
        return _files_there(path)
    return (
        (base.st_dev, base.st_ino), (log.st_dev, log.st_ino), (index.st_dev, index.st_ino)
    )  # fmt: skip


def _files_there(path: str) -> tuple[tuple[int, int] | None, ...]:
    found: list[tuple[int, int] | None] = []
    for suffix in ("", "-wal", "-shm"):
        try:
            there = os.lstat(path + suffix)
        except OSError:
            found.append(None)
        else:
            found.append((there.st_dev, there.st_ino))
    return tuple(found)
