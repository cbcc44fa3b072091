"""Interfaces of containers, each of which a VM of the hypervisor ``cni`` stands for.

A runtime tells one by three things, with each of its requests; the rest is for people. The rows of
``resource`` may be of two kinds more, which a CHECK of SQLite's cannot learn without a new table.
Numbers go on where they were: a mark names its row, whether that is still there or not.
"""

STATEMENTS = (
    """
    CREATE TABLE attachment (
        vm TEXT PRIMARY KEY REFERENCES vm (id) ON DELETE CASCADE,
        network TEXT NOT NULL,
        container TEXT NOT NULL,
        ifname TEXT NOT NULL,
        netns TEXT NOT NULL,
        pod TEXT NOT NULL,
        pod_namespace TEXT NOT NULL,
        pod_uid TEXT NOT NULL,
        UNIQUE (network, container, ifname)
    ) STRICT
    """,
    """
    CREATE TABLE resource_of_more_kinds (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL CHECK (kind IN ('tap', 'veth', 'netns', 'bridge', 'address',
            'masquerade', 'publish', 'filter', 'lease', 'process', 'sysctl', 'file')),
        key TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('intended', 'committed', 'releasing', 'released')),
        mark TEXT NOT NULL UNIQUE,
        spec TEXT NOT NULL,
        observed TEXT NOT NULL DEFAULT '{}',
        operation INTEGER NOT NULL REFERENCES operation (id),
        life INTEGER NOT NULL REFERENCES life (id),
        vm TEXT,
        network TEXT
    ) STRICT
    """,
    """
    INSERT INTO resource_of_more_kinds
        (id, kind, key, state, mark, spec, observed, operation, life, vm, network)
    SELECT id, kind, key, state, mark, spec, observed, operation, life, vm, network FROM resource
    """,
    "DELETE FROM sqlite_sequence WHERE name = 'resource_of_more_kinds'",
    """
    INSERT INTO sqlite_sequence (name, seq)
    SELECT 'resource_of_more_kinds', seq FROM sqlite_sequence WHERE name = 'resource'
    """,
    "DROP TABLE resource",
    "ALTER TABLE resource_of_more_kinds RENAME TO resource",
    "CREATE INDEX resource_vm ON resource (vm) WHERE state <> 'released'",
    """
    CREATE INDEX resource_network ON resource (network)
    WHERE state <> 'released' AND vm IS NULL
    """,
    """
    CREATE UNIQUE INDEX resource_device ON resource (key)
    WHERE state <> 'released' AND kind IN ('tap', 'veth', 'bridge')
    """,
    "CREATE INDEX resource_live ON resource (id) WHERE state <> 'released'",
    "CREATE INDEX resource_released ON resource (id) WHERE state = 'released'",
    "CREATE INDEX resource_operation ON resource (operation)",
    """
    CREATE TRIGGER resource_transition BEFORE UPDATE OF state ON resource
    WHEN NOT (
        OLD.state = NEW.state
        OR (OLD.state = 'intended' AND NEW.state IN ('committed', 'releasing', 'released'))
        OR (OLD.state = 'committed' AND NEW.state IN ('releasing', 'released'))
        OR (OLD.state = 'releasing' AND NEW.state = 'released')
    )
    BEGIN
        SELECT RAISE(ABORT, 'no such transition');
    END
    """,
)
