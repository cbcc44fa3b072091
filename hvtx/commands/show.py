"""What is told of VMs, from record and liveness."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from hvtx.engine import guests, refusals
from hvtx.engine.refusals import Refused
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import shown_scope
from hvtx.engine.vm_paths import log_hint, log_path, log_paths, run_directory
from hvtx.engine.vm_state import Moment, read_moment, state_of, states_of
from hvtx.errors import Conflict, NotFound
from hvtx.host import paths
from hvtx.model.address import family_of, prefix_length
from hvtx.model.guest import NOTES, Guest
from hvtx.model.policy import NO_POLICY, Egress, Policy
from hvtx.model.resource import DEVICES, PORTS, Kind, Resource
from hvtx.model.typed import Any, BinaryIO, NamedTuple
from hvtx.model.vm import Interface, Liveness, Network, Publish, Vm
from hvtx.planner.egress import effective
from hvtx.planner.scope import VmScope
from hvtx.planner.states import VmState, identity_of
from hvtx.store import records


class Surroundings(NamedTuple):
    """What a network gives to its guests."""

    subnets: Sequence[tuple[str, str]]  # with its gateway, a family each
    policy: Policy
    mtu: int | None = None


Networks = Mapping[str, Surroundings]  # by the network's id
_NOWHERE = Surroundings((), NO_POLICY)


class ShownInterface(NamedTuple):
    """A VM's interface, with its way out for each family that it has an address of."""

    network: str
    device: str | None
    mac: str
    ipv4: str | None
    ipv6: str | None
    prefix: int | None
    gateway: str | None
    prefix6: int | None
    gateway6: str | None
    publish: tuple[Publish, ...]
    egress: Egress
    refused: Refused | None  # None: it is not counted, or may not be read
    mtu: int | None = None
    more: tuple[str, ...] = ()  # its further addresses

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of its addresses, the first of IPv4 and of IPv6 before the others."""
        return tuple(a for a in (self.ipv4, self.ipv6, *self.more) if a)


class ShownVm(NamedTuple):
    """A VM on record, and what is seen of it."""

    vm: Vm
    state: VmState
    guest: Guest | None  # None: the VM does not run
    pid: int | None
    accelerator: str | None
    accelerator_reason: str | None
    user: int | str | None
    interfaces: tuple[ShownInterface, ...]
    resources: tuple[Resource, ...]
    notes: tuple[str, ...]
    vhost: bool | None = None


def shown_vm(runtime: Runtime, scope: VmScope) -> ShownVm:
    """A VM that was read already; its guest is asked."""
    vm, state = scope.vm, scope.state
    asked = guests.states(runtime.store.run_directory, [guests.Judged(vm, state)])
    networks = _surroundings(scope.networks.values())
    counts = refusals.refused(runtime, scope.rows)
    return describe_vm(vm, state, scope.liveness, scope.rows, asked[vm.id], networks, counts)


def shown_vms(
    runtime: Runtime, vms: Sequence[Vm], moment: Moment, networks: Networks
) -> list[ShownVm]:
    """VMs with what was read together with them; their guests are asked at the same time."""
    seen = [(vm, *found) for vm, found in zip(vms, states_of(runtime, vms, moment), strict=True)]
    asked = guests.states(
        runtime.store.run_directory, [guests.Judged(vm, state) for vm, state, _, _ in seen]
    )
    counts = refusals.refused(runtime, [row for *_, rows in seen for row in rows])
    return [
        describe_vm(vm, state, liveness, rows, asked[vm.id], networks, counts)
        for vm, state, liveness, rows in seen
    ]


def read_networks(sql: Any) -> dict[str, Surroundings]:
    """What all networks give to their guests."""
    return _surroundings(records.networks(sql))


def _surroundings(networks: Iterable[Network]) -> dict[str, Surroundings]:
    return {n.id: Surroundings(n.ranges, n.policy, n.mtu) for n in networks}


def describe_vm(
    vm: Vm,
    state: VmState,
    liveness: Liveness,
    rows: Sequence[Resource],
    guest: Guest | None,
    networks: Networks,
    counts: Mapping[str, Refused] = MappingProxyType({}),
) -> ShownVm:
    """A VM from its record, state, live rows, guest's state, networks and counters (pure)."""
    devices = _devices_of(vm, rows)
    pid, started = None, dict[str, Any]()
    for row in rows:
        identity = identity_of(row) if row.kind == Kind.PROCESS else None
        if identity is not None and liveness is not Liveness.DEAD:
            pid, started = identity.pid, row.observed
    return ShownVm(
        vm=vm,
        state=state,
        guest=guest,
        pid=pid,
        accelerator=started.get("accelerator"),
        accelerator_reason=started.get("accelerator_reason"),
        user=started.get("user", vm.user),
        vhost=started.get("vhost"),
        interfaces=tuple(
            _shown_interface(
                interface,
                device,
                networks.get(interface.network, _NOWHERE),
                vm.policy,
                counts.get(interface.mac),
            )
            for interface, device in zip(vm.interfaces, devices, strict=True)
        ),
        resources=tuple(rows),
        notes=(*_guest_notes(guest), *_notes(vm)),
    )


