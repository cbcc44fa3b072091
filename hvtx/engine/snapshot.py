"""Gather the facts that plans are made from: record, host, liveness. Reads only.

Record and host cannot be read in one moment, and others start and stop VMs meanwhile. So the looks
have an order, and what moved between two of them is looked at again (docs/adr/0016):

1. which operations are open, and which of them hold their locks: one that does not was
   interrupted, and all that it did is in what follows;
2. the host: links, addresses, firewalls;
3. the record, all of it in one moment: rows, operations, VMs, networks, tombstones;
4. once more what is on record as removed and was still seen, and what is on record and was not:
   devices by their index, firewalls and addresses where an operation moved the row since 1;
5. files, processes, holders of devices;
6. the record once more, if it changed since 3: of what an operation moved or works on by now,
   nothing is concluded. An operation of 3 whose lock is free was interrupted only if it is still
   open here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from hvtx.drivers import process
from hvtx.drivers.file import mark_of
from hvtx.engine import privileges
from hvtx.engine.runtime import FIREWALLS, Runtime, rows_by_vm
from hvtx.errors import Contended, HostRefused, HvtxError, NotPermitted, Refused
from hvtx.host import failpoint, procfs
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted, forbidden
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.plan import NetworkFacts, OperationFacts, Snapshot, VmFacts
from hvtx.model.resource import FIREWALL_KINDS, Address, Entry, Kind, Link, Resource, State
from hvtx.model.vm import Life, Liveness, Operation, ProcessFacts
from hvtx.planner.states import identity_of, judge_vm
from hvtx.store import records

_GATE_SECONDS = 5.0
_DEVICES = frozenset({Kind.TAP, Kind.BRIDGE})
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
    if host.unread is not None and any(r.spec.get("backend") == "iptables" for r in record.rows):
        raise Refused("cannot-observe", host.unread.message, hint=host.unread.hint)
    underway = {o.id for o in record.operations if before.runs(o.id) and runtime.is_running(o.id)}
    expected = _expected(runtime, [*record.rows, *record.tombstones.values()])
    late = _late(before, underway, record, host, expected)
    _look_again(runtime, host, late)
    failpoint.reach("looked")
    files = _files(record.rows, host.failures)
    facts = _processes(record.rows, underway)
    vms = _vms(runtime, record, facts)
    holders, hidden = _holders(_suspects(record.rows, vms, host.links), host.links)
    doubtful = _doubtful(record.rows, vms, underway, late)
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
        moving=moving,
    )
    return snapshot, answer


# -- the record ------------------------------------------------------------------------------------


class _Before(NamedTuple):
    """The operations, before anything was looked at."""

    newest: int
    running: Mapping[int, bool]  # of those that had not ended, whether they held their locks

    def runs(self, operation: int) -> bool:
        """Whether an operation ran then or was begun later; what others did is all to be seen."""
        return operation > self.newest or self.running.get(operation, False)


def _before(runtime: Runtime) -> _Before:
    with runtime.reading() as sql:
        newest, underway = records.newest_operation(sql), records.operations(sql)
    return _Before(newest, {known.id: runtime.is_running(known.id) for known in underway})


class _Record(NamedTuple):
    """The store at one moment."""

    life: int  # of the host, that this is read in
    seq: int
    newest: int  # operation
    rows: list[Resource]
    tombstones: dict[str, Resource]
    operations: list[Operation]
    vms: list[tuple[str, str, str, bool]]
    lives: dict[int, Life]
    networks: dict[str, NetworkFacts]


def _record(runtime: Runtime, host: _Host, ask: Callable[[Any], T]) -> tuple[_Record, T]:
    with runtime.reading() as sql:
        rows = records.resources(sql)
        provisional = records.provisional_networks(sql)
        record = _Record(
            life=runtime.life.id,
            seq=records.seq(sql),
            newest=records.newest_operation(sql),
            rows=rows,
            tombstones=records.tombstones(sql, _unknown_marks(rows, host)),
            operations=records.operations(sql),
            vms=records.vm_heads(sql),
            lives=records.lives(sql),
            networks={
                network.id: NetworkFacts(network.name, network.subnets, network.id in provisional)
                for network in records.networks(sql)
            },
        )
        return record, ask(sql)


def _unknown_marks(rows: Iterable[Resource], host: _Host) -> list[str]:
    """Marks that were seen and are no live row's; a mark is unique among all rows."""
    known = {row.mark for row in rows}
    seen = {link.alias for link in host.links if link.alias}
    seen |= {entry.mark for entry in host.entries if entry.mark}
    return [mark for mark in seen - known if isinstance(parse_mark(mark), Mark)]


