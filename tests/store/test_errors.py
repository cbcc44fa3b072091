"""What errors of SQLite mean to people."""

from __future__ import annotations

import errno
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvtx.errors import Busy, HvtxError, Refused, StoreError
from hvtx.store import backup
from hvtx.store.errors import explain, unwritable
from tests.store.shelf import Shelf


def test_damage_that_comes_up_later_is_explained() -> None:
    """SQLite's own error, wherever it is raised, is the store's to explain."""
    told = explain(sqlite3.DatabaseError("database disk image is malformed"))
    assert isinstance(told, Refused)
    assert told.code == "store-untrusted"
    assert isinstance(explain(sqlite3.OperationalError("disk I/O error")), StoreError)
    for words in ("database is locked", "locking protocol"):
        assert isinstance(explain(sqlite3.OperationalError(words)), Busy)
    assert explain(ValueError("not mine")) is None


@pytest.fixture
def damaged(shelf: Shelf, tmp_path: Path) -> Path:
    """A copy of a store with a name in its schema that is no UTF-8, and a definition that is none.

    SQLite's words about it are not either, and Python raises no error of SQLite for such.
    """
    path = tmp_path / "copy.db"
    with shelf.opened() as store, store.reading() as sql:
        backup.copy(sql, str(path))
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("PRAGMA writable_schema=ON")
        sql.execute(
            "UPDATE sqlite_master SET name = CAST(x'80ff' AS TEXT), sql = 'CREATE INDEX' WHERE"
            " rowid = (SELECT max(rowid) FROM sqlite_master WHERE type = 'index' AND sql > '')"
        )
        sql.commit()
    return path


def test_a_backup_whose_schema_is_no_text_is_refused(damaged: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft.db"
    with pytest.raises(Refused, match="cannot be trusted: malformed") as refused:
        backup.draft_of(str(damaged), str(draft))
    assert refused.value.code == "store-untrusted"
    assert not draft.exists()


def test_so_is_a_store(damaged: Path, shelf: Shelf) -> None:
    damaged.replace(shelf.file)
    for writable in (True, False):
        with pytest.raises(Refused) as refused, shelf.opened(writable=writable):
            pass
        assert refused.value.code == "store-untrusted"


@pytest.fixture
def file_limit() -> Iterator[int]:
    """The limit on the size of files that this process keeps, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, hard))
    yield 1 << 30
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(name: str) -> HvtxError:
    """What is said of an error of input or output, by SQLite's name."""
    problem = sqlite3.OperationalError("disk I/O error")
    problem.sqlite_errorname = name
    told = explain(problem)
    assert isinstance(told, HvtxError)
    return told


def test_the_limit_on_the_size_of_files_is_named(file_limit: int) -> None:
    """Where a file could not grow; not where one could not be read."""
    named = f"no file larger than {file_limit} bytes (RLIMIT_FSIZE)"
    for name in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):
        told = failing(name)
        assert (told.exit_code, named in told.message) == (7, True), name
        assert "`ulimit -f unlimited`" in str(told.hint)
    assert "RLIMIT" not in failing("SQLITE_IOERR_READ").message
    beside = unwritable(OSError(errno.EFBIG, "File too large", "/there/hwm"))
    assert isinstance(beside, StoreError)
    assert named in beside.message
    other = unwritable(OSError(errno.ENOSPC, "No space left on device", "/there/hwm"))
    assert "RLIMIT" not in str(other)


def test_without_a_limit_none_is_named() -> None:
    """A disk that fails is a disk that fails."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        pytest.skip("this process has such a limit")
    assert "RLIMIT" not in failing("SQLITE_IOERR_WRITE").message
