"""The table ``resource``: one row for each thing in the host; released ones are tombstones."""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterable, Sequence

from hvtx.model.resource import Kind, RawResource, Resource, State
from hvtx.model.typed import Any
from hvtx.store import tombstone
from hvtx.store.codec import decode, decode_all
from hvtx.store.raw_rows import decoded

_COLUMNS = "id, kind, key, state, mark, spec, observed, operation, life, vm, network"
_FILTER, _EGRESS = Kind.FILTER.value, '"egress"'
_VETH = Kind.VETH.value
_PROVING = (Kind.PROCESS.value, Kind.NETNS.value, _VETH)  # by which a VM lives
_CHUNK = 500  # bound values of a statement; SQLite's own limit is higher everywhere


def _resource(row: tuple[Any, ...]) -> Resource:
    return Resource._make((*row[:5], decode(row[5]), decode(row[6]), *row[7:]))


def _found(sql: sqlite3.Connection, where: str, values: Sequence[Any] = ()) -> list[Resource]:
    """Live rows that fit ``where``, which is a constant, in the order in which they were intended.

    The first condition is that of the table's indexes, word for word: with it SQLite passes over
    all tombstones (sqlite.org/partialindex.html).
    """
    rows = sql.execute(
        f"SELECT {_COLUMNS} FROM resource WHERE state <> 'released' AND {where} ORDER BY id", values
    )
    return decoded(rows.fetchall())


def raw_resources(sql: sqlite3.Connection) -> list[RawResource]:
    """The same as :func:`resources`, with ``spec`` and ``observed`` as text (`store.raw_rows`)."""
    return sql.execute(
        f"SELECT {_COLUMNS} FROM resource WHERE state <> 'released' ORDER BY id"
    ).fetchall()


def resources_in_brief(sql: sqlite3.Connection) -> list[Resource]:
    """All live rows: ``observed`` of what a VM lives by, ``spec`` of what a list tells.

    By processes, and by namespaces and the cookie of one, which stands at its veth pair. ``spec``
    is that of egress policies, and of these pairs, whose peer is looked for by its number. The
    others' are empty: a list of 5,000 VMs has no use for 25,000 of them.
    """
    raw = sql.execute(
        "SELECT id, kind, key, state, mark,"
        " CASE WHEN kind = ? OR kind = ? AND instr(spec, ?) THEN spec ELSE '{}' END,"
        " CASE WHEN kind IN (?, ?, ?) THEN observed ELSE '{}' END,"
        " operation, life, vm, network"
        " FROM resource WHERE state <> 'released' ORDER BY id",
        (_VETH, _FILTER, _EGRESS, *_PROVING),
    ).fetchall()
    specs, learnt = decode_all([row[5] for row in raw]), decode_all([row[6] for row in raw])
    return [
        Resource._make((*row[:5], spec, observed, *row[7:]))
        for row, spec, observed in zip(raw, specs, learnt, strict=True)
    ]


