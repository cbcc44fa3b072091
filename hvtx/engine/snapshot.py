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
5. processes, files, others' traffic control, holders of devices;
6. the record once more, if it changed since 3: of what an operation moved or works on by now,
   nothing is concluded. An operation of 3 whose lock is free was interrupted only if it is still
   open here.

Of VMs on which nobody works, and whose things are all as recorded, nothing needs judging: they are
put together after 3, and taken back by 5 and 6 (docs/adr/0051). What is looked at again and what
is doubtful is chosen in ``planner/recheck.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter

from hvtx.drivers.base import Host
from hvtx.drivers.nftables.ruleset import TABLE_TEXT
from hvtx.engine import looks
from hvtx.engine.processes import rows_by_vm
from hvtx.engine.runtime import Runtime
from hvtx.engine.seen_host import SeenHost, look_again
from hvtx.engine.settling import Settling
from hvtx.errors import Refused
from hvtx.host import failpoint
from hvtx.model.place import nft_place
from hvtx.model.plan import NetworkFacts, OperationFacts, Snapshot, UnrecordedFile, VmFacts
from hvtx.model.resource import (
    FIREWALL_KINDS,
    Entry,
    Kind,
    Resource,
    file_spec,
)
from hvtx.model.typed import Any, TypeVar
from hvtx.model.vm import Epoch, Liveness, ProcessFacts
from hvtx.planner import recheck
from hvtx.planner.recheck import Before, Record
from hvtx.planner.settled import carried, undisturbed
from hvtx.planner.states import judge_vm
from hvtx.rulesets.nftables_layout import BACKEND, table_name
from hvtx.store import raw_rows, records

_ID = itemgetter(0)

T = TypeVar("T")


def take_snapshot(runtime: Runtime, *, settle: bool = False) -> Snapshot:
    """Everything as it is now.

    With ``settle`` the rows of VMs of which nothing needs judging are put together: what a plan is
    made from, and nothing else. Raises Refused: ``cannot-observe`` where the host may not be read,
    ``unstable-view`` where it changed faster than it could be.
    """
    return look(runtime, lambda _: None, settle=settle)[0]


def look(
    runtime: Runtime, ask: Callable[[Any], T], *, settle: bool = False, of: str | None = None
) -> tuple[Snapshot, T]:
    """A snapshot, and what ``ask`` reads from the store in the same moment. Raises Refused.

    VMs that the name ``of`` can be about are not settled (:mod:`hvtx.planner.asked`).
    """
    before = _before(runtime)
    with SeenHost(runtime, bulk=settle) as host:
        failpoint.reach("dumped")
        record, answer = _record(runtime, host, ask)
        failpoint.reach("read")
        return _judged(runtime, before, host, record, of), answer


def _judged(
    runtime: Runtime, before: Before, host: SeenHost, record: Record, of: str | None
) -> Snapshot:
    """What follows from the first looks at host and record, and from further ones."""
    settling = _settling(before, host, record, of)
    if host.unread is not None and any(r.backend == "iptables" for r in record.rows):
        raise Refused("cannot-observe", host.unread.message, hint=host.unread.hint)
    underway = {o.id for o in record.operations if before.runs(o.id) and runtime.is_running(o.id)}
    expected = _expected(runtime, [*record.rows, *record.tombstones.values()])
    late = recheck.late(before, underway, record, host.seen, expected)
    look_again(runtime, host, recheck.again(late, host.links))
    failpoint.reach("looked")
    processes = [*record.rows, *settling.processes()]
    facts = looks.processes(processes, underway)
    vms = _vms(runtime.life, record, facts, processes)
    files = _unsettle(host, record, settling, vms)
    judged = recheck.devices_judged(record.rows, host.links, settling.marks)
    host.look_at_filters(judged, {link.ifindex for link in settling.links.values()})
    suspects = recheck.suspects(record.rows, vms, host.links, settling.marks)
    holders, hidden = looks.holders(suspects, host.links)
    doubtful = recheck.doubtful(record.rows, vms, underway, late)
    operations, moving = _since(runtime, host, record, settling, underway, doubtful)
    expected.update(_expected(runtime, [r for r in record.rows if r.id not in expected]))
    return Snapshot(
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
        moving=moving | recheck.unmarked(record.rows, underway, host.links),
        settled=settling.result(),
        unrecorded=_unrecorded(runtime.host, runtime.read, host, files, record.rows, settling),
    )


# -- what needs no judging -------------------------------------------------------------------------


def _settling(before: Before, host: SeenHost, record: Record, of: str | None) -> Settling:
    """The VMs whose things are all as recorded; the record keeps the rows of the others."""
    settling = Settling(host.elements)
    if host.elements is None:
        return settling
    names = {operation.vm for operation in record.operations}
    busy = {vm for vm, name, _, _ in record.vms if name in names}
    if of is not None:
        from hvtx.planner.asked import concerned

        busy |= concerned(of, record.raw, record.vms, host.links)
    running = {number for number in {row[7] for row in record.raw} if before.runs(number)}
    own = undisturbed(record.raw, record.life, running, busy)
    marks = host.elements.marks()
    settling.compare(own, carried(host.links, marks, (entry.mark for entry in host.entries)))
    record.rows[:] = raw_rows.decoded([row for row in record.raw if row[9] not in settling.vms])
    host.entries += host.elements.entries(but=settling.marks)
    return settling


