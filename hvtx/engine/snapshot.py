"""Gather the facts that plans are made from: record, host, liveness. Reads only.

Record and host cannot be read in one moment, and others start and stop VMs meanwhile. So the looks
have an order, and what moved between two of them is looked at again (docs/adr/0016):

1. which operations are open, and which of them hold their locks: one that does not was
   interrupted, and all that it did is in what follows;
2. the host: links, addresses, firewalls;
3. the record, all of it in one moment: rows, operations, VMs, networks, tombstones;
4. once more what is on record as removed and was still seen, and what is on record and was not:
   devices by their index, firewalls and addresses where an operation moved the row since 1; and
   all that an operation was at which has died since 1;
5. files, processes, holders of devices;
6. the record once more, if it changed since 3: of what an operation moved or works on by now,
   nothing is concluded. An operation of 3 whose lock is free was interrupted only if it is still
   open here.

What is looked at again and what is doubtful is chosen in ``planner/recheck.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from hvtx.drivers import reservation
from hvtx.drivers.file import mark_of
from hvtx.drivers.vm_process.gate import is_gate
from hvtx.engine import privileges
from hvtx.engine.processes import rows_by_vm
from hvtx.engine.registry import FIREWALLS
from hvtx.engine.runtime import Runtime
from hvtx.errors import Contended, HvtxError, NotPermitted, Refused
from hvtx.host import failpoint, openfiles, procfs
from hvtx.host.files import is_there
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted, forbidden
from hvtx.host.xtnames import legacy_tables
from hvtx.model.plan import NetworkFacts, OperationFacts, Snapshot, VmFacts
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Address,
    Entry,
    Kind,
    Link,
    Resource,
    State,
    file_spec,
)
from hvtx.model.typed import Any, TypeVar
from hvtx.model.vm import ProcessFacts
from hvtx.planner import recheck
from hvtx.planner.recheck import Again, Before, Record, Seen
from hvtx.planner.states import identity_of, judge_vm
from hvtx.store import records

_GATE_SECONDS = 5.0
_MARKING = 20  # looks at a new device, a millisecond apart

T = TypeVar("T")


def take_snapshot(runtime: Runtime) -> Snapshot:
    """Everything as it is now.

    Raises Refused: ``cannot-observe`` where the host may not be read, ``unstable-view`` where it
    changed faster than it could be.
    """
    return look(runtime, lambda _: None)[0]


def look(runtime: Runtime, ask: Callable[[Any], T]) -> tuple[Snapshot, T]:
    """A snapshot, and what ``ask`` reads from the store in the same moment. Raises Refused."""
    before = _before(runtime)
    host = _Host(runtime)
    failpoint.reach("dumped")
    record, answer = _record(runtime, host, ask)
    failpoint.reach("read")
    if host.unread is not None and any(r.backend == "iptables" for r in record.rows):
        raise Refused("cannot-observe", host.unread.message, hint=host.unread.hint)
    underway = {o.id for o in record.operations if before.runs(o.id) and runtime.is_running(o.id)}
    expected = _expected(runtime, [*record.rows, *record.tombstones.values()])
    late = recheck.late(before, underway, record, host.seen, expected)
    _look_again(runtime, host, recheck.again(late, host.links))
    failpoint.reach("looked")
    files = _files(record.rows, host.failures)
    facts = _processes(record.rows, underway)
    vms = _vms(runtime, record, facts)
    holders, hidden = _holders(recheck.suspects(record.rows, vms, host.links), host.links)
    doubtful = recheck.doubtful(record.rows, vms, underway, late)
    operations, moving = _since(runtime, record, underway, doubtful)
    snapshot = Snapshot(
        installation=runtime.installation,
        life=runtime.life,
        rows=tuple(record.rows),
        tombstones=record.tombstones,
        vms=vms,
        networks=record.networks,
        operations=operations,
        links=tuple(host.links),
        addresses=tuple(host.addresses),
        entries=tuple(host.entries),
        expected=expected,
        holders=holders,
        filtered=host.filtered,
        files=files,
        failures=host.failures,
        hidden=hidden,
        processes=facts,
        moving=moving,
    )
    return snapshot, answer


# -- the record ------------------------------------------------------------------------------------


def _before(runtime: Runtime) -> Before:
    with runtime.reading() as sql:
        newest, underway = records.newest_operation(sql), records.operations(sql)
    return Before(newest, {known.id: runtime.is_running(known.id) for known in underway})


def _record(runtime: Runtime, host: _Host, ask: Callable[[Any], T]) -> tuple[Record, T]:
    with runtime.reading() as sql:
        rows = records.resources(sql)
        provisional = records.provisional_networks(sql)
        record = Record(
            life=runtime.life.id,
            seq=records.seq(sql),
            newest=records.newest_operation(sql),
            rows=rows,
            tombstones=records.tombstones(sql, recheck.unknown_marks(rows, host.seen)),
            operations=records.operations(sql),
            vms=records.vm_heads(sql),
            lives=records.lives(sql),
            networks={
                network.id: NetworkFacts(network.name, network.subnets, network.id in provisional)
                for network in records.networks(sql)
            },
        )
        return record, ask(sql)


def _since(
    runtime: Runtime, record: Record, underway: set[int], doubtful: Sequence[Resource]
) -> tuple[dict[int, OperationFacts], frozenset[int]]:
    """The operations, with those begun since the record was read, and which rows moved since."""
    with runtime.reading() as sql:
        if records.seq(sql) == record.seq:
            return recheck.operation_facts(record, underway), frozenset()
        free = {operation.id for operation in record.operations} - underway
        ended = free - records.still_open(sql, free)
        begun = records.operations_since(sql, record.newest)
        asked = recheck.asked_again(record, doubtful, begun)
        now = records.whereabouts(sql, asked)
    facts = recheck.operation_facts(record, underway, ended=ended, begun=begun)
    return facts, recheck.moved_since(asked, now)


# -- the host --------------------------------------------------------------------------------------


class _Host:
    """What was seen of the host, as later looks correct it."""

    def __init__(self, runtime: Runtime) -> None:
        """Look at it; ``unread``: why the legacy tables may not be read, if so."""
        self.failures: dict[str, str] = {}
        self.links, self.addresses, self.filtered = _links(self.failures)
        self.entries, self.unread = firewall_entries(runtime, self.failures)

    @property
    def seen(self) -> Seen:
        return Seen(self.links, self.addresses, self.entries)


def _look_again(runtime: Runtime, host: _Host, again: Again) -> None:
    """See once more what an operation moved, after the record; corrects ``host``.

    A device is asked for by its index. Of firewalls the backends are read again, and only what
    carries the marks is taken from that.
    """
    if (again.devices or again.addressed) and "links" not in host.failures:
        _look_at_links(host, again.devices, again.addressed)
    backends = again.backends - host.failures.keys()
    if backends:
        entries, _ = firewall_entries(runtime, host.failures, sorted(backends))
        host.entries = [
            *(e for e in host.entries if e.mark not in again.marks or e.backend not in backends),
            *(e for e in entries if e.mark in again.marks),
        ]


def _marked(source: Links, index: int) -> Link | None:
    """A device by its index; one that is not marked yet is waited for a little."""
    link = source.get(ifindex=index)
    for _ in range(_MARKING):
        if link is None or link.alias is not None:
            break
        time.sleep(0.001)
        link = source.get(ifindex=index)
    return link


def _look_at_links(host: _Host, devices: set[int], moved: set[int]) -> None:
    source = Links()
    try:
        found = {index: _marked(source, index) for index in devices}
        addresses = source.addresses() if moved else []
    except DumpInterrupted as problem:
        raise _unstable_links() from problem
    except OSError as problem:
        host.failures["links"] = f"the links could not be listed: {problem}"
        return
    finally:
        source.close()
    host.links = [link for link in host.links if link.ifindex not in devices]
    host.links += [link for link in found.values() if link is not None]
    host.addresses = [
        *(a for a in host.addresses if a.ifindex not in moved),
        *(a for a in addresses if a.ifindex in moved),
    ]


def _links(failures: dict[str, str]) -> tuple[list[Link], list[Address], frozenset[int]]:
    source = Links()
    try:
        return source.all(), source.addresses(), source.filtered()
    except DumpInterrupted as problem:
        raise _unstable_links() from problem
    except OSError as problem:
        if forbidden(problem):
            raise _cannot_observe("the host's links") from problem
        failures["links"] = f"the links could not be listed: {problem}"
        return [], [], frozenset()
    finally:
        source.close()


def _unstable_links() -> Refused:
    return Refused(
        "unstable-view",
        "the host's links changed too fast to be listed",
        hint="try again when fewer devices come and go",
    )


def firewall_entries(
    runtime: Runtime, failures: dict[str, str], backends: Iterable[str] = FIREWALLS
) -> tuple[list[Entry], NotPermitted | None]:
    """What the firewalls hold, and why this user may not read the legacy tables, if so.

    Who has no rule in legacy tables need not be allowed to read them: only others' rules are
    missing from the plan then.
    """
    found: list[Entry] = []
    unread: NotPermitted | None = None
    for backend in backends:
        try:
            if backend == "iptables" and not legacy_tables():
                continue
            found += runtime.firewall(backend).observe()
        except NotPermitted as problem:
            if backend != "iptables":
                raise _cannot_observe("the host's firewall") from problem
            unread = privileges.legacy_problem() or problem
            failures[backend] = unread.message
        except Contended as problem:
            raise Refused(
                "unstable-view",
                f"the firewall changed too fast to be read: {problem.message}",
                hint="try again when no other program changes it",
            ) from problem
        except HvtxError as problem:
            failures[backend] = problem.message
        except OSError as problem:
            failures[backend] = f"{backend} could not be read: {problem}"
    return found, unread


def _cannot_observe(what: str) -> Refused:
    return Refused(
        "cannot-observe",
        f"{what} may not be read by this user: it needs the capability CAP_NET_ADMIN",
        hint="run hvtx as root, with sudo, or with that capability (docs/privileges.md)",
    )


def _processes(rows: Iterable[Resource], underway: set[int]) -> dict[int, ProcessFacts]:
    """Look at every process on record, by row; wait for dead operations' gates, which soon exit."""
    facts: dict[int, ProcessFacts] = {}
    for row in rows:
        if row.kind != Kind.PROCESS:
            continue
        identity = identity_of(row)
        if identity is None:
            continue
        if row.state == State.INTENDED and row.operation not in underway:
            _await_gate(identity.pid)
        facts[row.id] = procfs.look_again(identity)
    return facts


