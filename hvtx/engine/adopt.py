"""`import` and `adopt`: what is proven, or vouched for, becomes hvtx's by record and by mark.

The order is the reverse of making (docs/adr/0008): the things exist and are in use, so the rows are
written as committed before the marks are set. Wherever this dies, what is not marked yet is
``mark-mismatch`` or ``mark-stripped`` to gc, which leaves it; running the import again sets the
mark that the row has. Nothing here ever undoes by removing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvtx.drivers.strangers import Strangers
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import Conflict, HostRefused, HvtxError, NotFound, UsageError
from hvtx.host import failpoint, paths, procfs
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import FIREWALL_KINDS, GONE, Kind, Link, Outcome, Resource, State
from hvtx.model.vm import Identity, Liveness, ProcessFacts, Vm
from hvtx.planner import addressing, adoption
from hvtx.planner.adoption import TOOL, Claim, Finding, Sighted, Verdict, Why
from hvtx.planner.provision import Want, link_local
from hvtx.planner.states import identity_of
from hvtx.store import intents, records, trust
from hvtx.store.history import Event

SCHEMA = "hvtx/import/1"
_LARGEST = 1 << 20  # bytes of a state.json: theirs have some hundred
_LIMITS = "look at the limits on open files and memory, and try again; nothing was taken"


class Unread(NamedTuple):
    """A file that is no ``state.json``, or that others could have written; and why."""

    path: str
    reason: Why
    message: str


def import_states(runtime: Runtime, given: Sequence[str], *, dry_run: bool) -> dict[str, Any]:
    """Take over what is proven of the VMs whose ``state.json`` stand in the ``given`` paths.

    Returns the ``hvtx/import/1`` object. Raises NotFound for a path without any, Busy, Refused.
    """
    files = find_states(given)
    claims, unread = _read(files)
    if dry_run:
        if runtime.refused is not None:
            raise runtime.refused
    else:
        runtime.enter()
        trust.check_pages(runtime.store)
        for name in sorted({adoption.vm_name(claim) for claim in claims}):
            runtime.lock("vm", name)
        runtime.lock("all", "gc")
    claims, sighted = _sight(runtime, claims)
    verdicts = adoption.judge(claims, sighted)
    done = [_vm_document(verdict, _outcomes(runtime, verdict, dry_run)) for verdict in verdicts]
    done += [_unread_document(item) for item in unread]
    done.sort(key=lambda vm: str(vm["path"]))
    counts = dict.fromkeys(("imported", "already", "skipped", "failed"), 0)
    for vm in done:
        for item in (vm, *vm["items"]):
            counts[item["outcome"]] += 1
    return {"schema": SCHEMA, "tool": TOOL, "applied": not dry_run, "vms": done, "summary": counts}


def adopt_object(
    runtime: Runtime, thing: str, vm: str, *, pid: int | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Take over one TAP device (its name) or one rule (its words), for which a person vouches.

    The VM is one without interfaces of hvtx's (as `import` makes them), or a new one of that name.
    Returns the ``hvtx/adopt/1`` object. Raises NotFound (no such thing or process), Conflict (it
    is marked, on record, in another's use, kept by a program), UsageError, Busy, Refused.
    """
    addressing.parse_name(vm, "VM")
    if dry_run and runtime.refused is not None:
        raise runtime.refused
    if not dry_run:
        runtime.enter()
        trust.check_pages(runtime.store)
        runtime.lock("vm", vm)
        runtime.lock("all", "gc")
    (claim,), sighted = _sight(runtime, [_vouched(runtime, thing, vm, pid)])
    if pid is None and claim.device and claim.pid is None:
        holders = sighted.holders.get(claim.device, ())
        if len(holders) == 1:
            claim = claim._replace(pid=holders[0])
            sighted = sighted._replace(processes={holders[0]: _look(holders[0])})
    verdict = adoption.judge([claim], sighted)[0]
    if pid is not None and verdict.liveness is not Liveness.ALIVE and not verdict.reason:
        raise Conflict(
            f"process {pid} is not the VM's: {verdict.process}",
            hint="give the pid of the process that holds the device, or none",
        )
    outcomes = _outcomes(runtime, verdict, dry_run)
    finding = verdict.findings[0] if verdict.findings else None
    word, words = outcomes.get(0, ("skipped", ""))
    if finding is None or word in ("skipped", "failed"):
        raise _unadopted(thing, verdict, finding, words)
    return {
        "schema": "hvtx/adopt/1",
        "object": thing,
        "applied": not dry_run,
        "vm": verdict.vm_name,
        "liveness": verdict.liveness.value,
        "process": verdict.process,
        "item": _item(finding, (word, words)),
    }


