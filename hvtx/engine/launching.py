"""VMs are brought up: made, launched, waited for and committed, or taken back; mostly it is one.

Several go side by side: each has an operation of its own, their steps are in common. What is made
in the host is made in batches, the record is written once for all of them, and no VM waits for the
hypervisor of another to come up. One that fails is taken back alone; what fails for all at once
takes all of them back, and it is for the caller to start each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvtx.engine import effects
from hvtx.engine.operation import RunningOperation
from hvtx.engine.transaction import commit_each
from hvtx.engine.vm_launch import Launch, refuse_diverted_vms, settle_reservations
from hvtx.errors import HvtxError
from hvtx.host import failpoint
from hvtx.model.resource import Kind
from hvtx.model.typed import Any
from hvtx.store import intents, records


def bring_up(launches: Sequence[Launch], acting: RunningOperation) -> KeyboardInterrupt | None:
    """Act and commit; each has its committed rows then, or the problem for which it was undone.

    ``acting`` is the operation of the one, or all of theirs in common. Returns a Ctrl-C that came
    too late, for who has more to begin. Raises what fails for all of them, with all undone. No call
    may come between their rows and this: nobody would undo the rows if Ctrl-C came in it.
    """
    late = None
    try:
        for launch in launches:
            if launch.new:  # its addresses were not known before
                refuse_diverted_vms([launch.vm], launch.means.networks)
        _make(launches, acting)
        _look_again(launches)
        _each(launches, Launch.spawn)
        _observe(launches, acting)
        _each(launches, Launch.open)
        _each(launches, Launch.wait)
        up = [launch for launch in launches if launch.problem is None]
        if up:
            if taps := [row for launch in up for row in launch.rows if row.kind == Kind.TAP]:
                acting.runtime.devices().restore_macs(taps)
            late = _commit(up)
    except (Exception, KeyboardInterrupt) as problem:
        for launch in launches:
            launch.take_back(launch.problem or problem)
        raise
    for launch in launches:
        if launch.problem is not None:
            launch.take_back(launch.problem)
    return late


def _make(launches: Sequence[Launch], acting: RunningOperation) -> None:
    """Make everything but the processes, in batches."""
    rows = [row for launch in launches for row in launch.rows]
    observed = effects.create(acting, rows)
    settle_reservations(acting, rows, observed)
    for launch in launches:
        launch.seen = {row.id: observed[row.id] for row in launch.rows if row.id in observed}


def _look_again(launches: Sequence[Launch]) -> None:
    """Look once more for other installations, now that all ports are published.

    See :mod:`hvtx.engine.peer_ports`: of two that publish one at once, one at least meets the other
    then. Raises HvtxError.
    """
    ports = any(launch.vm.ports for launch in launches)
    peers = ports and bool(launches[0].means.peers.others())
    for launch in launches:
        launch.peers = peers


def _each(launches: Sequence[Launch], step: Callable[[Launch], None]) -> None:
    """A step of each that came so far; whoever fails in it is left behind by the others."""
    for launch in launches:
        if launch.problem is None:
            try:
                step(launch)
            except (HvtxError, OSError) as problem:
                launch.problem = problem


def _observe(launches: Sequence[Launch], acting: RunningOperation) -> None:
    """Put on record who the processes are, before they are let go on."""
    spawned = [launch for launch in launches if launch.problem is None and launch.spawned]
    if not spawned:
        return
    known = [(launch, seen) for launch in spawned if (seen := launch.learnt())]
    if known:
        with acting.runtime.store.transaction() as sql:
            for _, seen in known:
                for row, values in seen.items():
                    intents.record_observed(sql, row, values)
    for launch, seen in known:
        launch.rows = [
            row._replace(observed=dict(seen.get(row.id, row.observed))) for row in launch.rows
        ]
    failpoint.reach("registered")


def _commit(up: Sequence[Launch]) -> KeyboardInterrupt | None:
    """The rows of all of them become committed, and their operations end, in one transaction."""

    def confirm(sql: Any) -> None:
        for launch in up:
            if launch.new:
                records.set_vm_confirmed(sql, launch.vm.id)

    late = commit_each([(each.operation, each.rows, each.seen) for each in up], then=confirm)
    for launch in up:
        launch.rows = intents.committed(launch.rows, launch.seen)
    return late
