"""What a network and an interface are set to, and several addresses of a family on one interface.

``settings`` is a JSON object: what is looked at as a whole, and never searched for.
"""

STATEMENTS = (
    "ALTER TABLE network ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'",
    """
    CREATE TABLE lease_of_several (
        address TEXT PRIMARY KEY,
        interface INTEGER NOT NULL REFERENCES interface (id) ON DELETE CASCADE,
        network TEXT NOT NULL REFERENCES network (id),
        family INTEGER NOT NULL CHECK (family IN (4, 6)),
        offset INTEGER,
        position INTEGER NOT NULL DEFAULT 0 CHECK (position >= 0),
        UNIQUE (interface, family, position)
    ) STRICT
    """,
    """
    INSERT INTO lease_of_several (address, interface, network, family, offset)
    SELECT address, interface, network, family, offset FROM lease
    """,
    "DROP TABLE lease",
    "ALTER TABLE lease_of_several RENAME TO lease",
    "CREATE INDEX lease_offset ON lease (network, family, offset)",
)