def _vouched(runtime: Runtime, thing: str, name: str, pid: int | None) -> Claim:
    with runtime.reading() as sql:
        known = records.find_vm(sql, name)
        rows = records.resources_of_vm(sql, known.id) if known is not None else []
    if known is not None and (known.interfaces or known.hypervisor != "external"):
        raise Conflict(
            f"hvtx makes the devices and rules of VM {name!r} itself",
            hint="name another VM: one that takes over what others made has nothing else",
        )
    if pid is None and known is not None:
        for row in rows:
            identity = identity_of(row) if row.kind == Kind.PROCESS else None
            if identity is not None and identity.boot_id == runtime.boot_id:
                pid = identity.pid
    is_rule = " " in thing.strip()
    return adoption.vouch(
        name,
        known.id if known else os.urandom(16).hex(),
        device=None if is_rule else thing,
        rule=thing if is_rule else None,
        pid=pid,
    )


def _unadopted(thing: str, verdict: Verdict, finding: Finding | None, words: str) -> HvtxError:
    """Why a thing was left alone, as the error that a person reads."""
    if verdict.reason == Why.NOT_LOOKED_AT.value:
        return HostRefused(
            f"{thing} is not taken over without its process: {verdict.message}", hint=_LIMITS
        )
    if verdict.reason == Why.OBSERVE_FAILED.value:
        return HostRefused(
            f"{thing} is not taken over: {verdict.message}",
            hint="see what `iptables-nft-save` and `nft list ruleset` say; nothing was taken",
        )
    message = words or (finding.message if finding else "") or verdict.message
    reason = finding.reason if finding else verdict.reason
    hint = {
        Why.HAS_ALIAS.value: f"hvtx explain {thing} tells whose it is",
        Why.MARKED.value: "hvtx explain MARK tells whose it is",
        Why.HELD_BY_OTHERS.value: "--pid PID says which of them is the VM's process",
        Why.NOT_UNIQUE.value: "remove the copies first: which of them is meant cannot be told",
        Why.NOT_UNDERSTOOD.value: "a rule as `iptables-save` has it, with its table:"
        " iptables -t nat -A POSTROUTING -s 10.0.0.5/32 -j MASQUERADE",
    }.get(reason or "")
    if reason == Why.GONE.value:
        return NotFound(f"{thing}: {message}", hint="`ip link` and `iptables-save` show what is")
    if reason == Why.NOT_UNDERSTOOD.value:
        return UsageError(f"{thing!r} is not understood: {message}", hint=hint)
    return Conflict(f"{thing} is not taken over: {message}", hint=hint)


# -- reading -------------------------------------------------------------------------------------


def find_states(given: Iterable[str]) -> list[Path]:
    """The ``state.json`` files that are meant: files as given, directories searched.

    Links stay in the paths: who made one counts when the file is opened.
    """
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(path.rglob("state.json"))
            if not inside:
                raise NotFound(
                    f"there is no state.json in {path}",
                    hint="give the tool's state directory, or the files themselves",
                )
            found.update(dict.fromkeys(map(Path.absolute, inside)))
        elif path.exists():
            found[path.absolute()] = None
        else:
            raise NotFound(f"{path} does not exist", hint="give state.json files or directories")
    return list(found)


def _read(files: Iterable[Path]) -> tuple[list[Claim], list[Unread]]:
    claims, unread = [], []
    known = set()
    for file in files:
        path = str(file)
        try:
            descriptor = paths.open_believed(path)
            seen = os.fstat(descriptor)
            text = paths.read(descriptor, _LARGEST, path).decode()
            if (seen.st_dev, seen.st_ino) not in known:  # by a link and by its own name
                known.add((seen.st_dev, seen.st_ino))
                claims.append(adoption.parse_state(text, os.path.realpath(path)))
        except paths.UnsafeError as unsafe:
            words = f"the file is not believed: {unsafe.strerror}; make it and its directories"
            words += " root's alone (chown, chmod go-w, setfacl -b)"
            unread.append(Unread(path, Why.NOT_BELIEVED, words))
        except (OSError, ValueError, RecursionError) as problem:
            why = problem.strerror if isinstance(problem, OSError) else problem
            words = f"it is no state.json of {TOOL}: {why}"
            unread.append(Unread(path, Why.UNREADABLE, words))
    return claims, unread