def resource_counts(sql: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """How many live rows there are of each kind and state."""
    rows = sql.execute(
        "SELECT kind, state, count(*) FROM resource WHERE state <> 'released' GROUP BY kind, state"
    )
    return {(kind, state): count for kind, state, count in rows}


def resources(sql: sqlite3.Connection) -> list[Resource]:
    """All live rows (no tombstones), in the order in which they were intended, as all of these."""
    return _found(sql, "1")


def resources_of_vm(sql: sqlite3.Connection, vm: str) -> list[Resource]:
    """The live rows of one VM (by id)."""
    return _found(sql, "vm = ?", (vm,))


def resources_of_vms(sql: sqlite3.Connection) -> list[Resource]:
    """The live rows of all VMs."""
    return _found(sql, "vm IS NOT NULL")


def resources_of_network(sql: sqlite3.Connection, network: str | None) -> list[Resource]:
    """The live rows of one network itself, or (None) of the installation."""
    if network is None:
        return _found(sql, "vm IS NULL AND network IS NULL")
    return _found(sql, "vm IS NULL AND network = ?", (network,))


def resources_of_networks(
    sql: sqlite3.Connection, networks: Iterable[str] | None = None
) -> list[Resource]:
    """The live rows of networks themselves, and of the installation; None: of all networks."""
    if networks is None:
        return _found(sql, "vm IS NULL")
    wanted = tuple(networks)
    # one statement for both would read the rows of all networks: no index fits its condition
    own = _found(sql, f"vm IS NULL AND network IN ({','.join('?' * len(wanted))})", wanted)
    return resources_of_network(sql, None) + own


def are_of_earlier_lives(sql: sqlite3.Connection, marks: Iterable[str], life: int) -> bool:
    """Whether a row with one of these marks, a tombstone too, was made in another life."""
    wanted = list(marks)
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        found = sql.execute(
            f"SELECT 1 FROM resource WHERE mark IN ({','.join('?' * len(part))}) AND life <> ?",
            (*part, life),
        )
        if found.fetchone() is not None:
            return True
    return any(row.life != life for row in tombstone.by_mark(sql, wanted).values())


def firewall_rows_of_vms(sql: sqlite3.Connection, network: str) -> list[Resource]:
    """The live firewall rows of the VMs in a network."""
    kinds = "kind IN ('filter', 'masquerade', 'publish')"
    return _found(sql, f"vm IS NOT NULL AND network = ? AND {kinds}", (network,))


def egress_rows(sql: sqlite3.Connection) -> list[Resource]:
    """The live rows of egress policies, of networks and of VMs."""
    # JSON is taken apart only of rows that have the word: of thousands of filters few
    what = "CASE WHEN instr(spec, ?) THEN json_extract(spec, '$.what') = 'egress' END"
    return _found(sql, f"kind = ? AND {what}", (_FILTER, _EGRESS))


def resources_of_life(sql: sqlite3.Connection, life: int) -> list[Resource]:
    """The live rows that were made in one life of the host."""
    return _found(sql, "life = ?", (life,))


def resources_of_kind(sql: sqlite3.Connection, *kinds: Kind) -> list[Resource]:
    """The live rows of these kinds."""
    return _found(sql, f"kind IN ({','.join('?' * len(kinds))})", kinds)


def devices_called(sql: sqlite3.Connection, kind: Kind, key: str) -> list[Resource]:
    """The live rows of one kind, of devices, with this key.

    The first condition is that of their index, word for word.
    """
    return _found(sql, "kind IN ('tap', 'veth', 'bridge') AND kind = ? AND key = ?", (kind, key))


def processes_of_vm(sql: sqlite3.Connection, vm: str) -> list[Resource]:
    """The live rows of a VM's processes."""
    return _found(sql, f"vm = ? AND kind = '{Kind.PROCESS}'", (vm,))


def evidence_of_vms(sql: sqlite3.Connection, vms: Iterable[str]) -> list[Resource]:
    """The live rows by which VMs live: of processes, of a namespace and of what is in it."""
    kinds = f"'{Kind.PROCESS}', '{Kind.NETNS}', '{Kind.VETH}'"
    wanted = list(vms)
    found: list[Resource] = []
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        marks = ",".join("?" * len(part))
        found += _found(sql, f"vm IN ({marks}) AND kind IN ({kinds})", part)
    return found


def published_in(sql: sqlite3.Connection, network: str | None) -> list[Resource]:
    """The live rows of ports that are published for guests of a network; None: of no network's."""
    return _found(sql, f"kind = '{Kind.PUBLISH}' AND network IS ?", (network,))


def committed_resources(sql: sqlite3.Connection, *kinds: Kind) -> list[Resource]:
    """The committed rows of these kinds."""
    marks = ",".join("?" * len(kinds))
    return _found(sql, f"state = '{State.COMMITTED}' AND kind IN ({marks})", kinds)


def half_done_resources(sql: sqlite3.Connection) -> list[Resource]:
    """The rows that some operation is making or removing, or was when it was interrupted."""
    return _found(sql, f"state IN ('{State.INTENDED}', '{State.RELEASING}')")


def resources_by_id(sql: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Resource]:
    """Rows by id, tombstones included."""
    wanted = list(ids)
    found: dict[int, Resource] = {}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        rows = sql.execute(
            f"SELECT {_COLUMNS} FROM resource WHERE id IN ({','.join('?' * len(part))})", part
        )
        found.update((row.id, row) for row in decoded(rows.fetchall()))
    missing = [identity for identity in wanted if identity not in found]
    return found | tombstone.by_id(sql, missing) if missing else found


def marks_on_record(sql: sqlite3.Connection, marks: Iterable[str]) -> set[str]:
    """Those of these marks that a live row has."""
    wanted, found = list(marks), set[str]()
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        found.update(
            row.mark for row in _found(sql, f"mark IN ({','.join('?' * len(part))})", part)
        )
    return found


def tombstones(sql: sqlite3.Connection, marks: Iterable[str]) -> dict[str, Resource]:
    """Released rows that had one of these marks."""
    wanted = list(marks)
    found: dict[str, Resource] = {}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        rows = sql.execute(
            f"SELECT {_COLUMNS} FROM resource WHERE state = 'released'"
            f" AND mark IN ({','.join('?' * len(part))})",
            part,
        )
        found.update((row[4], _resource(row)) for row in rows)
    missing = [mark for mark in wanted if mark not in found]
    return found | tombstone.by_mark(sql, missing) if missing else found


def tombstone_count(sql: sqlite3.Connection) -> int:
    """How many marks of released resources are kept."""
    whole = sql.execute("SELECT count(*) FROM resource WHERE state = 'released'").fetchone()[0]
    return int(whole) + tombstone.count(sql)


def whereabouts(
    sql: sqlite3.Connection, ids: Iterable[int]
) -> dict[int, tuple[str, int, dict[str, Any]]]:
    """State, operation and what was learnt of rows, by id, tombstones included."""
    wanted = list(ids)
    found: dict[int, tuple[str, int, dict[str, Any]]] = {}
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        found.update(
            (row[0], (row[1], row[2], decode(row[3])))
            for row in sql.execute(
                "SELECT id, state, operation, observed FROM resource"
                f" WHERE id IN ({','.join('?' * len(part))})",
                part,
            )
        )
    missing = [identity for identity in wanted if identity not in found]
    for row in tombstone.by_id(sql, missing).values() if missing else ():
        found[row.id] = (row.state, row.operation, dict(row.observed))
    return found
