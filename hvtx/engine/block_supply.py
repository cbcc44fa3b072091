"""Which addresses networks have to give, of a cluster's blocks or of their own; none is claimed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address, ip_network

from hvtx.engine import block_machine, own_addresses
from hvtx.engine import blocks as engine
from hvtx.engine.runtime import Runtime
from hvtx.errors import Conflict, HostRefused
from hvtx.model.address import room_in
from hvtx.model.block import BlockState
from hvtx.model.vm import Network, Vm
from hvtx.planner import blocks as decide
from hvtx.store import blocks as rows
from hvtx.store import leases, records
from hvtx.store.database import Store


def refuse_without(runtime: Runtime, network: Network, taken: Iterable[str]) -> None:
    """Raise what a lease would meet; the cluster is asked only where this host's blocks are full.

    ``taken``: addresses that guests cannot have. Raises NoRoom, Busy (the cluster does not answer),
    Refused (the blocks are another machine's), Conflict.
    """
    block_machine.refuse_elsewhere(runtime)
    if runtime.read(leases.free_in_blocks, network, tuple(taken)) is not None:
        return
    pool = engine.pool_of(network)
    assert pool is not None
    known = [block for block in runtime.read(rows.blocks) if block.pool == pool]
    with engine.opened(runtime) as blocks:
        blocks.source.last_claim()
        if blocks.source.has_free(pool):
            return
        granted = {one.token for one in blocks.source.mine()}
    late = {BlockState.INTENDED, BlockState.RELEASING}  # had by claims of this host that are open
    if not any(block.state in late and block.token in granted for block in known):
        raise decide.no_block_left(pool, blocks.source.where_blocks_are)


def refuse_full(vms: Iterable[Vm], network: Network, taken: Iterable[str]) -> None:
    """Raise Conflict where a subnet of a network without blocks has no address for one more guest.

    ``vms``: all that may have a lease there; ``taken``: addresses that guests cannot have beside.
    """
    leased = {
        address
        for vm in vms
        for interface in vm.interfaces
        if interface.network == network.id
        for address in interface.addresses
    }
    not_leased = {ip_address(one) for one in taken} - {ip_address(one) for one in leased}
    for text, gateway in network.ranges:
        subnet = ip_network(text)
        never = {subnet.network_address, ip_address(gateway)}
        if subnet.version == 4:
            never.add(subnet.broadcast_address)
        kept = [one for one in not_leased - never if one in subnet]
        had = sum(ip_address(one) in subnet for one in leased)
        if had + len(kept) >= room_in(text):
            own = f"; this host itself has {', '.join(map(str, sorted(kept)))}" if kept else ""
            raise Conflict(
                f"network {network.name!r} has no free address left in {text}{own}",
                hint="hvtx vm ls shows who has them; hvtx gc --plan what dead ones still keep",
            )


def free_addresses(store: Store) -> dict[str, int]:
    """How many addresses guests can have without the cluster, by names of networks with blocks.

    None while the cluster is asked first: the store is an older one, or was another machine's. The
    host's own addresses are left out where they can be listed.
    """
    with store.reading() as sql:
        known = {block.pool.network: 0 for block in rows.blocks(sql)}
        networks = [
            n for n in records.networks(sql) if n.name in known and n.block_size is not None
        ]
        machine, (identity, _) = rows.machine(sql), rows.seen(sql)
    # None and an identity: an earlier program had the blocks; see block_machine
    confirmed = machine == block_machine.here() if machine is not None else identity is None
    if not networks or not confirmed:
        return known
    own: list[str] = []
    with suppress(OSError, HostRefused):
        own = list(own_addresses.in_subnets(networks))
    with store.reading() as sql:
        for network in networks:
            never = leases.never_leased(network, own)
            known[network.name] = sum(1 for _ in rows.free(sql, network, never))
    return known
