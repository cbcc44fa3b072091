"""A network that is up becomes another, with its guests: what its record says, and what follows.

Of a network follow its rules and its service; of a network and a VM that is up in it follow rules
and a reservation of the VM. All of it is one change (:mod:`hvtx.engine.exchange`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hvtx.engine import living_service, vm_change
from hvtx.engine.runtime import Runtime
from hvtx.errors import Busy, Conflict
from hvtx.model.resource import Kind, Resource, State, is_changing, only_flows_remain
from hvtx.model.vm import Network, Vm
from hvtx.planner import changes
from hvtx.store import records

_TRIES = 5


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
        held = _up_in(runtime, name) if guests else []
        for vm in held:
            runtime.lock("vm", vm)
        runtime.lock("network", name)
        runtime.lock("all", "networks")
        if not guests or set(_up_in(runtime, name)) <= set(held):
            return
        runtime.unlock("all", "networks")
        runtime.unlock("network", name)
        for vm in held:
            runtime.unlock("vm", vm)
    raise Busy(f"VMs of network {name!r} come up all the time", hint="try again")


def _up_in(runtime: Runtime, name: str) -> list[str]:
    """The names of the VMs that have a device in a network, in their order."""
    with runtime.reading() as sql:
        network = records.find_network(sql, name)
        if network is None:
            return []
        names = records.vm_names(sql)
        taps = records.resources_of_kind(sql, Kind.TAP)
    own = {tap.vm for tap in taps if tap.network == network.id}
    return sorted(names[vm] for vm in own if vm in names)


def guests_of(runtime: Runtime, network: Network) -> list[Guest]:
    """The VMs that are up in a network, which are held; what was interrupted is carried through.

    Raises Conflict for one that is half made, or whose change cannot be carried through.
    """
    found = []
    for name in _up_in(runtime, network.name):
        vm, rows = _vm(runtime, name)
        if is_changing(rows):
            vm_change.settled_scope(runtime, name)
            vm, rows = _vm(runtime, name)
        if any(row.state != State.COMMITTED and not only_flows_remain(row) for row in rows):
            raise Conflict(
                f"VM {name!r} is incomplete: a command was interrupted",
                hint="run `hvtx recover`, then: hvtx vm ls",
            )
        with runtime.reading() as sql:
            networks = records.networks_by_id(sql, {i.network for i in vm.interfaces})
        found.append(Guest(vm, rows, networks))
    return found


def _vm(runtime: Runtime, name: str) -> tuple[Vm, tuple[Resource, ...]]:
    with runtime.reading() as sql:
        vm = records.get_vm(sql, name)
        return vm, tuple(records.resources_of_vm(sql, vm.id))


def difference(
    runtime: Runtime, before: Network, after: Network, guests: Iterable[Guest]
) -> changes.Difference:
    """What leads from a network to another, of it and of these VMs in it.

    Raises Conflict where a VM has devices that hvtx did not make.
    """
    guests = list(guests)
    life = runtime.life.id
    own = runtime.read(records.resources_of_network, before.id)
    rows = [
        row
        for row in (*own, *(row for guest in guests for row in guest.rows))
        if (row.state, row.life) == (State.COMMITTED, life)
    ]
    return changes.difference(
        rows, _wanted(runtime, before, guests, rows), _wanted(runtime, after, guests, rows)
    )


def _wanted(
    runtime: Runtime, network: Network, guests: Iterable[Guest], rows: list[Resource]
) -> list[changes.Wanted]:
    own = [row for row in rows if row.vm is None]
    found = changes.of_network(network, own)
    vms = [guest.vm for guest in guests]
    found += living_service.of_network(network, vms, runtime.store.run_directory)
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