def _sight(runtime: Runtime, claims: Sequence[Claim]) -> tuple[list[Claim], Sighted]:
    """Look at everything that the claims speak of; raises HvtxError if that cannot be.

    The claims come back with the devices' own names.
    """
    links = Links()
    try:
        seen = links.all()
    except (OSError, DumpInterrupted) as problem:
        raise HvtxError(
            f"the host's links could not be listed: {problem}",
            hint="try again; nothing was changed",
        ) from problem
    finally:
        links.close()
    claims = adoption.by_own_names(claims, seen)
    holders = procfs.tap_holders({claim.device for claim in claims if claim.device})
    with runtime.reading() as sql:
        rows = [row for row in records.resources(sql) if row.kind != Kind.LEASE]
        names = {name: identity for identity, name in records.vm_names(sql).items()}
    recorded = {row.key: row.vm or "" for row in rows if row.kind in (Kind.TAP, Kind.BRIDGE)}
    recorded.update({row.mark: row.vm or "" for row in rows})
    return claims, Sighted(
        links=seen,
        holders={
            name: tuple(holder.pid for holder in found) for name, found in holders.found.items()
        },
        rules=Strangers(runtime.host).rules() if any(claim.rules for claim in claims) else (),
        processes={claim.pid: _look(claim.pid) for claim in claims if claim.pid},
        recorded=recorded,
        names=names,
    )


_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def _look(pid: int) -> ProcessFacts:
    """What is to be seen of a process; HostRefused where only want of room is in the way.

    A VM that is taken over without its process stays unknown for good.
    """
    facts = procfs.look(pid)
    if facts.code in _EXHAUSTED:
        raise HostRefused(
            f"process {pid} cannot be looked at: {facts.error}",
            hint=_LIMITS,
        )
    return facts


# -- taking over -----------------------------------------------------------------------------------


Outcomes = Mapping[int, tuple[str, str]]  # of a finding's place: outcome, and words if it failed


def _outcomes(runtime: Runtime, verdict: Verdict, dry_run: bool) -> Outcomes:
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
        outcomes.update(_take_over(runtime, verdict, todo, rows))
    return outcomes


def _row_of(item: Finding, known: Iterable[Resource]) -> Resource | None:
    """The row that an earlier import wrote for a thing."""
    for row in known:
        if item.link is not None and row.kind == Kind.TAP and row.key == item.key:
            return row
        if item.rule is not None and row.kind in FIREWALL_KINDS:
            here = (item.rule.place, adoption.bare_text(item.rule))
            same = (row.spec.get("place"), row.spec.get("words")) == here
            if same or row.mark == item.rule.mark:
                return row
    return None


def _carries(item: Finding) -> str | None:
    return item.link.alias if item.link is not None else item.rule.mark if item.rule else None


def _is_of(row: Resource, item: Finding, runtime: Runtime) -> bool:
    """Whether a row that lacks its mark is this very thing's (an import that was cut short)."""
    here = row.life == runtime.life.id and row.state == State.COMMITTED
    return here and (item.link is None or row.spec["ifindex"] == item.link.ifindex)


def _take_over(
    runtime: Runtime,
    verdict: Verdict,
    todo: Mapping[int, Finding],
    known: Mapping[int, Resource | None],
) -> dict[int, tuple[str, str]]:
    """Record the VM and its things, then mark them; what refuses its mark is forgotten again."""
    fresh = [number for number in todo if known[number] is None]
    verb = "adopt" if verdict.claim.vouched else "import"
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
        outcome = _mark(runtime, item, row.mark)
        failpoint.reach("marked")
        carried = True if outcome.gone else _took_its_mark(runtime, item, row.mark)
        if carried:
            outcomes[number] = ("imported", "")
            claim = verdict.claim
            source = f"on the word of {claim.by}" if claim.vouched else f"from {claim.path}"
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


