"""Ctrl-C while the disk writes: right behind a transaction, before anybody hears that it is through."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hvtx.store.database import Store


def interrupt_after(monkeypatch: pytest.MonkeyPatch, query: str, found: tuple[object, ...]) -> None:
    """Ctrl-C, once, right after the transaction in which ``query`` gives this row."""
    write = Store.transaction

    @contextmanager
    def interrupted(store: Store) -> Iterator[sqlite3.Connection]:
        with write(store) as sql:
            yield sql
            row = sql.execute(query).fetchone()
        if row == found:
            monkeypatch.setattr(Store, "transaction", write)
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "transaction", interrupted)
