"""Several VMs are brought up side by side: each an operation of its own, their steps in common.

What is made in the host is made in batches, the record is written once for all of them, and no VM
waits for the hypervisor of another to come up. A VM that fails is taken back alone; what fails for
all at once takes all of them back, and it is for the caller to start each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hvtx.engine import effects, lines, port_holders
from hvtx.engine.peer_ports import refuse_others_ports
from hvtx.engine.runtime import Runtime
from hvtx.engine.together import Common
from hvtx.engine.transaction import Operation, was_committed
from hvtx.engine.vm_launch import (
    READY_SECONDS,
    Means,
    enter_scope,
    learnt,
    let_go_on,
    render,
    roll_back,
    settle_reservations,
    spawn_gate,
    with_holder,
)
from hvtx.errors import CommitUnknown, HvtxError
from hvtx.host import failpoint
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import Any
from hvtx.model.vm import Vm
from hvtx.planner.start import ports_of
from hvtx.store import intents

Observed = dict[int, Mapping[str, Any]]


class Launch:
    """One of the VMs on its way up."""

    def __init__(self, operation: Operation, vm: Vm, rows: list[Resource], means: Means) -> None:
        """Its rows are on record as intended."""
        self.operation = operation
        self.vm = vm
        self.rows = rows
        self.means = means
        self.problem: BaseException | None = None  # why it did not come up
        self.peers = True  # whether other installations are here, as far as is known
        self.seen: Observed = {}
        self._gate: Any = None
        self._holder: Any = None
        self._call: Any = None

    def spawn(self) -> None:
        """Start its process behind the gate, and the holder of its ports."""
        if self.peers:
            refuse_others_ports(self.means.peers, ports_of(self.vm))
        vm, rows, means = self.vm, self.rows, self.means
        if any(row.kind == Kind.PROCESS for row in rows):
            assert means.probes is not None, vm.name
            networks = means.networks.networks
            self._call = render(vm, rows, networks, means.probes, means.directory)
            self._gate = spawn_gate(vm, self._call, means)
        identity = None if self._gate is None else self._gate.identity
        self._holder = port_holders.spawn_for_rows(means.held, identity, rows)
        if self._gate is not None or self._holder is not None:
            enter_scope(vm, self._gate, self._holder)
            failpoint.reach("spawned")

    def learnt(self) -> dict[int, dict[str, Any]]:
        """What is to be kept of its processes before they are let go on, by row."""
        if self._gate is None and self._holder is None:
            return {}
        return learnt(self.rows, self.seen, self.means, self._gate, self._holder)

    def open(self) -> None:
        """Let its processes go on."""
        let_go_on(self._holder, self._gate)
        if self._gate is not None:
            failpoint.reach("opened")

    def wait(self) -> None:
        """Wait until it is up. Raises HostRefused."""
        if self._gate is not None:
            self._gate.wait_ready(self._call, READY_SECONDS)
            failpoint.reach("up")
        if self._holder is not None:
            self._holder.confirm()
            self.seen |= with_holder(self.rows, self.seen)

    def take_back(self, problem: BaseException) -> None:
        """Undo it from its rows; the problem is told what could not be undone.

        A holder that was told to stay is its rows': it ends with these, and not if they are to
        stay, since Ctrl-C came after the commit, or nobody knows if there was one.
        """
        if self._gate is not None:
            self._gate.cancel()
        if self._holder is not None and self._holder.passing:
            self._holder.cancel()
        identity = None if self._gate is None else self._gate.identity
        operation, vm, rows = self.operation, self.vm, self.rows
        roll_back(operation, vm, rows, self.means, identity, problem, new=False)


def bring_up_each(runtime: Runtime, launches: Sequence[Launch]) -> None:
    """Act and commit; each has its committed rows then, or the problem for which it was undone.

    Raises what fails for all of them at once, with all of them undone.
    """
    try:
        _make(launches)
        _look_again(launches)
        _each(launches, Launch.spawn)
        _observe(runtime, launches)
        _each(launches, Launch.open)
        _each(launches, Launch.wait)
        up = [launch for launch in launches if launch.problem is None]
        if up:
            taps = [row for launch in up for row in launch.rows if row.kind == Kind.TAP]
            runtime.devices().restore_macs(taps)
            _commit(runtime, up)
    except (Exception, KeyboardInterrupt) as problem:
        for launch in launches:
            launch.take_back(launch.problem or problem)
        raise
    for launch in launches:
        if launch.problem is not None:
            launch.take_back(launch.problem)


def _make(launches: Sequence[Launch]) -> None:
    """Make everything but the processes, in batches."""
    rows = [row for launch in launches for row in launch.rows]
    common = Common([launch.operation for launch in launches])
    observed = effects.create(common, rows)
    settle_reservations(common, rows, observed)
    for launch in launches:
        launch.seen = {row.id: observed[row.id] for row in launch.rows if row.id in observed}


def _look_again(launches: Sequence[Launch]) -> None:
    """Look once more for other installations, now that all ports are published.

    See :mod:`hvtx.engine.peer_ports`: of two that publish one at once, one at least meets the other
    then. Raises HvtxError.
    """
    ports = any(ports_of(launch.vm) for launch in launches)
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


def _observe(runtime: Runtime, launches: Sequence[Launch]) -> None:
    """Put on record who the processes are, before they are let go on."""
    found = [(launch, launch.learnt()) for launch in launches if launch.problem is None]
    known = [(launch, seen) for launch, seen in found if seen]
    if not known:
        return
    with runtime.store.transaction() as sql:
        for _, seen in known:
            for row, values in seen.items():
                intents.record_observed(sql, row, values)
    for launch, seen in known:
        launch.rows = [
            row._replace(observed=dict(seen.get(row.id, row.observed))) for row in launch.rows
        ]
    failpoint.reach("registered")


def _commit(runtime: Runtime, up: Sequence[Launch]) -> None:
    """The rows of all of them become committed, and their operations end, in one transaction.

    Ctrl-C that comes meanwhile is raised when they are: nothing is to be begun any more.
    """
    late: BaseException | None = None
    try:
        with runtime.store.transaction() as sql:
            for launch in up:
                operation = launch.operation
                moved = intents.commit(sql, launch.rows, launch.seen, operation.id)
                if moved != len(launch.rows):
                    raise HvtxError(
                        f"operation {operation.id} lost {len(launch.rows) - moved} of its rows"
                        " to another",
                        hint="rolled back; `hvtx intents` shows running operations",
                    )
                operation.history(sql, [*map(lines.made, launch.rows)])
                operation.close(sql, "done")
    except (CommitUnknown, KeyboardInterrupt) as problem:
        if not was_committed(up[0].operation, up[0].rows):  # all of them, or none
            raise
        late = problem if isinstance(problem, KeyboardInterrupt) else None
    for launch in up:  # before all else: from here on nothing may be taken back
        launch.operation.committed = True
    for launch in up:
        launch.rows = intents.committed(launch.rows, launch.seen)
    up[0].operation.verify()
    failpoint.reach("committed")
    for launch in up:
        launch.operation.unlock()
    if late is not None:
        raise late