def _take_back(host: SeenHost, record: Record, settling: Settling, vms: Iterable[str]) -> None:
    """Judge these VMs row by row, and those whose things stand where theirs belong."""
    wanted = set(vms) & set(settling.vms)
    while wanted:
        rows, entries = settling.take_back(wanted)
        record.rows.extend(rows)
        host.entries += entries
        wanted = settling.claimed(rows)
    record.rows.sort(key=_ID)


def _unsettle(
    host: SeenHost, record: Record, settling: Settling, vms: Mapping[str, VmFacts]
) -> dict[str, str]:
    """Take back VMs that are not alive or whose files are not as recorded; all files with marks."""
    _take_back(host, record, settling, settling.claimed(record.rows))
    dead = [vm for vm in settling.vms if vms[vm].liveness is not Liveness.ALIVE]
    _take_back(host, record, settling, dead)
    theirs = settling.files()
    files = looks.files([*record.rows, *theirs], host.failures)
    changed = [r.vm for r in theirs if files.get(file_spec(r)["path"]) != r.mark]
    _take_back(host, record, settling, [vm for vm in changed if vm])
    return files


def _unrecorded(
    place: Host,
    read: Callable[..., Any],
    host: SeenHost,
    files: Mapping[str, str],
    rows: Sequence[Resource],
    settling: Settling,
) -> dict[str, UnrecordedFile]:
    """Files with marks that are not on record, in ``rows`` or by what is settled."""
    known = {*files, *(file_spec(row)["path"] for row in rows if row.kind == Kind.FILE)}
    return looks.unrecorded_files(
        place.run_directory,
        known,
        lambda marks: read(records.marks_on_record, marks),
        lambda: looks.known_taps(place.installation, host.links, rows, settling.marks),
    )


# -- the record ------------------------------------------------------------------------------------


def _before(runtime: Runtime) -> Before:
    with runtime.reading() as sql:
        newest, underway = records.newest_operation(sql), records.operations(sql)
    return Before(newest, {known.id: runtime.is_running(known.id) for known in underway})


def _record(runtime: Runtime, host: SeenHost, ask: Callable[[Any], T]) -> tuple[Record, T]:
    bulk = host.elements is not None
    with runtime.reading() as sql:
        raw = records.raw_resources(sql) if bulk else []
        rows = [] if bulk else records.resources(sql)
        known = {row[4] for row in raw or rows}
        provisional = records.provisional_networks(sql)
        record = Record(
            life=runtime.life.id,
            seq=records.seq(sql),
            newest=records.newest_operation(sql),
            rows=rows,
            tombstones=records.tombstones(sql, recheck.unknown_marks(known, host.marks)),
            operations=records.operations(sql),
            vms=records.vm_heads(sql),
            lives=records.lives(sql),
            networks={
                network.id: NetworkFacts(network.name, network.subnets, network.id in provisional)
                for network in records.networks(sql)
            },
            raw=raw,
            attached={vm: one.words for vm, one in records.attachments(sql).items()},
        )
        return record, ask(sql)


def _since(
    runtime: Runtime,
    host: SeenHost,
    record: Record,
    settling: Settling,
    underway: set[int],
    doubtful: Sequence[Resource],
) -> tuple[dict[int, OperationFacts], frozenset[int]]:
    """The operations, with those begun since the record was read, and which rows moved since."""
    with runtime.reading() as sql:
        if records.seq(sql) == record.seq:
            return recheck.operation_facts(record, underway), frozenset()
        free = {operation.id for operation in record.operations} - underway
        ended = free - records.still_open(sql, free)
        begun = records.operations_since(sql, record.newest)
        _take_back(host, record, settling, recheck.vms_of(record, begun))
        asked = recheck.asked_again(record, doubtful, begun)
        now = records.whereabouts(sql, asked)
    facts = recheck.operation_facts(record, underway, ended=ended, begun=begun)
    return facts, recheck.moved_since(asked, now)


# -- what follows ---------------------------------------------------------------------------------


def _vms(
    life: Epoch,
    record: Record,
    facts: Mapping[int, ProcessFacts],
    rows: Sequence[Resource],
) -> dict[str, VmFacts]:
    own = rows_by_vm(rows)
    lives = record.lives
    found = {}
    for vm, name, hypervisor, provisional in record.vms:
        liveness, evidence = judge_vm(
            hypervisor, own.get(vm, []), life=life, lives=lives, facts=facts
        )
        if whose := record.attached.get(vm):  # people know a pod, and not its VM's name
            evidence += (whose,)
        found[vm] = VmFacts(name, liveness, evidence, provisional, hypervisor == "cni")
    for vm in own.keys() - found.keys():  # a hand in the store; its process may live all the same
        liveness, evidence = judge_vm("", own[vm], life=life, lives=lives, facts=facts)
        found[vm] = VmFacts(vm, liveness, evidence, provisional=False)
    return found


def _expected(runtime: Runtime, rows: Iterable[Resource]) -> dict[int, tuple[Entry, ...]]:
    rows = list(rows)
    own = [row for row in rows if row.kind in FIREWALL_KINDS]
    say = {name: runtime.firewall(name).expected for name in {row.backend for row in own}}
    found = {row.id: say[row.backend](row) for row in own}
    for row in rows:
        if row.is_service:  # its table, where it has one
            table = f"{table_name(runtime.installation)}-{row.network}"
            place = nft_place("inet", table)
            found[row.id] = (Entry(BACKEND, place, TABLE_TEXT, row.mark),)
    return found