def _await_gate(pid: int) -> None:
    deadline = time.monotonic() + _GATE_SECONDS
    while time.monotonic() < deadline:
        try:
            if not is_gate(pid) or procfs.look(pid).ended:
                return
        except OSError:
            return
        time.sleep(0.002)


def _vms(runtime: Runtime, record: Record, facts: Mapping[int, ProcessFacts]) -> dict[str, VmFacts]:
    own, life, lives = rows_by_vm(record.rows), runtime.life, record.lives
    found = {}
    for vm, name, hypervisor, provisional in record.vms:
        liveness, evidence = judge_vm(
            hypervisor, own.get(vm, []), life=life, lives=lives, facts=facts
        )
        found[vm] = VmFacts(name, liveness, evidence, provisional)
    for vm in own.keys() - found.keys():  # a hand in the store; its process may live all the same
        liveness, evidence = judge_vm("", own[vm], life=life, lives=lives, facts=facts)
        found[vm] = VmFacts(vm, liveness, evidence, provisional=False)
    return found


def _expected(runtime: Runtime, rows: Iterable[Resource]) -> dict[int, tuple[Entry, ...]]:
    own = [row for row in rows if row.kind in FIREWALL_KINDS]
    say = {name: runtime.firewall(name).expected for name in {row.backend for row in own}}
    return {row.id: say[row.backend](row) for row in own}


