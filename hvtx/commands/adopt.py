"""`import` and `adopt`: objects that are proven, or named by the user, get a record and a mark.

The order is the reverse of making (docs/adr/0008): the things exist and are in use, so the rows are
written as committed before the marks are set. Wherever this dies, what is not marked yet is
``mark-mismatch`` or ``mark-stripped`` to gc, which leaves it; running the import again sets the
mark that the row has. Nothing here ever undoes by removing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hvtx.commands.import_state import outcomes_of
from hvtx.engine.imported import Adopted, Import, imported_thing, imported_vm, unread_file
from hvtx.engine.runtime import Runtime
from hvtx.engine.state_files import LIMITS, find_states, look_at, read_states, sight_of
from hvtx.errors import Conflict, HostRefused, HvtxError, NotFound, UsageError
from hvtx.model.resource import Kind
from hvtx.model.shell import word
from hvtx.model.vm import Liveness
from hvtx.planner import addressing, adoption
from hvtx.planner.adoption import TOOL, Claim, Finding, Verdict, Why
from hvtx.planner.states import identity_of
from hvtx.store import records, trust


def import_states(runtime: Runtime, given: Sequence[str], *, dry_run: bool) -> Import:
    """Take over what is proven of the VMs whose ``state.json`` stand in the ``given`` paths.

    Raises NotFound for a path without any, Busy, Refused.
    """
    files = find_states(given)
    claims, unread = read_states(files)
    if dry_run:
        if runtime.refused is not None:
            raise runtime.refused
    else:
        runtime.enter()
        trust.check_pages(runtime.store)
        for name in sorted({adoption.vm_name(claim) for claim in claims}):
            runtime.lock("vm", name)
        runtime.lock("all", "gc")
    claims, sighted = sight_of(runtime, claims)
    verdicts = adoption.judge(claims, sighted)
    done = [imported_vm(verdict, outcomes_of(runtime, verdict, dry_run)) for verdict in verdicts]
    done += [unread_file(item) for item in unread]
    return Import(TOOL, not dry_run, tuple(sorted(done, key=lambda vm: vm.path)))


def adopt_object(
    runtime: Runtime, thing: str, vm: str, *, pid: int | None = None, dry_run: bool = False
) -> Adopted:
    """Take over one TAP device (its name) or one rule (its words), for which a person vouches.

    The VM is one without interfaces of hvtx's (as `import` makes them), or a new one of that name.
    Raises NotFound (no such thing or process), Conflict (it is marked, on record, in another's
    use, kept by a program), UsageError, Busy, Refused.
    """
    addressing.parse_name(vm, "VM")
    if dry_run and runtime.refused is not None:
        raise runtime.refused
    if not dry_run:
        runtime.enter()
        trust.check_pages(runtime.store)
        runtime.lock("vm", vm)
        runtime.lock("all", "gc")
    (claim,), sighted = sight_of(runtime, [_operator_claim(runtime, thing, vm, pid)])
    if pid is None and claim.device and claim.pid is None:
        holders = sighted.holders.get(claim.device, ())
        if len(holders) == 1:
            claim = claim._replace(pid=holders[0])
            sighted = sighted._replace(processes={holders[0]: look_at(holders[0])})
    verdict = adoption.judge([claim], sighted)[0]
    if pid is not None and verdict.liveness is not Liveness.ALIVE and not verdict.reason:
        raise Conflict(
            f"process {pid} is not the VM's: {verdict.process}",
            hint="give the pid of the process that holds the device, or none",
        )
    outcomes = outcomes_of(runtime, verdict, dry_run)
    finding = verdict.findings[0] if verdict.findings else None
    word, words = outcomes.get(0, ("skipped", ""))
    if finding is None or word in ("skipped", "failed"):
        raise _unadopted(thing, verdict, finding, words)
    return Adopted(
        object=thing,
        applied=not dry_run,
        vm=verdict.vm_name,
        liveness=verdict.liveness.value,
        process=verdict.process,
        item=imported_thing(finding, (word, words)),
    )


def _operator_claim(runtime: Runtime, thing: str, name: str, pid: int | None) -> Claim:
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
    return adoption.operator_claim(
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
            f"{thing} cannot be taken over without its process: {verdict.message}", hint=LIMITS
        )
    if verdict.reason == Why.OBSERVE_FAILED.value:
        return HostRefused(
            f"{thing} is not taken over: {verdict.message}",
            hint="see what `iptables-nft-save` and `nft list ruleset` say; nothing was taken",
        )
    message = words or (finding.message if finding else "") or verdict.message
    reason = finding.reason if finding else verdict.reason
    hint = {
        Why.HAS_ALIAS.value: f"hvtx explain {word(thing)} shows its owner",
        Why.MARKED.value: "hvtx explain MARK shows its owner",
        Why.HELD_BY_OTHERS.value: "name the VM's process with --pid PID",
        Why.NOT_UNIQUE.value: "remove the copies first: hvtx cannot tell which of them is meant",
        Why.NOT_UNDERSTOOD.value: "a rule as `iptables-save` has it, with its table:"
        " iptables -t nat -A POSTROUTING -s 10.0.0.5/32 -j MASQUERADE",
    }.get(reason or "")
    if reason == Why.GONE.value:
        return NotFound(
            f"{thing}: {message}", hint="`ip link` and `iptables-save` show what exists"
        )
    if reason == Why.NOT_UNDERSTOOD.value:
        return UsageError(f"{thing!r} is not understood: {message}", hint=hint)
    return Conflict(f"{thing} is not taken over: {message}", hint=hint)
