"""The first schema. What may exist once is unique here, not in the code that inserts.

Times are RFC 3339 in UTC. ``resource.vm`` and ``resource.network`` hold ids without a foreign key,
because tombstones (state ``released``) outlive the VM: their marks are what proves later that a
rule brought back by someone's restore is ours.
"""

STATEMENTS = (
    """
    CREATE TABLE life (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        boot_id TEXT NOT NULL,
        netns INTEGER NOT NULL,
        began TEXT NOT NULL,
        recovered_at TEXT,
        UNIQUE (boot_id, netns)
    ) STRICT
    """,
    """
    CREATE TABLE meta (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        installation TEXT NOT NULL CHECK (length(installation) = 10),
        seq INTEGER NOT NULL CHECK (seq >= 0),
        life INTEGER REFERENCES life (id),
        path TEXT NOT NULL,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE operation (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        verb TEXT NOT NULL,
        vm TEXT,
        network TEXT,
        life INTEGER NOT NULL REFERENCES life (id),
        writer_boot TEXT NOT NULL,
        writer_pid INTEGER NOT NULL,
        writer_start INTEGER NOT NULL,
        began TEXT NOT NULL,
        ended TEXT,
        result TEXT CHECK (result IN ('done', 'undone', 'partial'))
    ) STRICT
    """,
    "CREATE INDEX operation_open ON operation (id) WHERE ended IS NULL",
    """
    CREATE TABLE network (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        bridge TEXT NOT NULL UNIQUE,
        mac TEXT NOT NULL UNIQUE,
        mtu INTEGER NOT NULL CHECK (mtu BETWEEN 68 AND 65535),
        nat INTEGER NOT NULL CHECK (nat IN (0, 1)),
        isolate INTEGER NOT NULL CHECK (isolate IN (0, 1)),
        firewall TEXT NOT NULL CHECK (firewall IN ('nftables', 'iptables')),
        gateway6 TEXT,
        operation INTEGER REFERENCES operation (id)
    ) STRICT
    """,
    """
    CREATE TABLE subnet (
        network TEXT NOT NULL REFERENCES network (id) ON DELETE CASCADE,
        family INTEGER NOT NULL CHECK (family IN (4, 6)),
        cidr TEXT NOT NULL UNIQUE,
        gateway TEXT NOT NULL UNIQUE,
        PRIMARY KEY (network, family)
    ) STRICT
    """,
    """
    CREATE TABLE vm (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        hypervisor TEXT NOT NULL,
        spec TEXT NOT NULL,
        autostart INTEGER NOT NULL CHECK (autostart IN (0, 1)),
        operation INTEGER REFERENCES operation (id)
    ) STRICT
    """,
    """
    CREATE TABLE interface (
        id INTEGER PRIMARY KEY,
        vm TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE,
        position INTEGER NOT NULL CHECK (position >= 0),
        network TEXT NOT NULL REFERENCES network (id),
        mac TEXT NOT NULL UNIQUE,
        UNIQUE (vm, position)
    ) STRICT
    """,
    "CREATE INDEX interface_network ON interface (network)",
    # `offset` counts from the subnet's base address; NULL where it does not fit 62 bits (IPv6),
    # which only takes the address out of the search for the lowest free one.
    """
    CREATE TABLE lease (
        address TEXT PRIMARY KEY,
        interface INTEGER NOT NULL REFERENCES interface (id) ON DELETE CASCADE,
        network TEXT NOT NULL REFERENCES network (id),
        family INTEGER NOT NULL CHECK (family IN (4, 6)),
        offset INTEGER,
        UNIQUE (interface, family)
    ) STRICT
    """,
    "CREATE INDEX lease_offset ON lease (network, family, offset)",
    """
    CREATE TABLE port (
        id INTEGER PRIMARY KEY,
        interface INTEGER NOT NULL REFERENCES interface (id) ON DELETE CASCADE,
        protocol TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
        host_ip TEXT,
        host_port INTEGER NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
        guest_port INTEGER NOT NULL CHECK (guest_port BETWEEN 1 AND 65535)
    ) STRICT
    """,
    "CREATE INDEX port_host ON port (protocol, host_port)",
    # UNIQUE would let two rows with a NULL host address pass, and an address beside a NULL.
    """
    CREATE TRIGGER port_taken BEFORE INSERT ON port
    WHEN EXISTS (
        SELECT 1 FROM port
        WHERE protocol = NEW.protocol AND host_port = NEW.host_port
        AND (host_ip IS NULL OR NEW.host_ip IS NULL OR host_ip = NEW.host_ip)
    )
    BEGIN
        SELECT RAISE(ABORT, 'port taken');
    END
    """,
    """
    CREATE TABLE resource (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL CHECK (kind IN ('tap', 'bridge', 'address', 'masquerade', 'publish',
            'filter', 'lease', 'process', 'sysctl', 'file')),
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
    "CREATE INDEX resource_vm ON resource (vm) WHERE state <> 'released'",
    # without the rows of VMs, which are as many as there are VMs in the network
    """
    CREATE INDEX resource_network ON resource (network)
    WHERE state <> 'released' AND vm IS NULL
    """,
    "CREATE INDEX resource_operation ON resource (operation) WHERE state <> 'released'",
    """
    CREATE UNIQUE INDEX resource_device ON resource (key)
    WHERE state <> 'released' AND kind IN ('tap', 'bridge')
    """,
    # The protocol's arrows; nothing else may move a row, not even a hand with sqlite3.
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
    """
    CREATE TABLE attempt (
        life INTEGER NOT NULL REFERENCES life (id),
        vm TEXT NOT NULL,
        PRIMARY KEY (life, vm)
    ) STRICT
    """,
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        time TEXT NOT NULL,
        operation INTEGER,
        verb TEXT NOT NULL,
        vm TEXT,
        kind TEXT,
        key TEXT,
        event TEXT NOT NULL,
        reason TEXT,
        message TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX history_vm ON history (vm, id)",
)
