"""The history: what was made, removed, skipped, and why; part of the transaction it speaks of."""

from __future__ import annotations

import _sqlite3 as sqlite3
import time
from collections.abc import Iterable, Mapping

from hvtx.model import json_text
from hvtx.model.history import Line
from hvtx.model.typed import Any, NamedTuple
from hvtx.store.packing import pack, unpack

_COLUMNS = Line._fields[:-1]  # and `detail`, which stores of earlier versions lack


class Event(NamedTuple):
    """One line of the history."""

    event: str  # made, removed, kept, skipped, forgotten, completed, began, ended, failed …
    message: str
    kind: str | None = None
    key: str | None = None
    reason: str | None = None
    vm: str | None = None
    detail: Mapping[str, Any] | None = None  # what it was: enough to tell, or to have it again


class Filter(NamedTuple):
    """Which lines are asked for; None is any."""

    vm: str | None = None
    operation: int | None = None
    verb: str | None = None
    kind: str | None = None
    key: str | None = None
    event: str | None = None
    reason: str | None = None
    since: str | None = None  # RFC 3339 in UTC, or the beginning of one


def now() -> str:
    """The time in UTC, RFC 3339, microseconds."""
    return at(time.time_ns())


def at(stamp: int) -> str:
    """A moment in nanoseconds since 1970 as RFC 3339 in UTC, microseconds."""
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
        "INSERT INTO history (time, operation, verb, vm, kind, key, event, reason, message, detail,"
        " packed) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                stamp,
                operation,
                verb,
                e.vm or vm,
                e.kind,
                e.key,
                e.event,
                e.reason,
                "" if e.message == f"{e.kind} {e.key}" else e.message,
                None if e.detail is None or e.kind is not None else json_text.dumps(e.detail),
                None if e.detail is None or e.kind is None else pack(e.detail),
            )
            for e in events
        ],
    )


def prune(sql: sqlite3.Connection, keep: int) -> None:
    """Forget all but about the newest ``keep`` lines. By number: a clock may jump."""
    sql.execute("DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?", (keep,))


def newest(sql: sqlite3.Connection) -> int:
    """The number of the newest line; 0 without any."""
    return int(sql.execute("SELECT coalesce(max(id), 0) FROM history").fetchone()[0])


def count(sql: sqlite3.Connection) -> int:
    """How many lines there are."""
    return int(sql.execute("SELECT count(*) FROM history").fetchone()[0])


def of_operation(sql: sqlite3.Connection, operation: int, *, after: int) -> list[dict[str, Any]]:
    """The lines of an operation that come after line ``after``, without their details."""
    rows = sql.execute(
        f"SELECT {', '.join(_COLUMNS)}, NULL FROM history WHERE id > ? AND operation = ?"
        " ORDER BY id",
        (after, operation),
    )
    return [_line(row)._asdict() for row in rows]


def entries(sql: sqlite3.Connection, wanted: Filter, *, limit: int) -> list[Line]:
    """The newest ``limit`` lines that are wanted, oldest first."""
    asked = {name: value for name, value in wanted._asdict().items() if value is not None}
    since = asked.pop("since", None)
    where = [f"{name} = ?" for name in asked] + (["time >= ?"] if since else [])
    values = [*asked.values(), *([since] if since else [])]
    rows = sql.execute(
        f"SELECT {', '.join(_COLUMNS)}, {_detail(sql)}, {_column(sql, 'packed')} FROM history"
        f" WHERE {' AND '.join(where) or '1'} ORDER BY id DESC LIMIT ?",
        (*values, limit),
    ).fetchall()
    return [
        _line(row)._replace(detail=unpack(packed)) if packed is not None else _line(row)
        for *columns, packed in reversed(rows)
        for row in (tuple(columns),)
    ]


def has(sql: sqlite3.Connection, column: str, value: str) -> bool:
    """Whether some line has this value; ``column`` is a field of :class:`Filter`."""
    assert column in Filter._fields
    found = sql.execute(f"SELECT 1 FROM history WHERE {column} = ? LIMIT 1", (value,))
    return found.fetchone() is not None


def last_of_each(
    sql: sqlite3.Connection, keys: Iterable[str]
) -> dict[tuple[str, str], tuple[str, str | None]]:
    """``{(kind, key): (event, reason)}`` of the newest line of each thing that has such a key."""
    # of a group's other columns SQLite gives those of the row with its max() (lang_select.html)
    rows = sql.execute(
        "SELECT kind, key, event, reason, max(id) FROM history WHERE kind IS NOT NULL"
        " AND key IN (SELECT value FROM json_each(?)) GROUP BY kind, key",
        (json_text.dumps([*keys]),),
    )
    return {(kind, key): (event, reason) for kind, key, event, reason, _ in rows}


def forgotten_vm(
    sql: sqlite3.Connection, name: str, operation: int | None = None
) -> dict[str, Any] | None:
    """The record of a VM of this name as it was last forgotten (by ``operation``)."""
    if _detail(sql) == "NULL":
        return None
    row = sql.execute(
        "SELECT detail FROM history WHERE vm = ? AND event = 'removed' AND kind IS NULL"
        " AND detail IS NOT NULL AND (? IS NULL OR operation = ?) ORDER BY id DESC LIMIT 1",
        (name, operation, operation),
    ).fetchone()
    return None if row is None else dict(json_text.loads(row[0]))


def forgotten_names(sql: sqlite3.Connection) -> list[str]:
    """Names of VMs that the history says were forgotten."""
    rows = sql.execute(
        "SELECT DISTINCT vm FROM history WHERE event = 'removed' AND kind IS NULL"
        " AND vm IS NOT NULL ORDER BY vm"
    )
    return [name for (name,) in rows]


def _detail(sql: sqlite3.Connection) -> str:
    return _column(sql, "detail")


def _column(sql: sqlite3.Connection, name: str) -> str:
    """The column, or what stands for it in a store that no newer program has written yet."""
    found = sql.execute(
        "SELECT count(*) FROM pragma_table_info('history') WHERE name = ?", (name,)
    ).fetchone()[0]
    return name if found else "NULL"


def _line(row: tuple[Any, ...]) -> Line:
    """A line of its columns; one without words of its own says what it is about."""
    line = Line._make((*row[:-1], None if row[-1] is None else json_text.loads(row[-1])))
    return line if line.message else line._replace(message=f"{line.kind} {line.key}")
