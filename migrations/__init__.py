"""The store's schema as a forward-only list; the position in the list is the schema number.

A migration that has shipped is never edited. Each is applied in one transaction together with its
record (sqlite-utils) and with ``PRAGMA user_version``.
"""

from hvtx.migrations import (
    m0001_initial,
    m0002_history,
    m0003_live_rows,
    m0004_networks_for_guests,
    m0005_ports_by_interface,
    m0006_bounded_past,
    m0007_attachments,
)

APPLICATION_ID = 0x68767478  # "hvtx"
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("0001_initial", m0001_initial.STATEMENTS),
    ("0002_history", m0002_history.STATEMENTS),
    ("0003_live_rows", m0003_live_rows.STATEMENTS),
    ("0004_networks_for_guests", m0004_networks_for_guests.STATEMENTS),
    ("0005_ports_by_interface", m0005_ports_by_interface.STATEMENTS),
    ("0006_bounded_past", m0006_bounded_past.STATEMENTS),
    ("0007_attachments", m0007_attachments.STATEMENTS),
)
SCHEMA = len(MIGRATIONS)
