"""The effects of an operation: what it makes and removes in the host, in order.

The only place that calls the drivers' ``create`` and ``release`` for rows of an operation. All of
it happens outside of store transactions; what became of each row goes back to the protocol
(:mod:`hvtx.engine.transaction`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hvtx.engine import flows, holding, loopback
from hvtx.engine.registry import driver_name
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.resource import FIREWALL_KINDS, GONE, Kind, Outcome, Resource, address_spec
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.transaction import Operation

# What is made before what; equal numbers go to their driver in one batch.
_MAKING = {
    Kind.FILE: 1,
    Kind.BRIDGE: 2,
    Kind.ADDRESS: 3,
    Kind.TAP: 4,
    Kind.FILTER: 5,
    Kind.MASQUERADE: 5,
    Kind.PUBLISH: 5,
    Kind.SYSCTL: 6,  # late: settings stay on, so whatever the host refuses comes before them
    Kind.PROCESS: 7,
    Kind.LEASE: 8,
}


def create(operation: Operation, rows: Sequence[Resource]) -> dict[int, Mapping[str, Any]]:
    """Make everything but the process; what was read back, by row. Stops at the first error."""
    runtime = operation.runtime
    observed: dict[int, Mapping[str, Any]] = {}
    ordered = sorted(
        rows, key=lambda row: (_MAKING[Kind(row.kind)], driver_name(row) != "nftables")
    )
    for name, batch in groupby(ordered, key=driver_name):
        if not name:
            continue
        part = list(batch)
        observed.update(runtime.driver(name).create(part))
        if part[0].kind in FIREWALL_KINDS:
            flows.end_past_new(operation, part, observed)
            if any(row.kind == Kind.PUBLISH for row in part):
                loopback.settle(runtime, part)
        failpoint.reach(f"acted:{'filter' if name == 'nftables' else name}")
    return observed


def remove(operation: Operation, rows: Sequence[Resource], later: ExitStack) -> dict[int, Outcome]:
    """Remove what rows stand for: go on past errors, keep what a refusal of its bridge would tear.

    Devices are held first, so that a VM whose device somebody else has open keeps all of its
    things, and none of them loses only its firewall.
    """
    seizing = any(row.vm and row.kind in (Kind.TAP, *FIREWALL_KINDS) for row in rows)
    try:
        outcomes: dict[int, Outcome] = _seize(operation, rows)
        rows = [row for row in rows if row.id not in outcomes]
        return _remove_seized(operation, rows, outcomes, later)
    finally:
        if seizing:  # a VM of which one device is busy has others that are held by now
            operation.runtime.devices().let_go()


def _seize(operation: Operation, rows: Sequence[Resource]) -> dict[int, Outcome]:
    """Hold every TAP of the VMs of ``rows``; what is kept because somebody else holds one."""
    runtime = operation.runtime
    taps = [row for row in rows if row.kind == Kind.TAP]
    # a plan made of an old dump may take a VM's rules without its device
    bare = {row.vm for row in rows if row.vm and row.kind in FIREWALL_KINDS}
    for vm in sorted(bare - {tap.vm for tap in taps}):
        own = runtime.read(records.resources_of_vm, vm)
        taps += [row for row in own if (row.kind, row.life) == (Kind.TAP, runtime.life.id)]
    if not taps:
        return {}
    try:
        busy = runtime.devices().seize(taps)
    except OSError as problem:  # not even a socket to ask with
        why = Outcome(False, "observe-failed", f"devices could not be held: {problem}")
        busy = {tap.id: why for tap in taps}
    failpoint.reach("seized")
    held = {row.vm: busy[row.id] for row in taps if row.id in busy}
    kept = {
        row.id: held[row.vm]._replace(message=f"{row.key} is kept: {held[row.vm].message}")
        for row in rows
        if row.vm is not None and row.vm in held
    }
    return kept | {row: outcome for row, outcome in busy.items() if row in kept}


def _remove_seized(
    operation: Operation,
    rows: Sequence[Resource],
    outcomes: dict[int, Outcome],
    later: ExitStack,
) -> dict[int, Outcome]:
    addresses = sorted({address for row in rows for address in flows.guest_addresses(row)})
    unended: flows.Unended | None = None
    flushed = not addresses
    for name, batch in groupby(rows, key=driver_name):
        part = list(batch)
        if not flushed and part[0].kind not in FIREWALL_KINDS:
            unended = flows.end(addresses, later)
            flushed = True
        kept = [row for row in part if _bridge_stayed(row, rows, outcomes)]
        part = [row for row in part if row not in kept]
        outcomes.update(
            (row.id, Outcome(False, "foreign-dependents", f"{row.key} stays with its bridge"))
            for row in kept
        )
        if not name:
            outcomes.update((row.id, GONE) for row in part)
        elif part:
            outcomes.update(_release_batch(operation, name, part))
            failpoint.reach(f"released:{name}")
    if not flushed:
        unended = flows.end(addresses, later)
    if any(row.kind == Kind.PUBLISH for row in rows):
        loopback.settle_gone(operation.runtime, outcomes, rows)
    if unended is not None:
        outcomes.update(flows.kept_for(rows, outcomes, unended))
    holding.end_gone(outcomes, rows)
    return outcomes


def _release_batch(
    operation: Operation, name: str, part: Sequence[Resource]
) -> Mapping[int, Outcome]:
    try:
        return operation.runtime.driver(name).release(part)
    except HvtxError as problem:
        kept = Outcome(False, problem.code, problem.message)
    except (OSError, DumpInterrupted) as problem:  # out of descriptors, of memory …
        kept = Outcome(False, "observe-failed", f"{name} could not be worked on: {problem}")
    return {row.id: kept for row in part}


def _bridge_stayed(
    row: Resource, rows: Sequence[Resource], outcomes: Mapping[int, Outcome]
) -> bool:
    """Whether an address's bridge refused to go: deleting the address could take others with it."""
    if row.kind != Kind.ADDRESS:
        return False
    return any(
        other.kind == Kind.BRIDGE
        and other.key == address_spec(row)["device"]
        and other.id in outcomes
        and not outcomes[other.id].gone
        for other in rows
    )
