"""Connections to the database file, and what its header must say before it is read.

The file is opened read-write by writers and ``mode=ro`` by readers; a reader of a read-only or
full file system gets a copy in memory.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
import os

from hvtx.errors import Refused, StoreError
from hvtx.migrations import APPLICATION_ID, SCHEMA
from hvtx.store import reserve
from hvtx.store.errors import forbidden, not_writable, translate, untrusted

_MEMORY = "/dev/shm"  # noqa: S108 - a directory of nobody else's is made in it
_COPIES = 5  # attempts at a copy that nobody writes under


def uri(path: str) -> str:
    """A path as SQLite wants it (sqlite.org/uri.html); urllib would cost 3 ms to load."""
    quoted = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file://{quoted}"


def connect(path: str, *, writable: bool, seconds: float) -> sqlite3.Connection:
    """A connection to the database at ``path``, which exists; a reader may get a copy of it.

    Raises NotPermitted, StoreError, Refused, Busy.
    """
    mode = "rw" if writable else "ro"
    connection = None
    try:
        connection = sqlite3.connect(
            f"{uri(path)}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=seconds,
            factory=_factory(),
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
    except (sqlite3.Error, UnicodeDecodeError) as problem:
        if connection is not None:
            connection.close()
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        if not writable and (read_only or reserve.is_low(os.path.dirname(path))):
            return _copy_of(path)
        if read_only:
            raise not_writable(path, str(problem)) from problem
        if not os.access(path, os.R_OK | (os.W_OK if writable else 0)):
            raise forbidden(path) from problem
        raise translate(problem, path) from problem
    return connection


def connect_plainly(path: str) -> sqlite3.Connection:
    """A connection to a database that is nobody's store (yet): a draft, a backup being made."""
    return sqlite3.connect(f"{uri(path)}?mode=rw", uri=True, isolation_level=None)


def _factory() -> type[sqlite3.Connection]:
    """The class of connections: one that watches how it is used, where tests want that."""
    if not os.environ.get("HVTX_VERIFY"):
        return sqlite3.Connection
    from hvtx.store.strict import StrictConnection

    return StrictConnection


def _copy_of(path: str) -> sqlite3.Connection:
    """The store's content in memory, for readers on a read-only or a full file system.

    SQLite needs a file beside a WAL database to read it (sqlite.org/wal.html, "Read-Only
    Databases"), or a promise that nobody changes it, which another mount may break. So file and
    log are copied, by one look that nothing changed under, and SQLite reads the copy. Raises
    StoreError.
    """
    import shutil
    import tempfile

    names = [name for name in (path, path + "-wal") if os.path.exists(name)]
    try:
        # memory first: what is full may be the disk of all other places
        shared = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
        with tempfile.TemporaryDirectory(prefix="hvtx-", dir=shared) as place:
            for _ in range(_COPIES):
                before = [(seen.st_size, seen.st_mtime_ns) for seen in map(os.stat, names)]
                for name in names:
                    shutil.copyfile(name, os.path.join(place, os.path.basename(name)))
                if before == [(seen.st_size, seen.st_mtime_ns) for seen in map(os.stat, names)]:
                    break
            else:
                raise StoreError(f"{path} changes too fast to be read", hint="try again")
            memory = sqlite3.connect(":memory:", isolation_level=None)
            try:
                copy = sqlite3.connect(os.path.join(place, os.path.basename(path)))
                try:
                    copy.backup(memory)
                finally:
                    copy.close()
            except sqlite3.Error:
                memory.close()
                raise
    except (OSError, sqlite3.Error) as problem:
        raise StoreError(
            f"{path} is on a read-only or full file system and cannot be read: {problem}",
            hint="remount it read-write or free some space; or point TMPDIR to where there is room"
            " for a copy",
        ) from problem
    return memory


def version_of(connection: sqlite3.Connection) -> int:
    """The number of the schema."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_older(connection: sqlite3.Connection) -> bool:
    """Whether an older program made the schema: it is migrated before it is written."""
    return bool(version_of(connection) < SCHEMA)


# What a reader has instead of what a later schema brought: by the schema's number.
_STAND_INS = {
    4: (
        "CREATE TEMP VIEW network AS SELECT *, '{}' AS settings FROM main.network",
        "CREATE TEMP VIEW lease AS SELECT *, 0 AS position FROM main.lease",
    ),
    6: (
        (
            "CREATE TEMP VIEW tombstone (id, nonce, operation, life, vm, shape, own) AS"
            " SELECT 0, '', 0, 0, NULL, 0, NULL WHERE 0"
        ),
        "CREATE TEMP VIEW shape (id, kind, network, spec) AS SELECT 0, '', NULL, '' WHERE 0",
    ),
    7: (
        (
            "CREATE TEMP VIEW attachment (vm, network, container, ifname, netns, pod,"
            " pod_namespace, pod_uid) AS SELECT '', '', '', '', '', '', '', '' WHERE 0"
        ),
    ),
    8: (
        (
            "CREATE TEMP VIEW block (id, nonce, network, subnet, size, length, cidr, start, state,"
            " since, kept) AS SELECT 0, '', '', '', 0, 0, NULL, NULL, '', '', 0 WHERE 0"
        ),
        (
            "CREATE TEMP VIEW cluster (id, identity, revision, doubted, machine) AS"
            " SELECT 1, NULL, 0, 0, NULL"
        ),
    ),
    9: (("CREATE TEMP VIEW IF NOT EXISTS cluster AS SELECT *, NULL AS machine FROM main.cluster"),),
}


def read_as_newest(connection: sqlite3.Connection) -> None:
    """Let a reader of an older program's store find what this program asks for.

    Views of the connection alone go before the tables (sqlite.org/lang_naming.html); the file is
    not changed.
    """
    version = version_of(connection)
    for number, statements in _STAND_INS.items():
        for statement in statements if version < number else ():
            connection.execute(statement)


def check_header(connection: sqlite3.Connection, path: str) -> None:
    """Refuse what is no finished store, or a newer program's; raises Refused."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    if found != APPLICATION_ID:
        raise untrusted(path, f"it is not a store of hvtx (application_id {found:#x})")
    version = version_of(connection)
    if version < 1:
        raise untrusted(path, "it was never finished")
    refuse_newer(version, path)


def refuse_newer(version: int, path: str) -> None:
    """Also in each transaction: a newer program may migrate the store while this one runs."""
    if version > SCHEMA:
        raise Refused(
            "store-newer",
            f"{path} was written by a newer hvtx (schema {version}, this program knows {SCHEMA})",
            hint="upgrade hvtx; nothing was changed",
        )
