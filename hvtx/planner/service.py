"""The service of a network, its dnsmasq: its resources, and the reservations of interfaces. Pure.

The network's directory (kind ``file``) holds what dnsmasq is told; the process belongs to it. A
reservation is a VM's, made and released with its start.
"""

from __future__ import annotations

from collections.abc import Iterable

from hvtx.model.policy import names_in
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import TYPE_CHECKING
from hvtx.model.vm import Attachment, Interface, Network, Vm
from hvtx.planner.provision import ResourceSpec
from hvtx.planner.scope import NetworkScope

if TYPE_CHECKING:
    from hvtx.model.resource import ReservationSpec
    from hvtx.model.service import NamesSpec, ServiceSpec


AUTO, ON, OFF = DEFAULTS = ("auto", "on", "off")
_HOSTS, EGRESS = "hosts", "egress"


def directory_of(run_directory: str, network: str) -> str:
    """The directory of a network (by id) in that of the installation."""
    return f"{run_directory}/networks/{network}"


def want_directory(network: Network, run_directory: str) -> ResourceSpec:
    """The directory that a service's files stand in."""
    path = directory_of(run_directory, network.id)
    return ResourceSpec(Kind.FILE, path, {"path": path})


def want_process(network: Network, run_directory: str) -> ResourceSpec:
    """The process."""
    from hvtx.model.service import SERVICE

    spec: ServiceSpec = {
        "hypervisor": SERVICE,
        "directory": directory_of(run_directory, network.id),
        "bridge": network.bridge,
        "mtu": network.mtu,
        "subnets": list(network.subnets),
        "gateways": list(network.gateways),
    }
    if names := names_in(network.policy.rules):
        spec["names"] = [list(rule) for rule in names]
    return ResourceSpec(Kind.PROCESS, f"dnsmasq {network.name}", {**spec})


def want_service(network: Network, run_directory: str) -> list[ResourceSpec]:
    """Both, of a network that has a service; none of another."""
    if not network.dhcp:
        return []
    return [want_directory(network, run_directory), want_process(network, run_directory)]


def asks(attachment: Attachment | None, *, tap: bool) -> bool:
    """Whether a guest may ask for its addresses; ``tap``: a VM stands behind its namespace's TAP.

    ``attachment`` is what the VM on record stands for, if it is one.

    A container does not: it is given them with its interface, under another MAC each time, and
    each address that is given again would have the service started again.
    """
    return attachment is None or tap


def want_reservation(
    vm: str, name: str, interface: Interface, network: Network, run_directory: str
) -> list[ResourceSpec]:
    """The reservation of an interface of the VM with the id ``vm``; none without a service."""
    if not network.dhcp or not (interface.ipv4 or interface.ipv6):
        return []
    reservation: ReservationSpec = {
        "name": name,
        "mac": interface.mac,
        "ipv4": interface.ipv4,
        "ipv6": interface.ipv6,
    }
    path = f"{directory_of(run_directory, network.id)}/{_HOSTS}/{vm}-{interface.position}"
    return [ResourceSpec(Kind.FILE, path, {"path": path, "reservation": reservation})]


def want_names(
    vm: Vm, interface: Interface, network: Network, run_directory: str
) -> list[ResourceSpec]:
    """The file by which a network's dnsmasq knows what names a VM's policy allows it; or none."""
    names = names_in(vm.policy.rules)
    if not names or not network.dhcp:
        return []
    spec: NamesSpec = {
        "mac": interface.mac,
        "apart": vm.policy.egress is not None,
        "rules": [list(rule) for rule in names],
    }
    path = f"{directory_of(run_directory, network.id)}/{EGRESS}/{vm.id}-{interface.position}"
    return [ResourceSpec(Kind.FILE, path, {"path": path, "names": spec})]


def want_told(
    vm: Vm, interface: Interface, network: Network, run_directory: str, *, tap: bool
) -> list[ResourceSpec]:
    """All that a network's dnsmasq is told of an interface of a VM that runs; ``tap`` as `asks`."""
    found = want_names(vm, interface, network, run_directory)
    if asks(vm.attachment, tap=tap):
        found = want_reservation(vm.id, vm.name, interface, network, run_directory) + found
    return found


def service_of(rows: Iterable[Resource], network: str) -> Resource | None:
    """A network's process among its rows."""
    return next((row for row in rows if row.is_service and row.network == network), None)


def unserved(scope: NetworkScope) -> list[Network]:
    """Networks that should have a service and have none on record in this life of the host."""
    served = {row.network for row in scope.services()}
    return [n for n in scope.networks.values() if n.dhcp and n.id not in served]
