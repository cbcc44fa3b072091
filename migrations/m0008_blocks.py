"""Blocks of addresses that this host has from a cluster, each with the claim that it was asked by.

A row is there, without a block, before the cluster is asked (``intended``). Its number and nonce
are the token of the claim; numbers are never given twice. ``start`` is how far the block is from
the beginning of its subnet, as ``lease.offset`` is. ``cluster`` is one row: which etcd it was, how
far it had come, and whether the blocks on record are in doubt since the store is an older one. What
an older store had is ``kept`` after that: guests that it does not know may have addresses of it.
"""

STATEMENTS = (
    """
    CREATE TABLE block (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        nonce TEXT NOT NULL,
        network TEXT NOT NULL,
        subnet TEXT NOT NULL,
        size INTEGER NOT NULL,
        length INTEGER NOT NULL,
        cidr TEXT,
        start INTEGER,
        state TEXT NOT NULL CHECK (state IN ('intended', 'committed', 'releasing', 'lost')),
        since TEXT NOT NULL,
        kept INTEGER NOT NULL DEFAULT 0,
        CHECK ((cidr IS NULL) = (state = 'intended')),
        CHECK ((cidr IS NULL) = (start IS NULL))
    ) STRICT
    """,
    "CREATE UNIQUE INDEX block_cidr ON block (cidr)",
    """
    CREATE TRIGGER block_begins BEFORE INSERT ON block WHEN NEW.state != 'intended'
    BEGIN SELECT RAISE(ABORT, 'a block begins as intended'); END
    """,
    """
    CREATE TRIGGER block_moves BEFORE UPDATE OF state ON block
    WHEN (OLD.state || '>' || NEW.state) NOT IN (
        'intended>committed', 'committed>releasing', 'committed>lost', 'lost>releasing'
    )
    BEGIN SELECT RAISE(ABORT, 'a block cannot move so'); END
    """,
    """
    CREATE TRIGGER block_in_use BEFORE UPDATE OF state ON block
    WHEN NEW.state = 'releasing' AND NEW.kept
    BEGIN SELECT RAISE(ABORT, 'a block of an older store does not go back by itself'); END
    """,
    """
    CREATE TRIGGER block_leased BEFORE UPDATE OF state ON block
    WHEN NEW.state = 'releasing' AND EXISTS (
        SELECT 1 FROM network n JOIN lease l ON l.network = n.id
        WHERE n.name = NEW.network AND l.offset BETWEEN NEW.start AND NEW.start + NEW.length - 1
    )
    BEGIN SELECT RAISE(ABORT, 'a block with leases does not go back'); END
    """,
    """
    CREATE TABLE cluster (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        identity TEXT,
        revision INTEGER NOT NULL,
        doubted INTEGER NOT NULL
    ) STRICT
    """,
    "INSERT INTO cluster VALUES (1, NULL, 0, 0)",
)
