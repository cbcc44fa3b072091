"""Queries about the store as a whole: its last change, and whether anything is on record."""

from __future__ import annotations

import _sqlite3 as sqlite3


def has_provisional(sql: sqlite3.Connection) -> bool:
    """Whether any VM or network is there only as long as the operation that is making it."""
    found = sql.execute(
        "SELECT EXISTS (SELECT 1 FROM vm WHERE operation IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM network WHERE operation IS NOT NULL)"
    )
    return bool(found.fetchone()[0])


def is_bare(sql: sqlite3.Connection) -> bool:
    """Whether nothing is on record but what is over: no VM, network, resource, open operation."""
    row = sql.execute(
        "SELECT EXISTS (SELECT 1 FROM vm) OR EXISTS (SELECT 1 FROM network)"
        " OR EXISTS (SELECT 1 FROM resource WHERE state != 'released')"
        " OR EXISTS (SELECT 1 FROM operation WHERE ended IS NULL)"
    ).fetchone()
    return not row[0]


def seq(sql: sqlite3.Connection) -> int:
    """The number of the store's last change; 0 for a store that is not there."""
    found = sql.execute("SELECT seq FROM meta").fetchone()
    return int(found[0]) if found else 0
