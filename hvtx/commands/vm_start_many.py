"""`vm start NAME...` and the boot's starts: several VMs in slices, an operation each.

A VM of a slice is started together with the others if nothing stands in its way; what does is its
own: refused, or started alone after them. What fails for a slice as a whole is undone, and each of
its VMs is started alone. See :mod:`hvtx.engine.together`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from hvtx.commands.vm_start import (
    free_for_start,
    intend,
    lock_for_start,
    means_of,
    networks_for_start,
    probe_of,
    start_held,
    with_user,
)
from hvtx.engine import network_needs, own_addresses, port_holders
from hvtx.engine.executor import Progress
from hvtx.engine.interrupted import close_interrupted
from hvtx.engine.launching import bring_up
from hvtx.engine.peer_ports import (
    Peers,
    holding_ports,
    refuse_others_ports,
    refuse_translated,
    tell_of_unknown,
)
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import after, vm_scopes
from hvtx.engine.together import SLICE, Common, Several, Tally, begin_each, held, slices
from hvtx.engine.vm_launch import Launch, refuse_diverted_vms
from hvtx.errors import CommitUnknown, Conflict, HvtxError, NotFound
from hvtx.host import descriptors, once
from hvtx.hypervisors import base as hypervisors
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.planner import start as decide
from hvtx.planner.network_needs import policies_of
from hvtx.planner.scope import NetworkScope, VmScope
from hvtx.planner.start import Leftovers
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.drivers.portholder import Held

_DESCRIPTORS = 4  # that a VM on its way up keeps open: its device, its gate, who holds its ports
_LIGHT = frozenset({"command", "external"})  # whose start is no boot of a guest by us


class _Ready(NamedTuple):
    """A VM that is down and has all that its start needs."""

    scope: VmScope
    probes: hypervisors.Probes


_Holding = tuple[_Ready, "Held | None"]  # with what holds its ports


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

    known = runtime.read(records.hypervisors, tally.names)
    for part in slices(tally.names, lambda name: name in known and is_heavy(known[name])):
        start_slice(runtime, part, tally)
    return tally.several()


def is_heavy(hypervisor: str) -> bool:
    """Whether its VMs' starts boot a guest, and few of their kind should at a time."""
    return hypervisor not in _LIGHT


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
    try:
        free = _free_for_start(runtime, names, tally)
    except (HvtxError, OSError):
        return True  # whose leftovers keep the others' from going shows alone
    ready: list[_Ready] = []
    for name in tally.left(names):
        try:
            ready.append(_Ready(free[name], probe_of(runtime, free[name].vm)))
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


def _free_for_start(runtime: Runtime, names: Sequence[str], tally: Tally) -> dict[str, VmScope]:
    """The VMs that are down, with nothing in the way of their starts; of each other, why not."""
    free: dict[str, VmScope] = {}
    left: dict[str, Leftovers] = {}
    for name, found in vm_scopes(runtime, names).items():
        try:
            if isinstance(found, NotFound):
                raise found
            scope = free_for_start(runtime, found)
        except (HvtxError, OSError) as problem:
            tally.fail(name, problem)
            continue
        if isinstance(scope, VmScope):
            free[name] = scope
            continue
        left[name] = scope
        if scope.refusal is not None:
            tally.fail(name, scope.refusal)
    return free | _freed(runtime, left, tally) if left else free


def _freed(runtime: Runtime, left: Mapping[str, Leftovers], tally: Tally) -> dict[str, VmScope]:
    """The VMs of which something was left, once it is released; of each other, why it stays."""
    from hvtx.engine import clearing, resolve  # the planner of gc: as in hvtx.commands.vm_start

    plan = resolve.resolve(runtime, *left)
    free: dict[str, VmScope] = {}
    for name in tally.left(left):
        try:
            free[name] = clearing.freed(runtime, left[name], plan)
        except (HvtxError, OSError) as problem:
            tally.fail(name, problem)
    return free


