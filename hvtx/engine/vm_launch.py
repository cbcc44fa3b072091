"""What brings one VM up: its processes are started, waited for, and taken back from its rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from hvtx.engine import notice, port_holders
from hvtx.engine.guest_routes import Look, refuse_diverted
from hvtx.engine.operation import RunningOperation
from hvtx.engine.peer_ports import Peers, refuse_others_ports
from hvtx.engine.transaction import Operation
from hvtx.engine.vm_paths import remove_log
from hvtx.errors import HvtxError, StoreError, UsageError
from hvtx.host import failpoint, paths
from hvtx.loader import module_named
from hvtx.model.address import prefix_length
from hvtx.model.resource import Kind, Resource
from hvtx.model.typed import TYPE_CHECKING, Any, NamedTuple
from hvtx.model.user import ROOT, User
from hvtx.model.vm import Identity, Network, Vm
from hvtx.planner.scope import NetworkScope
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.drivers.portholder import Held, Holder
    from hvtx.drivers.vm_process.gate import Gate
    from hvtx.hypervisors import base as hypervisors

READY_SECONDS = 10.0


class Means(NamedTuple):
    """What a VM is started with, beside its rows."""

    networks: NetworkScope
    peers: Peers  # who is looked for once more, when its ports are published
    probes: hypervisors.Probes | None  # None: it has no process of its own
    user: User | None  # whom its process runs as; None: hvtx's own
    held: Held | None  # its published ports; None if it has none
    holder: Holder | None  # of these, if it is on record with the rows; None: it is yet to come
    directory: str  # its run-time directory
    log: str  # where its output is kept


def refuse_diverted_vms(
    vms: Iterable[Vm], networks: NetworkScope, look: Look | None = None
) -> None:
    """Refuse to start VMs if no packet of the host would reach one; ``look`` has just begun."""
    bridges = networks.bridges()
    guests: dict[str, list[str]] = {}
    for vm in vms:
        for interface in vm.interfaces:
            guests.setdefault(interface.network, []).extend(interface.addresses)
    for network, addresses in guests.items():
        if addresses and network in bridges:
            refuse_diverted(networks.networks[network], bridges[network], addresses, look)


class Launch:
    """A VM on its way up: each step of it, in their order.

    The steps of several are taken in common by :mod:`hvtx.engine.launching`.
    """

    def __init__(
        self,
        operation: Operation,
        vm: Vm,
        rows: list[Resource],
        means: Means,
        *,
        new: bool = False,
    ) -> None:
        """Its rows are on record as intended. ``new``: so is the VM, by the same operation."""
        self.operation = operation
        self.vm = vm
        self.rows = rows
        self.means = means
        self.new = new
        self.problem: BaseException | None = None  # why it did not come up
        self.peers = True  # whether other installations are here, as far as is known
        self.seen: dict[int, Mapping[str, Any]] = {}  # what was read back, by row
        self._gate: Gate | None = None
        self._holder: Holder | None = None
        self._call: hypervisors.Launch | None = None

    def spawn(self) -> None:
        """Start its process behind the gate, and the holder of its ports."""
        vm, rows, means = self.vm, self.rows, self.means
        if self.peers:
            # once more, now that they are published: see hvtx.engine.peer_ports
            refuse_others_ports(means.peers, vm.ports)
        if any(row.kind == Kind.PROCESS for row in rows):
            assert means.probes is not None, vm.name
            networks = means.networks.networks
            self._call = render(vm, rows, networks, means.probes, means.directory)
            self._gate = spawn_gate(vm, self._call, means)
        self._holder = means.holder or port_holders.spawn_for_rows(means.held, self.identity, rows)
        if self.spawned:
            enter_scope(vm, self._gate, self._holder)
            failpoint.reach("spawned")

    @property
    def spawned(self) -> bool:
        """Whether it has a process of its own, or one that holds its ports."""
        return self._gate is not None or self._holder is not None

    @property
    def identity(self) -> Identity | None:
        """The process of the VM, once it is spawned."""
        return None if self._gate is None else self._gate.identity

    def learnt(self) -> dict[int, dict[str, Any]]:
        """What is to be kept of its processes before they are let go on, by row."""
        if self._gate is None and self._holder is self.means.holder:
            return {}  # it is on record with the rows
        return learnt(self.rows, self.seen, self.means, self._gate, self._holder)

    def open(self) -> None:
        """Let the holder of the ports go on, then the hypervisor."""
        if self._holder is not None:
            self._holder.open()
        if self._gate is not None:
            self._gate.open()
            failpoint.reach("opened")

    def wait(self) -> None:
        """Wait until it is up. Raises HostRefused."""
        if self._gate is not None and self._call is not None:
            self._gate.wait_ready(self._call, READY_SECONDS)
            failpoint.reach("up")
        if self._holder is not None:
            self._holder.confirm()
            self.seen |= with_holder(self.rows, self.seen)

    def committed(self) -> list[Resource]:
        """Its rows, which are committed; raises the problem for which it was undone."""
        if self.problem is not None:
            raise self.problem
        return self.rows

    def take_back(self, problem: BaseException) -> None:
        """Undo it from its rows; the problem is told what could not be undone.

        A holder that was told to stay is its rows': it ends with these, and not if they are to
        stay, since Ctrl-C came after the commit, or nobody knows if there was one.
        """
        if self._gate is not None:
            self._gate.cancel()
        if self._holder is not None and self._holder.passing:
            self._holder.cancel()
        roll_back(
            self.operation, self.vm, self.rows, self.means, self.identity, problem, new=self.new
        )


def settle_reservations(
    operation: RunningOperation,
    rows: Sequence[Resource],
    observed: Mapping[int, Mapping[str, Any]],
) -> None:
    """Let services of networks learn what new reservations displace, where they do."""
    if any(row.is_reservation for row in rows):
        from hvtx.engine import network_service

        network_service.settle(operation.runtime, rows, observed)


def with_holder(
    rows: Sequence[Resource], observed: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """What is kept of published ports: what was made, and who holds them, by row (pure)."""
    ports = [row for row in rows if row.kind == Kind.PUBLISH]
    return {row.id: {**observed.get(row.id, {}), **row.observed} for row in ports}


def learnt(
    rows: Sequence[Resource],
    observed: Mapping[int, Mapping[str, Any]],
    means: Means,
    gate: Gate | None,
    holder: Holder | None,
) -> dict[int, dict[str, Any]]:
    """What is kept of the processes that were spawned, by row, before they are let go on."""
    found: dict[int, dict[str, Any]] = {}
    if gate is not None:
        row = next(row for row in rows if row.kind == Kind.PROCESS)
        chosen = {**_accelerator(means.probes), "user": _shown(means.user)}
        found[row.id] = {**gate.identity._asdict(), **chosen}
    if holder is not None and means.held is not None:
        seen = [row._replace(observed=dict(observed.get(row.id, {}))) for row in rows]
        found |= port_holders.noted(seen, holder.identity, means.held.unheld)
    return found


def _shown(user: User | None) -> int | str:
    """Whom the process runs as, as it is kept beside it."""
    return ROOT if user is None else user.shown


def _accelerator(probes: hypervisors.Probes | None) -> dict[str, str | bool]:
    """What is kept of the choice beside the process that it was made for."""
    if probes is None or probes.why is None:
        return {}
    name = "kvm" if probes.kvm else "tcg"
    vhost = probes.vhost is not None
    return {"accelerator": name, "accelerator_reason": probes.why, "vhost": vhost}


def spawn_gate(vm: Vm, launch: hypervisors.Launch, means: Means) -> Gate:
    """Start the VM's process, which waits at its gate. Raises HostRefused, StoreError."""
    from hvtx.drivers.vm_process import prepare, spawn

    directory = os.path.dirname(means.log)
    try:
        paths.make_directories(directory, 0o700)
    except OSError as problem:
        raise StoreError(
            f"the log directory {directory} cannot be made: {problem.strerror}",
            hint="free or remount the disk, or choose another place with --state-dir",
        ) from problem
    prepare.prepare(launch, means.directory, means.log, means.user)
    return spawn.spawn(launch, means.log, vm.name, means.user)


