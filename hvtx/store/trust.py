"""Trust in a store: no commit is lost, it is not a copy, and its pages are intact."""

from __future__ import annotations

import _sqlite3 as sqlite3
import os
from collections.abc import Callable

from hvtx.errors import Refused, StoreError
from hvtx.store.database import Store
from hvtx.store.errors import rolled_back, translated, untrusted, unwritable


def check_trust(store: Store) -> None:
    """Refuse a store that lost commits or is a copy; raises Refused. Reads only."""
    if not store.installation:
        return
    seen = store.mark.last_seen()
    with store.reading() as sql:  # after the mark was read: a later one would be no evidence
        seq, path, device, inode = sql.execute(
            "SELECT seq, path, device, inode FROM meta"
        ).fetchone()
    if seen is not None and seq < seen:
        raise rolled_back(store.path)
    _refuse_copy(store.path, path, (device, inode))


def _refuse_copy(here: str, known: str, identity: tuple[int, int]) -> None:
    """Refuse the store at ``here`` if the one that it remembers to be is still at ``known``."""
    found = os.stat(here)
    same = (found.st_dev, found.st_ino) == identity
    # by another path the same file is a bind mount, unless it has a second name: through two
    # names SQLite keeps two logs
    if known == os.path.realpath(here) or (same and found.st_nlink < 2):
        return
    try:
        there = os.lstat(known)
    except OSError:
        return  # it was moved here
    if (there.st_dev, there.st_ino) == identity:
        what = "another name" if same else "a copy"
        raise Refused(
            "store-cloned",
            f"{here} is {what} of {known}, which is still there",
            hint="use the original, or remove one of the two",
        )


def accept_rollback(store: Store) -> None:
    """Take the store as it is now for the truth, whatever was committed after it."""
    from hvtx.store import blocks

    with store.transaction(older=True) as sql:
        _write_place(sql, store.path)
        blocks.doubt(sql)
    with store.reading() as sql:
        seq = sql.execute("SELECT seq FROM meta").fetchone()[0]
    try:
        store.mark.put_at(seq)
    except OSError as problem:
        raise unwritable(problem) from problem


def note_place(store: Store, moved: Callable[[], None] = lambda: None) -> str:
    """Remember where the store lives now, if that changed (a restored or moved store).

    Returns where that is, without links. ``moved`` is called first where it is at another path: it
    is tried again if that fails.
    """
    here, path = os.stat(store.path), os.path.realpath(store.path)
    with store.reading() as sql:
        known = sql.execute("SELECT path, device, inode FROM meta").fetchone()
    if known == (path, here.st_dev, here.st_ino):
        return path
    if known is not None and known[0] != path:
        moved()
    with store.transaction() as sql:
        _write_place(sql, store.path)
    return path


def _write_place(sql: sqlite3.Connection, path: str) -> None:
    here = os.stat(path)
    sql.execute(
        "UPDATE meta SET path = ?, device = ?, inode = ?",
        (os.path.realpath(path), here.st_dev, here.st_ino),
    )


def check_pages(store: Store) -> None:
    """Let SQLite look at every page; raises Refused("store-untrusted")."""
    with translated(), store.reading() as sql:
        words = str(sql.execute("PRAGMA quick_check(1)").fetchone()[0])
    if words == "ok":
        return
    # a page that could not be read says nothing of what is on it
    code = int(words.rpartition("error code=")[2].split()[0]) if "error code=" in words else 0
    if code & 0xFF == sqlite3.SQLITE_NOMEM:
        raise MemoryError
    if code & 0xFF == sqlite3.SQLITE_IOERR:
        raise StoreError(
            f"{store.path}: its pages could not be read: {words}", hint="look at the disk"
        )
    raise untrusted(store.path, words)
