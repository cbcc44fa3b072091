"""What a change exchanges of a network's service, under guests that run. Pure.

As :mod:`hvtx.planner.changes`, and apart from :mod:`hvtx.planner.service`: no start needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hvtx.model.container import inner_tap
from hvtx.model.resource import Resource
from hvtx.model.vm import Network, Vm
from hvtx.planner import service
from hvtx.planner.changes import WantedRow


def want_service_and_told(
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


def asking(vms: Iterable[Vm], pairs: Iterable[Resource]) -> list[Vm]:
    """Those of VMs whose guests may ask for their addresses; ``pairs``: the rows of containers."""
    behind = {pair.vm for pair in pairs if inner_tap([pair]) is not None}
    return [vm for vm in vms if service.asks(vm.attachment, tap=vm.id in behind)]


def want_policy_names(
    vm: Vm, networks: Mapping[str, Network], run_directory: str
) -> list[WantedRow]:
    """What the services of a VM's networks (by id) are told of names that its policy allows."""
    return [
        WantedRow(want, vm.id, interface.network)
        for interface in vm.interfaces
        for want in service.want_names(vm, interface, networks[interface.network], run_directory)
    ]
