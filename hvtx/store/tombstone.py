"""The table ``tombstone``: what was released long ago, in few words.

A released row is kept so that an object is known by its mark whenever somebody's restore brings it
back: whole at first, later as a tombstone. That is the same row, as far as anything is ever judged
or removed by it: its mark with its nonce, kind, key, VM, network, life, operation, specification.
What was observed of it goes. A specification differs from that of the VM's other starts in a few
values; these stand in ``own``, in the order of ``_VARYING``, and the rest once in ``shape``.
"""

from __future__ import annotations

import _sqlite3 as sqlite3
from collections.abc import Iterable, Iterator, Mapping

from hvtx.model import json_text
from hvtx.model.mark import NONCE_LENGTH, Mark, parse_mark
from hvtx.model.resource import Resource, State
from hvtx.model.typed import Any
from hvtx.store.codec import decode_all, legible

_CHUNK = 500  # bound values of a statement
_VARYING: tuple[tuple[str, ...], ...] = (("device",), ("ifindex",), ("mac",), ("guard", "mac"))
_OWN = ["own"]  # in a shape: the value is the row's own
_KEY = "key"  # in a shape: the row's key, where that is not its device
_IDENTITY = 32  # hexadecimal digits of a VM's id


def _holder(said: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any] | None:
    """The object that has the last name of ``path``, if it is there."""
    at: Any = said
    for name in path[:-1]:
        at = at.get(name)
        if not isinstance(at, dict):
            return None
    return at if path[-1] in at else None


def _parted(key: str, said: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What a row has in common with others, ``said`` itself in it, and what it has for itself."""
    common: dict[str, Any] = {"spec": said}
    named = said.get("device") == key
    own: list[Any] = []
    for path in _VARYING:
        holder = _holder(said, path)
        if holder is not None:
            own.append(holder[path[-1]])
            holder[path[-1]] = _OWN
    if not own or not named:
        common[_KEY] = key
    return common, own


def _joined(common: Mapping[str, Any], own: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """Key and specification of a row, from its two parts (pure)."""
    said: dict[str, Any] = common["spec"]
    values = iter(own)
    for path in _VARYING:
        holder = _holder(said, path)
        if holder is not None and holder[path[-1]] == _OWN:
            holder[path[-1]] = next(values)
    return str(common.get(_KEY) or said.get("device") or ""), said


def _nonce(identity: int, mark: str) -> str:
    """What of a mark the row's number does not say: its nonce, or all of one of another form."""
    parsed = parse_mark(mark)
    if isinstance(parsed, Mark) and parsed.token[:-NONCE_LENGTH] == f"{identity}.":
        return parsed.token[-NONCE_LENGTH:]
    return mark


def bury(sql: sqlite3.Connection, *, keep: int, most: int) -> int:
    """Make tombstones of released rows, but of the newest ``keep`` numbers; how many, ``most``."""
    newest = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'resource'").fetchone()
    rows = sql.execute(
        "SELECT id, kind, key, mark, spec, operation, life, vm, network FROM resource"
        " WHERE state = 'released' AND id <= ? ORDER BY id LIMIT ?",
        ((newest[0] if newest else 0) - keep, most),
    ).fetchall()
    shapes: dict[tuple[str, str | None, str], int] = {}  # a few, of which each is sought once
    buried = []
    for row, said in zip(rows, decode_all([row[4] for row in rows]), strict=True):
        identity, kind, key, mark, _, operation, life, vm, network = row
        common, own = _parted(key, said)
        told = json_text.dumps(own, separators=(",", ":")) if own else None
        form = (kind, network, json_text.dumps(common, separators=(",", ":")))
        if form not in shapes:
            shapes[form] = _shape(sql, *form)
        whose = bytes.fromhex(vm) if vm is not None and _is_hex(vm) else vm
        buried.append(
            (identity, _nonce(identity, mark), operation, life, whose, shapes[form], told)
        )
    sql.executemany(
        "INSERT OR REPLACE INTO tombstone (id, nonce, operation, life, vm, shape, own)"
        " VALUES (?,?,?,?,?,?,?)",
        buried,
    )
    sql.executemany("DELETE FROM resource WHERE id = ?", [(row[0],) for row in rows])
    return len(rows)


def _is_hex(vm: str) -> bool:
    return len(vm) == _IDENTITY and not vm.strip("0123456789abcdef")


def _shape(sql: sqlite3.Connection, kind: str, network: str | None, spec: str) -> int:
    found = sql.execute(
        "SELECT id FROM shape WHERE kind = ? AND spec = ? AND coalesce(network, '') = ?",
        (kind, spec, network or ""),
    ).fetchone()
    if found is None:
        found = sql.execute(
            "INSERT INTO shape (kind, network, spec) VALUES (?,?,?) RETURNING id",
            (kind, network, spec),
        ).fetchone()
    return int(found[0])


def forget_oldest(sql: sqlite3.Connection, *, keep: int) -> None:
    """Drop tombstones but of the newest ``keep`` numbers of rows."""
    sql.execute(
        "DELETE FROM tombstone WHERE id <="
        " (SELECT seq FROM sqlite_sequence WHERE name = 'resource') - ?",
        (keep,),
    )


def forget_shapes(sql: sqlite3.Connection) -> None:
    """Drop what no tombstone has in common any more; looks at all of them."""
    sql.execute("DELETE FROM shape WHERE id NOT IN (SELECT shape FROM tombstone)")


def count(sql: sqlite3.Connection) -> int:
    """How many tombstones there are."""
    return int(sql.execute("SELECT count(*) FROM tombstone").fetchone()[0])


def by_id(sql: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Resource]:
    """Tombstones by the numbers of their rows."""
    return {row.id: row for row in _found(sql, ids)}


def by_mark(sql: sqlite3.Connection, marks: Iterable[str]) -> dict[str, Resource]:
    """Tombstones that had one of these marks, whole: the number alone proves nothing."""
    wanted = set(marks)
    numbers = {number for mark in wanted if (number := _number(mark)) is not None}
    return {row.mark: row for row in _found(sql, numbers) if row.mark in wanted}


def _number(mark: str) -> int | None:
    parsed = parse_mark(mark)
    if not isinstance(parsed, Mark):
        return None
    number = int(parsed.token[: -NONCE_LENGTH - 1])
    return number if number < 1 << 63 else None


def _found(sql: sqlite3.Connection, ids: Iterable[int]) -> Iterator[Resource]:
    wanted = list(ids)
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        yield from map(
            _resource,
            sql.execute(
                "SELECT t.id, t.nonce, t.operation, t.life, t.vm, t.own, s.kind, s.network, s.spec,"
                " (SELECT installation FROM meta)"
                " FROM tombstone t JOIN shape s ON s.id = t.shape"
                f" WHERE t.id IN ({','.join('?' * len(part))})",
                part,
            ),
        )


def _resource(found: tuple[Any, ...]) -> Resource:
    identity, nonce, operation, life, vm, own, kind, network, common, installation = found
    with legible():
        key, spec = _joined(json_text.loads(common), json_text.loads(own) if own else ())
    whole = nonce if len(nonce) != NONCE_LENGTH else f"hvtx:1:{installation}:{identity}.{nonce}"
    return Resource(
        id=identity,
        kind=kind,
        key=key,
        state=State.RELEASED,
        mark=whole,
        spec=spec,
        observed={},
        operation=operation,
        life=life,
        vm=vm.hex() if isinstance(vm, bytes) else vm,
        network=network,
    )
