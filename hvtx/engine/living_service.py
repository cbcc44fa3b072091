"""A network's service under guests that run: its part of a change (:mod:`hvtx.engine.exchange`).

What belongs to a service cannot be exchanged in one batch: what goes is ended, then what comes is
made and started. A guest that asks in between asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.engine import effects, network_service
from hvtx.engine.shut_in import starts_vms
from hvtx.errors import HostRefused
from hvtx.host import failpoint
from hvtx.model.resource import Resource
from hvtx.model.typed import TYPE_CHECKING, Any
from hvtx.model.vm import Network, Vm
from hvtx.planner import service
from hvtx.planner.changes import WantedRow

if TYPE_CHECKING:
    from hvtx.engine.transaction import Operation


def of_network(
    network: Network, guests: Iterable[tuple[Vm, bool]], run_directory: str
) -> list[WantedRow]:
    """What the service of a network is made of, with what it is told of ``guests`` that run.

    Of each whether a VM stands behind a TAP in its namespace.
    """
    own = [
        WantedRow(want, None, network.id) for want in service.want_service(network, run_directory)
    ]
    return own + [
        WantedRow(want, vm.id, network.id)
        for vm, tap in guests
        for interface in vm.interfaces
        if interface.network == network.id
        for want in service.want_told(vm, interface, network, run_directory, tap=tap)
    ]


def exchange(
    operation: Operation, gone: Sequence[Resource], made: Sequence[Resource], *, again: bool
) -> dict[int, Mapping[str, Any]]:
    """End what goes, start what comes; what was read back, by row of ``made``.

    ``again``: part of what comes may be there, from one who was interrupted, and is made anew.
    Raises HostRefused.
    """
    if any(row.is_service for row in made) and starts_vms():
        raise HostRefused(
            "a dnsmasq that is started here would stay in the sandbox of this unit",
            hint="hvtx recover, from a shell, carries the change through",
        )
    leaving = [*gone, *(made if again else ())]
    if leaving:
        _end(operation, leaving)
    if not made:
        return {}
    failpoint.reach("ended:service")
    seen = effects.create(operation, made)
    # with what is on record of each row, so that whoever finds it carries the change on
    kept = {row.id: {**row.observed, **seen[row.id]} for row in made}
    network_service.go_on(operation, list(made), kept)
    network_service.settle(operation.runtime, made, seen)
    return seen


def names_of(vm: Vm, networks: Mapping[str, Network], run_directory: str) -> list[WantedRow]:
    """What the services of a VM's networks are told of names that its policy allows."""
    return [
        WantedRow(want, vm.id, interface.network)
        for interface in vm.interfaces
        for want in service.want_names(vm, interface, networks[interface.network], run_directory)
    ]


def _end(operation: Operation, rows: Sequence[Resource]) -> None:
    outcomes = effects.remove(operation, rows)
    left = [outcome.message for outcome in outcomes.values() if not outcome.gone]
    if left:
        raise HostRefused("; ".join(left), hint="hvtx doctor names what is in the way")