def _since(
    runtime: Runtime, record: _Record, underway: set[int], doubtful: Sequence[Resource]
) -> tuple[dict[int, OperationFacts], frozenset[int]]:
    """The operations, with those begun since the record was read, and which rows moved since.

    What such an operation did is in some of the looks and not in others, so it counts as running
    even if it has ended, and each row of its VM may have moved. So does one whose lock is free
    because it has ended by now.
    """
    known = {
        operation.id: OperationFacts(operation.verb, operation.vm, operation.id in underway)
        for operation in record.operations
    }
    with runtime.reading() as sql:
        if records.seq(sql) == record.seq:
            return known, frozenset()
        free = known.keys() - underway
        ended = free - records.still_open(sql, free)
        begun = records.operations_since(sql, record.newest)
        names = {vm for _, _, vm in begun}
        vms = {vm for vm, name, _, _ in record.vms if name in names}
        asked = {row.id: row for row in (*doubtful, *(r for r in record.rows if r.vm in vms))}
        now = records.whereabouts(sql, asked)
    moved = [n for n, row in asked.items() if now.get(n) != (row.state, row.operation)]
    known.update((number, known[number]._replace(running=True)) for number in ended)
    known.update((number, OperationFacts(verb, vm, True)) for number, verb, vm in begun)
    return known, frozenset(moved)


def _doubtful(
    rows: Iterable[Resource],
    vms: Mapping[str, VmFacts],
    underway: set[int],
    late: Sequence[Resource],
) -> list[Resource]:
    """Rows that something may be concluded from: their owner is dead, or they were left half-done.

    And those that were looked at again.
    """
    dead = {vm for vm, known in vms.items() if known.liveness is Liveness.DEAD}
    found = {row.id: row for row in late}
    for row in rows:
        if row.vm in dead or (row.state != State.COMMITTED and row.operation not in underway):
            found[row.id] = row
    return list(found.values())


# -- the host --------------------------------------------------------------------------------------


class _Host:
    """What was seen of the host, as later looks correct it."""

    def __init__(self, runtime: Runtime) -> None:
        """Look at it; ``unread``: why the legacy tables may not be read, if so."""
        self.failures: dict[str, str] = {}
        self.links, self.addresses, self.filtered = _links(self.failures)
        self.entries, self.unread = _entries(runtime, self.failures)


def _late(
    before: _Before,
    underway: set[int],
    record: _Record,
    host: _Host,
    expected: Mapping[int, tuple[Entry, ...]],
) -> list[Resource]:
    """Rows of which the host showed otherwise than they say, so that they are looked at again.

    Of firewalls and addresses those that an operation moved while the host was looked at:
    tombstones whose object was seen, and live rows whose object was not. Of devices all such, since
    a dump can miss one. What an operation still works on may be there or not, but a device that it
    is making is marked in a moment.
    """
    found = [
        row
        for row in record.tombstones.values()
        if row.kind in _DEVICES or before.runs(row.operation)
    ]
    by_index = {link.ifindex: link for link in host.links}
    moved = []
    for row in record.rows:
        if before.runs(row.operation):
            moved.append(row)
        elif row.kind in _DEVICES and row.spec["ifindex"] not in by_index:
            found += [row] if row.life == record.life else []  # no device survives a life
    if not moved:
        return found
    entries = {entry[:4] for entry in host.entries}  # whatever their handles
    addresses = set(host.addresses)

    def seen(row: Resource) -> bool:
        device = row.kind in _DEVICES
        link = by_index.get(row.spec["ifindex"]) if device else None
        if row.state != State.COMMITTED and row.operation in underway:
            return link is None or link.alias is not None
        if device:
            return link is not None and link.alias == row.mark
        if row.kind in FIREWALL_KINDS:
            return entries.issuperset(entry[:4] for entry in expected.get(row.id, ()))
        if row.kind == Kind.ADDRESS:
            return Address(row.spec["ifindex"], row.spec["address"]) in addresses
        return True

    return [*found, *(row for row in moved if not seen(row))]


