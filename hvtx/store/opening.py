"""Opening the store: nothing is followed, read or made writable before it is known to be ours."""

from __future__ import annotations

import _sqlite3 as sqlite3
import os
import stat
import time
from contextlib import suppress

from hvtx.errors import Busy, StoreError
from hvtx.host import paths
from hvtx.store import connection as files
from hvtx.store import reserve
from hvtx.store.connection import connect
from hvtx.store.database import FILE, PAGE, Store
from hvtx.store.errors import (
    KEPT,
    forbidden,
    not_a_directory,
    not_believed,
    owned_by_another,
    too_full,
    translate,
    translated,
    untrusted,
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
            raise too_full(state_directory)
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
            if KEPT not in str(problem.__cause__) or time.monotonic() >= deadline:
                raise


def _open(
    state_directory: str, run_directory: str, *, writable: bool, create: bool, seconds: float
) -> Store:
    path = os.path.join(state_directory, FILE)
    exists = _look(state_directory, path)
    if not exists:
        from hvtx.store import creating

        if not (writable and create):
            return creating.empty(state_directory, run_directory)
        creating.create(state_directory, path, seconds)
    elif writable:
        _need_sound(state_directory)
        _check_untouched(path, seconds)
    connection = connect(path, writable=writable, seconds=seconds)
    try:
        with translated(path):
            files.check_header(connection, path)
            if files.is_older(connection):
                if writable:
                    from hvtx.store.creating import migrate_locked

                    migrate_locked(connection, state_directory, seconds)
                else:
                    files.read_as_newest(connection)
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
    except (sqlite3.Error, UnicodeDecodeError) as problem:
        connection.close()
        meant = translate(problem, path)
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
        raise forbidden(directory) from problem
    except OSError as problem:  # through a file, a loop of links, too long a name
        raise StoreError(
            f"the state directory {directory} cannot be reached: {problem.strerror}",
            hint="choose another place with --state-dir",
        ) from problem
    if stat.S_ISLNK(where.st_mode) or not stat.S_ISDIR(where.st_mode):
        raise not_a_directory(directory)
    friends = (0, os.geteuid())
    for suffix in ("", "-wal", "-shm"):
        try:
            found = os.lstat(path + suffix)
        except FileNotFoundError:
            if not suffix:
                return False
            continue
        except PermissionError as problem:
            raise forbidden(path) from problem
        if not stat.S_ISREG(found.st_mode):
            raise untrusted(path + suffix, "it is a link or not a regular file")
        for one, seen in ((directory, where), (path + suffix, found)):
            if seen.st_uid not in friends:
                raise owned_by_another(one, seen.st_uid)
        if not suffix and found.st_size == 0:
            raise untrusted(path, "it is empty")
        if not suffix and found.st_size % PAGE:
            raise untrusted(path, f"its {found.st_size} bytes are no whole number of pages")
    return True


def _need_sound(directory: str) -> None:
    """Refuse to act on a store whose directory others could replace; raises StoreError."""
    try:
        with paths.parent(directory, strict=True):
            pass
    except paths.UnsafeError as unsafe:
        raise not_believed(directory, unsafe) from unsafe


def _check_untouched(path: str, lock_timeout: float) -> None:
    """Refuse what is not ours before a writable handle exists, whose close would checkpoint it."""
    probe = connect(path, writable=False, seconds=lock_timeout)
    try:
        with translated(path):
            files.check_header(probe, path)
    finally:
        probe.close()


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
