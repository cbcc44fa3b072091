"""The state store as a file: opened with care, written through one door, never trusted blindly.

Invariants
1. The file is 0600 in a 0700 directory and is never followed through a symlink.
2. It appears whole (built under another name, then renamed) or not at all; WAL, synchronous=FULL.
3. Every write is one ``BEGIN IMMEDIATE`` transaction that raises ``meta.seq``; after the commit the
   high-water mark in the run directory is raised to it. A store behind its mark has lost commits.
4. Readers open ``mode=ro``; a missing store reads as an empty one, one on a read-only or full file
   system by a copy.
5. On a full disk whoever ends, frees or reads still works: writers of that kind give up a reserve,
   readers read a copy (:mod:`hvtx.store.reserve`).
6. The database file is never opened beside SQLite while a connection lives: closing a second
   descriptor drops SQLite's POSIX locks.
7. Whoever decides something reads all that it decides from in one :meth:`Store.reading` (or in the
   transaction that writes it down): statements outside of one each see a moment of their own.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hvtx.errors import (
    Busy,
    CommitUnknown,
    Conflict,
    HvtxError,
    NotPermitted,
    Refused,
    StoreError,
)
from hvtx.host import paths
from hvtx.host.files import is_there
from hvtx.host.jobs import going_on
from hvtx.host.locks import LockFile
from hvtx.migrations import APPLICATION_ID, MIGRATIONS, SCHEMA
from hvtx.model.mark import INSTALLATION_LENGTH, base32
from hvtx.store import reserve

FILE = "hvtx.db"
QUEUE = "queue.lock"
QUEUE_BYTE = 0
_PAGE = 4096  # bytes, SQLite's own choice; it takes a torn last page for zeros
_MEMORY = "/dev/shm"  # noqa: S108 - a directory of nobody else's is made in it
_COPIES = 5  # attempts at a copy that nobody writes under
_KEPT = "locking protocol"  # what SQLITE_PROTOCOL says
_LOCKED = ("locked", _KEPT)
_UNREADABLE = ("malformed", "not a database", "disk image", "unsupported file format")


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
        self._state_directory = state_directory
        self._run_directory = run_directory
        self._lock_timeout = lock_timeout
        self._spends = False
        self._queue: LockFile | None = None
        self._process = os.getpid()
        self._mark_descriptor: int | None = None
        # called with the number of a change right before its commit; what it raises is passed over
        self.watch: Callable[[int], None] | None = None
        self.was_open: tuple[str, ...] = ()  # to others, until it was opened here; in words
        row = connection.execute("SELECT installation FROM meta").fetchone()
        if row is None and not missing:
            raise untrusted(self.path, "it has no installation")
        self.installation: str = row[0] if row else ""
        self._opened = _files(self.path) if writable else ()  # the read above opened the log

    @property
    def path(self) -> str:
        """Where the database is."""
        return os.path.join(self._state_directory, FILE)

    @property
    def run_directory(self) -> str:
        """``<run-dir>/<installation>``."""
        return os.path.join(self._run_directory, self.installation)

    def close(self) -> None:
        """Close the connection (the last user's close checkpoints)."""
        self.connection.close()
        if self.writable:
            with suppress(OSError):
                reserve.make(self._state_directory, os.stat(self.path).st_size)
        if self._queue is not None:
            self._queue.close()
            self._queue = None
        if self._mark_descriptor is not None:
            os.close(self._mark_descriptor)
            self._mark_descriptor = None

    def spend_reserve(self) -> None:
        """From here on what is written ends or frees something: a full disk must not stop it."""
        self._spends = True
        if reserve.is_low(self._state_directory):
            self._relieve()

    def _relieve(self) -> None:
        """Give up the reserve, and let SQLite's log stay small from here on."""
        reserve.give_up(self._state_directory)
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
        self.connection.execute("BEGIN")
        try:
            yield self.connection
        finally:
            self._roll_back()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable write; all or nothing. Ctrl-Z waits, since all other writers do.

        Raises Busy, Conflict (a unique constraint), StoreError (full, read-only), CommitUnknown.
        """
        with going_on(), self._writing() as sql:
            yield sql

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._process:
            raise StoreError(
                "a connection to the state store was carried over a fork",
                hint="open the store in the process that uses it",
            )
        queue = self._open_queue()
        queue.lock(QUEUE_BYTE, self._lock_timeout, "the state store")
        try:
            if self._spends and reserve.is_low(self._state_directory):
                self._relieve()
            self._mark_file()  # with its room taken: what comes after the commit must not fail
            with translated():
                self.connection.execute("BEGIN IMMEDIATE")
            try:
                self._refuse_replaced()
                with translated():
                    _refuse_newer(_version(self.connection), self.path)
                    yield self.connection
                    self._refuse_replaced()
                    seq = self.connection.execute(
                        "UPDATE meta SET seq = seq + 1 RETURNING seq"
                    ).fetchone()[0]
            except BaseException:
                self._roll_back()
                raise
            try:
                if self.watch is not None:
                    with suppress(OSError, HvtxError):
                        self.watch(seq)
                self.connection.execute("COMMIT")
            except sqlite3.Error as problem:
                if _is_full(problem):
                    # a frame of the log had no room, so the commit's own, which is the last, is
                    # not there either (sqlite.org/wal.html, walformat.html); EIO has no such proof
                    self._roll_back()
                    raise _full(problem) from problem
                raise CommitUnknown(
                    f"the state store did not say whether a change was kept: {problem}",
                    hint="`hvtx recover` resolves it when the disk answers again",
                ) from problem
            except BaseException:  # Ctrl-C; after the commit there is nothing to roll back
                self._roll_back()
                raise
            self._raise_mark(seq)
            try:
                self._refuse_replaced()
            except Refused as problem:
                raise CommitUnknown(problem.message, hint=problem.hint) from problem
        finally:
            queue.unlock(QUEUE_BYTE)

    def tell_watch(self) -> None:
        """Tell ``watch`` the number of the last change, while nobody writes. Raises Busy."""
        queue = self._open_queue()
        with going_on():
            queue.lock(QUEUE_BYTE, self._lock_timeout, "the state store")
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
                self._queue = LockFile(os.path.join(self._state_directory, QUEUE))
            except OSError as problem:
                raise _unwritable(problem) from problem
        return self._queue

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            # SQLite may have rolled back by itself; the first error is the one to tell
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")

    # -- the high-water mark -------------------------------------------------------------------

    def _mark_file(self) -> int:
        if self._mark_descriptor is None:
            try:
                make_run_directory(self.run_directory)
                descriptor = self._mark_descriptor = os.open(
                    os.path.join(self.run_directory, "hwm"),
                    os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
                    0o600,
                )
                if os.fstat(descriptor).st_size < 8:
                    os.pwrite(descriptor, bytes(8), 0)
            except OSError as problem:
                raise StoreError(
                    f"the run directory {self.run_directory} cannot be written: {problem.strerror}",
                    hint="free some space there, or choose another place with --run-dir",
                ) from problem
        return self._mark_descriptor

    def _raise_mark(self, seq: int) -> None:
        """Raise the high-water mark to ``seq``; called under the write queue's lock.

        It comes after a commit that cannot be taken back: a mark that does not rise proves less,
        and is no reason to report a failure.
        """
        descriptor = self._mark_file()
        with suppress(OSError):
            old = os.pread(descriptor, 8, 0)
            if len(old) < 8 or int.from_bytes(old, "little") < seq:
                os.pwrite(descriptor, seq.to_bytes(8, "little"), 0)

    def accept_rollback(self) -> None:
        """Take the store as it is now for the truth, whatever was committed after it."""
        with self.transaction() as sql:
            self._write_place(sql)
        with self.reading() as sql:
            seq = sql.execute("SELECT seq FROM meta").fetchone()[0]
        try:
            os.pwrite(self._mark_file(), seq.to_bytes(8, "little"), 0)
        except OSError as problem:
            raise _unwritable(problem) from problem

    def check_trust(self) -> None:
        """Refuse a store that lost commits or is a copy; raises Refused. Reads only."""
        if not self.installation:
            return
        try:
            with open(os.path.join(self.run_directory, "hwm"), "rb", buffering=0) as file:
                data = file.read(9)
        except OSError:
            data = b""
        with self.reading() as sql:  # after the mark was read: a later one would be no evidence
            seq, path, device, inode = sql.execute(
                "SELECT seq, path, device, inode FROM meta"
            ).fetchone()
        if len(data) == 8 and seq < int.from_bytes(data, "little"):
            raise Refused(
                "store-rolled-back",
                f"{self.path} is older than what this host has seen of it: an earlier copy was put"
                " back",
                hint="put the newest copy back, or `hvtx recover --accept-rollback` goes on with"
                " this one",
            )
        here = os.stat(self.path)
        same = (here.st_dev, here.st_ino) == (device, inode)
        # by another path the same file is a bind mount, unless it has a second name: through two
        # names SQLite keeps two logs
        if path != os.path.realpath(self.path) and (not same or here.st_nlink > 1):
            try:
                there = os.lstat(path)
            except OSError:
                return  # it was moved here
            if (there.st_dev, there.st_ino) == (device, inode):
                what = "another name" if same else "a copy"
                raise Refused(
                    "store-cloned",
                    f"{self.path} is {what} of {path}, which is still there",
                    hint="use the original, or remove one of the two",
                )

    def has_moved(self) -> bool:
        """Whether the store is at another path than it remembers."""
        with self.reading() as sql:
            known = sql.execute("SELECT path FROM meta").fetchone()
        return known is not None and known[0] != os.path.realpath(self.path)

    def note_place(self) -> None:
        """Remember where the store lives now, if that changed (a restored or moved store)."""
        here = os.stat(self.path)
        with self.reading() as sql:
            known = sql.execute("SELECT path, device, inode FROM meta").fetchone()
        if known != (os.path.realpath(self.path), here.st_dev, here.st_ino):
            with self.transaction() as sql:
                self._write_place(sql)

    def _write_place(self, sql: sqlite3.Connection) -> None:
        here = os.stat(self.path)
        sql.execute(
            "UPDATE meta SET path = ?, device = ?, inode = ?",
            (os.path.realpath(self.path), here.st_dev, here.st_ino),
        )

    def check_pages(self) -> None:
        """Let SQLite look at every page; raises Refused("store-untrusted")."""
        with translated():
            words = self.connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if words == "ok":
            return
        # a page that could not be read says nothing of what is on it
        code = int(words.rpartition("error code=")[2].split()[0]) if "error code=" in words else 0
        if code & 0xFF == sqlite3.SQLITE_NOMEM:
            raise MemoryError
        if code & 0xFF == sqlite3.SQLITE_IOERR:
            raise StoreError(
                f"{self.path}: its pages could not be read: {words}", hint="look at the disk"
            )
        raise untrusted(self.path, words)


def make_run_directory(path: str) -> None:
    """Make ``<run-dir>/<installation>``, mode 0700, unless it is there and ours.

    Raises OSError, and StoreError where somebody else could put files in its place.
    """
    try:
        problem = paths.problem(path)
    except FileNotFoundError:
        try:
            paths.make_directories(path, 0o700)
            problem = paths.problem(path)
        except paths.UnsafeError as unsafe:
            problem = unsafe.strerror
    if problem is not None:
        raise StoreError(
            f"the run directory {path} is not believed: {problem}",
            hint="make it yours alone (chown, chmod go-w, setfacl -b), or choose another with"
            " --run-dir",
        )


def open_store(
    state_directory: str,
    run_directory: str,
    *,
    writable: bool,
    create: bool = True,
    lock_timeout: float = 10.0,
    spends: bool = False,
) -> Store:
    """Open the store; a writable one is created (unless not to ``create``) and migrated as needed.

    ``spends``: what is to be written ends or frees something, and may take the reserve of a full
    disk. Raises Refused (``store-untrusted``, ``store-newer``), NotPermitted, StoreError.
    """
    if writable and not spends:
        exists = os.path.lexists(os.path.join(state_directory, FILE))
        if not reserve.may_begin(state_directory, exists=exists):
            raise _too_full(state_directory)
    elif writable and reserve.is_low(state_directory):
        reserve.give_up(state_directory)
    try:
        store = _open_patiently(
            state_directory, run_directory, writable=writable, create=create, seconds=lock_timeout
        )
    except StoreError:  # a quota, say, of which the file system says nothing
        if not (writable and spends and reserve.give_up(state_directory)):
            raise
        store = _open_patiently(
            state_directory, run_directory, writable=writable, create=create, seconds=lock_timeout
        )
    if writable and spends:
        store.spend_reserve()
    return store


def _open_patiently(
    state_directory: str, run_directory: str, *, writable: bool, create: bool, seconds: float
) -> Store:
    """Open it; SQLite itself gives up a kept lock of the log's index sooner than some ask for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _open(
                state_directory, run_directory, writable=writable, create=create, seconds=seconds
            )
        except Busy as problem:
            if _KEPT not in str(problem.__cause__) or time.monotonic() >= deadline:
                raise