def _look_again(runtime: Runtime, host: _Host, late: Sequence[Resource]) -> None:
    """See once more what belongs to these rows, after the record; corrects ``host``.

    A device is asked for by its index. Of firewalls the backends are read again, and only what
    carries the marks of these rows is taken from that.
    """
    marks = {row.mark for row in late}
    devices = {row.spec["ifindex"] for row in late if row.kind in _DEVICES}
    devices |= {link.ifindex for link in host.links if link.alias in marks}
    moved = {row.spec["ifindex"] for row in late if row.kind == Kind.ADDRESS}
    if (devices or moved) and "links" not in host.failures:
        _look_at_links(host, devices, moved)
    backends = {row.spec["backend"] for row in late if row.kind in FIREWALL_KINDS}
    backends -= host.failures.keys()
    if backends:
        entries, _ = _entries(runtime, host.failures, sorted(backends))
        host.entries = [
            *(e for e in host.entries if e.mark not in marks or e.backend not in backends),
            *(e for e in entries if e.mark in marks),
        ]


def device_now(index: int) -> Link | None:
    """The device of this index, asked for by itself; raises OSError, DumpInterrupted."""
    source = Links()
    try:
        return source.get(ifindex=index)
    finally:
        source.close()


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


def _entries(
    runtime: Runtime, failures: dict[str, str], backends: Iterable[str] = FIREWALLS
) -> tuple[list[Entry], NotPermitted | None]:
    """What the firewalls hold, and why this user may not read the legacy tables, if so.

    Who has no rule in legacy tables need not be allowed to read them: only strangers' rules are
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
                hint="try again when whatever changes it rests",
            ) from problem
        except HvtxError as problem:
            failures[backend] = problem.message
        except OSError as problem:
            failures[backend] = f"{backend} could not be read: {problem}"
    return found, unread


def legacy_tables() -> bool:
    """Whether the kernel lists any legacy table (reading one that it does not makes it).

    Raises NotPermitted where the list may not be read, which proves nothing.
    """
    for name in ("ip_tables_names", "ip6_tables_names"):
        try:
            with open(f"/proc/thread-self/net/{name}", encoding="ascii") as listed:
                if listed.read(1):
                    return True
        except FileNotFoundError:
            continue  # this kernel has none of the family
        except PermissionError as problem:
            raise NotPermitted(
                f"the list {name} may not be read", hint="run hvtx as root: the list is root's"
            ) from problem
        except OSError as problem:
            raise HostRefused(
                f"the list {name} could not be read: {problem}",
                hint="is /proc mounted, and of this namespace?",
            ) from problem
    return False


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
            if not process.is_gate(pid) or procfs.look(pid).ended:
                return
        except OSError:
            return
        time.sleep(0.002)


def _vms(
    runtime: Runtime, record: _Record, facts: Mapping[int, ProcessFacts]
) -> dict[str, VmFacts]:
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
    say = {name: runtime.firewall(name).expected for name in {row.spec["backend"] for row in own}}
    return {row.id: say[row.spec["backend"]](row) for row in own}


def _suspects(
    rows: Iterable[Resource], vms: Mapping[str, VmFacts], links: Iterable[Link]
) -> set[str]:
    """Names of TAP devices that no live VM of ours accounts for."""
    living = {vm for vm, known in vms.items() if known.liveness is Liveness.ALIVE}
    found = {row.key for row in rows if row.kind == Kind.TAP and row.vm not in living}
    alive = {row.mark for row in rows if row.vm in living}
    return found | {link.name for link in links if link.kind == "tun" and link.alias not in alive}


def _holders(suspects: set[str], links: Iterable[Link]) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Who holds TAP devices that no live VM of ours accounts for, and whether some may be unseen.

    What is not seen here (a process that may not be looked into) the attaching release still meets.
    """
    there = {link.name for link in links} & suspects
    seen = procfs.tap_holders(there)
    found = {
        name: tuple(f"{holder.command} (pid {holder.pid})" for holder in holders)
        for name, holders in seen.found.items()
    }
    return found, not seen.complete


def _files(rows: Iterable[Resource], failures: dict[str, str]) -> dict[str, str]:
    found = {}
    for row in rows:
        if row.kind == Kind.FILE:
            try:
                mark = mark_of(row.spec["path"])
            except OSError as problem:
                path = row.spec["path"]
                failures[path] = f"{path} could not be read: {problem.strerror}"
                continue
            if mark is not None:
                found[row.spec["path"]] = mark
    return found
