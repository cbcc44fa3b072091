"""The past takes little room: what was released long ago is kept in few words.

``tombstone`` has what of a released row a mark is told by; what many of them have in common stands
once, in ``shape``. ``history.packed`` is ``history.detail`` made small (zlib). The index of
operations speaks of all rows now, since SQLite asks it whether an operation may go.
"""

STATEMENTS = (
    """
    CREATE TABLE shape (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        network TEXT,
        spec TEXT NOT NULL
    ) STRICT
    """,
    "CREATE UNIQUE INDEX shape_once ON shape (kind, spec, coalesce(network, ''))",
    """
    CREATE TABLE tombstone (
        id INTEGER PRIMARY KEY,
        nonce TEXT NOT NULL,
        operation INTEGER NOT NULL,
        life INTEGER NOT NULL,
        vm ANY,
        shape INTEGER NOT NULL,
        own TEXT
    ) STRICT
    """,
    "CREATE INDEX resource_released ON resource (id) WHERE state = 'released'",
    "DROP INDEX resource_operation",
    "CREATE INDEX resource_operation ON resource (operation)",
    "CREATE INDEX vm_operation ON vm (operation)",
    "CREATE INDEX network_operation ON network (operation)",
    "ALTER TABLE history ADD COLUMN packed BLOB",
)
