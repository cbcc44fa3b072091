"""What reading commands tell of VMs, networks and operations: values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hvtx.model.guest import Guest
    from hvtx.model.vm import Publish, Vm
    from hvtx.planner.states import VmState


class AsOf(NamedTuple):
    """Of which moment a published view is."""

    as_of: str  # RFC 3339 in UTC
    stale: bool  # the store has changed since, or the host has booted


class ShownRow(NamedTuple):
    """A resource on record."""

    kind: str
    key: str
    state: str
    mark: str | None


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


class ShownVm(NamedTuple):
    """A VM on record, and what is seen of it."""

    vm: Vm
    state: VmState
    guest: Guest | None  # None: the VM does not run
    pid: int | None
    accelerator: str | None
    accelerator_reason: str | None
    user: int | None
    interfaces: tuple[ShownInterface, ...]
    resources: tuple[ShownRow, ...]
    notes: tuple[str, ...]


class ShownNetwork(NamedTuple):
    """A network on record."""

    name: str
    id: str
    bridge: str
    subnets: tuple[str, ...]
    gateways: tuple[str, ...]
    nat: bool
    isolate: bool
    mtu: int
    firewall: str
    vms: tuple[str, ...]  # names of those that use it
    resources: tuple[ShownRow, ...]


class ShownOperation(NamedTuple):
    """An operation that has not ended, or that left rows half-done."""

    id: int
    verb: str
    vm: str | None
    network: str | None
    state: str  # running or interrupted
    since: str  # RFC 3339 in UTC
    resources: tuple[ShownRow, ...]
