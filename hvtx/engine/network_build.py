"""A network's resources are made, and made anew in a new life of the host; what they stand on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from hvtx.engine import effects, privileges
from hvtx.engine.guest_routes import refuse_diverted, samples
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.errors import (
    Conflict,
)
from hvtx.host.flows import flow_limit
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import (
    Kind,
    Resource,
)
from hvtx.model.typed import Any
from hvtx.model.vm import Network
from hvtx.planner import egress, provision
from hvtx.planner.scope import NetworkScope
from hvtx.store import intents, records


def host_prefixes(own: int = 0) -> list[str]:
    """Every prefix that the host routes to other devices than ``own`` (an index).

    But default routes, in halves too, routes that only send on to the next table (throw), and the
    link-locals.
    """
    from hvtx.host.routes import all_routes
    from hvtx.planner.routing import takes

    return [
        route.prefix
        for route in all_routes()
        if (takes(route) or route.kind == "local") and (not own or route.device != own)
    ]


def refuse_taken_subnet(
    subnets: Iterable[str], bridge: int = 0, block_size: int | None = None
) -> None:
    """Raise Conflict if the host has a route to part of a subnet, but for one to ``bridge``.

    And but for routes to blocks of other hosts: those of ``block_size``, or longer.

    Asked before a network is made and once more after: no lock spans two installations (or hvtx and
    Docker), and of two that take one subnet at once at least one takes it back.
    """
    from hvtx.planner import addressing

    prefixes = host_prefixes(bridge)
    for subnet in subnets:
        if block_size is not None:
            prefixes = addressing.without_parts(subnet, prefixes, block_size)
        taken = addressing.overlap(subnet, prefixes)
        if taken:
            raise Conflict(
                f"{subnet} overlaps {taken}, which this host has a route to",
                hint="choose another subnet; `ip route show table all` shows what is taken",
            )


def _missing_bases(network: Network, scope: NetworkScope) -> list[str]:
    there = map(firewall_spec, scope.bases())
    limited = not egress.is_plain(network.policy)
    return provision.missing_bases(network.firewall, there, limited=limited)


def build_network(
    runtime: Runtime, network: Network, scope: NetworkScope, verb: str, *, new: bool
) -> list[Resource]:
    """Intend, act, commit; undone from the rows if anything fails. Returns the committed rows.

    ``scope`` tells what the installation has by now, for the network to stand on.
    """
    privileges.need_to_start([network])
    from hvtx.engine import forwarding
    from hvtx.engine.undo import undo

    families = forwarding.families_of([network])
    settings = forwarding.changes(families, scope.settings())
    rows: list[Resource] = []
    with begin(runtime, verb, network=network.name) as (sql, operation):
        shared, own = provision.want_network(
            network,
            ifindex=provision.device_index(os.urandom(4)),
            bases=_missing_bases(network, scope),
            settings=settings,
            flows=flow_limit(),
        )
        if new:
            records.add_network(sql, network, operation.id)
        rows += operation.intend(sql, shared)
        rows += intend_network(operation, sql, network, own + _service(runtime, network, new=new))
    try:
        bridge = next(row for row in rows if row.kind == Kind.BRIDGE)
        observed = effects.create(operation, [row for row in rows if row.kind != Kind.SYSCTL])
        # routes once more, now that the bridge has its own: see refuse_taken_subnet
        refuse_taken_subnet(network.subnets, bridge.ifindex, network.block_size)
        refuse_diverted(network, bridge, samples(network))
        # last, since settings stay on
        observed |= effects.create(operation, [row for row in rows if row.kind == Kind.SYSCTL])
        rows = _serving(operation, network, rows, observed)
        operation.commit(
            rows, observed, then=lambda sql: records.set_network_confirmed(sql, network.id)
        )
    except (Exception, KeyboardInterrupt) as problem:
        if not operation.committed:
            undo(
                operation,
                rows,
                gone=lambda sql: records.remove_network(sql, network.id) if new else None,
            ).tell(problem)
        raise
    if new:
        forwarding.warn(families, [path for path, _, _ in settings])
    return intents.committed(rows, observed)


def _service(runtime: Runtime, network: Network, *, new: bool) -> list[provision.ResourceSpec]:
    """What a network's service is made of; of one that is rebuilt it is started afterwards.

    A service that cannot be started keeps no network from coming up again.
    """
    if not network.dhcp:
        return []
    from hvtx.planner import service

    wants = service.want_service(network, runtime.store.run_directory)
    return wants if new else wants[:1]


def _serving(
    operation: Operation,
    network: Network,
    rows: list[Resource],
    observed: Mapping[int, Mapping[str, Any]],
) -> list[Resource]:
    """The rows once a service among them is on record and serves."""
    if not network.dhcp:
        return rows
    from hvtx.engine import network_service

    return network_service.go_on(operation, rows, observed)


def intend_network(
    operation: Operation, sql: Any, network: Network, own: Sequence[provision.ResourceSpec]
) -> list[Resource]:
    """Write a network's rows, of which the bridge's is the first; the addresses name its mark."""
    bridge = operation.intend(sql, own[:1], network=network.id)
    addresses = provision.want_addresses(network, bridge[0].ifindex, bridge[0].mark)
    return bridge + operation.intend(sql, [*addresses, *own[1:]], network=network.id)
