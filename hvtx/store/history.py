"""The history: what was made, removed, skipped, and why; part of the transaction it speaks of."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import NamedTuple


class Event(NamedTuple):
    """One line of the history."""

    event: str  # made, removed, kept, forgotten, completed, began, ended, failed …
    message: str
    kind: str | None = None
    key: str | None = None
    reason: str | None = None
    vm: str | None = None


def now() -> str:
    """The time in UTC, RFC 3339, microseconds."""
    stamp = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp // 1_000_000_000))
    return f"{whole}.{stamp % 1_000_000_000 // 1000:06d}Z"


def add(
    sql: sqlite3.Connection,
    events: Iterable[Event],
    *,
    operation: int | None,
    verb: str,
    vm: str | None = None,
) -> None:
    """Append events, all of one operation."""
    stamp = now()
    sql.executemany(
        "INSERT INTO history (time, operation, verb, vm, kind, key, event, reason, message)"
        " VALUES (?,?,?,?,?,?,?,?,?)",
        [
            (stamp, operation, verb, e.vm or vm, e.kind, e.key, e.event, e.reason, e.message)
            for e in events
        ],
    )


def entries(sql: sqlite3.Connection, *, vm: str | None, limit: int) -> list[dict[str, object]]:
    """The newest ``limit`` lines, oldest first."""
    names = ("time", "operation", "verb", "vm", "kind", "key", "event", "reason", "message")
    rows = sql.execute(
        f"SELECT {', '.join(names)} FROM history"
        " WHERE ? IS NULL OR vm = ? ORDER BY id DESC LIMIT ?",
        (vm, vm, limit),
    ).fetchall()
    return [dict(zip(names, row, strict=True)) for row in reversed(rows)]
