"""A store that is made: whole under another name, then renamed; its directory, its schema.

Loaded only where a store is made, migrated or restored.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
import os
import stat
from contextlib import suppress

from hvtx.errors import StoreError
from hvtx.host import paths
from hvtx.host.files import is_there
from hvtx.host.locks import LockFile
from hvtx.migrations import APPLICATION_ID, MIGRATIONS
from hvtx.model.mark import INSTALLATION_LENGTH, base32
from hvtx.store.connection import connect
from hvtx.store.database import FILE, PAGE, QUEUE, QUEUE_BYTE, Store
from hvtx.store.errors import forbidden, not_believed, translated


def empty(state_directory: str, run_directory: str) -> Store:
    """What stands for a store that is not there: one in memory with nothing on record."""
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


def create(directory: str, path: str, lock_timeout: float) -> None:
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
                connection.execute(f"PRAGMA page_size={PAGE}")
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
        raise not_believed(directory, unsafe) from unsafe
    except PermissionError as problem:
        raise forbidden(directory) from problem
    except OSError as problem:
        raise StoreError(
            f"cannot make the state directory {directory}: {problem.strerror}",
            hint="free or mount the disk, or choose another place with --state-dir",
        ) from problem


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


def migrate_locked(connection: sqlite3.Connection, directory: str, lock_timeout: float) -> None:
    """Bring the schema of an existing store up to date, while nobody else writes."""
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
