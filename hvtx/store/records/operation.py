"""The table ``operation``: what was begun, by whom, and what became of it."""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterable

from hvtx.model.typed import Any
from hvtx.model.vm import Identity, Operation

_COLUMNS = "id, verb, vm, network, began, writer_boot, writer_pid, writer_start"


def _operation(row: tuple[Any, ...]) -> Operation:
    return Operation(row[0], row[1], row[2], row[3], row[4], Identity(row[5], row[6], row[7]))


def operations(sql: sqlite3.Connection) -> list[Operation]:
    """Operations that have not ended, running or interrupted."""
    rows = sql.execute(f"SELECT {_COLUMNS} FROM operation WHERE ended IS NULL ORDER BY id")
    return [_operation(row) for row in rows]


def operations_by_id(sql: sqlite3.Connection, ids: Iterable[int]) -> list[Operation]:
    """These operations, ended or not, by id; few."""
    wanted = sorted(ids)
    rows = sql.execute(
        f"SELECT {_COLUMNS} FROM operation WHERE id IN ({','.join('?' * len(wanted))}) ORDER BY id",
        wanted,
    )
    return [_operation(row) for row in rows]


def operation_brief(sql: sqlite3.Connection, identity: int) -> dict[str, Any] | None:
    """``verb``, ``began``, ``ended`` and ``result`` of an operation, ended or not."""
    names = ("verb", "began", "ended", "result")
    row = sql.execute(
        f"SELECT {', '.join(names)} FROM operation WHERE id = ?", (identity,)
    ).fetchone()
    return dict(zip(names, row, strict=True)) if row else None


def newest_operation(sql: sqlite3.Connection) -> int:
    """The id of the operation that was begun last; 0 before the first."""
    return int(sql.execute("SELECT coalesce(max(id), 0) FROM operation").fetchone()[0])


def operations_since(sql: sqlite3.Connection, newest: int) -> list[tuple[int, str, str | None]]:
    """``(id, verb, VM)`` of the operations begun after ``newest``, ended by now or not."""
    return sql.execute(
        "SELECT id, verb, vm FROM operation WHERE id > ? ORDER BY id", (newest,)
    ).fetchall()


def still_open(sql: sqlite3.Connection, operations: Iterable[int]) -> set[int]:
    """Those of these operations that have not ended; few."""
    wanted = tuple(operations)
    return {
        row[0]
        for row in sql.execute(
            "SELECT id FROM operation WHERE ended IS NULL"
            f" AND id IN ({','.join('?' * len(wanted))})",
            wanted,
        )
    }


def writer_of(sql: sqlite3.Connection, operation: int) -> Identity | None:
    """The process that began an operation which has not ended."""
    row = sql.execute(
        "SELECT writer_boot, writer_pid, writer_start FROM operation"
        " WHERE id = ? AND ended IS NULL",
        (operation,),
    ).fetchone()
    return Identity(*row) if row else None
