"""STATUS of the container network interface: whether an ADD in a network could succeed now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from hvtx.drivers.base import FirewallDriver
from hvtx.engine import privileges
from hvtx.engine.readiness import refuse_unwritable
from hvtx.engine.registry import FIREWALLD
from hvtx.engine.runtime import Runtime, need_privileges
from hvtx.errors import HostRefused, NotFound
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import family_of, room_in
from hvtx.model.resource import FIREWALL_KINDS, Kind, Resource, State, address_spec
from hvtx.model.typed import Any, NamedTuple
from hvtx.model.vm import BRIDGE_PORTS, DEFAULT, Network, no_port_left
from hvtx.store import leases, records

DAMAGED = "network-damaged"  # of an error: what is attached already suffers, too
_NEAR = 64  # free addresses, by the record; from there on the host's own in the subnet are counted
_MANY = BRIDGE_PORTS // 2  # leases; from there on the ports of the bridge are counted


class _Standing(NamedTuple):
    network: Network
    rows: Sequence[Resource]  # of the network and the installation, committed in this life
    used: dict[int, int]  # addresses that are leased, by family


def check_status(
    runtime: Runtime,
    name: str,
    subnets: Sequence[str] | None = None,
    mtu: int | None = None,
    *,
    nat: bool | None = None,
    isolate: bool | None = None,
    vm: bool = False,
) -> None:
    """Raise what an ADD in a network would meet.

    One that is not there yet is no problem where ADD would make it: with ``subnets``, or by the
    name `default`; None where it is not known whether there are any. ``mtu``, ``nat`` and
    ``isolate`` are what is declared of it beside, None where nothing is; ``vm``: an ADD makes a
    TAP device as well.
    NotFound, UsageError (no network can be so), Refused (the store), StoreError (it cannot be
    written), NotPermitted, HostRefused (netfilter), Conflict (it is another one, or its subnet is
    taken; no address is left), Busy (a block is needed, and the cluster does not answer).
    HostRefused with the code ``network-damaged``: the network is not as it was made, so that what
    is attached already suffers, too.
    """
    if runtime.refused is not None:
        raise runtime.refused
    need_privileges()
    privileges.need(devices=vm)
    standing = runtime.read(_standing, name, runtime.life.id)
    if standing is None and subnets is not None and not subnets:
        _refuse_unless_default(name)
    there = standing and standing.network
    if not _is_declared(there, subnets, (mtu, nat, isolate)):
        from hvtx.engine import attachment_network

        attachment_network.judge(runtime, name, there, subnets or (), mtu, nat=nat, isolate=isolate)
    if standing is not None:
        _judge(runtime, standing)
    refuse_unwritable(runtime.settings, exists=not runtime.store.missing)


def _is_declared(
    network: Network | None, subnets: Sequence[str] | None, declared: Sequence[int | None]
) -> bool:
    """Whether a network is there and, word by word, what is said of it: nothing is to be judged."""
    if network is None:
        return False
    has = (network.mtu, network.nat, network.isolate)
    same = all(said in (None, one) for said, one in zip(declared, has, strict=True))
    return same and (not subnets or set(subnets) == set(network.subnets))


def _judge(runtime: Runtime, standing: _Standing) -> None:
    """Raise what stands against one more guest in a network that is there."""
    network, used = standing.network, standing.used
    privileges.need_to_start([network], devices=False)
    _refuse_damaged(runtime.firewall, standing)
    if max(used.values()) >= _MANY:
        _refuse_portless(standing)
    if network.block_size is None and all(
        room_in(subnet) - used[family_of(subnet)] > _NEAR for subnet in network.subnets
    ):
        return
    from hvtx.engine import block_supply, own_addresses

    taken = own_addresses.in_subnets([network])
    if network.block_size is None:
        block_supply.refuse_full(runtime.read(records.vms), network, taken)
    else:
        block_supply.refuse_without(runtime, network, taken)


def _refuse_unless_default(name: str) -> None:
    if name != DEFAULT:
        raise NotFound(f"there is no network {name!r}", hint=records.to_have_network(name))


def _standing(sql: Any, name: str, life: int) -> _Standing | None:
    network = records.find_network(sql, name)
    if network is None:
        return None
    rows = records.resources_of_networks(sql, [network.id])
    counted = leases.counts(sql)
    return _Standing(
        network,
        [row for row in rows if row.state == State.COMMITTED and row.life == life],
        {family: counted.get((network.id, family), 0) for family in (4, 6)},
    )


def _refuse_damaged(firewall: Callable[[str], FirewallDriver], standing: _Standing) -> None:
    name = standing.network.name
    with closing(Links()) as links:
        for row in standing.rows:
            if row.kind == Kind.BRIDGE:
                seen = links.get(ifindex=row.ifindex)
                if seen is None or seen.alias != row.mark or not seen.up:
                    raise _damaged(name, f"its bridge {row.key} is gone, down or another")
            if row.kind == Kind.ADDRESS:
                spec = address_spec(row)
                if spec["address"] not in {a.address for a in links.addresses(spec["ifindex"])}:
                    raise _damaged(name, f"its address {spec['address']} is gone")
    # firewalld's file says nothing of what is in force: `doctor` and `repair` compare the two
    walls = [r for r in standing.rows if r.kind in FIREWALL_KINDS and r.backend != FIREWALLD]
    for backend in {row.backend for row in walls}:
        own = [row for row in walls if row.backend == backend]
        for row in firewall(backend).lacking(own):
            raise _damaged(name, f"rules of it ({row.key}) are gone")


def _refuse_portless(standing: _Standing) -> None:
    """Raise HostRefused where the bridge has no port left, whoever has them."""
    bridges = {row.ifindex for row in standing.rows if row.kind == Kind.BRIDGE}
    try:
        with closing(Links()) as links:
            ports = sum(link.master in bridges for link in links.all())
    except DumpInterrupted:
        return  # nobody knows; ADD is told by the kernel
    if ports >= BRIDGE_PORTS:
        message, hint = no_port_left(standing.network.bridge, "a container")
        raise HostRefused(message, hint=hint)


def _damaged(name: str, what: str) -> HostRefused:
    return HostRefused(
        f"network {name!r} is not as it was made: {what}",
        hint="hvtx repair puts it back",
        code=DAMAGED,
    )