def _start(runtime: Runtime, ready: Sequence[_Ready], tally: Tally, stack: ExitStack) -> None:
    # of which a VM alone has enough, and is started alone then
    descriptors.need(descriptors.TO_MAKE + _DESCRIPTORS * len(ready))
    networks = _networks_of_all(runtime, ready, stack)
    ready = [_locked(one, networks) for one in ready]
    own = own_addresses.in_subnets(networks.networks.values())
    peers = Peers(runtime)
    holding: list[_Holding] = []
    for one in ready:
        vm = one.scope.vm
        with contextlib.suppress(OSError):  # its ports are held for flows that may go on
            port_holders.end_all(one.scope.waiting)
        ports, families = vm.ports, decide.families_of(vm)
        try:
            own_addresses.refuse_vm(vm, own)
            if runtime.off_record is not None:
                runtime.off_record.refuse_vm(vm, one.scope.networks.values())
            hold = holding_ports(peers, ports, families, look=False)
            holding.append((one, stack.enter_context(hold)))
        except Conflict as problem:
            tally.fail(vm.name, problem)
        except (HvtxError, OSError):
            continue  # perhaps for the sockets that the others hold by now: alone, it shows
    begun, unknown = _beside_peers(peers, holding, tally)
    if not begun:
        return
    # all of them, if one: started alone, it is that one
    refuse_diverted_vms([one.scope.vm for one, _ in begun], networks)
    launches = []
    with begin_each(runtime, "start", [one.scope.vm.name for one, _ in begun]) as (sql, operations):
        for operation, (one, ports_held) in zip(operations, begun, strict=True):
            vm, user = with_user(operation, sql, one.scope.vm, one.probes)
            means = means_of(operation, vm, networks, one.probes, user, ports_held)
            rows = intend(operation, sql, vm, one.scope.rows, means)
            launches.append(Launch(operation, vm, rows, means))
        common = Common(operations)
    late = bring_up(launches, common)
    if late is not None:
        raise late  # nothing is to be begun any more
    for (one, _), launch in zip(begun, launches, strict=True):
        if launch.vm.name in unknown:
            tell_of_unknown(launch.vm.ports, unknown[launch.vm.name])
        if launch.problem is None:
            rows = [*one.scope.leases, *launch.rows]
            tally.done[launch.vm.name] = after(one.scope, launch.vm, rows)
        else:
            tally.fail(launch.vm.name, launch.problem)


def _beside_peers(
    peers: Peers, held: Sequence[_Holding], tally: Tally
) -> tuple[list[_Holding], dict[str, str]]:
    """Those whose ports nobody else's rules have, and of which that is not known, and why.

    It is looked once for all of them, now that all are held; where somebody may have such rules, it
    is looked for the ports of each.
    """
    if not any(one.scope.vm.ports for one, _ in held):
        return [*held], {}
    others, translate = peers.others(), peers.may_translate()
    begun: list[_Holding] = []
    unknown: dict[str, str] = {}
    for one, own in held:
        vm = one.scope.vm
        try:
            if others:
                refuse_others_ports(peers, vm.ports)
            if translate:
                why = refuse_translated(peers, vm.ports, decide.families_of(vm))
                unknown |= {vm.name: why} if why is not None else {}
            begun.append((one, own))
        except Conflict as problem:
            tally.fail(vm.name, problem)
        except (HvtxError, OSError):
            continue  # alone, it shows
    return begun, unknown


def _networks_of_all(runtime: Runtime, ready: Sequence[_Ready], stack: ExitStack) -> NetworkScope:
    """The networks of all of them, rebuilt where this life of the host has not seen them."""
    every = {known.id: known for one in ready for known in one.scope.networks.values()}
    networks = networks_for_start(runtime, every.values())
    for network in every.values():
        stack.callback(runtime.unlock, "network", network.name)
    return network_needs.ready(runtime, networks, policies_of([one.scope.vm for one in ready]))


def _locked(one: _Ready, networks: NetworkScope) -> _Ready:
    """The same with its networks as they are now that they are locked."""
    own = {network: networks.networks[network] for network in one.scope.networks}
    return one._replace(scope=one.scope._replace(networks=own))