def _devices_of(vm: Vm, rows: Iterable[Resource]) -> list[str | None]:
    """The device of each interface, by its network: of some the device may be gone (pure).

    A view that an earlier hvtx published tells no networks: there the order has to do.
    """
    ports = [row for row in rows if row.kind in PORTS]
    placed = {row.network: row.key for row in ports if row.network}
    others = iter([row.key for row in ports if not row.network])
    return [placed.get(each.network) or next(others, None) for each in vm.interfaces]


def _shown_interface(
    interface: Interface,
    device: str | None,
    network: Surroundings,
    policy: Policy,
    refused: Refused | None,
) -> ShownInterface:
    """An interface, with the prefix length and the gateway of each family that it has."""
    ways: dict[int, tuple[int, str]] = {}
    for subnet, gateway in network.subnets:
        family = family_of(subnet)
        if interface.address(family) is not None:
            ways[family] = (prefix_length(subnet), gateway)
    prefix, gateway4 = ways.get(4, (None, None))
    prefix6, gateway6 = ways.get(6, (None, None))
    return ShownInterface(
        interface.network_name, device, interface.mac, interface.ipv4, interface.ipv6,
        prefix, gateway4, prefix6, gateway6, interface.publish,
        effective(vm=policy, network=network.policy), refused, network.mtu, interface.more,
    )  # fmt: skip


def _guest_notes(guest: Guest | None) -> list[str]:
    return [NOTES[guest]] if guest in NOTES else []


def _notes(vm: Vm) -> list[str]:
    ports = [(interface, port) for interface in vm.interfaces for port in interface.publish]
    notes = []
    if any(i.ipv6 if port.host_ip is None else port.host_ip == "::1" for i, port in ports):
        notes.append("published ports are not reachable through [::1]: NAT cannot serve it")
    notes += [
        f"port {port.host_port}/{port.protocol} is not answered by IPv{family}: packets that "
        f"guests send from port {port.guest_port}/udp are dropped: it is a DHCP server's"
        for interface, port in ports
        if (family := _guarded(interface, port)) is not None
    ]
    notes += [
        f"port {port.host_port}/{port.protocol} on {port.host_ip} has no target: no "
        f"IPv{family} address is leased to the VM's first interface"
        for interface, port in ports
        if port.host_ip is not None
        for family in (family_of(port.host_ip),)
        if not interface.address(family)
    ]
    return notes


def _guarded(interface: Interface, port: Publish) -> int | None:
    """The family in which a port cannot be answered; of a VM that an earlier hvtx made."""
    if port.protocol != "udp":
        return None
    from hvtx.planner.addressing import guarded

    has = {4: interface.ipv4, 6: interface.ipv6}
    return guarded(port, [family for family, address in has.items() if address])


