"""What errors of SQLite mean to people."""

from __future__ import annotations

import sqlite3

from hvtx.errors import Busy, Refused, StoreError
from hvtx.store.errors import explain


def test_damage_that_comes_up_later_is_explained() -> None:
    """SQLite's own error, wherever it is raised, is the store's to explain."""
    told = explain(sqlite3.DatabaseError("database disk image is malformed"))
    assert isinstance(told, Refused)
    assert told.code == "store-untrusted"
    assert isinstance(explain(sqlite3.OperationalError("disk I/O error")), StoreError)
    for words in ("database is locked", "locking protocol"):
        assert isinstance(explain(sqlite3.OperationalError(words)), Busy)
    assert explain(ValueError("not mine")) is None