def _open(
    state_directory: str, run_directory: str, *, writable: bool, create: bool, seconds: float
) -> Store:
    path = os.path.join(state_directory, FILE)
    exists = _look(state_directory, path)
    if not exists and not (writable and create):
        return _empty(state_directory, run_directory)
    if not exists:
        _create(state_directory, path, seconds)
    elif writable:
        _need_sound(state_directory)
        _check_untouched(path, seconds)
    connection = connect(path, writable=writable, seconds=seconds)
    try:
        with translated(path):
            check_header(connection, path)
            if writable and _version(connection) < SCHEMA:
                _migrate_locked(connection, state_directory, seconds)
        store = Store(
            connection,
            state_directory=state_directory,
            run_directory=run_directory,
            writable=writable,
            lock_timeout=seconds,
        )
        if exists and writable:
            store.was_open = _make_private(state_directory, path)
        return store
    except sqlite3.Error as problem:
        connection.close()
        meant = _translate(problem, path)
        raise (meant if isinstance(meant, Busy) else untrusted(path, str(problem))) from problem
    except BaseException:
        connection.close()
        raise


def _look(directory: str, path: str) -> bool:
    """Whether the store is there; refuses what must not be followed or read."""
    try:
        where = os.lstat(directory)
    except FileNotFoundError:
        return False
    except PermissionError as problem:
        raise _forbidden(directory) from problem
    except OSError as problem:  # through a file, a loop of links, too long a name
        raise StoreError(
            f"the state directory {directory} cannot be reached: {problem.strerror}",
            hint="choose another place with --state-dir",
        ) from problem
    if stat.S_ISLNK(where.st_mode) or not stat.S_ISDIR(where.st_mode):
        raise untrusted(directory, "the state directory is a link or not a directory")
    friends = (0, os.geteuid())
    for suffix in ("", "-wal", "-shm"):
        try:
            found = os.lstat(path + suffix)
        except FileNotFoundError:
            if not suffix:
                return False
            continue
        except PermissionError as problem:
            raise _forbidden(path) from problem
        if not stat.S_ISREG(found.st_mode):
            raise untrusted(path + suffix, "it is a link or not a regular file")
        if found.st_uid not in friends or where.st_uid not in friends:
            raise untrusted(path + suffix, f"it belongs to user {found.st_uid}")
        if not suffix and found.st_size == 0:
            raise untrusted(path, "it is empty")
        if not suffix and found.st_size % _PAGE:
            raise untrusted(path, f"its {found.st_size} bytes are no whole number of pages")
    return True


