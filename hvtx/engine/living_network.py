"""A network that is up becomes another, with its guests: what its record says, and what follows.

Of a network follow its rules and its service; of a network and a VM that is up in it follow rules
and a reservation of the VM. All of it is one change (:mod:`hvtx.engine.exchange`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hvtx.engine import vm_change
from hvtx.engine.egress_flows import ROLE
from hvtx.engine.runtime import Runtime
from hvtx.errors import Busy, Conflict
from hvtx.model.container import inner_tap
from hvtx.model.resource import PORTS, Kind, Resource, State, is_changing, only_flows_remain
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import Network, Vm
from hvtx.planner import changes, service_changes
from hvtx.planner.egress import is_plain
from hvtx.store import records

_TRIES = 5
Read = Callable[..., Any]  # Runtime.read


class Guest(NamedTuple):
    """A VM that is up in a network, with its rows and all of its networks."""

    vm: Vm
    rows: tuple[Resource, ...]
    networks: dict[str, Network]


def hold(runtime: Runtime, name: str, *, guests: bool) -> None:
    """Hold a network, with all VMs that are up in it if its ``guests`` change too. Raises Busy.

    VMs are held before networks, as everybody does; one that comes up meanwhile is waited for.
    """
    for _ in range(_TRIES):
        held = _up_in(runtime.read, name) if guests else []
        for vm in held:
            runtime.lock("vm", vm)
        runtime.lock("network", name)
        runtime.lock("all", "networks")
        if not guests or set(_up_in(runtime.read, name)) <= set(held):
            return
        runtime.unlock("all", "networks")
        runtime.unlock("network", name)
        for vm in held:
            runtime.unlock("vm", vm)
    raise Busy(f"VMs of network {name!r} come up all the time", hint="try again")


def _up_in(read: Read, name: str) -> list[str]:
    """The names of the VMs that have a device in a network, in their order."""
    network = read(records.find_network, name)
    if network is None:
        return []
    names, taps = read(records.vm_names), read(records.resources_of_kind, *PORTS)
    own = {tap.vm for tap in taps if tap.network == network.id}
    return sorted(names[vm] for vm in own if vm in names)


def guests_of(runtime: Runtime, network: Network) -> list[Guest]:
    """The VMs that are up in a network, which are held; what was interrupted is carried through.

    Raises Conflict for one that is half made, or whose change cannot be carried through.
    """
    found = []
    for name in _up_in(runtime.read, network.name):
        vm, rows = _vm(runtime.read, name)
        if is_changing(rows):
            vm_change.settled_scope(runtime, name)
            vm, rows = _vm(runtime.read, name)
        if any(row.state != State.COMMITTED and not only_flows_remain(row) for row in rows):
            raise Conflict(
                f"VM {name!r} is incomplete: a command was interrupted",
                hint="run `hvtx recover`, then: hvtx vm ls",
            )
        networks = runtime.read(records.networks_by_id, {i.network for i in vm.interfaces})
        found.append(Guest(vm, rows, networks))
    return found


def newly_counted(
    read: Read, try_lock: Callable[[str, str], bool], life: int, before: Network, after: Network
) -> list[Guest]:
    """The VMs that are up and get a counter with their network's first policy, which are held.

    Nobody is waited for: a VM that another command has, or that is not whole, is held to the policy
    by its network's rules all the same, and counted from its next start on.
    """
    if not is_plain(before.policy) or is_plain(after.policy):
        return []
    found = []
    for name in _up_in(read, before.name):
        vm = read(records.find_vm, name) if try_lock("vm", name) else None
        if vm is None:  # another command has it, or removed it
            continue
        rows = tuple(read(records.resources_of_vm, vm.id))
        networks = read(records.networks_by_id, {i.network for i in vm.interfaces})
        states = {(row.state, row.life) for row in rows if row.kind != Kind.LEASE}
        whole = states == {(State.COMMITTED, life)}
        counts = any(row.role == ROLE and row.network == before.id for row in rows)
        if whole and not counts and changes.of_vm(vm, networks, rows):
            found.append(Guest(vm, rows, networks))
    return found


def _vm(read: Read, name: str) -> tuple[Vm, tuple[Resource, ...]]:
    vm = read(records.get_vm, name)
    return vm, tuple(read(records.resources_of_vm, vm.id))


def difference(
    before: Network,
    after: Network,
    own: Iterable[Resource],
    guests: Sequence[Guest],
    life: int,
    run_directory: str,
) -> changes.Difference:
    """What leads from a network to another, of it (its rows are ``own``) and of VMs in it.

    Raises Conflict where a VM has devices that hvtx did not make.
    """
    rows = [
        row
        for row in (*own, *(row for guest in guests for row in guest.rows))
        if (row.state, row.life) == (State.COMMITTED, life)
    ]
    return changes.difference(
        rows, *(_wanted(network, guests, rows, run_directory) for network in (before, after))
    )


def _wanted(
    network: Network, guests: Sequence[Guest], rows: list[Resource], run_directory: str
) -> list[changes.WantedRow]:
    own = [row for row in rows if row.vm is None]
    found = changes.of_network(network, own)
    vms = [(guest.vm, inner_tap(guest.rows) is not None) for guest in guests]
    found += service_changes.want_service_and_told(network, vms, run_directory)
    for guest in guests:
        wants = changes.of_vm(guest.vm, {**guest.networks, network.id: network}, guest.rows)
        if not wants:
            raise Conflict(
                f"VM {guest.vm.name!r} runs with devices that hvtx did not make: its rules stay"
                " as they are",
                hint=f"stop it first: hvtx vm stop {guest.vm.name}",
            )
        found += wants
    return found
