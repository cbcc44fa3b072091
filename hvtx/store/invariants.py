"""What the protocol promises of the store, as queries; all tests ask them after each operation."""

from __future__ import annotations

import _sqlite3 as sqlite3

# What must never be so, whatever was killed and whenever: a sentence, and the rows that break it.
INVARIANTS = (
    (
        "an operation that was done left nothing intended of its own",
        (
            "SELECT r.id FROM resource r JOIN operation o ON o.id = r.operation"
            " WHERE r.state = 'intended' AND o.ended IS NOT NULL AND o.result = 'done'"
        ),
    ),
    (
        "a committed row of a VM belongs to a VM on record",
        (
            "SELECT id FROM resource WHERE state = 'committed' AND vm IS NOT NULL"
            " AND vm NOT IN (SELECT id FROM vm)"
        ),
    ),
    (
        "a committed row of a network belongs to a network on record",
        (
            "SELECT id FROM resource WHERE state = 'committed' AND network IS NOT NULL"
            " AND network NOT IN (SELECT id FROM network)"
        ),
    ),
    (
        "a network that is whole, and that nobody makes or removes, is on record for good",
        (
            "SELECT min(r.id) FROM network n JOIN operation o ON o.id = n.operation"
            " JOIN resource r ON r.network = n.id"
            " WHERE o.ended IS NOT NULL AND r.state <> 'released'"
            " GROUP BY n.id HAVING sum(r.state <> 'committed') = 0"
        ),
    ),
    (
        "a lease's row has its lease",
        (
            "SELECT id FROM resource WHERE kind = 'lease' AND state <> 'released'"
            " AND key NOT IN (SELECT address FROM lease)"
        ),
    ),
    (
        "a VM, or a network, has at most one process that counts",
        (
            "SELECT min(id) FROM resource WHERE kind = 'process' AND state = 'committed'"
            " GROUP BY vm, network, life HAVING count(*) > 1"
        ),
    ),
    (
        "an operation that was done left nothing releasing of its own",
        (
            "SELECT r.id FROM resource r JOIN operation o ON o.id = r.operation"
            " WHERE r.state = 'releasing' AND o.result = 'done'"
        ),
    ),
)


def violations(sql: sqlite3.Connection) -> list[str]:
    """The protocol's invariants that the store breaks; empty, always."""
    broken = []
    for invariant, query in INVARIANTS:
        rows = [str(row[0]) for row in sql.execute(query)]
        if rows:
            broken.append(f"{invariant}: rows {', '.join(rows)}")
    return broken
