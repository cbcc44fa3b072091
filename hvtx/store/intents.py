"""The write-ahead part of the protocol: every state transition of a row is one function here.

All of them run inside ``Store.transaction()``. Moving a row is compare-and-swap: it must still be
in the state, and (for commits) still belong to the operation, that the caller saw; a caller that
lost the race is told how many rows really moved.

::

    (none) --intend--> intended --commit--> committed
                          |                    |
                          +------ release -----+---> releasing --forget--> released (tombstone)
"""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from hvtx.model import json_text
from hvtx.model.resource import FLOWS, HOLDER, Kind, Resource, State
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Identity
from hvtx.store.codec import decode, decode_all, encode

# Their marks never stand on anything that a restore could bring back.
_NO_TOMBSTONE = (Kind.LEASE, Kind.PROCESS, Kind.ADDRESS, Kind.SYSCTL, Kind.FILE, Kind.NETNS)


class NewRow(NamedTuple):
    """A resource that is about to be intended."""

    kind: str
    key: str
    spec: Mapping[str, Any]
    vm: str | None
    network: str | None
    observed: Mapping[str, Any] = MappingProxyType({})  # what is known of it before it is made


def begin(
    sql: sqlite3.Connection,
    *,
    verb: str,
    vm: str | None,
    network: str | None,
    life: int,
    writer: Identity,
    now: str,
) -> int:
    """Open an operation; its id is also the offset of its lock."""
    return int(
        sql.execute(
            "INSERT INTO operation (verb, vm, network, life, writer_boot, writer_pid, writer_start,"
            " began) VALUES (?,?,?,?,?,?,?,?) RETURNING id",
            (verb, vm, network, life, writer.boot_id, writer.pid, writer.start, now),
        ).fetchone()[0]
    )


def intend(
    sql: sqlite3.Connection,
    drafts: Iterable[NewRow],
    *,
    operation: int,
    life: int,
    mark: Callable[[int], str],
    state: str = State.INTENDED,
) -> list[Resource]:
    """Write one row per resource, each with the fresh mark that ``mark(row id)`` gives."""
    rows = []
    # AUTOINCREMENT: the next id is known inside the write transaction: one INSERT a row is enough
    found = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'resource'").fetchone()
    identity = found[0] if found else 0
    for draft in drafts:
        identity += 1
        row = Resource(
            id=identity,
            kind=draft.kind,
            key=draft.key,
            state=state,
            mark=mark(identity),
            spec=dict(draft.spec),
            observed=dict(draft.observed),
            operation=operation,
            life=life,
            vm=draft.vm,
            network=draft.network,
        )
        rows.append(row)
    sql.executemany(
        "INSERT INTO resource"
        " (id, kind, key, state, mark, spec, observed, operation, life, vm, network)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        [(*row[:5], encode(row.spec), encode(row.observed), *row[7:]) for row in rows],
    )
    return rows


def record_observed(sql: sqlite3.Connection, row: int, observed: Mapping[str, Any]) -> None:
    """Keep what was learnt of a row that stays in its state (the gate's identity, a pid)."""
    sql.execute("UPDATE resource SET observed = ? WHERE id = ?", (encode(observed), row))


def record_successor(sql: sqlite3.Connection, row: Resource, observed: Mapping[str, Any]) -> bool:
    """Keep who took the place of a row's process, if the row is as ``row`` says; whether it was.

    Not where it is being removed meanwhile, or is gone: who removes it ends whom it finds there.
    """
    done = sql.execute(
        "UPDATE resource SET observed = ? WHERE id = ? AND state = ? AND operation = ?",
        (encode(observed), row.id, row.state, row.operation),
    )
    return done.rowcount == 1


def amend_observed(sql: sqlite3.Connection, row: int, learnt: Mapping[str, Any]) -> None:
    """Change a part of what was learnt of a row, of which others may have noted more since.

    A value of None takes its name away. Nothing happens where there is no such row.
    """
    found = sql.execute("SELECT observed FROM resource WHERE id = ?", (row,)).fetchone()
    if found is not None:
        now = {**decode(found[0]), **learnt}
        gone = {name for name, value in learnt.items() if value is None}
        record_observed(sql, row, {k: v for k, v in now.items() if k not in gone})


