"""Carrying out an import: rows are written, and the objects get their marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hvtx.engine.imported import Outcomes
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import HostRefused, HvtxError
from hvtx.host import failpoint, procfs
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import family_of
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import FIREWALL_KINDS, Kind, Outcome, Resource, State
from hvtx.model.typed import Any
from hvtx.model.vm import Identity, Liveness, Vm
from hvtx.planner import adoption
from hvtx.planner.adoption import Finding, Verdict
from hvtx.planner.provision import ResourceSpec, link_local
from hvtx.store import intents, records
from hvtx.store.history import Event


def outcomes_of(runtime: Runtime, verdict: Verdict, dry_run: bool) -> Outcomes:
    """What becomes of the proven findings of a VM, by their numbers: a word, and why."""
    if verdict.reason:
        return {}
    proven = {n: item for n, item in enumerate(verdict.findings) if item.proven}
    known = runtime.read(records.resources_of_vm, verdict.vm_id)
    rows = {n: _row_of(item, known) for n, item in proven.items()}
    outcomes: dict[int, tuple[str, str]] = {}
    todo = {}
    for number, item in proven.items():
        row = rows[number]
        if row is not None and _carries(item) == row.mark:
            outcomes[number] = ("already", "on record and marked")
        elif row is not None and not _is_of(row, item, runtime):
            words = "on record, but for another device: `hvtx gc --apply` closes that first"
            outcomes[number] = ("skipped", words)
        elif dry_run:
            outcomes[number] = ("imported", "")
        else:
            todo[number] = item
    if todo:
        outcomes.update(record_and_mark(runtime, verdict, todo, rows))
    return outcomes


def _row_of(item: Finding, known: Iterable[Resource]) -> Resource | None:
    """The row that an earlier import wrote for a thing."""
    for row in known:
        if item.link is not None and row.kind == Kind.TAP and row.key == item.key:
            return row
        if item.rule is not None and row.kind in FIREWALL_KINDS:
            here = (str(item.rule.place), adoption.bare_text(item.rule))
            spec = firewall_spec(row)
            same = (spec.get("place"), spec.get("words")) == here
            if same or row.mark == item.rule.mark:
                return row
    return None


def _carries(item: Finding) -> str | None:
    return item.link.alias if item.link is not None else item.rule.mark if item.rule else None


def _is_of(row: Resource, item: Finding, runtime: Runtime) -> bool:
    """Whether a row that lacks its mark is this very thing's (an import that was cut short)."""
    here = row.life == runtime.life.id and row.state == State.COMMITTED
    return here and (item.link is None or row.ifindex == item.link.ifindex)


def record_and_mark(
    runtime: Runtime,
    verdict: Verdict,
    todo: Mapping[int, Finding],
    known: Mapping[int, Resource | None],
) -> dict[int, tuple[str, str]]:
    """Record the VM and its things, then mark them; what refuses its mark is forgotten again."""
    fresh = [number for number in todo if known[number] is None]
    verb = "adopt" if verdict.claim.by_operator else "import"
    with begin(runtime, verb, vm=verdict.vm_name) as (sql, operation):
        if verdict.vm_id not in records.vm_names(sql):
            records.add_vm(sql, _vm(verdict), operation.id)
            # at once: what is on record is the whole of what will ever be of it
            records.set_vm_confirmed(sql, verdict.vm_id)
        wants = [_want(todo[number], verdict) for number in fresh]
        made = operation.intend(sql, wants, vm=verdict.vm_id, committed=True)
        _record_process(sql, operation, verdict)
    failpoint.reach("recorded")
    rows = {**{n: row for n, row in known.items() if row}, **dict(zip(fresh, made, strict=True))}
    outcomes: dict[int, tuple[str, str]] = {}
    events, unmarked = [], []
    for number, item in todo.items():
        row = rows[number]
        outcome = mark_object(runtime, item, row.mark)
        failpoint.reach("marked")
        carried = True if outcome.gone else _took_its_mark(runtime, item, row.mark)
        if carried:
            outcomes[number] = ("imported", "")
            claim = verdict.claim
            source = f"on the word of {claim.by}" if claim.by_operator else f"from {claim.path}"
            words = f"{item.kind} {item.key}, {source}"
            events.append(Event("imported", words, row.kind, row.key))
        else:
            outcomes[number] = ("failed", outcome.message)
            events.append(Event("failed", outcome.message, row.kind, row.key, outcome.reason))
            if carried is False:
                unmarked.append(row)
    failed = any(word == "failed" for word, _ in outcomes.values())
    operation.end(
        "partial" if failed else "done",
        events=events,
        then=lambda sql: _forget(sql, verdict.vm_id, unmarked),
    )
    operation.raise_pending_interrupt()  # not before: what is on record is marked, or forgotten
    return outcomes


