"""Rows by their VMs, and a look at the processes that they name."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence

from hvtx.host import procfs
from hvtx.host.many_processes import look_at_all
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Epoch, Liveness, ProcessFacts
from hvtx.planner.states import identity_of, judge_namespace, judge_process
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime
    from hvtx.host.nsid import NamespaceIds


_PROCESS, _NETNS, _VETH = Kind.PROCESS.value, Kind.NETNS.value, Kind.VETH.value
_MANY = 8  # processes that are asked at once


def rows_by_vm(rows: Sequence[Resource]) -> dict[str, list[Resource]]:
    """The rows of each VM (by id), in their order; those of no VM are left out (pure)."""
    found: dict[str, list[Resource]] = {}
    for row in rows:
        if row.vm:
            found.setdefault(row.vm, []).append(row)
    return found


def process_facts(rows: list[Resource]) -> dict[int, Any]:
    """Look at every process that the rows name, by row."""
    known = {row.id: identity_of(row) for row in rows if row.kind == _PROCESS}
    known = {row: identity for row, identity in known.items() if identity is not None}
    namespaces = namespace_facts(rows)
    if len(known) < _MANY:
        found = {row: procfs.look_again(identity) for row, identity in known.items() if identity}
        return found | namespaces
    seen = look_at_all([i for i in known.values() if i])
    return dict(zip(known, seen, strict=True)) | namespaces


def namespace_facts(rows: Iterable[Resource]) -> dict[int, ProcessFacts]:
    """Whether the network namespaces that rows name live, by row: one dump for all of them.

    Of one that is gone it is told (``elsewhere``) if the peer that was put into it lives elsewhere.
    """
    known_rows = [row for row in rows if row.kind in (_NETNS, _VETH)]
    own = [row for row in known_rows if row.kind == _NETNS]
    if not own:
        return {}
    from hvtx.host import nsid
    from hvtx.host.netlink import DumpInterrupted
    from hvtx.model.container import namespace_id

    asked = {row.id: namespace_id(row) for row in own}
    known = {row: number for row, number in asked.items() if number is not None}

    try:
        with nsid.ids() as ids:
            there = ids.there(set(known.values()))
            gone = {row.vm for row in own if known.get(row.id, -1) not in there}
            pairs = [row for row in known_rows if row.kind == _VETH and row.vm in gone]
            moved = {row.vm: row.key for row in pairs if _has_moved(row, ids)}
    except (OSError, DumpInterrupted) as problem:
        words = f"the ids of namespaces cannot be listed: {problem}"
        return dict.fromkeys(known, ProcessFacts(False, error=words))
    return {
        row.id: ProcessFacts(False, error=f"the peer of {moved[row.vm]} lives", elsewhere=True)
        if row.vm in moved
        else ProcessFacts(known[row.id] in there)
        for row in own
        if row.id in known
    }


def _has_moved(pair: Resource, ids: NamespaceIds) -> bool:
    """Whether the peer of a pair lives, though the namespace does not that it was made in.

    A pair goes with the namespace of either end, so that somebody moved it. Raises OSError.
    """
    try:
        found = ids.of_peer(pair.ifindex, pair.mark)
    except OSError as problem:
        if problem.errno == errno.ENODEV:
            return False
        raise
    return found is None or found >= 0


def alive_again(runtime: Runtime, vms: Iterable[str]) -> dict[str, Liveness]:
    """VMs whose recorded process or namespace is not (or no longer) proven dead, as of now.

    Unknown is what could not be looked at.
    """
    with runtime.reading() as sql:
        rows = records.evidence_of_vms(sql, vms)
        spaces = any(row.kind == _NETNS for row in rows)
        lives: Mapping[int, Epoch] = records.lives(sql) if spaces else {}
    facts = process_facts(rows)
    alive: dict[str, Liveness] = {}
    for row in rows:
        if row.kind == _NETNS:
            seen = facts.get(row.id, ProcessFacts(False))
            verdict, _ = judge_namespace(row, runtime.life, lives, seen)
        elif identity := identity_of(row):
            verdict, _ = judge_process(row, identity, runtime.life, facts[row.id])
        else:
            continue
        if row.vm and verdict is not Liveness.DEAD:
            alive[row.vm] = verdict
    return alive