def record_remade(sql: sqlite3.Connection, row: int, observed: Mapping[str, Any]) -> None:
    """Keep what was read back of an object that was made anew.

    Who holds its port, and which flows are due, is no part of the object, and stays noted.
    """
    found = sql.execute("SELECT observed FROM resource WHERE id = ?", (row,)).fetchone()
    if found is not None:
        noted = {k: v for k, v in decode(found[0]).items() if k in (HOLDER, FLOWS)}
        record_observed(sql, row, {**observed, **noted})


def record_spec(sql: sqlite3.Connection, row: int, spec: Mapping[str, Any]) -> None:
    """What a row stands for is another thing now, of an object that stays: its limits."""
    sql.execute("UPDATE resource SET spec = ? WHERE id = ?", (encode(spec), row))


def commit(
    sql: sqlite3.Connection,
    rows: Sequence[Resource],
    observed: Mapping[int, Mapping[str, Any]],
    operation: int,
) -> int:
    """Intended rows of this operation become committed; how many did."""
    done = sql.executemany(
        "UPDATE resource SET state = 'committed', observed = coalesce(?, observed)"
        " WHERE id = ? AND state = 'intended' AND operation = ?",
        [
            (encode(observed[row.id]) if row.id in observed else None, row.id, operation)
            for row in rows
        ],
    )
    return done.rowcount


def committed(
    rows: Iterable[Resource], observed: Mapping[int, Mapping[str, Any]]
) -> list[Resource]:
    """The rows as :func:`commit` leaves them, without asking the store (pure)."""
    return [
        row._replace(state=State.COMMITTED, observed=dict(observed.get(row.id, row.observed)))
        for row in rows
    ]


def release(sql: sqlite3.Connection, rows: Sequence[Resource], operation: int) -> list[Resource]:
    """Rows that are still as the caller saw them become ``releasing`` under ``operation``.

    What was learnt of them is what is on record now, whatever the caller read: who serves a network
    may be another since, while neither state nor operation of its row moved.
    """
    seen = [[row.id, row.state, row.operation] for row in rows]
    moved = dict(
        sql.execute(
            "UPDATE resource SET state = 'releasing', operation = ? FROM json_each(?) AS seen"
            " WHERE resource.id = json_extract(seen.value, '$[0]')"
            " AND resource.state = json_extract(seen.value, '$[1]')"
            " AND resource.operation = json_extract(seen.value, '$[2]')"
            " RETURNING resource.id, resource.observed",
            (operation, json_text.dumps(seen)),
        ).fetchall()
    )
    learnt = dict(zip(moved, decode_all([*moved.values()]), strict=True))
    once = {row.id: row for row in rows if row.id in moved}
    return [
        row._replace(state=State.RELEASING, operation=operation, observed=learnt[row.id])
        for row in once.values()
    ]


def forget(sql: sqlite3.Connection, rows: Sequence[Resource]) -> int:
    """Rows whose object is gone become tombstones, or go where no tombstone can ever be needed."""
    gone = [(row.id,) for row in rows if row.kind in _NO_TOMBSTONE]
    kept = [(row.id,) for row in rows if row.kind not in _NO_TOMBSTONE]
    moved = 0
    if gone:
        moved += sql.executemany(
            "DELETE FROM resource WHERE id = ? AND state <> 'released'", gone
        ).rowcount
    if kept:
        moved += sql.executemany(
            "UPDATE resource SET state = 'released' WHERE id = ? AND state <> 'released'", kept
        ).rowcount
    return moved


def end(sql: sqlite3.Connection, operation: int, result: str, now: str) -> None:
    """Close an operation: ``done``, ``undone`` or ``partial``."""
    sql.execute(
        "UPDATE operation SET ended = ?, result = ? WHERE id = ? AND ended IS NULL",
        (now, result, operation),
    )


def close_idle(sql: sqlite3.Connection, operations: Iterable[int], now: str) -> None:
    """Close interrupted operations that no live row speaks of any more."""
    for operation in operations:
        sql.execute(
            "UPDATE operation SET ended = ?, result = 'undone' WHERE id = ? AND ended IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM resource WHERE resource.operation = operation.id"
            " AND resource.state IN ('intended', 'releasing'))",
            (now, operation),
        )