def _need_sound(directory: str) -> None:
    """Refuse to act on a store whose directory others could replace; raises StoreError."""
    try:
        with paths.parent(directory, strict=True):
            pass
    except paths.UnsafeError as unsafe:
        raise _not_believed(directory, unsafe) from unsafe


def _check_untouched(path: str, lock_timeout: float) -> None:
    """Refuse what is not ours before a writable handle exists, whose close would checkpoint it."""
    probe = connect(path, writable=False, seconds=lock_timeout)
    try:
        with translated(path):
            check_header(probe, path)
    finally:
        probe.close()


def _files(path: str) -> tuple[tuple[int, int] | None, ...]:
    """Which files the database, its log and the log's index are; None for one that is not there.

    SQLite goes on with files that were taken away, and what it commits into them is lost.
    """
    found: list[tuple[int, int] | None] = []
    for suffix in ("", "-wal", "-shm"):
        try:
            there = os.lstat(path + suffix)
        except OSError:
            found.append(None)
        else:
            found.append((there.st_dev, there.st_ino))
    return tuple(found)


def _make_private(directory: str, path: str) -> tuple[str, ...]:
    """Take away what others may do with a store; what they could do, in words."""
    found = []
    for name, mode in ((directory, 0o700), (path, 0o600), (path + "-wal", 0o600)):
        with suppress(FileNotFoundError, PermissionError):
            seen = stat.S_IMODE(os.lstat(name).st_mode)
            if seen & 0o077:
                os.chmod(name, mode)
                found.append(f"{name} (mode {seen:04o})")
    return tuple(found)


