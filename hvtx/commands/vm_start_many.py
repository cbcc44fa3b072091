"""`vm start NAME...` and the boot's starts: several VMs in slices, an operation each.

A VM of a slice is started together with the others if nothing stands in its way; what does is its
own: refused, or started alone after them. What fails for a slice as a whole is undone, and each of
its VMs is started alone. See :mod:`hvtx.engine.together`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from hvtx.commands.vm_start import (
    freed,
    intend,
    lock_for_start,
    means_of,
    need_own_blocks,
    networks_for_start,
    probe_of,
    resolved,
    start_held,
    with_user,
)
from hvtx.engine import egress_base, own_addresses, port_holders
from hvtx.engine.executor import Progress
from hvtx.engine.interrupted import close_interrupted
from hvtx.engine.launch_many import Launch, bring_up_each
from hvtx.engine.peer_ports import holding_ports
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import after, networks_now, vm_scope
from hvtx.engine.together import SLICE, Several, Tally, begin_each, held, slices
from hvtx.engine.vm_launch import refuse_diverted_vms
from hvtx.errors import CommitUnknown, Conflict, HvtxError
from hvtx.host import descriptors, once
from hvtx.hypervisors import base as hypervisors
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Vm
from hvtx.planner import start as decide
from hvtx.planner.scope import NetworkScope, VmScope
from hvtx.store import records

_DESCRIPTORS = 4  # that a VM on its way up keeps open: its device, its gate, who holds its ports
_LIGHT = frozenset({"command", "external"})  # whose start is no boot of a guest by us


class _Ready(NamedTuple):
    """A VM that is down and has all that its start needs."""

    scope: VmScope
    probes: hypervisors.Probes


def start_each(
    runtime: Runtime,
    names: Iterable[str],
    *,
    progress: Progress = lambda done, total, what: None,
) -> Several:
    """Start VMs: each whole or not at all, whatever becomes of the others.

    Raises what keeps all of them from starting: Refused, StoreError.
    """
    runtime.enter()
    tally = Tally(names, progress)

    def heavy(name: str) -> bool:
        vm = runtime.read(records.find_vm, name)
        return vm is not None and is_heavy(vm)

    for part in slices(tally.names, heavy):
        start_slice(runtime, part, tally)
    return tally.several()


def is_heavy(vm: Vm) -> bool:
    """Whether its start boots a guest, and few of its kind should at a time."""
    return vm.hypervisor not in _LIGHT


def start_slice(runtime: Runtime, names: Sequence[str], tally: Tally) -> None:
    """Start at most :data:`~hvtx.engine.together.SLICE` VMs, together as far as that goes."""
    assert len(names) <= SLICE
    failed = False
    if len(names) > 1:
        with held(runtime, names) as mine:
            failed = _together(runtime, [name for name in names if name in mine], tally)
    tally.tell()
    for name in tally.left(names):
        tally.attempt(name, partial(_alone, runtime, name))
    if failed:
        with contextlib.suppress(HvtxError, OSError):  # as in hvtx.commands.vm_stop_many
            close_interrupted(runtime)


def _alone(runtime: Runtime, name: str) -> VmScope:
    lock_for_start(runtime, name)
    try:
        return start_held(runtime, name)
    finally:
        runtime.unlock("vm", name)


@once.kept()
def _together(runtime: Runtime, names: Sequence[str], tally: Tally) -> bool:
    """Start VMs whose locks are held; of whom nothing is known then is to be started alone.

    True if something failed for all of them. What crashes and interruptions left of them is
    released at once: it takes a look at all of the host.
    """
    scopes: dict[str, VmScope] = {}
    for name in names:
        try:
            scopes[name] = vm_scope(runtime, name)
            if (refusal := decide.refusal(scopes[name])) is not None:
                raise refusal
            need_own_blocks(runtime, scopes[name])
        except (HvtxError, OSError) as problem:
            tally.fail(name, problem)
    left = [name for name in tally.left(scopes) if decide.has_leftovers(scopes[name])]
    half = [name for name, scope in scopes.items() if decide.is_half_recorded(scope)]
    try:
        plan = resolved(runtime, *left, *half) if left or half else None
    except (HvtxError, OSError):
        return True  # whose leftovers keep the others' from going shows alone
    ready: list[_Ready] = []
    for name in tally.left(scopes):
        try:
            scope = scopes[name]
            if plan is not None and name in left:
                scope = freed(runtime, scope, plan)
            ready.append(_Ready(scope, probe_of(runtime, scope.vm)))
        except (HvtxError, OSError) as problem:
            tally.fail(name, problem)
    if len(ready) < 2:
        return False
    try:
        with ExitStack() as stack:
            _start(runtime, ready, tally, stack)
    except CommitUnknown as problem:
        for one in ready:
            if one.scope.vm.name not in tally.failed:
                tally.fail(one.scope.vm.name, problem)  # they may be up: only `recover` decides
    except (HvtxError, OSError):
        return True  # undone; whose fault it was shows alone
    return False


def _start(runtime: Runtime, ready: Sequence[_Ready], tally: Tally, stack: ExitStack) -> None:
    # of which a VM alone has enough, and is started alone then
    descriptors.need(descriptors.TO_MAKE + _DESCRIPTORS * len(ready))
    networks = _networks_of_all(runtime, ready, stack)
    ready = [_locked(one, networks) for one in ready]
    own = own_addresses.in_subnets(networks.networks.values())
    begun = []
    for one in ready:
        vm = one.scope.vm
        with contextlib.suppress(OSError):  # its ports are held for flows that may go on
            port_holders.end_all(one.scope.waiting)
        ports, families = decide.ports_of(vm), decide.families_of(vm)
        try:
            own_addresses.refuse_vm(vm, own)
            if runtime.off_record is not None:
                runtime.off_record.refuse_vm(vm, one.scope.networks.values())
            begun.append((one, stack.enter_context(holding_ports(runtime, ports, families))))
        except Conflict as problem:
            tally.fail(vm.name, problem)
        except (HvtxError, OSError):
            continue  # perhaps for the sockets that the others hold by now: alone, it shows
    if not begun:
        return
    # all of them, if one: started alone, it is that one
    refuse_diverted_vms([one.scope.vm for one, _ in begun], networks)
    launches = []
    with begin_each(runtime, "start", [one.scope.vm.name for one, _ in begun]) as (sql, operations):
        for operation, (one, ports_held) in zip(operations, begun, strict=True):
            vm, user = with_user(operation, sql, one.scope.vm, one.probes)
            means = means_of(runtime, vm, networks, one.probes, user, ports_held)
            rows = intend(operation, sql, vm, one.scope.rows, means)
            launches.append(Launch(operation, vm, rows, means))
    bring_up_each(runtime, launches)
    for (one, _), launch in zip(begun, launches, strict=True):
        if launch.problem is None:
            rows = [*one.scope.leases, *launch.rows]
            tally.done[launch.vm.name] = after(one.scope, launch.vm, rows)
        else:
            tally.fail(launch.vm.name, launch.problem)


def _networks_of_all(runtime: Runtime, ready: Sequence[_Ready], stack: ExitStack) -> NetworkScope:
    """The networks of all of them, rebuilt where this life of the host has not seen them."""
    every = {known.id: known for one in ready for known in one.scope.networks.values()}
    networks = networks_for_start(runtime, every.values())
    for network in every.values():
        stack.callback(runtime.unlock, "network", network.name)
    for one in ready:
        scope = _locked(one, networks).scope
        asked = networks._replace(networks=scope.networks)
        if egress_base.ensure(runtime, scope.vm.policy, asked) is not asked:
            networks = networks_now(runtime, every)
    return networks


def _locked(one: _Ready, networks: NetworkScope) -> _Ready:
    """The same with its networks as they are now that they are locked."""
    own = {network: networks.networks[network] for network in one.scope.networks}
    return one._replace(scope=one.scope._replace(networks=own))
