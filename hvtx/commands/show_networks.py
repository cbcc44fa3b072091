"""Output about networks."""

from __future__ import annotations

from hvtx.engine.runtime import Runtime
from hvtx.model.policy import NO_POLICY, Egress
from hvtx.model.resource import Resource
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Network
from hvtx.planner.egress import effective
from hvtx.store import records


class ShownNetwork(NamedTuple):
    """A network on record."""

    name: str
    id: str
    bridge: str
    subnets: tuple[str, ...]
    gateways: tuple[str, ...]
    nat: bool
    isolate: bool
    dhcp: bool
    mtu: int
    firewall: str
    passage: bool  # whether others' filters get accepts of ours
    egress: Egress
    vms: tuple[str, ...]  # names of those that use it
    resources: tuple[Resource, ...]
    uplink: str | None = None
    sources: tuple[str, ...] = ()
    block_size: int | None = None


def shown_network(runtime: Runtime, network: Network) -> ShownNetwork:
    """A network; of the moment of ``network`` if called inside ``reading()``."""
    with runtime.reading() as sql:
        users = records.users_of_network(sql, network.id)
        rows = records.resources_of_network(sql, network.id)
    return ShownNetwork(
        name=network.name,
        id=network.id,
        bridge=network.bridge,
        subnets=network.subnets,
        gateways=network.gateways,
        nat=network.nat,
        isolate=network.isolate,
        dhcp=network.dhcp,
        mtu=network.mtu,
        firewall=network.firewall,
        passage=network.passage,
        egress=effective(vm=NO_POLICY, network=network.policy),
        vms=tuple(users),
        resources=tuple(rows),
        uplink=network.uplink,
        sources=network.sources,
        block_size=network.block_size,
    )


def show_network(runtime: Runtime, name: str) -> ShownNetwork:
    """One network; raises NotFound."""
    with runtime.reading() as sql:
        return shown_network(runtime, records.get_network(sql, name))


def list_networks(runtime: Runtime) -> list[ShownNetwork]:
    """All networks, by name."""
    with runtime.reading() as sql:
        return [shown_network(runtime, network) for network in records.networks(sql)]
