"""The store's schema as a forward-only list; the position in the list is the schema number.

A migration that has shipped is never edited. Each is applied in one transaction together with its
record (sqlite-utils) and with ``PRAGMA user_version``. Its statements are loaded with the first
who asks for ``MIGRATIONS``: whoever opens a store of today needs its number alone.
"""

APPLICATION_ID = 0x68767478  # "hvtx"
_MODULES = (
    "m0001_initial",
    "m0002_history",
    "m0003_live_rows",
    "m0004_networks_for_guests",
    "m0005_ports_by_interface",
    "m0006_bounded_past",
    "m0007_attachments",
    "m0008_blocks",
    "m0009_machine_of_blocks",
)
SCHEMA = len(_MODULES)
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...]


def __getattr__(name: str) -> object:
    """``MIGRATIONS``: name and statements of each."""
    if name != "MIGRATIONS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    made = tuple(
        (module[1:], tuple(import_module(f"{__name__}.{module}").STATEMENTS)) for module in _MODULES
    )
    globals()[name] = made
    return made