def uri(path: str) -> str:
    """A path as SQLite wants it (sqlite.org/uri.html); urllib would cost 3 ms to load."""
    quoted = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file://{quoted}"


def connect(path: str, *, writable: bool, seconds: float) -> sqlite3.Connection:
    """A connection to the database at ``path``, which exists; a reader may get a copy of it.

    Raises NotPermitted, StoreError, Refused, Busy.
    """
    mode = "rw" if writable else "ro"
    connection = None
    try:
        connection = sqlite3.connect(
            f"{uri(path)}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=seconds,
            factory=_factory(),
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
    except sqlite3.Error as problem:
        if connection is not None:
            connection.close()
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        if not writable and (read_only or reserve.is_low(os.path.dirname(path))):
            return _copy_of(path)
        if read_only:
            raise _read_only(path, str(problem)) from problem
        if not os.access(path, os.R_OK | (os.W_OK if writable else 0)):
            raise _forbidden(path) from problem
        raise _translate(problem, path) from problem
    return connection


def connect_plainly(path: str) -> sqlite3.Connection:
    """A connection to a database that is nobody's store (yet): a draft, a backup being made."""
    return sqlite3.connect(f"{uri(path)}?mode=rw", uri=True, isolation_level=None)


def _factory() -> type[sqlite3.Connection]:
    """The class of connections: one that watches how it is used, where tests want that."""
    if not os.environ.get("HVTX_VERIFY"):
        return sqlite3.Connection
    from hvtx.store.strict import StrictConnection

    return StrictConnection


def _copy_of(path: str) -> sqlite3.Connection:
    """The store's content in memory, for readers on a read-only or a full file system.

    SQLite needs a file beside a WAL database to read it (sqlite.org/wal.html, "Read-Only
    Databases"), or a promise that nobody changes it, which another mount may break. So file and
    log are copied, by one look that nothing changed under, and SQLite reads the copy. Raises
    StoreError.
    """
    import shutil
    import tempfile

    names = [name for name in (path, path + "-wal") if os.path.exists(name)]
    try:
        # memory first: what is full may be the disk of all other places
        shared = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
        with tempfile.TemporaryDirectory(prefix="hvtx-", dir=shared) as place:
            for _ in range(_COPIES):
                before = [(seen.st_size, seen.st_mtime_ns) for seen in map(os.stat, names)]
                for name in names:
                    shutil.copyfile(name, os.path.join(place, os.path.basename(name)))
                if before == [(seen.st_size, seen.st_mtime_ns) for seen in map(os.stat, names)]:
                    break
            else:
                raise StoreError(f"{path} changes too fast to be read", hint="try again")
            memory = sqlite3.connect(":memory:", isolation_level=None)
            try:
                copy = sqlite3.connect(os.path.join(place, os.path.basename(path)))
                try:
                    copy.backup(memory)
                finally:
                    copy.close()
            except sqlite3.Error:
                memory.close()
                raise
    except (OSError, sqlite3.Error) as problem:
        raise StoreError(
            f"{path} is on a read-only or full file system and cannot be read: {problem}",
            hint="remount it read-write or free some space; or point TMPDIR to where there is room"
            " for a copy",
        ) from problem
    return memory


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_header(connection: sqlite3.Connection, path: str) -> None:
    """Refuse what is no finished store, or a newer program's; raises Refused."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise untrusted(path, f"it is not a store of hvtx (application_id {found:#x})")
    version = _version(connection)
    if version < 1:
        raise untrusted(path, "it was never finished")
    _refuse_newer(version, path)


def _refuse_newer(version: int, path: str) -> None:
    """Also in each transaction: a newer program may migrate the store while this one runs."""
    if version > SCHEMA:
        raise Refused(
            "store-newer",
            f"{path} was written by a newer hvtx (schema {version}, this program knows {SCHEMA})",
            hint="upgrade hvtx; nothing was changed",
        )


def _empty(state_directory: str, run_directory: str) -> Store:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for _, statements in MIGRATIONS:
        for statement in statements:
            connection.execute(statement)
    return Store(
        connection,
        state_directory=state_directory,
        run_directory=run_directory,
        writable=False,
        lock_timeout=0,
        missing=True,
    )


def _create(directory: str, path: str, lock_timeout: float) -> None:
    """Build a whole store under another name, then give it its own."""
    queue = make_directory(directory)
    draft = path + ".new"
    locked = False
    try:
        queue.lock(QUEUE_BYTE, lock_timeout, "the state store")
        locked = True
        if is_there(path):
            return
        remove_draft(draft)
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        connection = connect(draft, writable=True, seconds=lock_timeout)
        try:
            with translated(path):
                connection.execute(f"PRAGMA page_size={_PAGE}")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                migrate(connection)
                here = os.stat(draft)
                connection.execute(
                    "INSERT OR IGNORE INTO meta VALUES (1, ?, 0, NULL, ?, ?, ?)",
                    (
                        base32(os.urandom(8), INSTALLATION_LENGTH),
                        os.path.realpath(path),
                        here.st_dev,
                        here.st_ino,
                    ),
                )
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()
        os.rename(draft, path)
        sync_directory(directory)
    except OSError as problem:
        raise StoreError(
            f"cannot make the state store {path}: {problem.strerror}",
            hint="free or remount the disk, or choose another place with --state-dir",
        ) from problem
    finally:
        if locked:
            remove_draft(draft)  # nothing of it is there if all went well
        queue.close()


def make_directory(directory: str) -> LockFile:
    """Make the state directory, private; the file of the write queue in it.

    Raises NotPermitted, StoreError.
    """
    try:
        if not paths.make_directories(directory, 0o700):
            _take_directory(directory)
        return LockFile(os.path.join(directory, QUEUE))
    except paths.UnsafeError as unsafe:
        raise _not_believed(directory, unsafe) from unsafe
    except PermissionError as problem:
        raise _forbidden(directory) from problem
    except OSError as problem:
        raise StoreError(
            f"cannot make the state directory {directory}: {problem.strerror}",
            hint="free or mount the disk, or choose another place with --state-dir",
        ) from problem


def _not_believed(directory: str, unsafe: paths.UnsafeError) -> StoreError:
    return StoreError(
        f"the state directory {directory} is not believed: {unsafe.strerror}",
        hint="make its directories yours alone (chown, chmod go-w, setfacl -b), or choose another"
        " with --state-dir",
    )


def remove_draft(draft: str) -> None:
    """Remove a database that is not to be, with its log; under the write queue's lock."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.unlink(draft + suffix)


def _take_directory(directory: str) -> None:
    """Make an existing directory private, unless others keep things in it (``/tmp``, ``/etc``)."""
    if not stat.S_IMODE(os.stat(directory).st_mode) & 0o077:
        return
    theirs = [
        name
        for name in os.listdir(directory)
        if name not in (QUEUE, "lost+found") and not name.startswith(FILE)
    ]
    if theirs:
        raise StoreError(
            f"the state directory {directory} is open to others and holds {min(theirs)!r}",
            hint="choose a directory of its own with --state-dir, or make this one private:"
            f" chmod 700 {directory}",
        )
    os.chmod(directory, 0o700)


def sync_directory(directory: str) -> None:
    """Make names that were given or taken in a directory last. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _migrate_locked(connection: sqlite3.Connection, directory: str, lock_timeout: float) -> None:
    queue = LockFile(os.path.join(directory, QUEUE))
    try:
        queue.lock(QUEUE_BYTE, lock_timeout, "the state store")
        migrate(connection)
    finally:
        queue.close()


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date: each migration and its record in one transaction."""
    from sqlite_utils import Database, Migrations  # 170 ms, and needed once in a store's life

    todo = Migrations("hvtx")
    for number, (name, statements) in enumerate(MIGRATIONS, start=1):

        def apply(
            database: Database, number: int = number, statements: tuple[str, ...] = statements
        ) -> None:
            for statement in statements:
                database.conn.execute(statement)
            database.conn.execute(f"PRAGMA user_version={number}")

        todo(name=name)(apply)
    todo.apply(Database(connection))


# -- errors ------------------------------------------------------------------------------------


def untrusted(path: str, why: str) -> Refused:
    """The refusal of a database that is not whole, or not a store."""
    return Refused(
        "store-untrusted",
        f"{path} cannot be trusted: {why}",
        hint="put back a good copy; without one, move it away and `hvtx gc --plan` shows what is"
        " marked",
    )


def _forbidden(path: str) -> NotPermitted:
    return NotPermitted(
        f"{path} cannot be opened by this user", hint="run hvtx as root, for instance with sudo"
    )


def _read_only(path: str, words: str) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {words}",
        hint="remount the file system read-write, or choose another --state-dir",
    )


