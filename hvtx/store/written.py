"""What a transaction wrote, to be written once more where its commit found no room.

SQLite rolls back what it cannot commit, and who wrote it has gone on by then: half of a command
cannot be begun anew. So whoever ends or frees something has its statements kept until they are
committed. As nobody else writes meanwhile, they do the same again.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterable, Mapping

from hvtx.model.typed import Any


class Written:
    """Stands for a connection inside a transaction, and keeps each statement that may write."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Nothing is kept yet; ``connection`` has begun, or is about to."""
        self._connection = connection
        self._kept: list[tuple[str, Any, bool]] = []  # a statement, its values, if they are many

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        """As sqlite3 has it."""
        own = _own(values)
        done = self._connection.execute(statement, own)
        if not statement.startswith("SELECT"):
            self._kept.append((statement, own, False))
        return done

    def executemany(self, statement: str, values: Iterable[Any]) -> sqlite3.Cursor:
        """As sqlite3 has it."""
        own = [_own(each) for each in values]
        done = self._connection.executemany(statement, own)
        self._kept.append((statement, own, True))
        return done

    def write_again(self) -> None:
        """Carry out what was kept, in its order. Raises what SQLite raises."""
        for statement, values, many in self._kept:
            if many:
                self._connection.executemany(statement, values)
            else:
                self._connection.execute(statement, values).fetchall()  # ended before the commit


def _own(values: Any) -> Any:
    """Values that whoever gave them does not change any more."""
    return dict(values) if isinstance(values, Mapping) else tuple(values)
