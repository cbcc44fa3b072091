"""Copies of the store: made beside running writers, checked, and put back (docs/adr/0019).

A backup is a database of its own, whole, without a log beside it. SQLite's online backup
(sqlite.org/backup.html) makes it: one moment of the store, whatever others write meanwhile. By the
same way a sound store takes over a backup's content: one transaction of its own, which processes
that have it open see as they see any other. Only a store that cannot be opened any more is
replaced as a file, and kept under another name.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from hvtx.errors import NotPermitted, Refused
from hvtx.host import failpoint, paths
from hvtx.host.locks import LockFile
from hvtx.model.typed import NamedTuple
from hvtx.store import blocks, creating, history
from hvtx.store.connection import check_header, connect_plainly, is_older, uri
from hvtx.store.database import FILE, PAGE, QUEUE_BYTE, Store
from hvtx.store.errors import translated, untrusted

_SECONDS = 10.0


class Facts(NamedTuple):
    """What is in a store or a backup."""

    installation: str
    change: int  # its sequence
    schema: int
    vms: int
    networks: int


def facts_of(sql: sqlite3.Connection) -> Facts:
    """What is in the store behind a connection."""
    installation, seq = sql.execute("SELECT installation, seq FROM meta").fetchone()
    counts = [sql.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("vm", "network")]
    version = sql.execute("PRAGMA user_version").fetchone()[0]
    return Facts(installation, seq, version, *counts)


def content_of(store: Store, path: str) -> tuple[bytes, Facts]:
    """A whole, checked database with what is in an open store, as the bytes of a file.

    It is made in memory: beside a file that is made in a directory of others, SQLite would take
    what they put there for its journal. ``path`` is for messages. Raises StoreError, Refused.
    """
    with translated(path), closing(sqlite3.connect(":memory:")) as memory:
        store.connection.backup(memory)
        found = check(memory, path)
        return memory.serialize(), found


def copy(source: sqlite3.Connection, path: str) -> Facts:
    """Copy a store into the new file ``path``, mode 0600; checked, and safe on the disk.

    Raises FileExistsError and other OSErrors, StoreError (no room there), Refused (damaged); then
    nothing of it is left.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o600))
    try:
        with translated(path), closing(connect_plainly(path)) as target:
            source.backup(target)
        with translated(path), closing(connect_plainly(path)) as target:
            found = check(target, path)
        _sync(path)
    except BaseException:
        creating.remove_draft(path)
        raise
    return found


def check(sql: sqlite3.Connection, path: str) -> Facts:
    """What is in a database, if it is a whole store; raises Refused."""
    check_header(sql, path)
    words = sql.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if words != "ok":
        raise untrusted(path, words)
    if sql.execute("PRAGMA page_size").fetchone()[0] != PAGE:
        raise untrusted(path, "its pages have another size")
    if sql.execute("SELECT count(*) FROM meta").fetchone()[0] != 1:
        raise untrusted(path, "it has no installation")
    return facts_of(sql)


def draft_of(path: str, draft: str) -> Facts:
    """Make of the backup at ``path`` the store at ``draft``: checked, of this program's schema.

    Raises NotPermitted, Refused (``store-untrusted``, ``store-newer``), StoreError.
    """
    try:
        with _as_backup(path) as source:
            copy(source, draft)
        with translated(path), closing(connect_plainly(draft)) as sql:
            sql.execute("PRAGMA journal_mode=WAL")
            sql.execute("PRAGMA foreign_keys=ON")
            if is_older(sql):
                creating.migrate(sql)
            words = f"the store was restored from {path}"
            history.add(sql, [history.Event("restored", words)], operation=None, verb="restore")
            blocks.doubt(sql)  # others may have them by now
            found = facts_of(sql)
            sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _sync(draft)
    except Refused as refusal:
        refusal.message = refusal.message.replace(draft, path)
        if refusal.code == "store-untrusted":
            refusal.hint = "give a file that `hvtx store backup` made; nothing was changed"
        raise
    return found


@contextmanager
def _as_backup(path: str) -> Iterator[sqlite3.Connection]:
    """A backup opened so that nothing appears beside it, unless a log stands there already.

    Neither it nor what stands beside it is somebody else's to write. Raises NotPermitted.
    """
    log = path + "-wal"
    fixed = "" if os.path.exists(log) and os.path.getsize(log) else "&immutable=1"
    refuse_others(path, logged=not fixed)
    with translated(path):
        connection = sqlite3.connect(
            f"{uri(path)}?mode=ro{fixed}", uri=True, isolation_level=None, timeout=_SECONDS
        )
        with closing(connection):
            yield connection


def refuse_others(path: str, *, logged: bool = False) -> None:
    """Refuse a backup that others could have written: it decides what root deletes and starts.

    What is beside it counts as much: in ``/tmp`` others may put a log there, so that none may be
    ``logged`` there. Raises NotPermitted, OSError.
    """
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-journal"):
        problem = None
        with suppress(FileNotFoundError):
            problem = paths.problem(name)
        if problem is None and logged:
            with paths.parent(name, strict=True) as place:
                if place.shared:
                    problem = "it has a write-ahead log, and others may write its directory"
        if problem is not None:
            raise NotPermitted(
                f"refusing to use the backup {name}: {problem}",
                hint="look at where it comes from; if you trust it, make it your own in a directory"
                " of your own (cp, chown, chmod 600)",
            )


def installation_at(path: str) -> str:
    """The installation of the store at ``path``, of which nothing else is read or changed.

    Raises Refused (no store), StoreError, OSError (nothing, or no file).
    """
    paths.need_regular(os.stat(path), path)
    with translated(path):
        place = f"{uri(path)}?mode=ro&immutable=1"  # what never changes, and no log beside
        with closing(sqlite3.connect(place, uri=True, isolation_level=None)) as sql:
            return str(sql.execute("SELECT installation FROM meta").fetchone()[0])


@contextmanager
def quiet(state_directory: str, seconds: float) -> Iterator[str]:
    """Hold the write queue, so that nobody commits; gives the path for a draft.

    Raises Busy, NotPermitted, StoreError.
    """
    queue: LockFile = creating.make_directory(state_directory)
    draft = os.path.join(state_directory, FILE) + ".new"
    try:
        queue.lock(QUEUE_BYTE, seconds, "the state store")
        creating.remove_draft(draft)
        try:
            yield draft
        finally:
            creating.remove_draft(draft)
    finally:
        queue.close()


def fill(draft: str, store: Store, aside: str) -> None:
    """Let a sound store have the draft's content, in one transaction; ``aside`` is what it had."""
    copy(store.connection, aside)
    failpoint.reach("aside:store")
    with translated(draft), closing(connect_plainly(draft)) as source:
        source.backup(store.connection)
    failpoint.reach("filled:store")


def replace(draft: str, path: str, aside: str) -> bool:
    """Put the draft where no store is, or one that cannot be opened; whether there was one.

    What was there is kept as ``aside``. The log goes first: beside another database SQLite would
    take it for that one's. Raises OSError.
    """
    there = os.path.lexists(path)
    if there:
        os.link(path, aside, follow_symlinks=False)
    with suppress(FileNotFoundError):
        os.rename(path + "-wal", aside + "-wal")
    with suppress(FileNotFoundError):
        os.unlink(path + "-shm")
    failpoint.reach("aside:store")
    os.rename(draft, path)
    creating.sync_directory(os.path.dirname(path))
    failpoint.reach("replaced:store")
    return there


def aside_of(path: str) -> str:
    """A free name for what a restored store takes the place of."""
    number = 1
    while os.path.lexists(found := f"{path}.{number}.old"):
        number += 1
    return found


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
