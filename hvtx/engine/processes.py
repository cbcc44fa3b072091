"""Rows by their VMs, and a look at the processes that they name."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence

from hvtx.host import procfs
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Epoch, Liveness, ProcessFacts
from hvtx.planner.states import identity_of, judge_namespace, judge_process
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.runtime import Runtime
    from hvtx.host.nsid import NamespaceIds


_PROCESS, _NETNS, _VETH = Kind.PROCESS.value, Kind.NETNS.value, Kind.VETH.value
_CHOSEN = 1 << 16  # ids below: the kernel chose them, which takes the lowest one that is free
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
    from hvtx.host.many_processes import look_at_all  # no verb for one VM asks so many

    seen = look_at_all([i for i in known.values() if i])
    return dict(zip(known, seen, strict=True)) | namespaces


def namespace_facts(rows: Iterable[Resource]) -> dict[int, ProcessFacts]:
    """Whether the network namespaces that rows name live, by row: one dump for all of them.

    Of one that is gone it is told (``elsewhere``) if the peer that was put into it lives elsewhere.
    Of one that is there without its pair, which nobody but a stranger removes, and whose id the
    kernel chose, it is looked whether another one has the id by now (``another``).
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
            living = {
                row.vm: number
                for row in own
                if row.vm and row.vm not in gone and (number := known[row.id]) < _CHOSEN
            }
            of_living = {row.vm: row for row in known_rows if row.kind == _VETH and row.vm}
            another = _replaced(of_living, living, ids)
    except (OSError, DumpInterrupted) as problem:
        words = f"the ids of namespaces cannot be listed: {problem}"
        return dict.fromkeys(known, ProcessFacts(False, error=words))
    return {
        row.id: ProcessFacts(False, error=f"the peer of {moved[row.vm]} lives", elsewhere=True)
        if row.vm in moved
        else ProcessFacts(known[row.id] in there, another=row.vm in another)
        for row in own
        if row.id in known
    }


def _has_moved(pair: Resource, ids: NamespaceIds) -> bool:
    """Whether the peer of a pair lives, though the namespace does not that it was made in.

    A pair goes with the namespace of either end, so that somebody moved it. Raises OSError.
    """
    found = _peer_of(pair, ids)
    return found is None or found >= 0


def _peer_of(pair: Resource, ids: NamespaceIds) -> int | None:
    """The id of the namespace that the peer of a pair is in; None: in this one, -1: nowhere.

    Raises OSError.
    """
    try:
        return ids.of_peer(pair.ifindex, pair.mark)
    except OSError as problem:
        if problem.errno == errno.ENODEV:
            return -1
        raise


def _replaced(
    pairs: Mapping[str, Resource], wanted: Mapping[str, int], ids: NamespaceIds
) -> set[str]:
    """Of attachments (by VM) whose id is there: those whose id another namespace has by now.

    Only what has no pair any more is looked for. Raises OSError.
    """
    from hvtx.model.container import peer_cookie

    cookies = {vm: peer_cookie(pair) for vm, pair in pairs.items() if vm in wanted}
    doubtful = {
        vm: cookie
        for vm, cookie in cookies.items()
        if cookie is not None and _peer_of(pairs[vm], ids) == -1
    }
    if not doubtful:
        return set()
    from hvtx.host import held_namespaces

    seen = held_namespaces.cookies({wanted[vm] for vm in doubtful}, ids)
    return {vm for vm, cookie in doubtful.items() if seen.get(wanted[vm], cookie) != cookie}


def alive_again(runtime: Runtime, vms: Iterable[str]) -> dict[str, Liveness]:
    """VMs whose recorded process or namespace is not (or no longer) proven dead, as of now.

    Alive where one of them is; unknown where one could not be looked at, or was moved away.
    """
    with runtime.reading() as sql:
        rows = records.evidence_of_vms(sql, vms)
        spaces = any(row.kind == _NETNS for row in rows)
        lives: Mapping[int, Epoch] = records.lives(sql) if spaces else {}
    facts = process_facts(rows)
    found: dict[str, set[Liveness]] = {}
    for row in rows:
        if row.kind == _NETNS:
            seen = facts.get(row.id, ProcessFacts(False))
            verdict, _ = judge_namespace(row, runtime.life, lives, seen)
        elif row.kind == _PROCESS and (identity := identity_of(row)) is not None:
            verdict, _ = judge_process(row, identity, runtime.life, facts[row.id])
        else:
            continue
        if row.vm and verdict is not Liveness.DEAD:
            found.setdefault(row.vm, set()).add(verdict)
    return {
        vm: Liveness.ALIVE if Liveness.ALIVE in verdicts else Liveness.UNKNOWN
        for vm, verdicts in found.items()
    }
