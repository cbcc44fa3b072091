"""Gather the facts that plans are made from: record, host, liveness. Reads only.

Dumps come first, the record second: an object whose row is written between the two looks absent
from the dump and `operation-running` in the record, never the other way round.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from hvtx.drivers import process
from hvtx.drivers.file import mark_of
from hvtx.engine import privileges
from hvtx.engine.runtime import FIREWALLS, Runtime
from hvtx.errors import Contended, HostRefused, HvtxError, NotPermitted, Refused
from hvtx.host import failpoint, procfs
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.mark import Mark, parse_mark
from hvtx.model.plan import NetworkFacts, OperationFacts, Snapshot, VmFacts
from hvtx.model.resource import FIREWALL_KINDS, Address, Entry, Kind, Link, Resource, State
from hvtx.model.vm import Liveness, ProcessFacts
from hvtx.planner.states import identity_of, judge_vm
from hvtx.store import records

_GATE_SECONDS = 5.0


def take_snapshot(runtime: Runtime) -> Snapshot:
    """Everything as it is now.

    Raises Refused: ``cannot-observe`` where the host may not be read, ``unstable-view`` where it
    changed faster than it could be.
    """
    failures: dict[str, str] = {}
    links, addresses, filtered = _links(failures)
    entries, unread = _entries(runtime, failures)
    rows = records.resources(runtime.sql)
    failpoint.reach("read")
    if unread is not None and any(row.spec.get("backend") == "iptables" for row in rows):
        raise Refused("cannot-observe", unread.message, hint=unread.hint)
    operations = _operations(runtime)
    facts = _processes(rows, operations)
    vms = _vms(runtime, rows, facts)
    tombstones = _tombstones(runtime, rows, links, entries)
    living = {vm for vm, known in vms.items() if known.liveness is Liveness.ALIVE}
    suspects = {row.key for row in rows if row.kind == Kind.TAP and row.vm not in living}
    alive = {row.mark for row in rows if row.vm in living}
    suspects |= {link.name for link in links if link.kind == "tun" and link.alias not in alive}
    holders, hidden = _holders(suspects, links)
    return Snapshot(
        installation=runtime.installation,
        life=runtime.life,
        rows=tuple(rows),
        tombstones=tombstones,
        vms=vms,
        networks=_networks(runtime),
        operations=operations,
        links=tuple(links),
        addresses=tuple(addresses),
        entries=tuple(entries),
        expected=_expected(runtime, [*rows, *tombstones.values()]),
        holders=holders,
        filtered=filtered,
        files=_files(rows, failures),
        failures=failures,
        hidden=hidden,
    )


def _tombstones(
    runtime: Runtime, rows: Iterable[Resource], links: Iterable[Link], entries: Iterable[Entry]
) -> dict[str, Resource]:
    """Rows that were released and whose mark was seen; a mark is unique among all rows."""
    known = {row.mark for row in rows}
    seen = {link.alias for link in links if link.alias} | {entry.mark for entry in entries}
    marks = [mark for mark in seen if mark and mark not in known]
    return records.tombstones(
        runtime.sql, [mark for mark in marks if isinstance(parse_mark(mark), Mark)]
    )


def _links(failures: dict[str, str]) -> tuple[list[Link], list[Address], frozenset[int]]:
    source = Links()
    try:
        return source.all(), source.addresses(), source.filtered()
    except DumpInterrupted as problem:
        raise Refused(
            "unstable-view",
            "the host's links changed too fast to be listed",
            hint="try again when fewer devices come and go",
        ) from problem
    except PermissionError as problem:
        raise _cannot_observe("the host's links") from problem
    except OSError as problem:
        failures["links"] = f"the links could not be listed: {problem}"
        return [], [], frozenset()
    finally:
        source.close()


def _entries(runtime: Runtime, failures: dict[str, str]) -> tuple[list[Entry], NotPermitted | None]:
    """What the firewalls hold, and why this user may not read the legacy tables, if so.

    Who has no rule in legacy tables need not be allowed to read them: only strangers' rules are
    missing from the plan then.
    """
    found: list[Entry] = []
    unread: NotPermitted | None = None
    for backend in FIREWALLS:
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


def _operations(runtime: Runtime) -> dict[int, OperationFacts]:
    return {
        operation.id: OperationFacts(operation.verb, operation.vm, runtime.is_running(operation.id))
        for operation in records.operations(runtime.sql)
    }


def _processes(
    rows: Iterable[Resource], operations: Mapping[int, OperationFacts]
) -> dict[int, ProcessFacts]:
    """Look at every process on record, by row; wait for dead operations' gates, which soon exit."""
    facts: dict[int, ProcessFacts] = {}
    for row in rows:
        if row.kind != Kind.PROCESS:
            continue
        identity = identity_of(row)
        if identity is None:
            continue
        operation = operations.get(row.operation)
        if row.state == State.INTENDED and not (operation and operation.running):
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
    runtime: Runtime, rows: Iterable[Resource], facts: Mapping[int, ProcessFacts]
) -> dict[str, VmFacts]:
    own: dict[str, list[Resource]] = {}
    for row in rows:
        if row.vm:
            own.setdefault(row.vm, []).append(row)
    lives = records.lives(runtime.sql)
    found = {}
    for vm, name, hypervisor, provisional in runtime.sql.execute(
        "SELECT id, name, hypervisor, operation IS NOT NULL FROM vm"
    ):
        liveness, evidence = judge_vm(
            hypervisor, own.get(vm, []), life=runtime.life, lives=lives, facts=facts
        )
        found[vm] = VmFacts(name, liveness, evidence, bool(provisional))
    for vm in own.keys() - found.keys():  # a hand in the store; its process may live all the same
        liveness, evidence = judge_vm("", own[vm], life=runtime.life, lives=lives, facts=facts)
        found[vm] = VmFacts(vm, liveness, evidence, provisional=False)
    return found


def _networks(runtime: Runtime) -> dict[str, NetworkFacts]:
    provisional = dict(runtime.sql.execute("SELECT id, operation IS NOT NULL FROM network"))
    return {
        network.id: NetworkFacts(network.name, network.subnets, bool(provisional[network.id]))
        for network in records.networks(runtime.sql)
    }


def _expected(runtime: Runtime, rows: Iterable[Resource]) -> dict[int, tuple[Entry, ...]]:
    own = [row for row in rows if row.kind in FIREWALL_KINDS]
    say = {name: runtime.firewall(name).expected for name in {row.spec["backend"] for row in own}}
    return {row.id: say[row.spec["backend"]](row) for row in own}


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