def enter_scope(vm: Vm, gate: Gate | None, holder: Holder | None) -> None:
    """Let what was spawned outlive the unit or the login that this command runs in."""
    from hvtx.drivers.vm_process import scope

    pids = list(gate.pids) if gate is not None else []
    pids += [holder.identity.pid] if holder is not None else []
    warning = scope.enter_scope(vm.name, *pids)
    if warning:
        notice.warning("".join(c if c.isprintable() else " " for c in warning))


def roll_back(
    operation: Operation,
    vm: Vm,
    rows: Sequence[Resource],
    means: Means,
    identity: Identity | None,
    problem: BaseException,
    *,
    new: bool,
) -> None:
    """Undo a start from its rows; ``problem`` is told what could not be undone."""
    from hvtx.drivers.vm_process import stop
    from hvtx.engine.undo import undo
    from hvtx.engine.vm_record import forget_vm

    if operation.committed:
        return  # Ctrl-C came too late
    if isinstance(problem, HvtxError) and problem.code == "commit-unknown":
        return  # it may have been kept: only `recover` may decide, from the record
    runtime = operation.runtime

    def end_process() -> None:
        if identity is not None:
            stop.stop(identity, directory=means.directory, power_down="none", force=True)

    def forget(sql: Any) -> None:
        left = records.resources_of_vm(sql, vm.id)  # as the undo left them
        if new and all(row.kind == Kind.LEASE for row in left):
            remove_log(runtime.settings.state_directory, vm)
            operation.history(sql, [forget_vm(sql, vm.id)])

    released = [row for row in rows if row.kind != Kind.LEASE or new]
    undo(operation, released, before=end_process, gone=forget).tell(problem)


def render(
    vm: Vm,
    rows: Sequence[Resource],
    networks: Mapping[str, Network],
    probes: hypervisors.Probes,
    directory: str,
) -> hypervisors.Launch:
    """The hypervisor's command line and files for the devices that ``rows`` name."""
    from hvtx.hypervisors import base as hypervisors

    devices = [row.key for row in rows if row.kind == Kind.TAP]
    ports = [
        _port(interface, networks[interface.network], device)
        for interface, device in zip(vm.interfaces, devices, strict=True)
    ]
    module = module_named(hypervisors.REGISTRY[vm.hypervisor])
    try:
        launch: hypervisors.Launch = module.render(vm, ports, probes, directory)
    except ValueError as problem:
        raise UsageError(
            str(problem),
            hint=f"give it what it lacks (hvtx vm set --help), then: hvtx vm start {vm.name}",
        ) from problem
    return launch


def _port(interface: Any, network: Network, device: str) -> hypervisors.Nic:
    from hvtx.hypervisors import base as hypervisors

    four, six = network.range(4), network.range(6)
    from hvtx.planner import addressing

    return hypervisors.Nic(
        device=device,
        mac=interface.mac,
        ipv4=interface.ipv4,
        ipv6=interface.ipv6,
        prefix4=prefix_length(four[0]) if four else None,
        gateway4=four[1] if four else None,
        gateway6=six[1] if six else None,
        netmask=addressing.netmask_of(four[0]) if four else None,
        mtu=network.mtu,
    )