def _forget(sql: Any, vm: str, rows: Sequence[Resource]) -> None:
    """Close the rows of what could not be marked, and the VM's record if nothing else is left."""
    intents.forget(sql, rows)
    left = records.resources_of_vm(sql, vm)
    if rows and all(row.kind == Kind.PROCESS for row in left):
        intents.forget(sql, left)
        records.remove_vm(sql, vm)


def _vm(verdict: Verdict) -> Vm:
    return Vm(
        id=verdict.vm_id,
        name=verdict.vm_name,
        hypervisor="external",
        memory=0,
        cpus=0,
        kernel=None,
        initrd=None,
        append=None,
        disks=(),
        command=(),
        directory=str(Path(verdict.claim.path).parent) if verdict.claim.path else "/",
        autostart=False,
        interfaces=(),
    )


def _want(item: Finding, verdict: Verdict) -> ResourceSpec:
    claim = verdict.claim
    address = claim.ip.partition("/")[0] if claim.ip else None
    field = f"ipv{family_of(address or '')}"
    if item.link is not None:
        link = item.link
        return ResourceSpec(
            Kind.TAP,
            link.name,
            {
                "device": link.name,
                "ifindex": link.ifindex,
                "bridge": claim.bridge,
                "master": link.master,
                "mtu": link.mtu,
                "mac": link.mac,
                # what the kernel gives it by itself is nobody's
                "addresses": [f"{link_local(link.mac)}/64"],
                field: address,
                "imported": claim.by,
            },
        )
    assert item.rule is not None
    return ResourceSpec(
        item.kind,
        item.rule.key,
        {
            "backend": item.rule.backend,
            "what": "imported",
            "place": str(item.rule.place),
            "text": item.rule.text,
            "words": item.rule.text,
            "native": item.rule.native,
            field: address,
            "imported": claim.by,
        },
    )


def _record_process(sql: Any, operation: Operation, verdict: Verdict) -> None:
    """The VM's process: alive with its identity, or gone when it was looked for; else none."""
    if any(row.kind == Kind.PROCESS for row in records.resources_of_vm(sql, verdict.vm_id)):
        return
    identity = _identity(operation.runtime, verdict)
    if identity is None:
        return
    want = ResourceSpec(
        Kind.PROCESS, verdict.vm_name, {"hypervisor": "external", "directory": None}
    )
    row = operation.intend(sql, [want], vm=verdict.vm_id, committed=True)[0]
    intents.record_observed(sql, row.id, identity._asdict())


def _identity(runtime: Runtime, verdict: Verdict) -> Identity | None:
    pid = verdict.claim.pid
    if pid is None or verdict.liveness is Liveness.UNKNOWN:
        return None
    if verdict.liveness is Liveness.DEAD:
        # no process started at tick 0, so whoever gets the pid later is another one
        return Identity(runtime.boot_id, pid, 0)
    try:
        return procfs.identify(pid)
    except ProcessLookupError:
        return None  # it has ended in the meantime
    except OSError as problem:
        raise HostRefused(
            f"cannot determine the identity of process {pid} of VM {verdict.vm_name!r}: {problem}",
            hint="look at the limits on open files and memory, and try again; nothing was taken",
        ) from problem


def mark_object(runtime: Runtime, item: Finding, mark: str) -> Outcome:
    """Give a device or a rule its mark, if it is still what was seen."""
    if item.rule is not None:
        return runtime.drivers.of_others().mark(item.rule, mark)
    assert item.link is not None
    try:
        return runtime.devices().mark(item.link, mark, idle=item.idle)
    except HvtxError as problem:
        return Outcome(False, problem.code, problem.message)
    except OSError as problem:
        return Outcome(False, "host-refused", f"{item.key}: {problem.strerror}")


def _took_its_mark(runtime: Runtime, item: Finding, mark: str) -> bool | None:
    """Whether an object has its mark after all, where setting it failed; None if nobody can say.

    The kernel may have done it and only its answer was lost. A record that were closed then would
    leave somebody else's object with the mark of a tombstone, which is what gc removes.
    """
    try:
        if item.rule is not None:
            entries = runtime.firewall(item.rule.backend).observe()
            return any(entry.mark == mark for entry in entries)
        assert item.link is not None
        links = Links()
        try:
            seen = links.get(ifindex=item.link.ifindex)
        finally:
            links.close()
        return seen is not None and seen.alias == mark
    except (HvtxError, OSError, DumpInterrupted, ValueError):
        return None