def _holders(suspects: set[str], links: Iterable[Link]) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Who holds TAP devices that no live VM of ours accounts for, and whether some may be unseen.

    What is not seen here (a process that may not be looked into) the attaching release still meets.
    """
    suspected = [link for link in links if link.name in suspects]
    seen = openfiles.tap_holders({link.name for link in suspected})
    found = {
        name: tuple(f"{holder.command} (pid {holder.pid})" for holder in holders)
        for name, holders in seen.found.items()
    }
    for link in suspected:  # the kernel counts the queues of a device with several, whosever
        if link.queues:
            found.setdefault(link.name, (f"some process ({link.queues} of its queues)",))
    return found, not seen.complete


def _files(rows: Iterable[Resource], failures: dict[str, str]) -> dict[str, str]:
    found = {}
    for row in rows:
        if row.kind == Kind.FILE:
            try:
                mark = _mark_of(row)
            except OSError as problem:
                path = file_spec(row)["path"]
                failures[path] = f"{path} could not be read: {problem.strerror}"
                continue
            if mark is not None:
                found[file_spec(row)["path"]] = mark
    return found


def _mark_of(row: Resource) -> str | None:
    if not row.is_reservation:
        path = file_spec(row)[
            "path"
        ]  # of a network's the mark alone, which stands beside, is not it
        return mark_of(path) if row.vm is not None or is_there(path) else None
    return reservation.mark_of(file_spec(row)["path"])
