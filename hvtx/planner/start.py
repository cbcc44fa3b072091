"""The decision to start a VM, and the resources of the start, from its scope. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hvtx.errors import Conflict
from hvtx.model.address import prefix_length
from hvtx.model.resource import Kind, Resource, State, only_flows_remain
from hvtx.model.typed import TYPE_CHECKING, NamedTuple
from hvtx.model.user import User
from hvtx.model.vm import BRIDGE_PORTS, LAUNCHED_BY_OTHERS, Network, Vm, no_port_left
from hvtx.planner import provision
from hvtx.planner.provision import ResourceSpec
from hvtx.planner.scope import NetworkScope, VmScope, of_runtime
from hvtx.planner.service import want_told
from hvtx.planner.states import VmState

if TYPE_CHECKING:
    from hvtx.model.plan import Item
    from hvtx.planner.attaching import Container

_NOT_DOWN = (VmState.RUNNING, VmState.STARTING, VmState.STOPPING, VmState.UNKNOWN)


class Given(NamedTuple):
    """What a start is given from outside: of the host, of the settings, by chance."""

    devices: Sequence[tuple[str, int, str]]  # of each interface: name, index, MAC of the host side
    directory: str  # the VM's run-time directory
    flows: int  # how many tracked connections each of its guests may have
    user: User | None  # whom its process runs as; None: hvtx's own
    run_directory: str = ""  # the installation's
    container: Container | None = None  # of an attachment: where its peer is to be


class StartPlan(NamedTuple):
    """What a start does, in one operation."""

    release: Sequence[Resource]  # rows of the VM's earlier start to be closed: nothing is left
    create: Sequence[
        tuple[ResourceSpec, str | None]
    ]  # in this order, each with its network (by id)
    launch: bool  # whether hvtx starts the VM's process


class Leftovers(NamedTuple):
    """What a crash or an interruption left of a VM is in the way of its start."""

    scope: VmScope
    refusal: Conflict | None = None  # it runs: it is not started, once its record is completed


def refusal(scope: VmScope) -> Conflict | None:
    """Why a VM is not started as it is now; None if it is down."""
    state, name = scope.state, scope.vm.name
    if scope.vm.attachment is not None:
        return of_runtime(name)
    if state not in _NOT_DOWN:
        return None
    if state is VmState.RUNNING:
        hint = f"hvtx vm restart {name} stops it first"
    elif state is VmState.UNKNOWN:
        hint = (
            f"whether its process runs cannot be proven: hvtx vm show {name} tells more;"
            f" hvtx vm stop {name} releases what is there"
        )
    else:
        hint = f"hvtx vm show {name} tells when that has ended"
    return Conflict(f"VM {name!r} is {state.value}", hint=hint)


def is_half_recorded(scope: VmScope) -> bool:
    """Whether the VM runs, and the start that was killed late has not said so in the record."""
    unsaid = any(row.state == State.INTENDED for row in scope.rows)
    return scope.state is VmState.RUNNING and unsaid


def has_leftovers(scope: VmScope) -> bool:
    """Whether a crash or an interruption left something to be released before a start."""
    return scope.state is not VmState.DEFINED or scope.provisional


def kept(rows: Iterable[Resource]) -> list[Resource]:
    """What of a VM that is down keeps it from starting, though its release was tried."""
    return [row for row in rows if row.kind != Kind.LEASE and not only_flows_remain(row)]


def why_kept(rows: Iterable[Resource], items: Iterable[Item]) -> str:
    """What the plan that released them says of ``rows`` which stayed, in words."""
    keys = {row.id for row in rows}
    told = "; ".join(item.message for item in items if item.row in keys)
    return told or "see hvtx gc --plan"


def families_of(vm: Vm) -> set[int]:
    """The families in which a VM's ports are published: those of the interfaces that have some."""
    own = [interface for interface in vm.interfaces if interface.publish]
    return {4 for i in own if i.ipv4} | {6 for i in own if i.ipv6}


def unbounded(networks: Iterable[Network]) -> list[str]:
    """Those (by id) whose subnets hold more guests than a bridge has ports.

    Each guest has an address of each family of its network: a /22 gives away 1,021.
    """
    four = {n.id: prefix_length(r[0]) for n in networks if (r := n.range(4))}
    return [n.id for n in networks if n.id not in four or 2 ** (32 - four[n.id]) - 3 > BRIDGE_PORTS]


def full(vm: Vm, networks: Mapping[str, Network], taps: Mapping[str, int]) -> Conflict | None:
    """Why the bridge of one of its networks has no port for the VM; None if all have.

    ``taps`` are on record in this life, by network, where there may be too many.
    """
    for interface in vm.interfaces:
        if taps.get(interface.network, 0) >= BRIDGE_PORTS:
            bridge = networks[interface.network].bridge
            message, hint = no_port_left(bridge, f"VM {vm.name!r}")
            return Conflict(message, hint=hint)
    return None


def plan_start(
    vm: Vm, rows: Iterable[Resource], networks: NetworkScope, given: Given
) -> StartPlan | Conflict:
    """What the start of a VM that is down does; Conflict: why it cannot be started now.

    ``rows`` are what is on record of it from before.
    """
    bridges = networks.bridges()
    away = [i.network_name for i in vm.interfaces if i.network not in bridges]
    if away:
        return Conflict(f"network {away[0]!r} is being changed", hint="try again")
    launch = vm.hypervisor not in LAUNCHED_BY_OTHERS
    create = provision.want_vm(
        vm,
        networks.networks,
        bridges={network: row.ifindex for network, row in bridges.items()},
        devices=given.devices,
        directory=given.directory if launch else None,
        process=launch,
        flows=given.flows,
        user=given.user,
    )
    if given.container is not None:
        from hvtx.planner.attaching import in_container

        create = in_container(create, vm, networks.networks, given.container)
    tap = given.container is not None and given.container.tap is not None
    create = [*_told(vm, networks, given.run_directory, tap=tap), *create]
    return StartPlan([row for row in rows if only_flows_remain(row)], create, launch)


def _told(
    vm: Vm, networks: NetworkScope, run_directory: str, *, tap: bool
) -> list[tuple[ResourceSpec, str | None]]:
    """What the services of the VM's networks are to know, each with its network."""
    return [
        (want, interface.network)
        for interface in vm.interfaces
        for want in want_told(
            vm, interface, networks.networks[interface.network], run_directory, tap=tap
        )
    ]
