"""The tables ``life`` and ``attempt``: the boots and namespaces that the store worked in."""

from __future__ import annotations

import _sqlite3 as sqlite3

from hvtx.model.vm import Epoch


def current_life(sql: sqlite3.Connection) -> Epoch | None:
    """The life of the host that the store last worked in."""
    row = sql.execute(
        "SELECT l.id, l.boot_id, l.netns, l.recovered_at IS NOT NULL FROM meta m"
        " JOIN life l ON l.id = m.life"
    ).fetchone()
    return Epoch(row[0], row[1], row[2], bool(row[3])) if row else None


def lives(sql: sqlite3.Connection) -> dict[int, Epoch]:
    """Every life on record."""
    return {
        row[0]: Epoch(row[0], row[1], row[2], bool(row[3]))
        for row in sql.execute("SELECT id, boot_id, netns, recovered_at IS NOT NULL FROM life")
    }


def set_life(sql: sqlite3.Connection, boot_id: str, netns: int, now: str) -> Epoch:
    """Enter a life (a new row, or the known one); the first of a store counts as recovered."""
    first = sql.execute("SELECT count(*) FROM life").fetchone()[0] == 0
    sql.execute(
        "INSERT INTO life (boot_id, netns, began, recovered_at) VALUES (?,?,?,?)"
        " ON CONFLICT (boot_id, netns) DO NOTHING",
        (boot_id, netns, now, now if first else None),
    )
    row = sql.execute(
        "SELECT id, recovered_at IS NOT NULL FROM life WHERE boot_id = ? AND netns = ?",
        (boot_id, netns),
    ).fetchone()
    sql.execute("UPDATE meta SET life = ?", (row[0],))
    return Epoch(row[0], boot_id, netns, bool(row[1]))


def is_current(sql: sqlite3.Connection, life: int) -> bool:
    """Whether the store works in this life."""
    return bool(sql.execute("SELECT life IS ? FROM meta", (life,)).fetchone()[0])


def set_recovered(sql: sqlite3.Connection, life: int, now: str) -> None:
    """Remember that this life is recovered."""
    sql.execute("UPDATE life SET recovered_at = ? WHERE id = ?", (now, life))


def attempted(sql: sqlite3.Connection, life: int) -> set[str]:
    """VM ids whose autostart was tried in this life."""
    return {row[0] for row in sql.execute("SELECT vm FROM attempt WHERE life = ?", (life,))}


def set_attempted(sql: sqlite3.Connection, life: int, vm: str) -> None:
    """Remember that a VM's autostart was tried, whatever becomes of it."""
    sql.execute("INSERT OR IGNORE INTO attempt (life, vm) VALUES (?, ?)", (life, vm))
