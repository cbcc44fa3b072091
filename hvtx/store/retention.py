"""How much of the past is kept, and where it is let go: in transactions that are written anyway.

By number, since a clock may jump. What is kept is what can still be needed (docs/adr/0050):

* of released rows all that was on record while a look at the host may have gone on, whole; older
  ones as tombstones, by which a restored object is known just as well; of these the newest;
* of operations that have ended the newest, and those that a row speaks of;
* of the history as many lines as the settings say.
"""

from __future__ import annotations

import _sqlite3 as sqlite3

from hvtx.store import history, tombstone

EVERY = 64  # operations between two looks at how long the past is
_SHAPES_EVERY = 64 * EVERY
WHOLE = 1024  # numbers of rows: of some two hundred starts
TOMBSTONES = 150_000  # numbers of rows: of some thirty thousand starts
OPERATIONS = 4096  # more than begin while somebody looks at the host
_A_TIME = 256  # rows, which is twice what as many operations release
_WINDOW = 8 * EVERY  # operations that are looked at each time
SLICE = 2000  # rows of a transaction that does nothing else


def prune(sql: sqlite3.Connection, *, operation: int, lines: int) -> None:
    """Let go of some of the past with the end of an operation, now and then.

    What it costs does not depend on how much past there is, nor on how many VMs.
    """
    if operation % EVERY:
        return
    history.prune(sql, lines)
    tombstone.bury(sql, keep=WHOLE, most=_A_TIME)
    tombstone.forget_oldest(sql, keep=TOMBSTONES)
    _forget_operations(sql, operation - OPERATIONS - _WINDOW, operation - OPERATIONS)
    if operation % _SHAPES_EVERY == 0:
        tombstone.forget_shapes(sql)


def is_due(sql: sqlite3.Connection) -> bool:
    """Whether more of the past is there than operations let go of as they end."""
    newest = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'resource'").fetchone()
    found = sql.execute(
        "SELECT 1 FROM resource WHERE state = 'released' AND id <= ? LIMIT 1 OFFSET ?",
        ((newest[0] if newest else 0) - WHOLE, _A_TIME),
    ).fetchone()
    return found is not None


def prune_slice(sql: sqlite3.Connection) -> bool:
    """Let go of a slice of the past; whether there may be more."""
    if tombstone.bury(sql, keep=WHOLE, most=SLICE) == SLICE:
        return True
    tombstone.forget_oldest(sql, keep=TOMBSTONES)
    tombstone.forget_shapes(sql)
    newest = sql.execute("SELECT coalesce(max(id), 0) FROM operation").fetchone()[0]
    _forget_operations(sql, 0, newest - OPERATIONS)
    return False


def _forget_operations(sql: sqlite3.Connection, after: int, last: int) -> None:
    """Drop ended operations of these numbers that nothing on record speaks of."""
    sql.execute(
        "DELETE FROM operation WHERE id > ? AND id <= ? AND ended IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM resource WHERE resource.operation = operation.id)"
        " AND NOT EXISTS (SELECT 1 FROM vm WHERE vm.operation = operation.id)"
        " AND NOT EXISTS (SELECT 1 FROM network WHERE network.operation = operation.id)",
        (after, last),
    )
