"""A connection that refuses to read rows outside of a transaction (``HVTX_VERIFY=1``, as in tests).

Two statements outside of one see two moments of the store, and what is decided from both may never
have been so. Only this program is watched; a test may read as it likes.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
import sys

from hvtx.model.typed import Any

# Statements that stand alone by their nature, each with its reason.
ALONE = {
    "SELECT installation FROM meta": "written with the store, and never changed",
}


class StrictConnection(sqlite3.Connection):
    """Raises AssertionError for a SELECT of this program's that is in no transaction."""

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        """As sqlite3 has it."""
        if not self.in_transaction and reads_rows(sql) and sql not in ALONE and _is_ours():
            raise AssertionError(
                f"read outside of Store.reading() and Store.transaction(): {' '.join(sql.split())}"
            )
        return super().execute(sql, *more)


def reads_rows(sql: str) -> bool:
    """Whether a statement reads rows and writes none (pure)."""
    return sql.lstrip()[:6].upper().startswith(("SELECT", "WITH", "VALUES"))


def _is_ours() -> bool:
    """Whether the first caller outside of the store is a module of this program."""
    frame = sys._getframe(2)  # noqa: SLF001 - the caller of `execute`
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(
        ("hvtx.store.", "contextlib")
    ):
        frame = frame.f_back
    return str(frame.f_globals["__name__"]).startswith("hvtx.")
