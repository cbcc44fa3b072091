"""A network's resources are made, and made anew in a new life of the host; what they stand on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from hvtx.engine import effects, privileges
from hvtx.engine.outdated import bring_up_to_date
from hvtx.engine.runtime import Runtime
from hvtx.engine.transaction import Operation, begin
from hvtx.engine.undo import take_down, undo
from hvtx.engine.ways import refuse_diverted, samples
from hvtx.errors import (
    Conflict,
)
from hvtx.host.flows import flow_limit
from hvtx.model.firewall import firewall_spec
from hvtx.model.resource import (
    Kind,
    Resource,
    State,
)
from hvtx.model.vm import Network
from hvtx.planner import provision
from hvtx.store import records


def resolve_networks(runtime: Runtime) -> None:
    """Release what interrupted operations left of networks; a start needs none of the planner."""
    from hvtx.engine.resolve import resolve

    resolve(runtime, networks=True)


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


def refuse_taken_subnet(subnets: Iterable[str], bridge: int = 0) -> None:
    """Raise Conflict if the host has a route to part of a subnet, but for one to ``bridge``.

    Asked before a network is made and once more after: no lock spans two installations (or hvtx and
    Docker), and of two that take one subnet at once at least one takes it back.
    """
    from hvtx.planner import addressing

    prefixes = host_prefixes(bridge)
    for subnet in subnets:
        taken = addressing.overlap(subnet, prefixes)
        if taken:
            raise Conflict(
                f"{subnet} overlaps {taken}, which this host has a route to",
                hint="choose another subnet; `ip route show table all` shows what is taken",
            )


def keep_settings(runtime: Runtime, networks: Iterable[Network]) -> list[Resource]:
    """Turn on, and record, what networks that stand need by now: the uplink may be another one.

    What is on record already is not looked at. Returns the new rows. Raises HostRefused,
    NotPermitted (undone).
    """
    from hvtx.engine import forwarding

    standing = [network for network in networks if bridge_row(runtime, network) is not None]
    families = forwarding.families_of(standing)
    known = {row.spec["path"] for row in forwarding.recorded(runtime)}
    new = [c for c in forwarding.changes(runtime, families) if c[0] not in known]
    if not new:
        return []
    return make(runtime, "repair", provision.want_settings(new))


def make(runtime: Runtime, verb: str, wants: Sequence[provision.Want]) -> list[Resource]:
    """Make what is wanted as an operation of its own, or undo it. Raises what the making raises."""
    with begin(runtime, verb) as (sql, operation):
        rows = operation.intend(sql, wants)
    try:
        operation.commit(rows, effects.create(operation, rows))
    except (Exception, KeyboardInterrupt) as problem:
        if not operation.committed:
            undo(operation, rows).tell(problem)
        raise
    return rows


def _missing_bases(runtime: Runtime, network: Network) -> list[str]:
    """What the network stands on and what is not on record in this life."""
    there = [
        firewall_spec(row)
        for row in runtime.read(records.resources_of_network, None)
        if row.kind == Kind.FILTER and row.life == runtime.life.id and row.state == State.COMMITTED
    ]
    return provision.missing_bases(network.firewall, there)


def build_network(runtime: Runtime, network: Network, verb: str, *, new: bool) -> None:
    """Intend, act, commit; undone from the rows if anything fails."""
    privileges.need_to_start([network])
    from hvtx.engine import forwarding

    families = forwarding.families_of([network])
    settings = forwarding.changes(runtime, families)
    bases = _missing_bases(runtime, network)
    rows: list[Resource] = []
    with begin(runtime, verb, network=network.name) as (sql, operation):
        shared, own = provision.want_network(
            network,
            ifindex=provision.device_index(os.urandom(4)),
            bridge_mark="",
            bases=bases,
            settings=settings,
            flows=flow_limit(),
        )
        if new:
            records.add_network(sql, network, operation.id)
        rows += operation.intend(sql, shared)
        rows += intend_network(operation, sql, network, own)
    try:
        bridge = next(row for row in rows if row.kind == Kind.BRIDGE)
        observed = effects.create(operation, [row for row in rows if row.kind != Kind.SYSCTL])
        refuse_taken_subnet(network.subnets, bridge.spec["ifindex"])
        refuse_diverted(network, bridge, samples(network))
        # last, since settings stay on
        observed |= effects.create(operation, [row for row in rows if row.kind == Kind.SYSCTL])
        operation.commit(
            rows,
            observed,
            then=lambda sql: records.set_network_confirmed(sql, network.id),
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


def intend_network(
    operation: Operation, sql: Any, network: Network, own: Sequence[provision.Want]
) -> list[Resource]:
    """Write a network's rows; the addresses name the mark that the bridge's row gets."""
    bridge = operation.intend(sql, own[:1], network=network.id)
    mark = bridge[0].mark
    rest = [
        want._replace(spec={**want.spec, "owner": mark}) if want.kind == Kind.ADDRESS else want
        for want in own[1:]
    ]
    return bridge + operation.intend(sql, rest, network=network.id)


def ensure_networks(
    runtime: Runtime, networks: Iterable[Network], verb: str = "rebuild", *, settle: bool = True
) -> None:
    """Rebuild the networks whose bridge is not on record in this life of the host.

    ``settle``: and let guests of the iptables backend pass where the host's policy drops by now.
    """
    networks = list(networks)
    bring_up_to_date(runtime, networks)
    _rebuild_missing(runtime, networks, verb)
    if settle and any(network.firewall == "iptables" for network in networks):
        from hvtx.engine import passes

        passes.settle(runtime)


def _rebuild_missing(runtime: Runtime, networks: Sequence[Network], verb: str) -> None:
    missing = [network for network in networks if bridge_row(runtime, network) is None]
    if not missing:
        return
    runtime.lock("all", "networks")
    try:
        if not runtime.life.recovered or any(
            row.vm is None for row in runtime.read(records.unsettled_resources)
        ):
            resolve_networks(runtime)  # what a saved ruleset or an interrupted rebuild has left
        _close_earlier_lives(runtime, missing)
        known = runtime.read(records.networks_by_id, {network.id for network in missing})
        for network in missing:
            # what an interrupted operation had only begun may be forgotten by now
            if network.id in known and bridge_row(runtime, network) is None:
                refuse_taken_subnet(network.subnets)  # others may have been quicker after a boot
                build_network(runtime, network, verb, new=False)
    finally:
        runtime.unlock("all", "networks")


def _close_earlier_lives(runtime: Runtime, networks: Iterable[Network]) -> None:
    with runtime.reading() as sql:
        rows = records.resources_of_network(sql, None)
        for network in networks:
            rows += records.resources_of_network(sql, network.id)
    old = [row for row in rows if row.life != runtime.life.id]
    if old:
        with begin(runtime, "rebuild") as (_, operation):
            pass
        take_down(operation, old, reason="rebooted")


def bridge_row(runtime: Runtime, network: Network) -> Resource | None:
    """The committed row of a network's bridge in this life of the host."""
    for row in runtime.read(records.resources_of_network, network.id):
        if (row.kind, row.state, row.life) == (Kind.BRIDGE, State.COMMITTED, runtime.life.id):
            return row
    return None