def show_vm(runtime: Runtime, name: str) -> ShownVm:
    """One VM; raises NotFound."""
    return shown_vm(runtime, shown_scope(runtime, name))


def list_vms(runtime: Runtime) -> list[ShownVm]:
    """All VMs, by name."""
    with runtime.reading() as sql:
        vms, seen = records.vms(sql), (read_moment(sql), read_networks(sql))
    return shown_vms(runtime, vms, *seen)


def vm_log(runtime: Runtime, name: str) -> list[str]:
    """Where a VM's log is, the older part first; raises NotFound if there is none yet."""
    vm = runtime.read(records.get_vm, name)
    if vm.attachment is not None:
        raise NotFound(
            f"VM {name!r} stands for an interface of a container, and has no log",
            hint="the container's runtime has its log",
        )
    paths = log_paths(runtime.settings.state_directory, vm)
    if not paths:
        raise NotFound(f"VM {name!r} has no log yet", hint=f"hvtx vm start {name}")
    return paths


def console(runtime: Runtime, name: str) -> tuple[str, str | None, str]:
    """``(run-time directory, socket or None, log)`` of a running VM's console."""
    from hvtx.hypervisors.base import TRAITS

    vm = runtime.read(records.get_vm, name)
    if vm.attachment is not None:
        raise Conflict(
            f"VM {name!r} stands for an interface of a container, and has no console",
            hint="the container's runtime has it",
        )
    state, _, _ = state_of(runtime, vm)
    if state is not VmState.RUNNING:
        raise Conflict(
            f"VM {name!r} is {state.value}",
            hint=f"a console needs a running VM: hvtx vm start {name}",
        )
    return (
        run_directory(runtime.store.run_directory, vm),
        TRAITS[vm.hypervisor].console,
        log_path(runtime.settings.state_directory, vm),
    )


def read_log(paths: Sequence[str]) -> list[str]:
    """The lines of a log as they were written, bytes that are no text as U+FFFD."""
    text = b"".join(map(_bytes_of, paths)).decode(errors="replace")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return lines if text else []


def open_log(path: str) -> BinaryIO | None:
    """A file of :func:`vm_log`, a regular one; None if its logger has renamed it just now."""
    try:
        return os.fdopen(paths.open_regular(path), "rb")
    except FileNotFoundError:
        return None


def _bytes_of(path: str) -> bytes:
    log = open_log(path)
    if log is None:
        return b""
    with log:
        return log.read()


def console_socket(directory: str, socket: str | None, log: str) -> str:
    """The socket of a console that :func:`console` found. Raises Conflict as joining it would."""
    hint = log_hint(log)
    if socket is None:
        raise Conflict("this VM's hypervisor has no console to type at", hint=hint)
    path = os.path.join(directory, socket)
    if not os.path.exists(path):
        raise Conflict(f"the console {path} cannot be reached: it is gone", hint=hint)
    return path


def names(runtime: Runtime, kind: str) -> list[str]:
    """The names of all VMs (``vm``) or networks (``network``)."""
    found = runtime.read(records.vms) if kind == "vm" else runtime.read(records.networks)
    return [thing.name for thing in found]


def objects(runtime: Runtime) -> list[str]:
    """What `explain` can be asked about, as far as it is on record: for a shell's completion."""
    found = {*names(runtime, "vm"), *names(runtime, "network")}
    kinds = (*DEVICES, Kind.LEASE, Kind.PUBLISH)
    for row in runtime.read(records.resources_of_kind, *kinds):
        found |= {row.key, row.mark} if row.mark else {row.key}
    return sorted(found)


def devices() -> list[str]:
    """The names of all devices of this host, for a shell's completion."""
    from hvtx.host import devices as host_devices

    return host_devices.names()


def join_console(directory: str, socket: str | None, log: str) -> None:
    """Join the caller's terminal to a console that :func:`console` found."""
    from hvtx.drivers.vm_process import console

    console.console(directory, socket, log_hint(log))