def _unwritable(problem: OSError) -> Exception:
    if isinstance(problem, PermissionError):
        return _forbidden(str(problem.filename))
    return StoreError(
        f"the state store cannot be written: {problem.filename}: {problem.strerror}",
        hint="free or remount the disk, or choose other places with --state-dir and --run-dir",
    )


def _is_full(problem: sqlite3.Error) -> bool:
    return getattr(problem, "sqlite_errorname", "").startswith("SQLITE_FULL")


def _too_full(directory: str) -> StoreError:
    if reserve.lacks_inodes(directory):
        return StoreError(
            f"the disk of the state store is full: {directory} has no inodes left for anything new",
            hint="remove files there that nobody needs (df -i); what ends and frees still works:"
            " vm stop, vm rm, gc --apply",
            code="store-full",
        )
    return StoreError(
        f"the disk of the state store is full: {directory} has too little room left for anything"
        " new",
        hint="free some space; what ends and frees still works: vm stop, vm rm, gc --apply",
        code="store-full",
    )


def _full(problem: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the disk of the state store is full: {problem}",
        hint="free some space; if `hvtx intents` then shows anything, `hvtx recover` resolves it",
        code="store-full",
    )


def _translate(problem: sqlite3.Error, path: str = "the state store") -> Exception:
    name = getattr(problem, "sqlite_errorname", "") or ""
    words = str(problem)
    if _is_full(problem):
        return _full(problem)
    # SQLITE_PROTOCOL: whoever has a lock of the log's index kept it for all of SQLite's attempts
    # (ten seconds), because it was stopped there, say (sqlite.org/rescode.html#protocol)
    if name.startswith(("SQLITE_BUSY", "SQLITE_PROTOCOL")) or any(w in words for w in _LOCKED):
        return Busy("the state store is locked by another program", hint="try again")
    if name.startswith("SQLITE_CONSTRAINT"):
        return Conflict(
            f"the record refuses it: {words}",
            hint="another command may have taken it meanwhile: look (hvtx vm ls), and try again",
            code="constraint",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or any(w in words for w in _UNREADABLE):
        return untrusted(path, words)
    if name.startswith("SQLITE_READONLY"):
        return _read_only(path, words)
    return StoreError(f"{path}: {words}", hint="look at the disk and the permissions")


def explain(problem: Exception) -> Exception | None:
    """What an error of SQLite means to people, wherever it came up; None for other errors."""
    return _translate(problem) if isinstance(problem, sqlite3.Error) else None


@contextmanager
def translated(path: str = "the state store") -> Iterator[None]:
    """Errors of SQLite inside become ours."""
    try:
        yield
    except sqlite3.Error as problem:
        raise _translate(problem, path) from problem