def _want(item: Finding, verdict: Verdict) -> Want:
    claim = verdict.claim
    address = claim.ip.partition("/")[0] if claim.ip else None
    field = "ipv6" if address and ":" in address else "ipv4"
    if item.link is not None:
        link = item.link
        return Want(
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
    return Want(
        item.kind,
        item.rule.key,
        {
            "backend": item.rule.backend,
            "what": "imported",
            "place": item.rule.place,
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
    want = Want(Kind.PROCESS, verdict.vm_name, {"hypervisor": "external", "directory": None})
    row = operation.intend(sql, [want], vm=verdict.vm_id, committed=True)[0]
    intents.note(sql, row.id, identity._asdict())


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
            f"the process {pid} of VM {verdict.vm_name!r} cannot be told from others: {problem}",
            hint="look at the limits on open files and memory, and try again; nothing was taken",
        ) from problem


def _mark(runtime: Runtime, item: Finding, mark: str) -> Outcome:
    if item.rule is not None:
        return Strangers(runtime.host).mark(item.rule, mark)
    assert item.link is not None
    links = Links()
    try:
        return _mark_device(links, item.link, mark, idle=item.idle)
    except HvtxError as problem:
        return Outcome(False, problem.code, problem.message)
    except OSError as problem:
        return Outcome(False, "host-refused", f"{item.key}: {problem.strerror}")
    finally:
        links.close()


def _took_its_mark(runtime: Runtime, item: Finding, mark: str) -> bool | None:
    """Whether an object has its mark after all, where setting it failed; None if nobody can say.

    The kernel may have done it and only its answer was lost. A record that were closed then would
    leave a stranger's object with the mark of a tombstone, which is what gc removes.
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


def _mark_device(links: Links, planned: Link, mark: str, *, idle: bool) -> Outcome:
    """Set the alias, if the device is still just what was judged.

    Where nobody was seen to hold it, attaching proves that nobody does: a look at all processes
    may miss some.
    """
    from hvtx.drivers.tap import hold

    if not idle:
        return _set_alias(links, planned, mark)
    descriptor = hold(planned, links, lambda held: None)
    if isinstance(descriptor, Outcome):
        return descriptor
    try:
        return _set_alias(links, planned, mark)
    finally:
        os.close(descriptor)


def _set_alias(links: Links, planned: Link, mark: str) -> Outcome:
    seen = links.get(ifindex=planned.ifindex)
    same = seen is not None and (seen.name, seen.alias, seen.master, seen.kind) == (
        planned.name, planned.alias, planned.master, planned.kind
    )  # fmt: skip
    if not same:
        return Outcome(False, "contended", f"{planned.name} is no longer what was looked at")
    links.change(planned.ifindex, alias=mark)
    marked = links.get(ifindex=planned.ifindex)
    if marked is None or marked.alias != mark:
        return Outcome(False, "contended", f"{planned.name} does not keep its mark")
    return GONE


# -- documents -----------------------------------------------------------------------------------


def _vm_document(verdict: Verdict, outcomes: Outcomes) -> dict[str, Any]:
    items = [_item(item, outcomes.get(n)) for n, item in enumerate(verdict.findings)]
    words = {item["outcome"] for item in items}
    outcome, reason = "skipped", verdict.reason or Why.GONE.value
    for candidate in ("imported", "already", "failed"):
        if candidate in words:
            outcome, reason = candidate, ""
            break
    taken = outcome in ("imported", "already")
    return {
        "path": verdict.claim.path,
        "id": verdict.claim.id,
        "name": verdict.claim.name,
        "status": verdict.claim.status,
        "vm": verdict.vm_name if taken else None,
        "liveness": verdict.liveness.value if taken else None,
        "outcome": outcome,
        "reason": reason or None,
        "message": verdict.message or verdict.process,
        "spelling": dict(verdict.claim.spelling),
        "items": items,
    }


def _item(item: Finding, outcome: tuple[str, str] | None) -> dict[str, Any]:
    word, words = outcome or ("skipped", "")
    return {
        "kind": str(item.kind),
        "key": item.key,
        "outcome": word,
        "reason": item.reason or None,
        "message": words or item.message,
        "evidence": list(item.evidence),
    }


def _unread_document(item: Unread) -> dict[str, Any]:
    return {
        "path": item.path,
        "id": None,
        "name": None,
        "status": None,
        "vm": None,
        "liveness": None,
        "outcome": "skipped",
        "reason": item.reason.value,
        "message": item.message,
        "spelling": {},
        "items": [],
    }
